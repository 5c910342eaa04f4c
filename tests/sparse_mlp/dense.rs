//! Selections against the whole product in 4 bits, the neurons that are not selected zeroed, bit for bit.

use moray::sparse_mlp::{IndexList, Score, ScoreOn, Selection, Shape, TokenMasks, activate_product};
use moray::w4a8::{Activations, Epilogue, linear_reference};
use moray::{Cpu, Isa};

use crate::case::{FourBit, call, four_bit, has, masks_of, shape, subset};
use crate::common::{Random, bits, cpus};

/// down(quantize(act(gate·x) ⊙ (up·x))) through the W4A8 definition, `keep(token, neuron)` deciding what is zeroed.
fn dense_w4a8(w: &FourBit, x: &[f32], residual: &[f32], keep: impl Fn(usize, usize) -> bool) -> Vec<f32> {
    let Shape { d_model, d_ff, activation } = w.weights.shape();
    let cpu = Cpu::new(1, Isa::Portable).unwrap();
    let m = x.len() / d_model;
    let mut activations = Activations::default();
    activations.quantize(&cpu, x, m, d_model).unwrap();
    let (mut gate, mut up) = (vec![0.0f32; m * d_ff], vec![0.0f32; m * d_ff]);
    linear_reference(&w.gate, &activations, Epilogue::default(), &mut gate).unwrap();
    linear_reference(&w.up, &activations, Epilogue::default(), &mut up).unwrap();
    activate_product(&cpu, activation, &gate, &mut up).unwrap();
    up.iter_mut().enumerate().filter(|(i, _)| !keep(i / d_ff, i % d_ff)).for_each(|(_, h)| *h = 0.0);
    activations.quantize(&cpu, &up, m, d_ff).unwrap();
    let mut y = vec![0.0f32; m * d_model];
    linear_reference(&w.down, &activations, Epilogue { bias: None, residual: Some(residual) }, &mut y).unwrap();
    y
}

#[test]
fn full_list_matches_dense_w4a8_bit_for_bit_on_every_kind_and_shape() {
    let mut random = Random::new(1);
    for (d_model, d_ff) in [(32, 32), (96, 160), (64, 96), (160, 64), (576, 256), (256, 384), (1152, 128), (128, 2304)]
    {
        for (kinds, group_size) in
            [([0; 3], 32), ([1; 3], 32), ([2; 3], 32), ([3; 3], 64), ([2, 1, 3], 128), ([1, 2, 0], 64), ([0, 3, 2], 32)]
        {
            let w = four_bit(&mut random, kinds, group_size, shape(d_model, d_ff));
            // more tokens than panels of down serve, in the smallest shape alone
            let many = if d_model * d_ff == 32 * 32 { 270 } else { 70 };
            for m in [1, 2, 33, many] {
                let mut x = random.weights(m * d_model, 1.0);
                if m > 2 {
                    x[d_model..2 * d_model].fill(0.0); // a token of zeros
                }
                let residual = random.weights(m * d_model, 1.0);
                let expected = dense_w4a8(&w, &x, &residual, |_, _| true);
                let all: Vec<u32> = (0..d_ff as u32).collect();
                for cpu in cpus() {
                    for selection in [Selection::All, Selection::List(IndexList::new(&all, d_ff).unwrap())] {
                        let (y, _) = call(&cpu, &w.weights, &x, &selection, Some(&residual));
                        assert_eq!(bits(&y), bits(&expected), "{:?} {kinds:?} {d_model}×{d_ff} m{m}", cpu.isa());
                    }
                }
            }
        }
    }
}

#[test]
fn lists_and_masks_match_dense_w4a8_with_zeroed_neurons_bit_for_bit() {
    let mut random = Random::new(2);
    for (kind, group_size) in [(0, 32), (1, 64), (2, 32), (3, 128)] {
        for ((d_model, d_ff), (m, q)) in
            [(1, 0.5), (1, 0.0), (1, 0.01), (3, 0.3), (40, 0.7), (5, 0.0), (1, 0.002), (2, 0.002)]
                .into_iter()
                .flat_map(|call| [((160, 384), call), ((32, 2304), call)])
        {
            let w = four_bit(&mut random, [kind; 3], group_size, shape(d_model, d_ff));
            let x = random.weights(m * d_model, 1.0);
            let residual = random.weights(m * d_model, 1.0);
            let list = subset(&mut random, d_ff, q);
            let words = masks_of(&mut random, m, d_ff, q);
            let view = IndexList::new(&list, d_ff).unwrap();
            let masks = TokenMasks::new(&words, m, d_ff).unwrap();
            let in_list = |j: usize| list.binary_search(&(j as u32)).is_ok();
            for cpu in cpus() {
                let check = |selection: Selection<'_>, keep: &dyn Fn(usize, usize) -> bool| {
                    let expected = dense_w4a8(&w, &x, &residual, keep);
                    let (y, _) = call(&cpu, &w.weights, &x, &selection, Some(&residual));
                    assert_eq!(bits(&y), bits(&expected), "{:?} kind {kind} m{m} q{q}", cpu.isa());
                };
                check(Selection::List(view), &|_, j| in_list(j));
                check(Selection::Masks(masks), &|t, j| has(&words, d_ff, t, j));
                let union = Selection::Union { list: view, masks };
                check(union, &|t, j| in_list(j) && has(&words, d_ff, t, j));
            }
        }
    }
}

