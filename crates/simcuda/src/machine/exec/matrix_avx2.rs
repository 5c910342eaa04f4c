//! `mma` with AVX2: a row of A against all eight columns of B at a time.
//!
//! B is held as one vector per word of K with a lane for each column; a word of A is broadcast against it.

#![cfg(target_arch = "x86_64")]

use std::arch::x86_64::*;

use super::LANES;
use super::matrix::{BF16, F16, S8, TF32, row_of_a};

/// A fragment register's 32 lanes.
type Register = [u32; LANES];

/// Words of B by column: lane n of vector j is word j of column n.
///
/// # Safety
/// The processor must have AVX2, as for all functions of this file.
#[inline(always)]
unsafe fn words_of_b<const WORDS: usize>(b: &[Register]) -> [__m256i; 8] {
    // SAFETY: AVX2 holds, as the caller guarantees; each register has four vectors of eight words.
    unsafe {
        let mut words = [_mm256_setzero_si256(); 8];
        // Words of two columns come interleaved: pairs of word 0, of word 1, ...
        let pairs = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        for (part, register) in b.iter().enumerate().take(WORDS / 4) {
            let columns =
                |n: usize| _mm256_permutevar8x32_epi32(_mm256_loadu_si256(register.as_ptr().add(8 * n).cast()), pairs);
            let (c01, c23, c45, c67) = (columns(0), columns(1), columns(2), columns(3));
            let (low, high) = (_mm256_unpacklo_epi64(c01, c23), _mm256_unpackhi_epi64(c01, c23));
            let (low2, high2) = (_mm256_unpacklo_epi64(c45, c67), _mm256_unpackhi_epi64(c45, c67));
            words[part * 4] = _mm256_permute2x128_si256(low, low2, 0x20);
            words[part * 4 + 1] = _mm256_permute2x128_si256(high, high2, 0x20);
            words[part * 4 + 2] = _mm256_permute2x128_si256(low, low2, 0x31);
            words[part * 4 + 3] = _mm256_permute2x128_si256(high, high2, 0x31);
        }
        words
    }
}

/// Splits bytes into sign- or zero-extended 16-bit lanes: even bytes, odd bytes.
///
/// # Safety
/// The processor must have AVX2, as for all functions of this file.
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

/// Row `row` of the accumulator: columns alternate between two registers.
///
/// # Safety
/// As for [`split`].
#[inline(always)]
unsafe fn accumulator(c: &[Register; 4], row: usize) -> __m256i {
    let (half, g) = (row / 8, row % 8);
    // SAFETY: four words lie at 4 * g <= 28 of each register.
    unsafe {
        let even = _mm_loadu_si128(c[2 * half].as_ptr().add(4 * g).cast());
        let odd = _mm_loadu_si128(c[2 * half + 1].as_ptr().add(4 * g).cast());
        _mm256_set_m128i(_mm_unpackhi_epi32(even, odd), _mm_unpacklo_epi32(even, odd))
    }
}

/// The reverse of [`accumulator`].
///
/// # Safety
/// As for [`split`].
#[inline(always)]
unsafe fn put_accumulator(d: &mut [Register; 4], row: usize, sums: __m256i) {
    let (half, g) = (row / 8, row % 8);
    // SAFETY: as in `accumulator`.
    unsafe {
        let low = _mm_castsi128_ps(_mm256_castsi256_si128(sums));
        let high = _mm_castsi128_ps(_mm256_extracti128_si256(sums, 1));
        let (even, odd) = (_mm_shuffle_ps(low, high, 0b1000_1000), _mm_shuffle_ps(low, high, 0b1101_1101));
        _mm_storeu_ps(d[2 * half].as_mut_ptr().add(4 * g).cast(), even);
        _mm_storeu_ps(d[2 * half + 1].as_mut_ptr().add(4 * g).cast(), odd);
    }
}

