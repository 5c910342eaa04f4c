//! `mma` with AVX2, in the layout of the fragments themselves.
//!
//! A register of A holds row g in lanes 4g .. 4g+4, a word of K each; the accumulator holds row g in the same four lanes, two
//! columns each. So a word of A is broadcast among its four lanes by a shuffle, and meets a vector that repeats for every row
//! the same word of four columns of B: the even columns for one register of the accumulator, the odd ones for the next.

#![cfg(target_arch = "x86_64")]

use std::arch::x86_64::*;

use super::LANES;
use super::matrix::{BF16, F16, S8, TF32};

/// A fragment register's 32 lanes.
type Register = [u32; LANES];

/// Words of B: `[word of K][parity of the column]` holds four columns.
pub(super) type Columns = [[__m128i; 2]; 8];

/// Eight lanes of a register: two rows.
///
/// # Safety
/// The processor must have AVX2, as for all functions of this file.
#[inline(always)]
pub(super) unsafe fn part(register: &Register, part: usize) -> __m256i {
    // SAFETY: eight words lie at 8 * part <= 24.
    unsafe { _mm256_loadu_si256(register.as_ptr().add(8 * part).cast()) }
}

/// Puts eight lanes into a register.
///
/// # Safety
/// As for [`part`].
#[inline(always)]
pub(super) unsafe fn put_part(register: &mut Register, part: usize, lanes: __m256i) {
    // SAFETY: eight words lie at 8 * part <= 24.
    unsafe { _mm256_storeu_si256(register.as_mut_ptr().add(8 * part).cast(), lanes) }
}

/// Sorts B by word and parity of the column: lanes 4n .. 4n+4 of its registers hold column n.
///
/// # Safety
/// As for [`part`].
#[inline(always)]
pub(super) unsafe fn columns_of_b<const WORDS: usize>(b: &[Register]) -> Columns {
    // SAFETY: AVX2 holds; four words lie at 4 * column <= 28 of each register.
    unsafe {
        let mut columns = [[_mm_setzero_si128(); 2]; 8];
        for (run, register) in b.iter().enumerate().take(WORDS / 4) {
            for parity in 0..2 {
                let column = |n: usize| _mm_loadu_si128(register.as_ptr().add(4 * (2 * n + parity)).cast());
                let (c0, c1, c2, c3) = (column(0), column(1), column(2), column(3));
                let (low01, high01) = (_mm_unpacklo_epi32(c0, c1), _mm_unpackhi_epi32(c0, c1));
                let (low23, high23) = (_mm_unpacklo_epi32(c2, c3), _mm_unpackhi_epi32(c2, c3));
                columns[run * 4][parity] = _mm_unpacklo_epi64(low01, low23);
                columns[run * 4 + 1][parity] = _mm_unpackhi_epi64(low01, low23);
                columns[run * 4 + 2][parity] = _mm_unpacklo_epi64(high01, high23);
                columns[run * 4 + 3][parity] = _mm_unpackhi_epi64(high01, high23);
            }
        }
        columns
    }
}

/// Each of a row's four words, broadcast among its lanes.
///
/// # Safety
/// As for [`part`].
#[inline(always)]
pub(super) unsafe fn broadcast_words(v: __m256i) -> [__m256i; 4] {
    // SAFETY: register arithmetic under AVX2, as the caller guarantees.
    unsafe {
        [
            _mm256_shuffle_epi32::<0x00>(v),
            _mm256_shuffle_epi32::<0x55>(v),
            _mm256_shuffle_epi32::<0xaa>(v),
            _mm256_shuffle_epi32::<0xff>(v),
        ]
    }
}

