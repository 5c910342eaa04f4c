//! A packed weight in memory of others.

use super::format::{Bits, Format, GroupScale, Offset};
use super::pack::{PackedWeight, TILE_BYTES, TILE_N, k_tiles, tile_k, to_tile, unpack_scales};
use super::sections::Sections;
use super::tile::{Tile, TileValues};
use super::weight::QuantizedWeight;
use crate::error::{Error, Result, check_len};

/// A quantized weight matrix in the packed layout, borrowed: from a [`PackedWeight`], from an engine's memory or from a file.
#[derive(Clone, Copy)]
pub struct PackedView<'a> {
    n: usize,
    k: usize,
    format: Format,
    sections: Sections<&'a [u8]>,
}

impl std::fmt::Debug for PackedView<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("PackedView").field(&(self.n, self.k, self.format)).finish_non_exhaustive()
    }
}

impl<'a> From<&'a PackedWeight> for PackedView<'a> {
    fn from(weight: &'a PackedWeight) -> Self {
        weight.view()
    }
}

/// What sections begin at a multiple of, in bytes: the largest of their entries.
const ALIGNMENT: usize = 4;

impl<'a> PackedView<'a> {
    /// Takes the sections of a matrix packed in layout [`super::LAYOUT_VERSION`], as [`super::pack_into`] writes them.
    ///
    /// # Errors
    /// As [`Format::check`]; [`Error::Length`] for a section of another size than [`Format::section_bytes`],
    /// [`Error::Misaligned`] unless scales begin at a multiple of 4 bytes, [`Error::Value`] for whole-numbered scales above 16.
    pub fn new(n: usize, k: usize, format: Format, sections: Sections<&'a [u8]>) -> Result<Self> {
        let expected = format.section_bytes(n, k)?;
        for ((what, expected), bytes) in Sections::<()>::NAMES.zip(expected).zip(sections).into_array() {
            check_len(what, expected, bytes.len())?;
            let got = bytes.as_ptr().addr();
            if what != Sections::<()>::NAMES.codes && !bytes.is_empty() && got % ALIGNMENT != 0 {
                return Err(Error::Misaligned { what, expected: ALIGNMENT as u64, got: got as u64 });
            }
        }
        if let Some(largest) = format.largest_whole_scale()
            && let Some(&got) = sections.group.iter().find(|&&scale| scale > largest)
        {
            return Err(Error::Value { what: "group", expected: "whole numbers up to 16", got: f32::from(got) });
        }
        Ok(Self::of(n, k, format, sections))
    }

    /// Takes sections that are as they should be; those of a matrix whose codes are elsewhere have none.
    pub(crate) fn of(n: usize, k: usize, format: Format, sections: Sections<&'a [u8]>) -> Self {
        PackedView { n, k, format, sections }
    }

    /// Restores the plain form.
    ///
    /// # Errors
    /// As [`QuantizedWeight::new`] for sections that hold numbers which it refuses, as those that were packed do not.
    pub fn unpack(&self) -> Result<QuantizedWeight> {
        let (n, k) = (self.n, self.k);
        let codes = (0..n * k).map(|i| self.code(i / k, i % k)).collect();
        let Sections { channel, group, offset, .. } = self.sections;
        let scales = unpack_scales(self.format, n, k, [channel, group, offset]);
        QuantizedWeight::new(n, k, self.format, codes, scales)
    }

    /// Output features N.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Input features K.
    pub fn k(&self) -> usize {
        self.k
    }

    /// How codes become numbers.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The sections' bytes.
    pub fn sections(&self) -> Sections<&'a [u8]> {
        self.sections
    }

    /// Bytes of codes and scales, all of which one multiplication reads.
    pub fn bytes(&self) -> usize {
        self.sections.into_array().into_iter().map(<[u8]>::len).sum()
    }

    /// Writes row `n` as f32.
    ///
    /// # Errors
    /// [`Error::Index`] if `n` is not a row, [`Error::Length`] unless `out` has K elements.
    pub fn dequantize_row(&self, n: usize, out: &mut [f32]) -> Result<()> {
        if n >= self.n {
            return Err(Error::Index { what: "n", limit: self.n, got: n });
        }
        check_len("out", self.k, out.len())?;
        let (tile, row) = (self.tile(n / TILE_N), n % TILE_N);
        for (k, out) in out.iter_mut().enumerate() {
            *out = self.format.dequantize(self.code(n, k), tile.scales_at(row, k));
        }
        Ok(())
    }

    /// The codes and scales of one block of 16 rows.
    pub(crate) fn tile(&self, tile: usize) -> Tile<'a> {
        let (format, groups) = (self.format, self.format.groups(self.k));
        let bytes = k_tiles(self.k, format.bits) * TILE_BYTES;
        // a section that is not there may begin anywhere
        let channel = || &bytemuck::cast_slice::<u8, f32>(self.sections.channel).as_chunks().0[tile];
        let [_, group_bytes, offset_bytes] = format.entry_bytes();
        Tile {
            format,
            codes: self.sections.codes.get(tile * bytes..(tile + 1) * bytes).unwrap_or_default(),
            ahead: self.sections.codes.get(tile * bytes..).unwrap_or_default(),
            channel: format.stays_integer().then(channel),
            group: TileValues::of(self.sections.group, group_bytes, tile, groups),
            offset: TileValues::of(self.sections.offset, offset_bytes, tile, groups),
            zero: match (format.bits, format.group_scale(), format.offset()) {
                (Bits::Eight, ..) | (_, Some(GroupScale::Qqq), _) => 128,
                (Bits::Four, _, Offset::F16) => 0,
                (Bits::Four, ..) => 8,
            },
        }
    }

    fn code(&self, n: usize, k: usize) -> i8 {
        let bits = self.format.bits;
        let at = n / TILE_N * k_tiles(self.k, bits) + k / tile_k(bits);
        let tile = &self.sections.codes[at * TILE_BYTES..(at + 1) * TILE_BYTES];
        let (lane, value) = to_tile(bits, n % TILE_N, k % tile_k(bits));
        match bits {
            Bits::Four => (tile[16 * lane + value / 2] >> (4 * (value % 2)) & 15) as i8,
            Bits::Eight => tile[16 * lane + value] as i8,
        }
    }
}