/// D = A * B + C for 8-bit elements.
///
/// # Safety
/// As for [`split`].
#[inline(always)]
pub(super) unsafe fn multiply_bytes<const WORDS: usize, const A: u8, const B: u8>(
    a: &[Register],
    b: &[Register],
    c: &[Register; 4],
    saturate: bool,
) -> [Register; 4] {
    let mut d = [[0; LANES]; 4];
    // SAFETY: AVX2 holds; loads and stores are of arrays of eight words.
    unsafe {
        let words = words_of_b::<WORDS>(b);
        let (mut even, mut odd) = ([_mm256_setzero_si256(); 8], [_mm256_setzero_si256(); 8]);
        for j in 0..WORDS {
            (even[j], odd[j]) = split::<B>(words[j]);
        }
        for row in 0..16 {
            let bytes = row_of_a::<WORDS>(a, row);
            let (a_even, a_odd) = split::<A>(_mm256_loadu_si256(bytes.as_ptr().cast()));
            let (mut even_words, mut odd_words) = ([0i32; 8], [0i32; 8]);
            _mm256_storeu_si256(even_words.as_mut_ptr().cast(), a_even);
            _mm256_storeu_si256(odd_words.as_mut_ptr().cast(), a_odd);
            let (mut first, mut second) = (_mm256_setzero_si256(), _mm256_setzero_si256());
            for j in 0..WORDS {
                first = _mm256_add_epi32(first, _mm256_madd_epi16(_mm256_set1_epi32(even_words[j]), even[j]));
                second = _mm256_add_epi32(second, _mm256_madd_epi16(_mm256_set1_epi32(odd_words[j]), odd[j]));
            }
            let (product, c) = (_mm256_add_epi32(first, second), accumulator(c, row));
            let sum = _mm256_add_epi32(product, c);
            put_accumulator(&mut d, row, if saturate { saturated(product, c, sum) } else { sum });
        }
    }
    d
}

/// Replaces sums that overflowed by the bound they passed.
///
/// # Safety
/// As for [`split`].
#[inline(always)]
unsafe fn saturated(a: __m256i, b: __m256i, sum: __m256i) -> __m256i {
    // SAFETY: register arithmetic under AVX2.
    unsafe {
        let overflow = _mm256_and_si256(_mm256_xor_si256(a, sum), _mm256_xor_si256(b, sum));
        let bound = _mm256_xor_si256(_mm256_srai_epi32(a, 31), _mm256_set1_epi32(i32::MAX));
        let mask = _mm256_srai_epi32(overflow, 31);
        _mm256_blendv_epi8(sum, bound, mask)
    }
}

/// The f32 values of low and high halves of eight words; of tf32 words the only value, in the first.
///
/// # Safety
/// As for [`split`], with F16C.
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
/// As for [`split`], with FMA and F16C.
#[inline(always)]
pub(super) unsafe fn multiply_floats<const WORDS: usize, const TYPE: u8>(
    a: &[Register],
    b: &[Register],
    c: &[Register; 4],
) -> [Register; 4] {
    let mut d = [[0; LANES]; 4];
    // SAFETY: AVX2, FMA and F16C hold; loads and stores are of arrays of eight words.
    unsafe {
        let words = words_of_b::<WORDS>(b);
        let (mut even, mut odd) = ([_mm256_setzero_ps(); 8], [_mm256_setzero_ps(); 8]);
        for j in 0..WORDS {
            (even[j], odd[j]) = halves::<TYPE>(words[j]);
        }
        for row in 0..16 {
            let bits = row_of_a::<WORDS>(a, row);
            let (a_even, a_odd) = halves::<TYPE>(_mm256_loadu_si256(bits.as_ptr().cast()));
            let (mut even_values, mut odd_values) = ([0f32; 8], [0f32; 8]);
            _mm256_storeu_ps(even_values.as_mut_ptr(), a_even);
            _mm256_storeu_ps(odd_values.as_mut_ptr(), a_odd);
            let mut sums = _mm256_castsi256_ps(accumulator(c, row));
            for j in 0..WORDS {
                sums = _mm256_fmadd_ps(_mm256_set1_ps(even_values[j]), even[j], sums);
                if TYPE != TF32 {
                    sums = _mm256_fmadd_ps(_mm256_set1_ps(odd_values[j]), odd[j], sums);
                }
            }
            // A NaN is the canonical one.
            let nan = _mm256_castps_si256(_mm256_cmp_ps(sums, sums, _CMP_UNORD_Q));
            let sums = _mm256_blendv_epi8(_mm256_castps_si256(sums), _mm256_set1_epi32(0x7fff_ffff), nan);
            put_accumulator(&mut d, row, sums);
        }
    }
    d
}
