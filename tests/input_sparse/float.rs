//! Weights in floating point.

use moray::input_sparse::{Weight, Workspace, linear_reference, linear_rows};
use moray::{Cpu, DenseType, Isa};
use proptest::prelude::*;

use crate::case::{Call, bits};
use crate::common::{Random, cpus};

const TYPES: [DenseType; 3] = [DenseType::F32, DenseType::F16, DenseType::Bf16];

/// Thresholds that keep all that counts, about half, one in a thousand, and none of random inputs.
const THRESHOLDS: [f32; 4] = [0.0, 0.5, 4.0, 1e30];

fn defined(weight: &Weight, call: &Call) -> Vec<f32> {
    let mut y = vec![f32::NAN; call.residual.len()];
    linear_reference(weight, &call.x, call.threshold, call.epilogue(), &mut y).unwrap();
    y
}

fn random_weight(random: &mut Random, n: usize, k: usize) -> Weight {
    Weight::from_f32(&random.weights(n * k, 0.1), n, k, TYPES[random.below(3)]).unwrap()
}

fn compare(seed: u64, n: usize, k: usize, m: usize, threshold: f32) {
    let random = &mut Random::new(seed);
    let weight = random_weight(random, n, k);
    let call = Call::new(random, m, n, k, threshold);
    let expected = bits(&defined(&weight, &call));
    for cpu in cpus().iter().chain([&Cpu::new(3, Isa::detect()).unwrap()]) {
        let mut workspace = Workspace::default();
        let got = bits(&call.run(cpu, &weight, &mut workspace));
        assert_eq!(got, expected, "{weight:?}, {m} tokens above {threshold}, {}", cpu.isa().name());
        let kept = |i: &u32| call.x.chunks(k).any(|x| x[*i as usize].abs() > threshold);
        assert!(m > 8 || workspace.kept().iter().copied().eq((0..k as u32).filter(kept)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn products_match_the_definition_bit_for_bit(
        seed: u64, n in 1usize..200, k in 1usize..200, m in 1usize..21, threshold in 0usize..4,
    ) {
        compare(seed, n, k, m, THRESHOLDS[threshold]);
    }
}

#[test]
fn edges_of_strips_panels_and_tiles_match_the_definition() {
    for n in [1, 15, 16, 17, 31, 33, 63, 64, 65, 2049] {
        for (k, m) in [(1, 1), (3, 2), (64, 8), (65, 9), (130, 47), (63, 49)] {
            compare((n * k * m) as u64, n, k, m, 0.5);
        }
    }
}

#[test]
fn one_token_matches_the_same_among_others() {
    let random = &mut Random::new(3);
    let (n, k, m) = (70, 90, 13);
    let weight = random_weight(random, n, k);
    let call = Call::new(random, m, n, k, 0.7);
    let (cpu, mut workspace) = (Cpu::detect(), Workspace::default());
    let together = call.run(&cpu, &weight, &mut workspace);
    for (token, together) in together.chunks(n).enumerate() {
        assert_eq!(bits(&call.token(token, n, k).run(&cpu, &weight, &mut workspace)), bits(together));
    }
}

#[test]
fn what_is_not_finite_is_kept_and_stays_in_its_token() {
    let random = &mut Random::new(4);
    for (m, bad) in [(1, f32::NAN), (3, f32::NAN), (3, f32::INFINITY), (12, f32::NAN), (12, f32::NEG_INFINITY)] {
        let (n, k) = (37, 50);
        let weight = random_weight(random, n, k);
        let mut call = Call::new(random, m, n, k, 1.0);
        call.x[m / 2 * k + 20] = bad;
        let expected = defined(&weight, &call);
        let finite = |y: &[f32]| y.iter().filter(|y| y.is_finite()).count();
        assert_eq!(finite(&expected), (m - 1) * n, "the token of {bad} alone");
        for cpu in cpus() {
            assert_eq!(bits(&call.run(&cpu, &weight, &mut Workspace::default())), bits(&expected), "{bad} of {m}");
        }
    }
}

#[test]
fn rows_that_are_asked_for_match_those_of_all() {
    let random = &mut Random::new(5);
    let (n, k) = (3000, 64);
    let weight = random_weight(random, n, k);
    for m in [1, 4, 20] {
        let call = Call::new(random, m, n, k, 0.3);
        let (cpu, mut workspace) = (Cpu::detect(), Workspace::default());
        let all = call.run(&cpu, &weight, &mut workspace);
        let mut y = vec![f32::NAN; m * n];
        let rows = [3..17, 1280..1281, 2950..3000];
        let (x, threshold) = (&call.x, call.threshold);
        linear_rows(&cpu, &weight, &rows, x, threshold, call.epilogue(), &mut y, &mut workspace).unwrap();
        for (y, all) in y.chunks(n).zip(all.chunks(n)) {
            assert!(rows.iter().all(|rows| bits(&y[rows.clone()]) == bits(&all[rows.clone()])));
            assert!(y.iter().zip(all).all(|(y, all)| y.is_nan() || y == all));
        }
        assert!(y.iter().any(|y| y.is_nan()), "not all was computed");
    }
}

#[test]
fn rows_of_weights_are_what_was_stored() {
    let random = &mut Random::new(6);
    for dtype in TYPES {
        let (n, k) = (21, 19);
        let w = random.weights(n * k, 1.0);
        let mut weight = Weight::zeros(n, k, dtype).unwrap();
        weight.set_rows(5, &w[5 * k..]).unwrap();
        weight.set_rows(0, &w[..5 * k]).unwrap();
        let mut row = vec![0.0; k];
        for n in 0..n {
            weight.row(n, &mut row).unwrap();
            let near =
                |a: f32, b: f32| (a - b).abs() <= b.abs() / if dtype == DenseType::Bf16 { 256.0 } else { 2048.0 };
            assert!(row.iter().zip(&w[n * k..]).all(|(&a, &b)| near(a, b)));
        }
        assert_eq!(weight.bytes_read(0.5), n * k * dtype.bytes() / 2);
    }
}
