//! Results that have to agree bit for bit: instruction sets, batches, threads, workspaces.

use half::{bf16, f16};
use moray::element::Element;
use moray::sparse_mlp::{Selection, Shape, Weights, Workspace, forward};
use moray::{Cpu, Isa};
use proptest::prelude::*;

use crate::case::{all_weights, call, four_bit, masks_of, selections, shape, subset};
use crate::common::{Random, bits, cpus};

#[test]
fn used_workspace_matches_a_fresh_one_bit_for_bit() {
    let random = &mut Random::new(14);
    let (d_model, d_ff) = (96, 192);
    let weights = four_bit(random, [2; 3], 32, shape(d_model, d_ff)).weights;
    let cpu = Cpu::detect();
    let mut used = Workspace::new(&weights, 5).unwrap();
    for round in 0..40 {
        let m = 1 + random.below(5);
        let x = random.weights(m * d_model, 1.0);
        let list = subset(random, d_ff, [0.9, 0.1, 0.5, 0.03][round % 4]);
        let words = masks_of(random, m, d_ff, 0.3);
        let factors = vec![1.0; d_ff];
        let forms = selections(&list, &words, &factors, m, d_ff);
        let selection = &forms[random.below(forms.len())];
        let mut y = vec![f32::NAN; x.len()];
        forward(&cpu, &weights, &x, selection, None, &mut y, &mut used).unwrap();
        let (expected, fresh) = call(&cpu, &weights, &x, selection, None);
        assert_eq!(bits(&y), bits(&expected), "round {round}, {selection:?}");
        assert_eq!(used.kept(), fresh.kept(), "round {round}, {selection:?}");
    }
}

fn compare_everything(seed: u64, d_model: usize, d_ff: usize, m: usize, q: f32) {
    let random = &mut Random::new(seed);
    let weights = all_weights(random, d_model, d_ff);
    let x = random.weights(m * d_model, 1.0);
    let residual = random.weights(m * d_model, 1.0);
    let list = subset(random, d_ff, q);
    let words = masks_of(random, m, d_ff, q);
    let factors: Vec<f32> = (0..d_ff).map(|_| random.unit()).collect();
    let per_token = d_ff.div_ceil(64);
    let plain = Cpu::new(1, Isa::Portable).unwrap();
    for (which, weights) in weights.iter().enumerate() {
        let together = selections(&list, &words, &factors, m, d_ff);
        for (form, selection) in together.iter().enumerate() {
            let (expected, _) = call(&plain, weights, &x, selection, Some(&residual));
            for cpu in cpus() {
                let (y, _) = call(&cpu, weights, &x, selection, Some(&residual));
                assert_eq!(bits(&y), bits(&expected), "weights {which}, form {form}, {:?}", cpu.isa());
            }
            for t in 0..m {
                let words = &words[t * per_token..(t + 1) * per_token];
                let one = &selections(&list, words, &factors, 1, d_ff)[form];
                let row = t * d_model..(t + 1) * d_model;
                let (y, _) = call(&Cpu::detect(), weights, &x[row.clone()], one, Some(&residual[row.clone()]));
                assert_eq!(bits(&y), bits(&expected[row]), "weights {which}, form {form}, token {t} alone");
            }
        }
    }
}

#[test]
fn every_instruction_set_and_batch_matches_portable_one_by_one_on_real_sizes() {
    compare_everything(5, 576, 320, 3, 0.5);
    compare_everything(6, 100, 77, 9, 0.4);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]
    #[test]
    fn every_instruction_set_and_batch_matches_portable_one_by_one_on_random_sizes(
        seed: u64, d in 1usize..140, d_ff in 1usize..130, m in 1usize..36, q in 0f32..1.0,
    ) {
        compare_everything(seed, d, d_ff, m.min(6), q);
        compare_everything(seed, d.next_multiple_of(32), d_ff.next_multiple_of(32), m, q);
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let random = &mut Random::new(7);
    let (d_model, d_ff, m) = (288, 416, 67);
    let x = random.weights(m * d_model, 1.0);
    let list = subset(random, d_ff, 0.5);
    let words = masks_of(random, m, d_ff, 0.5);
    let factors = vec![1.0; d_ff];
    for weights in all_weights(random, d_model, d_ff) {
        for selection in selections(&list, &words, &factors, m, d_ff) {
            let mut results = [1, 2, 5]
                .map(|threads| call(&Cpu::new(threads, Isa::detect()).unwrap(), &weights, &x, &selection, None).0);
            let first = std::mem::take(&mut results[0]);
            results[1..].iter().for_each(|y| assert_eq!(bits(y), bits(&first)));
        }
    }
}

