//! Few tokens, straight from the tiles.

use super::{add_parts, load_rows, transpose4};
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
    combine(simd, tile, tokens, Straight::<M, EIGHT>(Steps { tiles, tokens }), out);
}

/// Sums straight from the tiles, whose lengths [`gemv_tokens`] has checked.
struct Straight<'a, const M: usize, const EIGHT: bool>(Steps<'a>);

impl<const M: usize, const EIGHT: bool> Integers<Avx512, M> for Straight<'_, M, EIGHT> {
    const PAIRS: bool = !EIGHT;

    #[inline(always)]
    fn sum(&mut self, _: Avx512, start: usize, len: usize) -> [__m512i; M] {
        // SAFETY: the token proves the instruction set; the lengths were checked, and groups end within K ≤ stride.
        unsafe {
            if EIGHT {
                self.0.sum8(start / 32..(start + len) / 32)
            } else if len == 32 && start % 64 == 0 {
                self.0.sum_first_half4(start / 64)
            } else if len == 32 {
                self.0.sum_halves4(start / 64)[1]
            } else {
                self.0.sum4(start / 64..(start + len) / 64)
            }
        }
    }

    #[inline(always)]
    fn sum_pair(&mut self, _: Avx512, start: usize) -> [[__m512i; M]; 2] {
        // SAFETY: as above.
        unsafe { self.0.sum_halves4(start / 64) }
    }
}

/// The tiles of 16 rows and the tokens. Its functions are for code compiled with AVX-512 VNNI, and for columns that both
/// the tiles and the tokens have.
struct Steps<'a> {
    tiles: &'a [[u8; TILE_BYTES]],
    tokens: Tokens<'a>,
}