/// The indices of the k highest scores, equal ones by index: a full sort.
fn top(scores: &[f32], k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    order.truncate(k);
    order
}

#[test]
fn scores_match_a_sort_of_the_dense_activations_bit_for_bit() {
    let mut random = Random::new(3);
    let (d_model, d_ff, m) = (96, 224, 5);
    let w = four_bit(&mut random, [2; 3], 32, shape(d_model, d_ff));
    let x = random.weights(m * d_model, 1.0);
    let residual = random.weights(m * d_model, 1.0);
    let factors: Vec<f32> = (0..d_ff).map(|_| random.unit()).collect();
    for cpu in cpus() {
        let (_, dense) = call(&cpu, &w.weights, &x, &Selection::All, None);
        for on in [ScoreOn::Gate, ScoreOn::Hidden] {
            for channel_scale in [None, Some(&factors[..])] {
                let score = Score { on, channel_scale };
                let values = |t: usize| if on == ScoreOn::Gate { dense.gate(t) } else { dense.hidden(t) };
                let scores: Vec<Vec<f32>> = (0..m)
                    .map(|t| {
                        let factor = |j: usize| channel_scale.map_or(1.0, |s| s[j]);
                        values(t).iter().enumerate().map(|(j, v)| v.abs() * factor(j)).collect()
                    })
                    .collect();
                for k in [1, 2, 100, d_ff - 1, d_ff] {
                    let kept: Vec<Vec<usize>> = scores.iter().map(|s| top(s, k)).collect();
                    let expected = dense_w4a8(&w, &x, &residual, |t, j| kept[t].contains(&j));
                    let (y, ws) = call(&cpu, &w.weights, &x, &Selection::TopK { score, k }, Some(&residual));
                    assert_eq!(bits(&y), bits(&expected), "{:?} {on:?} top {k}", cpu.isa());
                    let union = (0..d_ff).filter(|j| kept.iter().any(|kept| kept.contains(j)));
                    assert!(ws.kept().iter().map(|&j| j as usize).eq(union));
                }
                for threshold in [0.0, scores[0][3], 1e30] {
                    let expected = dense_w4a8(&w, &x, &residual, |t, j| scores[t][j] > threshold);
                    let selection = Selection::Threshold { score, threshold };
                    let (y, _) = call(&cpu, &w.weights, &x, &selection, Some(&residual));
                    assert_eq!(bits(&y), bits(&expected), "{:?} {on:?} above {threshold}", cpu.isa());
                }
            }
        }
    }
}

#[test]
fn input_scores_match_dense_w4a8_of_zeroed_inputs_bit_for_bit() {
    let mut random = Random::new(4);
    let (d_model, d_ff, m) = (96, 64, 3);
    let w = four_bit(&mut random, [2; 3], 32, shape(d_model, d_ff));
    let x = random.weights(m * d_model, 1.0);
    let factors: Vec<f32> = (0..d_model).map(|_| random.unit()).collect();
    let score = Score { on: ScoreOn::Input, channel_scale: Some(&factors) };
    let scores: Vec<f32> = x.iter().enumerate().map(|(i, v)| v.abs() * factors[i % d_model]).collect();
    let zeroed = |keep: &dyn Fn(usize) -> bool| -> Vec<f32> {
        x.iter().enumerate().map(|(i, &v)| if keep(i) { v } else { 0.0 }).collect()
    };
    let residual = vec![0.0; x.len()];
    let by_threshold = zeroed(&|i| scores[i] > 0.4);
    let kept: Vec<Vec<usize>> = scores.chunks_exact(d_model).map(|s| top(s, 17)).collect();
    let by_top = zeroed(&|i| kept[i / d_model].contains(&(i % d_model)));
    for cpu in cpus() {
        for (selection, inputs) in [
            (Selection::Threshold { score, threshold: 0.4 }, &by_threshold),
            (Selection::TopK { score, k: 17 }, &by_top),
        ] {
            let expected = dense_w4a8(&w, inputs, &residual, |_, _| true);
            let (y, _) = call(&cpu, &w.weights, &x, &selection, Some(&residual));
            assert_eq!(bits(&y), bits(&expected), "{:?}", cpu.isa());
        }
    }
}