#[test]
fn a_token_that_is_not_finite_gives_nan_and_leaves_the_others_as_they_are() {
    let random = &mut Random::new(37);
    let (d_model, d_ff, m, bad) = (96, 160, 5, 3);
    let x = random.weights(m * d_model, 1.0);
    let list = subset(random, d_ff, 0.5);
    let words = masks_of(random, m, d_ff, 0.4);
    let factors: Vec<f32> = (0..d_ff).map(|_| random.unit()).collect();
    let row = bad * d_model..(bad + 1) * d_model;
    for weights in all_weights(random, d_model, d_ff) {
        for selection in selections(&list, &words, &factors, m, d_ff) {
            for cpu in cpus() {
                let (mut expected, _) = call(&cpu, &weights, &x, &selection, Some(&x));
                expected[row.clone()].fill(f32::NAN);
                for (at, value) in [(7, f32::NAN), (70, f32::INFINITY), (95, f32::NEG_INFINITY)] {
                    let mut spoilt = x.clone();
                    spoilt[row.start + at] = value;
                    let (y, _) = call(&cpu, &weights, &spoilt, &selection, Some(&x));
                    assert_eq!(bits(&y), bits(&expected), "{value} with {selection:?} on {:?}", cpu.isa());
                }
            }
        }
    }
}

#[test]
fn a_token_whose_product_overflows_gives_nan_and_leaves_the_others_as_they_are() {
    let random = &mut Random::new(38);
    let weights = four_bit(random, [2; 3], 32, shape(64, 96)).weights;
    let mut x = random.weights(3 * 64, 1.0);
    let cpu = Cpu::detect();
    let (mut expected, _) = call(&cpu, &weights, &x, &Selection::All, None);
    x[64..128].fill(1e30);
    let (y, _) = call(&cpu, &weights, &x, &Selection::All, None);
    assert!(y[64..128].iter().all(|y| y.is_nan()));
    expected[64..128].copy_from_slice(&y[64..128]);
    assert_eq!(bits(&y), bits(&expected));
}

/// Inputs of 16 bits, at every selection, beside the same numbers in f32.
fn compare_with_floats<E: Element>(x: &[E], weights: &Weights, (list, words): (&[u32], &[u64])) {
    let Shape { d_model, d_ff, .. } = weights.shape();
    let (m, factors) = (x.len() / d_model, vec![1.0; d_ff]);
    let floats: Vec<f32> = x.iter().map(|x| x.to_f32()).collect();
    for selection in selections(list, words, &factors, m, d_ff) {
        for cpu in cpus() {
            let (expected, _) = call(&cpu, weights, &floats, &selection, None);
            let (mut y, mut workspace) = (vec![0.0f32; x.len()], Workspace::new(weights, m + 1).unwrap());
            for round in 0..2 {
                forward(&cpu, weights, x, &selection, None, &mut y, &mut workspace).unwrap();
                assert_eq!(bits(&y), bits(&expected), "{} {selection:?} {:?} {round}", E::NAME, cpu.isa());
            }
        }
    }
}

#[test]
fn inputs_of_sixteen_bits_match_the_same_numbers_in_f32_bit_for_bit() {
    let random = &mut Random::new(23);
    let (d_model, d_ff) = (64, 96);
    for weights in all_weights(random, d_model, d_ff) {
        for m in [1, 3, 20] {
            let (list, words) = (subset(random, d_ff, 0.5), masks_of(random, m, d_ff, 0.5));
            let mut x = random.weights(m * d_model, 1.0);
            if m == 3 {
                x[d_model] = f32::INFINITY;
            }
            let half: Vec<f16> = x.iter().map(|&x| f16::from_f32(x)).collect();
            let brain: Vec<bf16> = x.iter().map(|&x| bf16::from_f32(x)).collect();
            compare_with_floats(&half, &weights, (&list, &words));
            compare_with_floats(&brain, &weights, (&list, &words));
        }
    }
}
