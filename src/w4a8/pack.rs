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
use super::tile::TileCodes;
use super::weight::{Bits, GroupOffset, QQQ_GROUP, QuantizedWeight, Scales, qqq_code};
use half::f16;

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

/// 64 bytes, so that every tile starts on a cache line.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Line(pub(crate) [u8; 64]);

/// Scales in packed order; all arrays are \[N/16\]\[…\]\[16\].
#[derive(Clone)]
pub(crate) enum PackedScales {
    /// f32 \[tiles\]\[16\].
    PerChannel { scale: Vec<f32> },
    /// f16 \[tiles\]\[groups\]\[16\].
    PerGroup { group_size: usize, scale: Vec<f16>, offset: GroupOffset },
    /// u8 \[tiles\]\[groups\]\[16\] and f32 \[tiles\]\[16\].
    TwoLevel { group_size: usize, group_scale: Vec<u8>, scale: Vec<f32> },
    /// f16 \[tiles\]\[groups\]\[16\] and f32 \[tiles\]\[16\].
    Qqq { group_scale: Vec<f16>, scale: Vec<f32> },
}

/// A quantized weight matrix in the packed layout.
#[derive(Clone)]
pub struct PackedWeight {
    n: usize,
    k: usize,
    bits: Bits,
    codes: Vec<Line>,
    pub(crate) scales: PackedScales,
}

impl std::fmt::Debug for PackedWeight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let fields = (self.n, self.k, self.bits, self.group_size());
        f.debug_tuple("PackedWeight").field(&fields).finish_non_exhaustive()
    }
}

impl PackedWeight {
    /// Packs a quantized matrix.
    pub fn pack(weight: &QuantizedWeight) -> Self {
        let (n, k, bits) = (weight.n(), weight.k(), weight.bits());
        let mut codes = vec![Line([0; 64]); n.div_ceil(TILE_N) * k_tiles(k, bits) * TILE_BYTES / 64];
        let bytes = bytemuck::cast_slice_mut(&mut codes);
        for (row, values) in weight.codes().chunks_exact(k).enumerate() {
            pack_row(bits, bytes, row, values);
        }
        PackedWeight { n, k, bits, codes, scales: pack_scales(weight) }
    }

    /// Restores the plain form: the inverse of [`PackedWeight::pack`].
    pub fn unpack(&self) -> QuantizedWeight {
        let (n, k) = (self.n, self.k);
        let codes = (0..n * k).map(|i| self.code(i / k, i % k)).collect();
        QuantizedWeight::new(n, k, self.bits, codes, self.unpack_scales())
            .expect("a packed weight was checked when made")
    }

    /// Output features N.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Input features K.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Bits of a stored code.
    pub fn bits(&self) -> Bits {
        self.bits
    }

    /// K values that share a scale, `None` for a whole channel.
    pub fn group_size(&self) -> Option<usize> {
        match &self.scales {
            PackedScales::PerChannel { .. } => None,
            PackedScales::PerGroup { group_size, .. } | PackedScales::TwoLevel { group_size, .. } => Some(*group_size),
            PackedScales::Qqq { .. } => Some(QQQ_GROUP),
        }
    }

    /// Bytes of codes and scales, all of which one multiplication reads.
    pub fn bytes(&self) -> usize {
        let scales = match &self.scales {
            PackedScales::PerChannel { scale } => size_of_val(&scale[..]),
            PackedScales::PerGroup { scale, offset, .. } => {
                let offset = match offset {
                    GroupOffset::Symmetric => 0,
                    GroupOffset::F16(offset) => size_of_val(&offset[..]),
                    GroupOffset::ZeroPoint(zero) => zero.len(),
                };
                size_of_val(&scale[..]) + offset
            }
            PackedScales::TwoLevel { group_scale, scale, .. } => group_scale.len() + size_of_val(&scale[..]),
            PackedScales::Qqq { group_scale, scale } => size_of_val(&group_scale[..]) + size_of_val(&scale[..]),
        };
        size_of_val(&self.codes[..]) + scales
    }