/// Splits bytes into sign- or zero-extended 16-bit lanes: even bytes, odd bytes.
///
/// # Safety
/// As for [`part`].
#[inline(always)]
unsafe fn split<const TYPE: u8>(v: __m256i) -> (__m256i, __m256i) {
    // SAFETY: register arithmetic under AVX2, as the caller guarantees.
    unsafe {
        if TYPE == S8 {
            (_mm256_srai_epi16(_mm256_slli_epi16(v, 8), 8), _mm256_srai_epi16(v, 8))
        } else {
            (_mm256_and_si256(v, _mm256_set1_epi16(0xff)), _mm256_srli_epi16(v, 8))
        }
    }
}

/// D = A * B + C for 8-bit elements.
///
/// # Safety
/// As for [`part`].
#[inline(always)]
pub(super) unsafe fn multiply_bytes<const WORDS: usize, const A: u8, const B: u8>(
    a: &[Register],
    b: &[Register],
    c: &[Register; 4],
    saturate: bool,
) -> [Register; 4] {
    let mut d = [[0; LANES]; 4];
    // SAFETY: AVX2 holds; `part` and `put_part` stay inside the registers.
    unsafe {
        let columns = columns_of_b::<WORDS>(b);
        // Even and odd bytes of each word as 16-bit numbers, the same for every row.
        let mut split_b = [[[_mm256_setzero_si256(); 2]; 2]; 8];
        for j in 0..WORDS {
            for parity in 0..2 {
                let (even, odd) = split::<B>(_mm256_broadcastsi128_si256(columns[j][parity]));
                split_b[j][parity] = [even, odd];
            }
        }
        for half in 0..2 {
            for at in 0..4 {
                let mut sums = [_mm256_setzero_si256(); 2];
                for run in 0..WORDS / 4 {
                    let (even, odd) = split::<A>(part(&a[2 * run + half], at));
                    let (even, odd) = (broadcast_words(even), broadcast_words(odd));
                    for t in 0..4 {
                        for parity in 0..2 {
                            let [b_even, b_odd] = split_b[run * 4 + t][parity];
                            let first = _mm256_madd_epi16(even[t], b_even);
                            let second = _mm256_madd_epi16(odd[t], b_odd);
                            sums[parity] = _mm256_add_epi32(sums[parity], _mm256_add_epi32(first, second));
                        }
                    }
                }
                for parity in 0..2 {
                    let register = 2 * half + parity;
                    let sum = accumulate(sums[parity], part(&c[register], at), saturate);
                    put_part(&mut d[register], at, sum);
                }
            }
        }
    }
    d
}

/// The sum of a product and an accumulator, wrapped or replaced by the bound it passed.
///
/// # Safety
/// As for [`part`].
#[inline(always)]
pub(super) unsafe fn accumulate(product: __m256i, c: __m256i, saturate: bool) -> __m256i {
    // SAFETY: register arithmetic under AVX2.
    unsafe {
        let sum = _mm256_add_epi32(product, c);
        if !saturate {
            return sum;
        }
        let overflow = _mm256_and_si256(_mm256_xor_si256(product, sum), _mm256_xor_si256(c, sum));
        let bound = _mm256_xor_si256(_mm256_srai_epi32(product, 31), _mm256_set1_epi32(i32::MAX));
        _mm256_blendv_epi8(sum, bound, _mm256_srai_epi32(overflow, 31))
    }
}

/// The f32 values of low and high halves of eight words; of tf32 words the only value, in the first.
///
/// # Safety
/// As for [`part`], with F16C.
#[inline(always)]
unsafe fn halves<const TYPE: u8>(v: __m256i) -> (__m256, __m256) {
    // SAFETY: register arithmetic under AVX2 and F16C.
    unsafe {
        match TYPE {
            TF32 => (_mm256_castsi256_ps(_mm256_and_si256(v, _mm256_set1_epi32(!0x1fff))), _mm256_setzero_ps()),
            BF16 => (
                _mm256_castsi256_ps(_mm256_slli_epi32(v, 16)),
                _mm256_castsi256_ps(_mm256_and_si256(v, _mm256_set1_epi32(!0xffff))),
            ),
            _ => {
                debug_assert!(TYPE == F16);
                let low = _mm256_and_si256(v, _mm256_set1_epi32(0xffff));
                let both = _mm256_packus_epi32(low, _mm256_srli_epi32(v, 16));
                // Words 0-3 of both halves, then words 4-7: put each half together.
                let both = _mm256_permute4x64_epi64(both, 0b11_01_10_00);
                (_mm256_cvtph_ps(_mm256_castsi256_si128(both)), _mm256_cvtph_ps(_mm256_extracti128_si256(both, 1)))
            }
        }
    }
}

