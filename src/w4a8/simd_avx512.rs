//! The kernels in AVX-512 with VNNI. 16 rows are the 16 lanes of a vector.

use super::pack::{TILE_BYTES, TILE_N};
use super::tile::{Tile, TileValues, Tokens};
use super::tile_kernels::TileKernels;
use crate::simd::Avx512;
use half::f16;
use std::arch::x86_64::*;

mod gemv;
mod unpack;

impl TileKernels for Avx512 {
    fn unpack(self, tile: &Tile<'_>, panel: &mut [u8]) {
        // SAFETY: the token proves that the machine has the instructions.
        unsafe { unpack::unpack(tile, panel) }
    }

    fn dot(self, panel: &[u8], tokens: Tokens<'_>, tile: &Tile<'_>, out: &mut [[f32; TILE_N]]) {
        // SAFETY: as in `unpack`.
        unsafe { dot(panel, tokens, tile, out) }
    }

    fn gemv(self, tile: &Tile<'_>, tokens: Tokens<'_>, out: &mut [[f32; TILE_N]]) -> bool {
        // SAFETY: as in `unpack`.
        unsafe { gemv::gemv(tile, tokens, out) };
        true
    }
}

// The functions marked `unsafe` below are for code compiled with AVX-512, into which they are inlined.

/// Transposes four rows of four 32-bit columns inside each 128-bit part:
/// (row, part4, column4) → (column, part4, row4).
#[inline(always)]
unsafe fn transpose4(v: [__m512i; 4]) -> [__m512i; 4] {
    // SAFETY: the caller has the instruction set.
    unsafe {
        let (low01, high01) = (_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[0], v[1]));
        let (low23, high23) = (_mm512_unpacklo_epi32(v[2], v[3]), _mm512_unpackhi_epi32(v[2], v[3]));
        [
            _mm512_unpacklo_epi64(low01, low23),
            _mm512_unpackhi_epi64(low01, low23),
            _mm512_unpacklo_epi64(high01, high23),
            _mm512_unpackhi_epi64(high01, high23),
        ]
    }
}

