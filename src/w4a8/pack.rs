//! Packed layout, version 1: the one form in which every device reads W4A8 weights.
//!
//! A weight matrix is cut into tiles of 16 rows (n) by [`tile_k`] columns (k): 64 for 4-bit codes, 32 for 8-bit. A tile is
//! 512 bytes: 32 lanes of 16 bytes, in the order in which the 32 threads of a warp hold the A operand of an m16 × k32 int8
//! matrix instruction, so that each loads its part with one 16-byte access; a 4-bit tile is two k-steps.
//!
//! With lane L, word j of 32 bits (0..4) and value v of the lane's 16 bytes:
//!
//! | codes | value | n | k |
//! |---|---|---|---|
//! | 4-bit | v = 8j + i, nibble i of word j | ⌊L/4⌋ + 8·(i mod 2) | 32·(j mod 2) + 16·⌊j/2⌋ + 4·(L mod 4) + ⌊i/2⌋ |
//! | 8-bit | v = 4j + b, byte b of word j | ⌊L/4⌋ + 8·(j mod 2) | 16·⌊j/2⌋ + 4·(L mod 4) + b |
//!
//! So a word's low nibbles are one operand register and its high nibbles another: `w & 0x0F0F0F0F` and
//! `(w >> 4) & 0x0F0F0F0F` unpack them. Four tiles below each other are the m64 operand of a Hopper warpgroup.
//!
//! Tiles are stored \[N/16\]\[K/tile_k\], N rounded up to 16 and K to 64 (padding has code 0, scale 0). Group scales and
//! offsets are \[N/16\]\[K/group_size\]\[16\], channel scales \[N/16\]\[16\].

use super::activation::PAD_K;
use super::format::{Bits, Format};
use super::packed_view::PackedView;
use super::scales::Scales;
use super::sections::Sections;
use super::weight::QuantizedWeight;
use crate::error::{Result, check_len};
use crate::memory::Memory;

/// The version of the packed layout, to be stored with packed files.
pub const LAYOUT_VERSION: u32 = 1;

/// Rows of a tile.
pub const TILE_N: usize = 16;

/// Bytes of a tile.
pub const TILE_BYTES: usize = 512;

/// Columns of a tile.
pub const fn tile_k(bits: Bits) -> usize {
    match bits {
        Bits::Four => 64,
        Bits::Eight => 32,
    }
}

/// Maps (lane, value) of a tile to (n, k).
///
/// # Panics
/// If `lane` is 32 or more, or `value` is not below 32 (4-bit) or 16 (8-bit).
pub fn from_tile(bits: Bits, lane: usize, value: usize) -> (usize, usize) {
    assert!(lane < 32 && value < tile_k(bits) / 2);
    let (row, column) = (lane / 4, 4 * (lane % 4));
    match bits {
        Bits::Four => {
            let (j, i) = (value / 8, value % 8);
            (row + 8 * (i % 2), 32 * (j % 2) + 16 * (j / 2) + column + i / 2)
        }
        Bits::Eight => {
            let (j, b) = (value / 4, value % 4);
            (row + 8 * (j % 2), 16 * (j / 2) + column + b)
        }
    }
}

/// Maps (n, k) of a tile to (lane, value): the inverse of [`from_tile`].
///
/// # Panics
/// If `n` is 16 or more or `k` is not below [`tile_k`].
pub fn to_tile(bits: Bits, n: usize, k: usize) -> (usize, usize) {
    assert!(n < TILE_N && k < tile_k(bits));
    let lane = 4 * (n % 8) + k / 4 % 4;
    let value = match bits {
        Bits::Four => 8 * (2 * (k / 16 % 2) + k / 32) + 2 * (k % 4) + n / 8,
        Bits::Eight => 4 * (2 * (k / 16) + n / 8) + k % 4,
    };
    (lane, value)
}

/// A quantized weight matrix in the packed layout, in memory of its own. [`PackedView`] is one in memory of others.
#[derive(Clone)]
pub struct PackedWeight {
    n: usize,
    k: usize,
    format: Format,
    sections: Sections<Memory<u8>>,
}

impl std::fmt::Debug for PackedWeight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("PackedWeight").field(&(self.n, self.k, self.format)).finish_non_exhaustive()
    }
}