/// D = A * B + C for floating-point elements; C and D are f32 registers.
///
/// # Safety
/// As for [`part`], with FMA and F16C.
#[inline(always)]
pub(super) unsafe fn multiply_floats<const WORDS: usize, const TYPE: u8>(
    a: &[Register],
    b: &[Register],
    c: &[Register; 4],
) -> [Register; 4] {
    let mut d = [[0; LANES]; 4];
    // SAFETY: AVX2, FMA and F16C hold; `part` and `put_part` stay inside the registers.
    unsafe {
        let columns = columns_of_b::<WORDS>(b);
        // By word of K: low and high halves of four even columns, then of four odd ones.
        let (mut low_b, mut high_b) = ([_mm256_setzero_ps(); 8], [_mm256_setzero_ps(); 8]);
        for j in 0..WORDS {
            (low_b[j], high_b[j]) = halves::<TYPE>(_mm256_set_m128i(columns[j][1], columns[j][0]));
        }
        for half in 0..2 {
            for at in 0..4 {
                let even = _mm256_castsi256_ps(part(&c[2 * half], at));
                let mut sums = [even, _mm256_castsi256_ps(part(&c[2 * half + 1], at))];
                for run in 0..WORDS / 4 {
                    let (low, high) = halves::<TYPE>(part(&a[2 * run + half], at));
                    let (low, high) = (broadcast_floats(low), broadcast_floats(high));
                    for t in 0..4 {
                        let j = run * 4 + t;
                        sums[0] = _mm256_fmadd_ps(low[t], columns_of::<0>(low_b[j]), sums[0]);
                        sums[1] = _mm256_fmadd_ps(low[t], columns_of::<0x11>(low_b[j]), sums[1]);
                        if TYPE != TF32 {
                            sums[0] = _mm256_fmadd_ps(high[t], columns_of::<0>(high_b[j]), sums[0]);
                            sums[1] = _mm256_fmadd_ps(high[t], columns_of::<0x11>(high_b[j]), sums[1]);
                        }
                    }
                }
                for parity in 0..2 {
                    // A NaN is the canonical one.
                    let nan = _mm256_castps_si256(_mm256_cmp_ps(sums[parity], sums[parity], _CMP_UNORD_Q));
                    let bits = _mm256_castps_si256(sums[parity]);
                    let sum = _mm256_blendv_epi8(bits, _mm256_set1_epi32(0x7fff_ffff), nan);
                    put_part(&mut d[2 * half + parity], at, sum);
                }
            }
        }
    }
    d
}

/// [`broadcast_words`] of floats.
///
/// # Safety
/// As for [`part`].
#[inline(always)]
unsafe fn broadcast_floats(v: __m256) -> [__m256; 4] {
    // SAFETY: as the caller guarantees.
    unsafe {
        [
            _mm256_permute_ps::<0x00>(v),
            _mm256_permute_ps::<0x55>(v),
            _mm256_permute_ps::<0xaa>(v),
            _mm256_permute_ps::<0xff>(v),
        ]
    }
}

/// One half of a vector, the even columns (`0`) or the odd ones (`0x11`), for every row.
///
/// # Safety
/// As for [`part`].
#[inline(always)]
unsafe fn columns_of<const HALVES: i32>(v: __m256) -> __m256 {
    // SAFETY: register arithmetic under AVX2.
    unsafe { _mm256_permute2f128_ps::<HALVES>(v, v) }
}
