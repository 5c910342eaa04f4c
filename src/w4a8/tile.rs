//! What the kernels of every instruction set see: the codes and scales of one block of 16 rows, and the tokens.

use super::activation::{ACT_BLOCK, ActScales, Activations, PAD_K};
use super::format::{Format, GroupScale, qqq_code};
use super::pack::TILE_N;
use half::f16;

/// The packed codes and the scales of 16 rows.
///
/// Kernels multiply unsigned codes: 4-bit codes as they are, 8-bit codes (and QQQ's int8 weights) plus 128.
#[derive(Clone, Copy)]
pub(crate) struct Tile<'a> {
    pub(crate) format: Format,
    /// \[K/tile_k\]\[512\].
    pub(crate) codes: &'a [u8],
    /// `codes` and those of the rows that follow, to be asked for ahead of time.
    pub(crate) ahead: &'a [u8],
    /// The channels' scales, where there are some.
    pub(crate) channel: Option<&'a [f32; TILE_N]>,
    /// The groups' scales \[groups\]\[16\], where there are some.
    pub(crate) group: Option<TileValues<'a>>,
    /// The groups' offsets (f16) or zero points (u8) \[groups\]\[16\], where there are some.
    pub(crate) offset: Option<TileValues<'a>>,
    /// What is subtracted from unsigned codes where there are no zero points.
    pub(crate) zero: i32,
}

/// Numbers of 16 rows by group.
#[derive(Clone, Copy)]
pub(crate) enum TileValues<'a> {
    F16(&'a [[f16; TILE_N]]),
    U8(&'a [[u8; TILE_N]]),
}

impl<'a> TileValues<'a> {
    /// The groups of one tile, from a section whose entries have so many bytes; none for 0.
    pub(crate) fn of(section: &'a [u8], entry_bytes: usize, tile: usize, groups: usize) -> Option<Self> {
        let range = tile * groups..(tile + 1) * groups;
        match entry_bytes {
            0 => None,
            1 => Some(TileValues::U8(&section.as_chunks().0[range])),
            _ => Some(TileValues::F16(&bytemuck::cast_slice::<u8, f16>(section).as_chunks().0[range])),
        }
    }

    fn get(self, group: usize, row: usize) -> f32 {
        match self {
            TileValues::F16(values) => values[group][row].to_f32(),
            TileValues::U8(values) => f32::from(values[group][row]),
        }
    }
}

impl<'a> Tile<'a> {
    /// The K values whose products are summed as integers.
    pub(crate) fn integer_group(&self) -> Option<usize> {
        self.format.integer_group()
    }

    /// QQQ's group scales, which unpacking puts into the codes.
    pub(crate) fn inner_scales(&self) -> Option<&'a [[f16; TILE_N]]> {
        match (self.format.group_scale(), self.group) {
            (Some(GroupScale::Qqq), Some(TileValues::F16(scale))) => Some(scale),
            _ => None,
        }
    }

    /// The scales of the integer sums of each group, and their size; none where there is one sum over K.
    pub(crate) fn sum_scales(&self) -> Option<(usize, TileValues<'a>)> {
        Some((self.integer_group()?, self.group?))
    }

    /// The numbers that (row, k) falls under: those of the channel, the group and its offset; 1, 1 and 0 where there is none.
    pub(crate) fn scales_at(&self, row: usize, k: usize) -> [f32; 3] {
        let g = self.format.group_size().map_or(0, |size| k / size);
        [
            self.channel.map_or(1.0, |channel| channel[row]),
            self.group.map_or(1.0, |group| group.get(g, row)),
            self.offset.map_or(0.0, |offset| offset.get(g, row)),
        ]
    }
}

/// QQQ's unsigned codes for the 16 nibbles of one row and group.
pub(crate) fn qqq_table(group_scale: f16) -> [u8; 16] {
    std::array::from_fn(|code| (i16::from(qqq_code(code as i8, group_scale)) + 128) as u8)
}

/// A run of quantized tokens, with the sums that go with one weight's groups.
#[derive(Clone, Copy)]
pub(crate) struct Tokens<'a> {
    pub(crate) count: usize,
    /// K rounded up to 64, or K if it is whole groups of 32.
    pub(crate) stride: usize,
    /// int8 \[count, stride\].
    pub(crate) codes: &'a [i8],
    /// Sums of a token.
    pub(crate) groups: usize,
    /// i32 \[count, groups\]: Σ codes of all that is combined in f32 at a time.
    pub(crate) sums: &'a [i32],
    pub(crate) k: usize,
    pub(crate) scales: ActScales,
    /// f32 \[count, 1 or ⌈K/128⌉\].
    act_scales: &'a [f32],
}

impl<'a> Tokens<'a> {
    /// The tokens, with the sums over a weight's groups of this size, or over what shares an act_scale.
    pub(crate) fn new(x: &'a Activations, group_size: Option<usize>) -> Self {
        let (scales, act_scales) = (x.scales(), x.scale());
        let (sums, groups) = x.group_sums(group_size.or((scales == ActScales::Fine).then_some(ACT_BLOCK)));
        Tokens { count: x.m(), stride: x.padded_k(), codes: x.codes(), groups, sums, k: x.k(), scales, act_scales }
    }

    /// Tokens with a scale each, int8 \[count, K\] with `groups` sums each.
    pub(crate) fn of_codes(
        (codes, k): (&'a [i8], usize),
        (sums, groups): (&'a [i32], usize),
        act_scales: &'a [f32],
    ) -> Self {
        let count = act_scales.len();
        Tokens { count, stride: k, codes, groups, sums, k, scales: ActScales::Token, act_scales }
    }

    pub(crate) fn range(self, start: usize, count: usize) -> Self {
        Tokens {
            count,
            codes: &self.codes[start * self.stride..(start + count) * self.stride],
            sums: &self.sums[start * self.groups..(start + count) * self.groups],
            act_scales: &self.act_scales[start * self.scales.of_token(self.k)..],
            ..self
        }
    }

    pub(crate) fn codes(self, token: usize) -> &'a [i8] {
        &self.codes[token * self.stride..(token + 1) * self.stride]
    }

    /// The scale of one of a token's blocks of 128.
    pub(crate) fn act_scale(self, token: usize, block: usize) -> f32 {
        self.act_scales[token * self.scales.of_token(self.k) + block]
    }

    /// Σ codes of one of a token's groups.
    pub(crate) fn sum(self, token: usize, group: usize) -> i32 {
        self.sums[token * self.groups + group]
    }
}

/// Bytes of the panel of 16 rows: unsigned codes \[K/4\]\[16\]\[4\], K rounded up to 64.
pub(crate) fn panel_bytes(k: usize) -> usize {
    k.next_multiple_of(PAD_K) * TILE_N
}