impl PackedWeight {
    /// Packs a weight.
    pub fn pack(weight: &QuantizedWeight) -> Self {
        let (n, k, format) = (weight.n(), weight.k(), weight.format());
        let bytes = format.section_bytes(n, k).expect("a weight was checked when made, and is smaller");
        let mut sections = bytes.map(Memory::zeroed);
        write_sections(weight, sections.as_mut().map(|section| &mut **section));
        PackedWeight { n, k, format, sections }
    }

    /// Room for N rows of a format that goes with K, resident: of codes 0 and scales 0.
    pub(crate) fn zeroed(n: usize, k: usize, format: Format) -> Result<Self> {
        let sections = match n {
            0 => Sections::default(),
            n => format.section_bytes(n, k)?,
        };
        Ok(PackedWeight { n, k, format, sections: sections.map(Memory::resident) })
    }

    /// Makes it the N rows that are written to its sections then; there is room for as many.
    pub(crate) fn rows_mut(&mut self, n: usize) -> Sections<&mut [u8]> {
        self.n = n;
        self.sections.as_mut().map(|section| &mut **section)
    }

    /// The sections, borrowed.
    pub fn view(&self) -> PackedView<'_> {
        PackedView::of(self.n, self.k, self.format, self.sections.as_ref().map(|section| &**section))
    }

    /// Restores the plain form: the inverse of [`PackedWeight::pack`].
    pub fn unpack(&self) -> QuantizedWeight {
        self.view().unpack().expect("a packed weight was checked when made")
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

    /// Bytes of codes and scales, all of which one multiplication reads.
    pub fn bytes(&self) -> usize {
        self.view().bytes()
    }

    /// The tiles' bytes, \[N/16\]\[K/tile_k\]\[512\].
    pub fn codes(&self) -> &[u8] {
        &self.sections.codes
    }

    /// Writes row `n` as f32, for an embedding that shares its matrix with the output layer.
    ///
    /// # Errors
    /// [`crate::Error::Index`] if `n` is not a row, [`crate::Error::Length`] unless `out` has K elements.
    pub fn dequantize_row(&self, n: usize, out: &mut [f32]) -> Result<()> {
        self.view().dequantize_row(n, out)
    }
}

/// Packs a weight into memory of the caller's, whose sizes are [`Format::section_bytes`].
///
/// # Errors
/// [`crate::Error::Length`] for a section of another size.
///
/// # Example
/// ```
/// use moray::w4a8::{Format, PackedView, Sections, pack_into, quantize};
///
/// let (n, k, format) = (16, 64, Format::w8());
/// let bytes = format.section_bytes(n, k)?;
/// let mut memory = bytes.map(|bytes| vec![0u64; bytes.div_ceil(8)]);
/// let mut sections = memory.as_mut().zip(bytes).map(|(words, bytes)| &mut bytemuck::cast_slice_mut(words)[..bytes]);
/// pack_into(&quantize(&vec![0.5; n * k], n, k, format)?, sections.as_mut().map(|section| &mut **section))?;
/// let weight = PackedView::new(n, k, format, sections.map(|section| &*section))?;
/// assert_eq!(weight.unpack()?.dequantize()[0], 0.5);
/// # Ok::<(), moray::Error>(())
/// ```
pub fn pack_into(weight: &QuantizedWeight, mut sections: Sections<&mut [u8]>) -> Result<()> {
    let expected = weight.format().section_bytes(weight.n(), weight.k())?;
    let lengths = sections.as_ref().map(|section| section.len());
    for ((what, expected), got) in Sections::<()>::NAMES.zip(expected).zip(lengths).into_array() {
        check_len(what, expected, got)?;
    }
    sections.as_mut().map(|section| section.fill(0));
    write_sections(weight, sections);
    Ok(())
}

/// Writes the sections, whose bytes are zeros.
fn write_sections(weight: &QuantizedWeight, sections: Sections<&mut [u8]>) {
    let (n, k, format) = (weight.n(), weight.k(), weight.format());
    for (row, values) in weight.codes().chunks_exact(k).enumerate() {
        pack_row(format.bits, sections.codes, row, values);
    }
    let packed = [sections.channel, sections.group, sections.offset];
    let parts = weight.scales().bytes().into_iter().zip(format.entry_bytes()).zip(format.row_entries(k));
    for (packed, ((plain, bytes), per_row)) in packed.into_iter().zip(parts) {
        for at in 0..if bytes == 0 { 0 } else { n * per_row } {
            let to = packed_entry(at / per_row, at % per_row, per_row) * bytes;
            packed[to..to + bytes].copy_from_slice(&plain[at * bytes..(at + 1) * bytes]);
        }
    }
}

