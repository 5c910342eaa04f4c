//! The vectorised products against the plain one, with every processor feature that is here.

use super::super::{Avx2, Portable, has_avx2};
use super::*;

/// Registers of random bits, with extreme bytes among them.
fn random<const N: usize>(state: &mut u64) -> [Register; N] {
    std::array::from_fn(|_| {
        std::array::from_fn(|_| {
            *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let bits = (*state >> 32) as u32;
            match *state >> 24 & 7 {
                0 => 0x8080_8080,
                1 => 0x7fff_807f,
                2 => u32::MAX,
                _ => bits,
            }
        })
    })
}

fn compare_int<const WORDS: usize, const A: u8, const B: u8>(state: &mut u64) {
    for round in 0..64 {
        let (a, b, c) = (random::<4>(state), random::<2>(state), random::<4>(state));
        let saturate = round % 2 == 1;
        let expected = multiply_int::<Portable, WORDS, A, B>(&a, &b, &c, saturate);
        assert_eq!(multiply_int::<Avx2, WORDS, A, B>(&a, &b, &c, saturate), expected, "{WORDS} {A} {B} {saturate}");
        #[cfg(target_arch = "x86_64")]
        {
            // SAFETY: the caller found AVX2.
            let by_avx2 = unsafe { super::super::matrix_avx2::multiply_bytes::<WORDS, A, B>(&a, &b, &c, saturate) };
            assert_eq!(by_avx2, expected, "AVX2 alone: {WORDS} {A} {B} {saturate}");
        }
    }
}

fn compare_float<const WORDS: usize, const TYPE: u8>(state: &mut u64) {
    for _ in 0..64 {
        let (a, b, c) = (random::<4>(state), random::<2>(state), random::<4>(state));
        let expected = multiply_float::<Portable, WORDS, TYPE, TYPE>(&a, &b, &c);
        assert_eq!(multiply_float::<Avx2, WORDS, TYPE, TYPE>(&a, &b, &c), expected, "{WORDS} {TYPE}");
    }
}

/// Integer sums are exact and float sums are taken in the same order, so that all bits agree.
#[test]
fn vectorised_products_match_the_plain_ones_for_every_type() {
    if !has_avx2() {
        return;
    }
    let state = &mut 7;
    compare_int::<8, S8, S8>(state);
    compare_int::<8, S8, U8>(state);
    compare_int::<8, U8, S8>(state);
    compare_int::<8, U8, U8>(state);
    compare_int::<4, S8, S8>(state);
    compare_int::<4, S8, U8>(state);
    compare_int::<4, U8, S8>(state);
    compare_int::<4, U8, U8>(state);
    compare_float::<8, F16>(state);
    compare_float::<8, BF16>(state);
    compare_float::<8, TF32>(state);
    compare_float::<4, F16>(state);
    compare_float::<4, BF16>(state);
    compare_float::<4, TF32>(state);
}