impl Steps<'_> {
    /// Sums of 4-bit codes over a range of 64 columns each.
    #[inline(always)]
    unsafe fn sum4<const M: usize>(&self, k64: Range<usize>) -> [__m512i; M] {
        // SAFETY: the caller's.
        unsafe {
            let mut acc = zero();
            for index in k64 {
                let words = self.quads(index);
                self.add_word4::<M, 0>(index, &words, &mut acc);
                self.add_word4::<M, 1>(index, &words, &mut acc);
                self.add_word4::<M, 2>(index, &words, &mut acc);
                self.add_word4::<M, 3>(index, &words, &mut acc);
            }
            add_all_parts4(acc)
        }
    }

    /// Sums of 4-bit codes over each 32 of the 64 columns of a tile.
    #[inline(always)]
    unsafe fn sum_halves4<const M: usize>(&self, index: usize) -> [[__m512i; M]; 2] {
        // SAFETY: the caller's.
        unsafe {
            let words = self.quads(index);
            let (mut first, mut second) = (zero(), zero());
            self.add_word4::<M, 0>(index, &words, &mut first);
            self.add_word4::<M, 2>(index, &words, &mut first);
            self.add_word4::<M, 1>(index, &words, &mut second);
            self.add_word4::<M, 3>(index, &words, &mut second);
            [add_all_parts4(first), add_all_parts4(second)]
        }
    }

    /// Sums of 4-bit codes over the first 32 columns of a tile; the others need not be there in the tokens.
    #[inline(always)]
    unsafe fn sum_first_half4<const M: usize>(&self, index: usize) -> [__m512i; M] {
        // SAFETY: the caller's.
        unsafe {
            let words = self.quads(index);
            let mut first = zero();
            self.add_word4::<M, 0>(index, &words, &mut first);
            self.add_word4::<M, 2>(index, &words, &mut first);
            add_all_parts4(first)
        }
    }

    /// Sums of 8-bit codes over a range of 32 columns each.
    #[inline(always)]
    unsafe fn sum8<const M: usize>(&self, k32: Range<usize>) -> [__m512i; M] {
        // SAFETY: the caller's.
        unsafe {
            let mut acc = zero();
            for index in k32 {
                let words = self.quads(index);
                self.add_word8::<M, 0>(index, &words, &mut acc);
                self.add_word8::<M, 1>(index, &words, &mut acc);
                self.add_word8::<M, 2>(index, &words, &mut acc);
                self.add_word8::<M, 3>(index, &words, &mut acc);
            }
            let mut sums = [_mm512_setzero_si512(); M];
            for m in 0..M {
                sums[m] = add_parts(acc[m]);
            }
            sums
        }
    }

    /// The words of a tile's first and last four rows of each half: (word, part4, row4).
    #[inline(always)]
    unsafe fn quads(&self, index: usize) -> [[__m512i; 4]; 2] {
        // SAFETY: the caller's.
        unsafe {
            let tile = self.tiles.get_unchecked(index);
            prefetch(tile);
            [transpose4(load_rows(tile, 0)), transpose4(load_rows(tile, 1))]
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

    /// Adds 16 columns of a 4-bit tile: the low nibbles of rows 0–3 and 4–7, and whole bytes, which are those and 16 times the nibbles of
    /// rows 8–15, for [`add_all_parts4`] to take apart. Bytes times activations, at most 255 · 128, fit into 32 bits over all of K.
    #[inline(always)]
    unsafe fn add_word4<const M: usize, const WORD: usize>(
        &self,
        index: usize,
        [a, b]: &[[__m512i; 4]; 2],
        acc: &mut [Parts; M],
    ) {
        // SAFETY: the caller's.
        unsafe {
            let (a, b, nibble) = (a[WORD], b[WORD], _mm512_set1_epi8(15));
            let (a_low, b_low) = (_mm512_and_si512(a, nibble), _mm512_and_si512(b, nibble));
            for m in 0..M {
                let x = self.words(m, 64 * index + 32 * (WORD % 2) + 16 * (WORD / 2));
                acc[m][0] = _mm512_dpbusd_epi32(acc[m][0], a_low, x);
                acc[m][1] = _mm512_dpbusd_epi32(acc[m][1], b_low, x);
                acc[m][2] = _mm512_dpbusd_epi32(acc[m][2], a, x);
                acc[m][3] = _mm512_dpbusd_epi32(acc[m][3], b, x);
            }
        }
    }

    /// Adds 16 columns of half of the rows of an 8-bit tile.
    #[inline(always)]
    unsafe fn add_word8<const M: usize, const WORD: usize>(
        &self,
        index: usize,
        [a, b]: &[[__m512i; 4]; 2],
        acc: &mut [Parts; M],
    ) {
        // SAFETY: the caller's.
        unsafe {
            let (half, sign) = (WORD % 2, _mm512_set1_epi8(-128));
            let (a, b) = (_mm512_xor_si512(a[WORD], sign), _mm512_xor_si512(b[WORD], sign));
            for m in 0..M {
                let x = self.words(m, 32 * index + 16 * (WORD / 2));
                acc[m][2 * half] = _mm512_dpbusd_epi32(acc[m][2 * half], a, x);
                acc[m][2 * half + 1] = _mm512_dpbusd_epi32(acc[m][2 * half + 1], b, x);
            }
        }
    }
}

#[inline(always)]
unsafe fn zero<const M: usize>() -> [Parts; M] {
    // SAFETY: the caller has the instruction set.
    unsafe { [[_mm512_setzero_si512(); 4]; M] }
}

/// The sums of rows 0–15 from those of the low nibbles of rows 0–7 and of the bytes.
#[inline(always)]
unsafe fn add_all_parts4<const M: usize>(acc: [Parts; M]) -> [__m512i; M] {
    const HIGH: __mmask16 = 0xFF00;
    // SAFETY: the caller has the instruction set.
    unsafe {
        let mut sums = [_mm512_setzero_si512(); M];
        for m in 0..M {
            let bytes = add_parts(acc[m]);
            let low = _mm512_shuffle_i64x2::<0x44>(bytes, bytes);
            let high = _mm512_mask_sub_epi32(bytes, HIGH, bytes, low);
            sums[m] = _mm512_mask_srai_epi32::<4>(high, HIGH, high);
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