/// The scales of packed sections in the order of rows: the inverse of what packing does to them.
pub(super) fn unpack_scales(format: Format, n: usize, k: usize, packed: [&[u8]; 3]) -> Scales {
    let (entry, row) = (format.entry_bytes(), format.row_entries(k));
    let plain = |i: usize| {
        let (bytes, per_row) = (entry[i], row[i]);
        let entries = if bytes == 0 { 0 } else { n * per_row };
        let from = |at: usize| packed_entry(at / per_row, at % per_row, per_row) * bytes;
        (0..entries).flat_map(|at| &packed[i][from(at)..from(at) + bytes]).copied().collect::<Vec<u8>>()
    };
    let plain = [plain(0), plain(1), plain(2)];
    Scales::from_bytes(format, plain.each_ref().map(|bytes| &bytes[..]))
}

/// Where entry `index` of a row is, of `per_row`: \[N/16\]\[per_row\]\[16\].
fn packed_entry(row: usize, index: usize, per_row: usize) -> usize {
    (row / TILE_N * per_row + index) * TILE_N + row % TILE_N
}

/// Tiles along K, K rounded up to 64.
pub(crate) const fn k_tiles(k: usize, bits: Bits) -> usize {
    k.next_multiple_of(PAD_K) / tile_k(bits)
}

/// Writes what a tile of 4-bit codes has of rows `row` and `row + 8`, row < 8: 64 columns of each, of which byte i of a half's codes holds column i
/// low and column i + 16 high.
#[inline]
pub(crate) fn pack_two_rows(tile: &mut [u8; TILE_BYTES], row: usize, low: [[u8; 16]; 2], high: [[u8; 16]; 2]) {
    const NIBBLES: u32 = 0x0F0F_0F0F;
    let words = |codes: [u8; 16]| -> [u32; 4] {
        std::array::from_fn(|word| u32::from_le_bytes(std::array::from_fn(|byte| codes[4 * word + byte])))
    };
    let (low, high) = (low.map(words), high.map(words));
    let (lines, _) = tile[64 * row..][..64].as_chunks_mut::<16>();
    for (column, line) in lines.iter_mut().enumerate() {
        let [first, second] = [0, 1].map(|half| (low[half][column], high[half][column]));
        let earlier = |(low, high): (u32, u32)| low & NIBBLES | (high & NIBBLES) << 4;
        let later = |(low, high): (u32, u32)| low >> 4 & NIBBLES | high & NIBBLES << 4;
        let words = [earlier(first), earlier(second), later(first), later(second)];
        *line = bytemuck::cast(words.map(u32::to_le_bytes));
    }
}

fn pack_row(bits: Bits, bytes: &mut [u8], row: usize, values: &[i8]) {
    let stride = k_tiles(values.len(), bits) * TILE_BYTES;
    let tiles = &mut bytes[row / TILE_N * stride..][..stride];
    let (lane_row, high) = (4 * (row % 8), row % TILE_N / 8);
    for (tile, values) in tiles.chunks_exact_mut(TILE_BYTES).zip(values.chunks(tile_k(bits))) {
        for (index, values) in values.chunks_exact(4).enumerate() {
            // four consecutive k: one lane, one word
            let (lane, half, step) = (lane_row + index % 4, index / 4 % 2, index / 8);
            match bits {
                Bits::Four => {
                    let word = &mut tile[16 * lane + 4 * (2 * half + step)..][..4];
                    word.iter_mut().zip(values).for_each(|(byte, &code)| *byte |= (code as u8) << (4 * high));
                }
                Bits::Eight => {
                    let word = &mut tile[16 * lane + 4 * (2 * half + high)..][..4];
                    word.iter_mut().zip(values).for_each(|(byte, &code)| *byte = code as u8);
                }
            }
        }
    }
}
