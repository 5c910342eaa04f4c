//! The kernels in AVX2, with or without the 256-bit dot product of AVX-VNNI. 16 rows are two vectors of 8 lanes.

use super::format::{Bits, QQQ_GROUP};
use super::pack::{TILE_BYTES, TILE_N};
use super::tile::{Tile, TileValues, Tokens};
use super::tile_kernels::TileKernels;
use crate::simd::Avx2;
use half::f16;
use std::arch::x86_64::*;

impl<const VNNI: bool> TileKernels for Avx2<VNNI> {
    fn unpack(self, tile: &Tile<'_>, panel: &mut [u8]) {
        // SAFETY: the token proves that the machine has the instructions.
        unsafe { unpack(tile, panel) }
    }

    fn dot(self, panel: &[u8], tokens: Tokens<'_>, tile: &Tile<'_>, out: &mut [[f32; TILE_N]]) {
        // SAFETY: as in `unpack`; with `VNNI` they include AVX-VNNI.
        unsafe { if VNNI { dot_vnni(panel, tokens, tile, out) } else { dot(panel, tokens, tile, out) } }
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

/// How four products are added: by the instruction, or in 16 bits where codes are small, or in two halves of the code.
const VNNI: u8 = 0;
const NIBBLE: u8 = 1;
const BYTE: u8 = 2;

/// Multiplies a panel with every token with the dot-product instruction.
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
fn dot_vnni(panel: &[u8], tokens: Tokens<'_>, tile: &Tile<'_>, out: &mut [[f32; TILE_N]]) {
    dot_tokens::<VNNI>(panel, tokens, tile, out, |acc, w, x| _mm256_dpbusd_avx_epi32(acc, w, x));
}

/// Multiplies a panel with every token: `out\[token\]\[row\]` is the sum over K before act_scale.
#[target_feature(enable = "avx2,fma,f16c")]
fn dot(panel: &[u8], tokens: Tokens<'_>, tile: &Tile<'_>, out: &mut [[f32; TILE_N]]) {
    // Codes of 4 bits: 2 · 15 · 127 fits 16 bits. Codes of 8 bits would saturate and are split.
    let nibbles = tile.format.bits == Bits::Four && tile.inner_scales().is_none();
    let ones = _mm256_set1_epi16(1);
    if nibbles {
        dot_tokens::<NIBBLE>(panel, tokens, tile, out, |acc, w, x| {
            _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), ones))
        });
    } else {
        let sixteens = _mm256_set1_epi16(16);
        dot_tokens::<BYTE>(panel, tokens, tile, out, |acc, w, x| {
            let (low, high) = nibbles_of(w);
            let low = _mm256_madd_epi16(_mm256_maddubs_epi16(low, x), ones);
            let high = _mm256_madd_epi16(_mm256_maddubs_epi16(high, x), sixteens);
            _mm256_add_epi32(acc, _mm256_add_epi32(low, high))
        });
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn nibbles_of(w: __m256i) -> (__m256i, __m256i) {
    nibbles(w)
}

/// Must be inlined into a function with the features that `add` needs; `KIND` only keeps the instances apart.
#[inline(always)]
fn dot_tokens<const KIND: u8>(
    panel: &[u8],
    tokens: Tokens<'_>,
    tile: &Tile<'_>,
    out: &mut [[f32; TILE_N]],
    add: impl Fn(__m256i, __m256i, __m256i) -> __m256i + Copy,
) {
    let mut start = 0;
    while start < tokens.count {
        let count = if tokens.count - start >= 4 { 4 } else { 1 };
        let (tokens, out) = (tokens.range(start, count), &mut out[start..start + count]);
        // SAFETY: both callers have AVX2, FMA and F16C.
        unsafe {
            if count == 4 {
                dot_block::<4>(panel, tokens, tile, out, add);
            } else {
                dot_block::<1>(panel, tokens, tile, out, add);
            }
        }
        start += count;
    }
}

/// # Safety
/// The caller must have AVX2, FMA and F16C, and be compiled for them, since this is inlined into it.
#[inline(always)]
unsafe fn dot_block<const M: usize>(
    panel: &[u8],
    tokens: Tokens<'_>,
    tile: &Tile<'_>,
    out: &mut [[f32; TILE_N]],
    add: impl Fn(__m256i, __m256i, __m256i) -> __m256i + Copy,
) {
    // SAFETY: the caller's; the loads are of slices with the length they read.
    unsafe {
        let ints = |start: usize, len: usize| {
            let mut acc = [[_mm256_setzero_si256(); 2]; M];
            for k4 in start / 4..(start + len) / 4 {
                let line = &panel[k4 * TILE_N * 4..][..TILE_N * 4];
                let w = [0, 32].map(|at| _mm256_loadu_si256(line[at..].as_ptr().cast()));
                for (m, acc) in acc.iter_mut().enumerate() {
                    let x = &tokens.codes[m * tokens.stride + 4 * k4..][..4];
                    let x = _mm256_set1_epi32(i32::from_le_bytes([x[0] as u8, x[1] as u8, x[2] as u8, x[3] as u8]));
                    *acc = [add(acc[0], w[0], x), add(acc[1], w[1], x)];
                }
            }
            acc
        };
        let mut total = [[_mm256_setzero_si256(); 2]; M];
        let mut acc = [[_mm256_setzero_ps(); 2]; M];
        match tile.sum_scales() {
            None => {
                total = ints(0, tokens.stride);
                for (m, total) in total.iter_mut().enumerate() {
                    let sum = _mm256_set1_epi32(tokens.sum(m, 0).wrapping_mul(tile.zero));
                    *total = total.map(|ints| _mm256_sub_epi32(ints, sum));
                }
            }
            Some((size, TileValues::F16(scale))) => {
                for (g, scale) in scale.iter().enumerate() {
                    let ints = ints(g * size, size);
                    let scale = widen(scale);
                    for (m, acc) in acc.iter_mut().enumerate() {
                        add_group(acc, ints[m], tokens.sum(m, g), g, scale, tile);
                    }
                }
            }
            Some((size, TileValues::U8(scale))) => {
                for (g, scale) in scale.iter().enumerate() {
                    let ints = ints(g * size, size);
                    let scale = widen_u8(scale);
                    for (m, total) in total.iter_mut().enumerate() {
                        let sum = _mm256_set1_epi32(tile.zero * tokens.sum(m, g));
                        for half in 0..2 {
                            let ints = _mm256_mullo_epi32(_mm256_sub_epi32(ints[m][half], sum), scale[half]);
                            total[half] = _mm256_add_epi32(total[half], ints);
                        }
                    }
                }
            }
        }
        if let Some(scale) = tile.channel {
            for (acc, total) in acc.iter_mut().zip(total) {
                for half in 0..2 {
                    let scale = _mm256_loadu_ps(scale[8 * half..].as_ptr());
                    acc[half] = _mm256_mul_ps(_mm256_cvtepi32_ps(total[half]), scale);
                }
            }
        }
        for (out, acc) in out.iter_mut().zip(acc) {
            _mm256_storeu_ps(out.as_mut_ptr(), acc[0]);
            _mm256_storeu_ps(out[8..].as_mut_ptr(), acc[1]);
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_group(acc: &mut [__m256; 2], ints: [__m256i; 2], sum: i32, g: usize, scale: [__m256; 2], tile: &Tile<'_>) {
    let subtract = match tile.offset {
        Some(TileValues::U8(points)) => widen_u8(&points[g]).map(|p| _mm256_mullo_epi32(p, _mm256_set1_epi32(sum))),
        _ => [_mm256_set1_epi32(tile.zero * sum); 2],
    };
    for half in 0..2 {
        let ints = _mm256_cvtepi32_ps(_mm256_sub_epi32(ints[half], subtract[half]));
        acc[half] = _mm256_fmadd_ps(ints, scale[half], acc[half]);
    }
    if let Some(TileValues::F16(offset)) = tile.offset {
        let (offset, sum) = (widen(&offset[g]), _mm256_set1_ps(sum as f32));
        (0..2).for_each(|half| acc[half] = _mm256_fmadd_ps(sum, offset[half], acc[half]));
    }
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn widen(scale: &[f16; TILE_N]) -> [__m256; 2] {
    let halves = scale.as_chunks::<8>().0;
    // SAFETY: 8 f16 are 16 readable bytes.
    std::array::from_fn(|half| _mm256_cvtph_ps(unsafe { _mm_loadu_si128(halves[half].as_ptr().cast()) }))
}

#[inline]
#[target_feature(enable = "avx2")]
fn widen_u8(values: &[u8; TILE_N]) -> [__m256i; 2] {
    let halves = values.as_chunks::<8>().0;
    // SAFETY: 8 readable bytes.
    std::array::from_fn(|half| _mm256_cvtepu8_epi32(unsafe { _mm_loadl_epi64(halves[half].as_ptr().cast()) }))
}
