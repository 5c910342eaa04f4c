//! Integer `mma` with the dot products of AVX-512 VNNI, in the layout of [`super::matrix_avx2`].

#![cfg(target_arch = "x86_64")]

use std::arch::x86_64::*;
use std::sync::OnceLock;

use super::LANES;
use super::matrix::{S8, U8};
use super::matrix_avx2::{accumulate, broadcast_words, columns_of_b, part, put_part};

/// A fragment register's 32 lanes.
type Register = [u32; LANES];

/// Tells whether the processor has what [`multiply`] needs.
#[inline(always)]
pub(super) fn is_available() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| {
        is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
    })
}

/// D = A * B + C for signed or unsigned bytes of A (`A`) and signed ones of B.
///
/// The instruction multiplies unsigned by signed bytes: 128 is added to signed bytes of A, and 128 times the sum of each
/// column of B taken off again. Sums wrap, so that this is exact.
///
/// # Safety
/// [`is_available`] must hold.
#[target_feature(enable = "avx2,avx512f,avx512vl,avx512vnni")]
pub(super) unsafe fn multiply<const WORDS: usize, const A: u8>(
    a: &[Register; 4],
    b: &[Register; 2],
    c: &[Register; 4],
    saturate: bool,
) -> [Register; 4] {
    debug_assert!(A == S8 || A == U8);
    let mut d = [[0; LANES]; 4];
    // SAFETY: AVX2 and VNNI hold; `part` and `put_part` stay inside the registers.
    unsafe {
        let columns = columns_of_b::<WORDS>(b);
        let high_bits = _mm256_set1_epi8(i8::MIN);
        let mut surplus = [_mm_setzero_si128(); 2];
        if A == S8 {
            for words in &columns[..WORDS] {
                for parity in 0..2 {
                    let bits = _mm256_castsi256_si128(high_bits);
                    surplus[parity] = _mm_dpbusd_epi32(surplus[parity], bits, words[parity]);
                }
            }
        }
        let mut start = [_mm256_setzero_si256(); 2];
        for parity in 0..2 {
            start[parity] = _mm256_sub_epi32(start[parity], _mm256_broadcastsi128_si256(surplus[parity]));
        }
        for half in 0..2 {
            for at in 0..4 {
                let mut sums = start;
                for run in 0..WORDS / 4 {
                    let bytes = part(&a[2 * run + half], at);
                    let bytes = if A == S8 { _mm256_xor_si256(bytes, high_bits) } else { bytes };
                    let words = broadcast_words(bytes);
                    for t in 0..4 {
                        for parity in 0..2 {
                            let column = _mm256_broadcastsi128_si256(columns[run * 4 + t][parity]);
                            sums[parity] = _mm256_dpbusd_epi32(sums[parity], words[t], column);
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