    /// The tiles' bytes, \[N/16\]\[K/tile_k\]\[512\].
    pub fn codes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.codes)
    }

    /// Writes row `n` as f32, for an embedding that shares its matrix with the output layer.
    ///
    /// # Errors
    /// [`crate::Error::Index`] if `n` is not a row, [`crate::Error::Length`] unless `out` has K elements.
    pub fn dequantize_row(&self, n: usize, out: &mut [f32]) -> crate::Result<()> {
        if n >= self.n {
            return Err(crate::Error::Index { what: "n", limit: self.n, got: n });
        }
        crate::error::check_len("out", self.k, out.len())?;
        let (row, scales, codes) = (n % TILE_N, self.tile_scales(n / TILE_N), self.tile_codes(n / TILE_N));
        for (k, out) in out.iter_mut().enumerate() {
            let code = self.code(n, k);
            *out = match codes {
                TileCodes::Qqq(scale) => scales.dequantize(row, k, qqq_code(code, scale[k / QQQ_GROUP][row])),
                TileCodes::Four | TileCodes::Eight => scales.dequantize(row, k, code),
            };
        }
        Ok(())
    }

    /// All tiles of one block of 16 rows.
    pub(crate) fn tile_row(&self, tile: usize) -> &[u8] {
        let bytes = k_tiles(self.k, self.bits) * TILE_BYTES;
        &self.codes()[tile * bytes..(tile + 1) * bytes]
    }

    fn code(&self, n: usize, k: usize) -> i8 {
        let tile = &self.tile_row(n / TILE_N)[k / tile_k(self.bits) * TILE_BYTES..];
        let (lane, value) = to_tile(self.bits, n % TILE_N, k % tile_k(self.bits));
        match self.bits {
            Bits::Four => (tile[16 * lane + value / 2] >> (4 * (value % 2)) & 15) as i8,
            Bits::Eight => tile[16 * lane + value] as i8,
        }
    }

    fn unpack_scales(&self) -> Scales {
        let n = self.n;
        let groups = self.group_size().map_or(1, |size| self.k / size);
        fn rows<T: Copy>(packed: &[T], n: usize, groups: usize) -> Vec<T> {
            let at = |row: usize, g: usize| packed[(row / TILE_N * groups + g) * TILE_N + row % TILE_N];
            (0..n * groups).map(|i| at(i / groups, i % groups)).collect()
        }
        match &self.scales {
            PackedScales::PerChannel { scale } => Scales::PerChannel { scale: rows(scale, n, 1) },
            PackedScales::PerGroup { group_size, scale, offset } => Scales::PerGroup {
                group_size: *group_size,
                scale: rows(scale, n, groups),
                offset: match offset {
                    GroupOffset::Symmetric => GroupOffset::Symmetric,
                    GroupOffset::F16(offset) => GroupOffset::F16(rows(offset, n, groups)),
                    GroupOffset::ZeroPoint(zero) => GroupOffset::ZeroPoint(rows(zero, n, groups)),
                },
            },
            PackedScales::TwoLevel { group_size, group_scale, scale } => Scales::TwoLevel {
                group_size: *group_size,
                group_scale: rows(group_scale, n, groups),
                scale: rows(scale, n, 1),
            },
            PackedScales::Qqq { group_scale, scale } => {
                Scales::Qqq { group_scale: rows(group_scale, n, groups), scale: rows(scale, n, 1) }
            }
        }
    }
}

/// Tiles along K, K rounded up to 64.
pub(crate) const fn k_tiles(k: usize, bits: Bits) -> usize {
    k.next_multiple_of(PAD_K) / tile_k(bits)
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

fn pack_scales(weight: &QuantizedWeight) -> PackedScales {
    let n = weight.n();
    let groups = weight.scales().group_size().map_or(1, |size| weight.k() / size);
    fn tiles<T: Copy + Default>(rows: &[T], n: usize, groups: usize) -> Vec<T> {
        let mut packed = vec![T::default(); n.div_ceil(TILE_N) * groups * TILE_N];
        for (row, values) in rows.chunks_exact(groups).enumerate() {
            for (g, &value) in values.iter().enumerate() {
                packed[(row / TILE_N * groups + g) * TILE_N + row % TILE_N] = value;
            }
        }
        packed
    }
    match weight.scales() {
        Scales::PerChannel { scale } => PackedScales::PerChannel { scale: tiles(scale, n, 1) },
        Scales::PerGroup { group_size, scale, offset } => PackedScales::PerGroup {
            group_size: *group_size,
            scale: tiles(scale, n, groups),
            offset: match offset {
                GroupOffset::Symmetric => GroupOffset::Symmetric,
                GroupOffset::F16(offset) => GroupOffset::F16(tiles(offset, n, groups)),
                GroupOffset::ZeroPoint(zero) => GroupOffset::ZeroPoint(tiles(zero, n, groups)),
            },
        },
        Scales::TwoLevel { group_size, group_scale, scale } => PackedScales::TwoLevel {
            group_size: *group_size,
            group_scale: tiles(group_scale, n, groups),
            scale: tiles(scale, n, 1),
        },
        Scales::Qqq { group_scale, scale } => {
            PackedScales::Qqq { group_scale: tiles(group_scale, n, groups), scale: tiles(scale, n, 1) }
        }
    }
}
