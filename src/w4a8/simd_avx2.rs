//! Unpacking in AVX2. 16 rows are two vectors of 8 lanes.

use super::format::{Bits, QQQ_GROUP};
use super::gemv::Gemv;
use super::pack::{TILE_BYTES, TILE_N};
use super::tile::{Tile, Tokens};
use super::tile_kernels::TileKernels;
use crate::simd::{Avx2, Simd};
use half::f16;
use std::arch::x86_64::*;

impl<const VNNI: bool> TileKernels for Avx2<VNNI> {
    fn unpack(self, tile: &Tile<'_>, panel: &mut [u8]) {
        // SAFETY: the token proves that the machine has the instructions.
        unsafe { unpack(tile, panel) }
    }

    fn gemv(self, tile: &Tile<'_>, tokens: Tokens<'_>, out: &mut [[f32; TILE_N]]) -> bool {
        // four tokens share a panel, which costs less than to sum each token's lanes for every group
        let panel_pays = tokens.count > 3 && tile.sum_scales().is_some();
        match (tile.format.bits, tokens.count) {
            (Bits::Eight, _) => return false,
            _ if panel_pays => return false,
            (Bits::Four, 1) => self.run(Gemv::<1> { tile, tokens, out }),
            (Bits::Four, 2) => self.run(Gemv::<2> { tile, tokens, out }),
            (Bits::Four, 3) => self.run(Gemv::<3> { tile, tokens, out }),
            (Bits::Four, _) => self.run(Gemv::<4> { tile, tokens, out }),
        }
        true
    }
}

/// Transposes four rows of four 32-bit columns inside each 128-bit part.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose4(v: [__m256i; 4]) -> [__m256i; 4] {
    let (low01, high01) = (_mm256_unpacklo_epi32(v[0], v[1]), _mm256_unpackhi_epi32(v[0], v[1]));
    let (low23, high23) = (_mm256_unpacklo_epi32(v[2], v[3]), _mm256_unpackhi_epi32(v[2], v[3]));
    [
        _mm256_unpacklo_epi64(low01, low23),
        _mm256_unpackhi_epi64(low01, low23),
        _mm256_unpacklo_epi64(high01, high23),
        _mm256_unpackhi_epi64(high01, high23),
    ]
}

/// Half `side` (lanes 2·side, 2·side + 1 of a row) of rows 4·`quad`.. of a tile: (row4, lane2, word4).
#[inline]
#[target_feature(enable = "avx2")]
fn load_rows(tile: &[u8; TILE_BYTES], quad: usize, side: usize) -> [__m256i; 4] {
    let parts = tile.as_chunks::<32>().0;
    // SAFETY: a part is 32 readable bytes.
    std::array::from_fn(|row| unsafe { _mm256_loadu_si256(parts[2 * (4 * quad + row) + side].as_ptr().cast()) })
}

#[inline]
#[target_feature(enable = "avx2")]
fn nibbles(v: __m256i) -> (__m256i, __m256i) {
    let mask = _mm256_set1_epi8(15);
    (_mm256_and_si256(v, mask), _mm256_and_si256(_mm256_srli_epi16::<4>(v), mask))
}

/// Stores four rows of columns 4·`k4`.. and, from the upper parts, of 4·(`k4` + 1)...
#[inline]
#[target_feature(enable = "avx2")]
fn store_rows(panel: &mut [u8], k4: usize, quad: usize, v: __m256i) {
    let line = TILE_N * 4;
    let (low, high) = (_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
    for (k4, v) in [(k4, low), (k4 + 1, high)] {
        let out = &mut panel[k4 * line + 16 * quad..][..16];
        // SAFETY: 16 writable bytes.
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), v) };
    }
}

/// Unpacks the tiles of 16 rows into a panel of unsigned codes \[K/4\]\[16\]\[4\].
#[target_feature(enable = "avx2")]
fn unpack(tile: &Tile<'_>, panel: &mut [u8]) {
    let inner = tile.inner_scales();
    let mut tables = [_mm256_setzero_si256(); TILE_N];
    for (index, codes) in tile.codes.as_chunks::<TILE_BYTES>().0.iter().enumerate() {
        if let Some(scales) = inner
            && index % (QQQ_GROUP / 64) == 0
        {
            tables =
                scales.get(index * 64 / QQQ_GROUP).map_or([_mm256_set1_epi8(-128); TILE_N], |scale| qqq_tables(scale));
        }
        for (quad, side) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let rows = load_rows(codes, quad, side);
            if tile.format.bits == Bits::Eight {
                unpack_eight(rows, 8 * index + 2 * side, quad, panel);
                continue;
            }
            let mut low = rows.map(|v| nibbles(v).0);
            let mut high = rows.map(|v| nibbles(v).1);
            if inner.is_some() {
                for row in 0..4 {
                    low[row] = _mm256_shuffle_epi8(tables[4 * quad + row], low[row]);
                    high[row] = _mm256_shuffle_epi8(tables[8 + 4 * quad + row], high[row]);
                }
            }
            let (low, high) = (transpose4(low), transpose4(high));
            for word in 0..4 {
                let k4 = 16 * index + 8 * (word % 2) + 4 * (word / 2) + 2 * side;
                store_rows(panel, k4, quad, low[word]);
                store_rows(panel, k4, quad + 2, high[word]);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn unpack_eight(rows: [__m256i; 4], k4: usize, quad: usize, panel: &mut [u8]) {
    let sign = _mm256_set1_epi8(-128);
    for (word, v) in transpose4(rows).into_iter().enumerate() {
        store_rows(panel, k4 + 4 * (word / 2), quad + 2 * (word % 2), _mm256_xor_si256(v, sign));
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn qqq_tables(scales: &[f16; TILE_N]) -> [__m256i; TILE_N] {
    scales.map(|scale| {
        let table = super::tile::qqq_table(scale);
        // SAFETY: a table is 16 readable bytes.
        _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(table.as_ptr().cast()) })
    })
}
