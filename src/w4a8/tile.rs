//! What the kernels of every instruction set see: the scales of one block of 16 rows, and the tokens.

use super::activation::{Activations, PAD_K};
use super::pack::{PackedScales, PackedWeight, TILE_N};
use super::weight::{Bits, GroupOffset, QQQ_GROUP, qqq_code};
use half::f16;

/// The scales of 16 rows.
///
/// Kernels multiply unsigned codes: 4-bit codes as they are, 8-bit codes (and QQQ's int8 weights) plus 128. `zero` is what
/// has to be subtracted from such a code.
#[derive(Clone, Copy)]
pub(crate) enum TileScales<'a> {
    /// y = scale · Σ_K (u − zero)·a.
    PerChannel { scale: &'a [f32; TILE_N], zero: i32 },
    /// y = Σ_g scale\[g\] · Σ (u − zero)·a + offset\[g\] · Σ a.
    PerGroup { group_size: usize, scale: &'a [[f16; TILE_N]], zero: TileZero<'a> },
    /// y = scale · Σ_g group_scale\[g\] · Σ (u − 8)·a.
    TwoLevel { group_size: usize, group_scale: &'a [[u8; TILE_N]], scale: &'a [f32; TILE_N] },
}

/// What is subtracted from the codes of a group, or added to the result.
#[derive(Clone, Copy)]
pub(crate) enum TileZero<'a> {
    /// The same for all codes.
    Fixed(i32),
    /// By row and group.
    ZeroPoint(&'a [[u8; TILE_N]]),
    /// By row and group, after scaling; besides a fixed zero.
    Offset(&'a [[f16; TILE_N]], i32),
}

/// How the unsigned codes of 16 rows come from the stored ones.
#[derive(Clone, Copy)]
pub(crate) enum TileCodes<'a> {
    /// Nibbles as they are.
    Four,
    /// Bytes plus 128.
    Eight,
    /// Nibbles through QQQ's scales \[group\]\[16\], plus 128.
    Qqq(&'a [[f16; TILE_N]]),
}

impl PackedWeight {
    /// The K values whose products are summed as integers: QQQ's scales are inside its int8 weights.
    pub(crate) fn integer_group(&self) -> Option<usize> {
        match &self.scales {
            PackedScales::Qqq { .. } => None,
            _ => self.group_size(),
        }
    }

    pub(crate) fn tile_codes(&self, tile: usize) -> TileCodes<'_> {
        match (&self.scales, self.bits()) {
            (PackedScales::Qqq { group_scale, .. }, _) => {
                TileCodes::Qqq(tile_groups(group_scale, tile, self.k() / QQQ_GROUP))
            }
            (_, Bits::Four) => TileCodes::Four,
            (_, Bits::Eight) => TileCodes::Eight,
        }
    }

    pub(crate) fn tile_scales(&self, tile: usize) -> TileScales<'_> {
        let zero = if self.bits() == Bits::Four { 8 } else { 128 };
        match &self.scales {
            PackedScales::PerChannel { scale } => TileScales::PerChannel { scale: channel(scale, tile), zero },
            PackedScales::Qqq { scale, .. } => TileScales::PerChannel { scale: channel(scale, tile), zero: 128 },
            PackedScales::PerGroup { group_size, scale, offset } => {
                let groups = self.k() / group_size;
                let zero = match offset {
                    GroupOffset::Symmetric => TileZero::Fixed(zero),
                    GroupOffset::F16(offset) => {
                        let zero = if self.bits() == Bits::Four { 0 } else { 128 };
                        TileZero::Offset(tile_groups(offset, tile, groups), zero)
                    }
                    GroupOffset::ZeroPoint(points) => TileZero::ZeroPoint(tile_groups(points, tile, groups)),
                };
                TileScales::PerGroup { group_size: *group_size, scale: tile_groups(scale, tile, groups), zero }
            }
            PackedScales::TwoLevel { group_size, group_scale, scale } => TileScales::TwoLevel {
                group_size: *group_size,
                group_scale: tile_groups(group_scale, tile, self.k() / group_size),
                scale: channel(scale, tile),
            },
        }
    }
}

fn channel(scale: &[f32], tile: usize) -> &[f32; TILE_N] {
    &scale.as_chunks().0[tile]
}

fn tile_groups<T>(packed: &[T], tile: usize, groups: usize) -> &[[T; TILE_N]] {
    &packed.as_chunks().0[tile * groups..(tile + 1) * groups]
}

impl TileScales<'_> {
    /// The number that code (as stored) of row `row`, column `k` stands for.
    pub(crate) fn dequantize(&self, row: usize, k: usize, code: i8) -> f32 {
        match *self {
            // an 8-bit code is stored without the 128 that its zero takes off
            TileScales::PerChannel { scale, zero } => scale[row] * f32::from(i16::from(code) - (zero % 128) as i16),
            TileScales::PerGroup { group_size, scale, zero } => {
                let (g, code) = (k / group_size, f32::from(code));
                let scale = scale[g][row].to_f32();
                match zero {
                    TileZero::Fixed(zero) => scale * (code - (zero % 128) as f32),
                    TileZero::ZeroPoint(points) => scale * (code - f32::from(points[g][row])),
                    TileZero::Offset(offset, _) => scale * code + offset[g][row].to_f32(),
                }
            }
            TileScales::TwoLevel { group_size, group_scale, scale } => {
                scale[row] * (f32::from(group_scale[k / group_size][row]) * (f32::from(code) - 8.0))
            }
        }
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
    /// K rounded up to 64.
    pub(crate) stride: usize,
    /// int8 \[count, stride\].
    pub(crate) codes: &'a [i8],
    /// Sums of a token.
    pub(crate) groups: usize,
    /// i32 \[count, groups\]: Σ codes of each of the weight's groups, or of all K.
    pub(crate) sums: &'a [i32],
}

impl<'a> Tokens<'a> {
    pub(crate) fn new(x: &'a Activations, group_size: Option<usize>) -> Self {
        let (sums, groups) = x.group_sums(group_size);
        Tokens { count: x.m(), stride: x.padded_k(), codes: x.codes(), groups, sums }
    }

    pub(crate) fn range(self, start: usize, count: usize) -> Self {
        Tokens {
            count,
            codes: &self.codes[start * self.stride..(start + count) * self.stride],
            sums: &self.sums[start * self.groups..(start + count) * self.groups],
            ..self
        }
    }

    pub(crate) fn codes(self, token: usize) -> &'a [i8] {
        &self.codes[token * self.stride..(token + 1) * self.stride]
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