/// Transposes the 128-bit parts of four vectors.
#[inline(always)]
unsafe fn transpose_parts([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    // SAFETY: the caller has the instruction set.
    unsafe {
        let (ab0, ab1) = (_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0xEE>(a, b));
        let (cd0, cd1) = (_mm512_shuffle_i32x4::<0x44>(c, d), _mm512_shuffle_i32x4::<0xEE>(c, d));
        [
            _mm512_shuffle_i32x4::<0x88>(ab0, cd0),
            _mm512_shuffle_i32x4::<0xDD>(ab0, cd0),
            _mm512_shuffle_i32x4::<0x88>(ab1, cd1),
            _mm512_shuffle_i32x4::<0xDD>(ab1, cd1),
        ]
    }
}

/// Adds the four 128-bit parts of each of four vectors: part i of the result is the sum over vector i.
#[inline(always)]
unsafe fn add_parts([a, b, c, d]: [__m512i; 4]) -> __m512i {
    // SAFETY: the caller has the instruction set.
    unsafe {
        let ab = _mm512_add_epi32(_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0xEE>(a, b));
        let cd = _mm512_add_epi32(_mm512_shuffle_i32x4::<0x44>(c, d), _mm512_shuffle_i32x4::<0xEE>(c, d));
        _mm512_add_epi32(_mm512_shuffle_i32x4::<0x88>(ab, cd), _mm512_shuffle_i32x4::<0xDD>(ab, cd))
    }
}

/// Loads rows 4·`quad`..4·`quad` + 4 of each half of a tile: (row4, lane4 of the row, word4).
#[inline(always)]
unsafe fn load_rows(tile: &[u8; TILE_BYTES], quad: usize) -> [__m512i; 4] {
    // SAFETY: the caller has the instruction set; a tile has eight lines of 64 bytes.
    unsafe {
        let line = |row: usize| _mm512_loadu_si512(tile.as_ptr().add(64 * (4 * quad + row)).cast());
        [line(0), line(1), line(2), line(3)]
    }
}

/// The low and the high nibble of every byte.
#[inline(always)]
unsafe fn nibbles(v: __m512i) -> (__m512i, __m512i) {
    // SAFETY: the caller has the instruction set.
    unsafe {
        let mask = _mm512_set1_epi8(15);
        (_mm512_and_si512(v, mask), _mm512_and_si512(_mm512_srli_epi16::<4>(v), mask))
    }
}

/// Multiplies a panel with every token: `out\[token\]\[row\]` is the sum over K before act_scale.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,f16c")]
fn dot(panel: &[u8], tokens: Tokens<'_>, tile: &Tile<'_>, out: &mut [[f32; TILE_N]]) {
    let mut start = 0;
    while start < tokens.count {
        let rest = tokens.count - start;
        let out = &mut out[start..];
        start += match rest {
            12.. => dot_block::<12>(panel, tokens.range(start, 12), tile, out),
            8.. => dot_block::<8>(panel, tokens.range(start, 8), tile, out),
            4.. => dot_block::<4>(panel, tokens.range(start, 4), tile, out),
            2.. => dot_block::<2>(panel, tokens.range(start, 2), tile, out),
            _ => dot_block::<1>(panel, tokens.range(start, 1), tile, out),
        };
    }
}

/// Σ u·a over columns `start..start + len` for M tokens.
///
/// # Safety
/// For code compiled with AVX-512 VNNI; the panel and the tokens must hold those columns.
#[inline(always)]
unsafe fn ints<const M: usize>(panel: &[u8], tokens: &Tokens<'_>, start: usize, len: usize) -> [__m512i; M] {
    debug_assert!(panel.len() >= (start + len) * TILE_N && tokens.codes.len() >= M * tokens.stride);
    // SAFETY: the caller's.
    unsafe {
        let mut acc = [_mm512_setzero_si512(); M];
        let panel = panel.as_ptr().add(start * TILE_N);
        let x = tokens.codes.as_ptr().add(start);
        for k4 in 0..len / 4 {
            let w = _mm512_loadu_si512(panel.add(64 * k4).cast());
            for m in 0..M {
                let a = x.add(m * tokens.stride + 4 * k4).cast::<i32>().read_unaligned();
                acc[m] = _mm512_dpbusd_epi32(acc[m], w, _mm512_set1_epi32(a));
            }
        }
        acc
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,f16c")]
fn dot_block<const M: usize>(panel: &[u8], tokens: Tokens<'_>, tile: &Tile<'_>, out: &mut [[f32; TILE_N]]) -> usize {
    assert!(panel.len() >= tokens.stride * TILE_N && out.len() >= M);
    assert!(tokens.codes.len() >= M * tokens.stride && tokens.sums.len() >= M * tokens.groups);
    // SAFETY: this function has the instruction set; the lengths are asserted, and groups end within K ≤ stride.
    unsafe {
        let mut sums = Combine::<M>::new(tokens);
        match tile.sum_scales() {
            None => sums.total(ints::<M>(panel, &tokens, 0, tokens.stride), tile.zero),
            Some((size, TileValues::F16(scale))) => {
                for (g, scale) in scale.iter().enumerate() {
                    let ints = ints::<M>(panel, &tokens, g * size, size);
                    sums.group(ints, g, scale, tile);
                }
            }
            Some((size, TileValues::U8(scale))) => {
                for (g, scale) in scale.iter().enumerate() {
                    let ints = ints::<M>(panel, &tokens, g * size, size);
                    sums.integer(ints, g, scale, tile.zero);
                }
            }
        }
        if let Some(scale) = tile.channel {
            sums.integers_to_channel(scale);
        }
        sums.store(out);
    }
    M
}

/// The sums of M tokens over the groups so far. Its functions are for code compiled with AVX-512.
struct Combine<'a, const M: usize> {
    tokens: Tokens<'a>,
    acc: [__m512; M],
    total: [__m512i; M],
}

impl<'a, const M: usize> Combine<'a, M> {
    #[inline(always)]
    unsafe fn new(tokens: Tokens<'a>) -> Self {
        // SAFETY: the caller has the instruction set.
        unsafe { Combine { tokens, acc: [_mm512_setzero_ps(); M], total: [_mm512_setzero_si512(); M] } }
    }

    /// Σ codes of token m in group g, in every lane.
    #[inline(always)]
    unsafe fn sum(&self, m: usize, g: usize) -> __m512i {
        // SAFETY: the caller has the instruction set and m < M, g < groups, as many as the sums.
        unsafe { _mm512_set1_epi32(*self.tokens.sums.as_ptr().add(m * self.tokens.groups + g)) }
    }

    /// ints − zero · Σ codes.
    #[inline(always)]
    unsafe fn subtract(&self, ints: __m512i, zero: i32, m: usize, g: usize) -> __m512i {
        // SAFETY: the caller's. Zeros are 0 or powers of two.
        unsafe {
            match zero {
                0 => ints,
                8 => _mm512_sub_epi32(ints, _mm512_slli_epi32::<3>(self.sum(m, g))),
                _ => _mm512_sub_epi32(ints, _mm512_slli_epi32::<7>(self.sum(m, g))),
            }
        }
    }

    #[inline(always)]
    unsafe fn total(&mut self, ints: [__m512i; M], zero: i32) {
        for m in 0..M {
            // SAFETY: the caller's.
            self.total[m] = unsafe { self.subtract(ints[m], zero, m, 0) };
        }
    }

    #[inline(always)]
    unsafe fn group(&mut self, ints: [__m512i; M], g: usize, scale: &[f16; TILE_N], tile: &Tile<'_>) {
        // SAFETY: the caller's.
        unsafe {
            let scale = widen(scale);
            match tile.offset {
                None => {
                    for m in 0..M {
                        let ints = _mm512_cvtepi32_ps(self.subtract(ints[m], tile.zero, m, g));
                        self.acc[m] = _mm512_fmadd_ps(ints, scale, self.acc[m]);
                    }
                }
                Some(TileValues::U8(points)) => {
                    let points = widen_u8(&points[g]);
                    for m in 0..M {
                        let ints = _mm512_sub_epi32(ints[m], _mm512_mullo_epi32(points, self.sum(m, g)));
                        self.acc[m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(ints), scale, self.acc[m]);
                    }
                }
                Some(TileValues::F16(offset)) => {
                    let offset = widen(&offset[g]);
                    for m in 0..M {
                        let ints = _mm512_cvtepi32_ps(self.subtract(ints[m], tile.zero, m, g));
                        let acc = _mm512_fmadd_ps(ints, scale, self.acc[m]);
                        self.acc[m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(self.sum(m, g)), offset, acc);
                    }
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn integer(&mut self, ints: [__m512i; M], g: usize, group_scale: &[u8; TILE_N], zero: i32) {
        // SAFETY: the caller's.
        unsafe {
            let scale = widen_u8(group_scale);
            for m in 0..M {
                let ints = self.subtract(ints[m], zero, m, g);
                self.total[m] = _mm512_add_epi32(self.total[m], _mm512_mullo_epi32(ints, scale));
            }
        }
    }

    #[inline(always)]
    unsafe fn integers_to_channel(&mut self, scale: &[f32; TILE_N]) {
        // SAFETY: the caller has the instruction set; 16 readable f32.
        unsafe {
            let scale = _mm512_loadu_ps(scale.as_ptr());
            for m in 0..M {
                self.acc[m] = _mm512_mul_ps(_mm512_cvtepi32_ps(self.total[m]), scale);
            }
        }
    }

    #[inline(always)]
    unsafe fn store(self, out: &mut [[f32; TILE_N]]) {
        for m in 0..M {
            // SAFETY: the caller has the instruction set; 16 writable f32.
            unsafe { _mm512_storeu_ps(out[m].as_mut_ptr(), self.acc[m]) };
        }
    }
}

#[inline(always)]
unsafe fn widen(scale: &[f16; TILE_N]) -> __m512 {
    // SAFETY: the caller has AVX-512; 16 f16 are 32 readable bytes.
    unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(scale.as_ptr().cast())) }
}

#[inline(always)]
unsafe fn widen_u8(values: &[u8; TILE_N]) -> __m512i {
    // SAFETY: the caller has AVX-512; 16 readable bytes.
    unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(values.as_ptr().cast())) }
}
