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

/// `add_truncated` by whole numbers: of f16 pairs and an accumulator that are multiples of 2⁻⁴⁸.
fn add_by_integers(c: i128, products: &[i128]) -> i128 {
    let terms = || products.iter().copied().chain([c]);
    let bits = |v: i128| (128 - v.unsigned_abs().leading_zeros()) as i32;
    let cut = |v: i128, place: i32| if place > 0 { v / (1 << place) * (1 << place) } else { v };
    let place = terms().map(bits).max().expect("terms") - 24;
    let sum: i128 = terms().map(|term| cut(term, place)).sum();
    cut(sum, bits(sum) - 24)
}

#[test]
fn truncated_sums_match_whole_numbers() {
    let mut state = 9u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    };
    const ONE: f64 = (1u64 << 48) as f64;
    let mut apart = 0;
    for _ in 0..2000 {
        // exponents of a few bits, so that sums cancel, and of many
        let mut half = || {
            let exponent = if next() % 2 == 0 { 13 + next() % 4 } else { next() % 31 };
            widen_f16((next() % 2 << 15 | exponent << 10 | next() % 1024) as u16)
        };
        let (x, y): ([f32; 8], [f32; 8]) = (std::array::from_fn(|_| half()), std::array::from_fn(|_| half()));
        let c = half() * half();
        let whole = |v: f64| (v * ONE) as i128;
        let products: Vec<i128> = x.iter().zip(y).map(|(&x, y)| whole(f64::from(x) * f64::from(y))).collect();
        let expected = add_by_integers(whole(f64::from(c)), &products) as f64 / ONE;
        let got = add_truncated(c, &x, &y);
        assert_eq!(f64::from(got), expected, "{c} + {x:?} · {y:?}");
        let rounded = x.iter().zip(y).fold(c, |sum, (x, y)| x.mul_add(y, sum));
        apart += usize::from(got != rounded);
    }
    assert!(apart > 500, "{apart} of 2000 differ from sums that are rounded");
}

#[test]
fn truncated_sums_of_what_is_not_a_number_or_too_large_are_those_of_floats() {
    assert!(add_truncated(f32::NAN, &[1.0], &[1.0]).is_nan());
    assert!(add_truncated(f32::INFINITY, &[f32::NEG_INFINITY], &[1.0]).is_nan());
    assert_eq!(add_truncated(1.0, &[f32::INFINITY], &[1.0]), f32::INFINITY);
    assert_eq!(add_truncated(f32::MAX, &[f32::MAX], &[1.0]), f32::INFINITY);
    assert_eq!(add_truncated(0.0, &[0.0], &[1.0]), 0.0);
    // one place below the last: a sum that is rounded has the first's, and goes up at the second
    let below = f32::from_bits(0x3380_0000);
    assert_eq!(add_truncated(1.0, &[below; 8], &[1.0; 8]), 1.0);
    assert_eq!(add_truncated(1.0, &[1.5 * below], &[1.0]), 1.0);
    assert_eq!(add_truncated(-1.0, &[1.5 * below], &[1.0]), -1.0);
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
