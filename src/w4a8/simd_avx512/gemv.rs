//! Few tokens, straight from the tiles.

use super::{add_parts, load_rows, nibbles, transpose4};
use crate::simd::Avx512;
use crate::w4a8::dot::{Integers, combine};
use crate::w4a8::format::Bits;
use crate::w4a8::pack::{TILE_BYTES, TILE_N};
use crate::w4a8::tile::{Tile, Tokens};
use std::arch::x86_64::*;
use std::ops::Range;

/// Bytes ahead of the current tile that are asked into the second-level cache: enough to cover memory latency at one core's bandwidth. More of them can be on their
/// way than into the first.
const FAR_BYTES: usize = 6144;

/// Bytes ahead of the current tile that are asked from there into the first-level cache.
const NEAR_BYTES: usize = 1024;

/// Multiplies straight from the tiles, without a panel, for up to four tokens.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(crate) fn gemv(simd: Avx512, tile: &Tile<'_>, tokens: Tokens<'_>, out: &mut [[f32; TILE_N]]) {
    match (tile.format.bits, tokens.count) {
        (Bits::Four, 1) => gemv_tokens::<1, false>(simd, tile, tokens, out),
        (Bits::Four, 2) => gemv_tokens::<2, false>(simd, tile, tokens, out),
        (Bits::Four, 3) => gemv_tokens::<3, false>(simd, tile, tokens, out),
        (Bits::Four, _) => gemv_tokens::<4, false>(simd, tile, tokens, out),
        (Bits::Eight, 1) => gemv_tokens::<1, true>(simd, tile, tokens, out),
        (Bits::Eight, 2) => gemv_tokens::<2, true>(simd, tile, tokens, out),
        (Bits::Eight, 3) => gemv_tokens::<3, true>(simd, tile, tokens, out),
        (Bits::Eight, _) => gemv_tokens::<4, true>(simd, tile, tokens, out),
    }
}

/// Partial sums of 16 rows for one token: rows 0–3, 4–7, 8–11, 12–15, each with four parts still to be added.
type Parts = [__m512i; 4];

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn gemv_tokens<const M: usize, const EIGHT: bool>(
    simd: Avx512,
    tile: &Tile<'_>,
    tokens: Tokens<'_>,
    out: &mut [[f32; TILE_N]],
) {
    let tiles = tile.codes.as_chunks().0;
    let tile_k = if EIGHT { 32 } else { 64 };
    assert!(tiles.len() * tile_k >= tokens.stride && out.len() >= M);
    assert!(tokens.codes.len() >= M * tokens.stride && tokens.sums.len() >= M * tokens.groups);
    let straight = Straight::<M, EIGHT> { steps: Steps { tiles, tokens }, second: None };
    combine::<Avx512, M>(simd, tile, tokens, straight, out);
}

/// Sums straight from the tiles, whose lengths [`gemv_tokens`] has checked.
struct Straight<'a, const M: usize, const EIGHT: bool> {
    steps: Steps<'a>,
    /// Groups of 32 come in pairs, as a tile or two hold them: the second of a pair whose first was asked for.
    second: Option<[__m512i; M]>,
}

impl<const M: usize, const EIGHT: bool> Integers<Avx512, M> for Straight<'_, M, EIGHT> {
    #[inline(always)]
    fn sum(&mut self, _: Avx512, start: usize, len: usize) -> [__m512i; M] {
        // SAFETY: the token proves the instruction set; the lengths were checked, and groups end within K ≤ stride.
        unsafe {
            match (len, self.second.take()) {
                (32, Some(half)) => half,
                (32, None) => {
                    let [first, half] = self.steps.sum_halves::<M, EIGHT>(start / 64);
                    self.second = Some(half);
                    first
                }
                _ => self.steps.sum::<M, EIGHT>(start / 64..(start + len) / 64),
            }
        }
    }
}

/// The tiles of 16 rows and the tokens. Its functions are for code compiled with AVX-512 VNNI, and for columns that both
/// the tiles and the tokens have.
struct Steps<'a> {
    tiles: &'a [[u8; TILE_BYTES]],
    tokens: Tokens<'a>,
}

impl Steps<'_> {
    /// Sums over a range of 64 columns each.
    #[inline(always)]
    unsafe fn sum<const M: usize, const EIGHT: bool>(&self, k64: Range<usize>) -> [__m512i; M] {
        // SAFETY: the caller's.
        unsafe {
            let mut acc = [[_mm512_setzero_si512(); 4]; M];
            for k64 in k64 {
                if EIGHT {
                    self.add_tile8(2 * k64, &mut acc);
                    self.add_tile8(2 * k64 + 1, &mut acc);
                } else {
                    self.add_words4::<M, 0>(k64, &mut acc);
                }
            }
            add_all_parts(acc)
        }
    }

    /// Sums over each 32 of the 64 columns of `k64`.
    #[inline(always)]
    unsafe fn sum_halves<const M: usize, const EIGHT: bool>(&self, k64: usize) -> [[__m512i; M]; 2] {
        // SAFETY: the caller's.
        unsafe {
            let mut low = [[_mm512_setzero_si512(); 4]; M];
            let mut high = low;
            if EIGHT {
                self.add_tile8(2 * k64, &mut low);
                self.add_tile8(2 * k64 + 1, &mut high);
            } else {
                self.add_words4::<M, 1>(k64, &mut low);
                self.add_words4::<M, 2>(k64, &mut high);
            }
            [add_all_parts(low), add_all_parts(high)]
        }
    }

    /// Token m's four words of columns `column`.. + 16, word t in all of part t.
    #[inline(always)]
    unsafe fn words(&self, m: usize, column: usize) -> __m512i {
        // SAFETY: the caller's: 16 readable bytes.
        unsafe {
            let x = _mm_loadu_si128(self.tokens.codes.as_ptr().add(m * self.tokens.stride + column).cast());
            let spread = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
            _mm512_permutexvar_epi32(spread, _mm512_castsi128_si512(x))
        }
    }

    /// Adds a 4-bit tile: all its columns (`HALVES` 0), the first 32 (1) or the last 32 (2).
    #[inline(always)]
    unsafe fn add_words4<const M: usize, const HALVES: usize>(&self, index: usize, acc: &mut [Parts; M]) {
        // SAFETY: the caller's.
        unsafe {
            let tile = self.tiles.get_unchecked(index);
            if HALVES != 2 {
                prefetch(tile);
            }
            let (a, b) = (transpose4(load_rows(tile, 0)), transpose4(load_rows(tile, 1)));
            for word in 0..4 {
                if HALVES != 0 && word % 2 != HALVES - 1 {
                    continue;
                }
                let column = 64 * index + 32 * (word % 2) + 16 * (word / 2);
                let ((a_low, a_high), (b_low, b_high)) = (nibbles(a[word]), nibbles(b[word]));
                for m in 0..M {
                    let x = self.words(m, column);
                    acc[m][0] = _mm512_dpbusd_epi32(acc[m][0], a_low, x);
                    acc[m][1] = _mm512_dpbusd_epi32(acc[m][1], b_low, x);
                    acc[m][2] = _mm512_dpbusd_epi32(acc[m][2], a_high, x);
                    acc[m][3] = _mm512_dpbusd_epi32(acc[m][3], b_high, x);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn add_tile8<const M: usize>(&self, index: usize, acc: &mut [Parts; M]) {
        // SAFETY: the caller's.
        unsafe {
            let tile = self.tiles.get_unchecked(index);
            prefetch(tile);
            let (a, b) = (transpose4(load_rows(tile, 0)), transpose4(load_rows(tile, 1)));
            let sign = _mm512_set1_epi8(-128);
            for word in 0..4 {
                let (high, column) = (word % 2, 32 * index + 16 * (word / 2));
                let (a, b) = (_mm512_xor_si512(a[word], sign), _mm512_xor_si512(b[word], sign));
                for m in 0..M {
                    let x = self.words(m, column);
                    acc[m][2 * high] = _mm512_dpbusd_epi32(acc[m][2 * high], a, x);
                    acc[m][2 * high + 1] = _mm512_dpbusd_epi32(acc[m][2 * high + 1], b, x);
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn add_all_parts<const M: usize>(acc: [Parts; M]) -> [__m512i; M] {
    // SAFETY: the caller has the instruction set.
    unsafe {
        let mut sums = [_mm512_setzero_si512(); M];
        for m in 0..M {
            sums[m] = add_parts(acc[m]);
        }
        sums
    }
}

/// Asks for what will be needed [`FAR_BYTES`] and [`NEAR_BYTES`] from here; past the end it asks for nothing of use.
#[inline(always)]
fn prefetch(tile: &[u8; TILE_BYTES]) {
    for line in 0..TILE_BYTES / 64 {
        let ahead = |bytes: usize| tile.as_ptr().wrapping_add(bytes + 64 * line).cast();
        // SAFETY: a prefetch has no effect on memory and accepts any address.
        unsafe {
            _mm_prefetch::<_MM_HINT_T1>(ahead(FAR_BYTES));
            _mm_prefetch::<_MM_HINT_T0>(ahead(NEAR_BYTES));
        }
    }
}
