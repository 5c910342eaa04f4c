//! The sparse MLP against its definition: every weight form, selection, instruction set and ragged shape.

mod common;

use common::{Random, bits, cpus};
use half::{bf16, f16};
use moray::sparse_mlp::{
    Activation, HeadList, IndexList, Matrix, NeuronList, Score, ScoreOn, Selection, Shape, TokenMasks, Weights,
    Workspace, activate_product, bytes_read, forward, list_from_mask, mask_from_list,
};
use moray::w4a8::{
    Activations, Bits, Epilogue, GroupOffset, Mode, QuantizedWeight, Scales, linear_reference, quantize,
};
use moray::{Cpu, Error, Isa};
use proptest::prelude::*;

fn shape(d_model: usize, d_ff: usize) -> Shape {
    Shape { d_model, d_ff, activation: Activation::Silu }
}

/// Random codes and scales; kind 0 per channel, 1 symmetric, 2 with offsets, 3 with zero points.
fn random_weight(random: &mut Random, kind: usize, group_size: usize, n: usize, k: usize) -> QuantizedWeight {
    let groups = if k % group_size == 0 { n * k / group_size } else { n * k / 32 };
    let group_size = if k % group_size == 0 { group_size } else { 32 };
    let scale16 = |random: &mut Random| (0..groups).map(|_| f16::from_f32(random.weight(0.01))).collect::<Vec<_>>();
    let scales = match kind {
        0 => Scales::PerChannel { scale: random.weights(n, 0.01) },
        _ => Scales::PerGroup {
            group_size,
            scale: scale16(random),
            offset: match kind {
                1 => GroupOffset::Symmetric,
                2 => GroupOffset::F16(scale16(random)),
                _ => GroupOffset::ZeroPoint((0..groups).map(|_| random.below(16) as u8).collect()),
            },
        },
    };
    let codes = (0..n * k).map(|_| random.below(16) as i8).collect();
    QuantizedWeight::new(n, k, Bits::Four, codes, scales).unwrap()
}

struct FourBit {
    gate: QuantizedWeight,
    up: QuantizedWeight,
    down: QuantizedWeight,
    weights: Weights,
}

fn four_bit(random: &mut Random, kinds: [usize; 3], group_size: usize, shape: Shape) -> FourBit {
    let gate = random_weight(random, kinds[0], group_size, shape.d_ff, shape.d_model);
    let up = random_weight(random, kinds[1], group_size, shape.d_ff, shape.d_model);
    let down = random_weight(random, kinds[2], group_size, shape.d_model, shape.d_ff);
    let weights = Weights::from_quantized(shape, &gate, &up, &down).unwrap();
    FourBit { gate, up, down, weights }
}

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

fn call(
    cpu: &Cpu,
    weights: &Weights,
    x: &[f32],
    selection: &Selection<'_>,
    residual: Option<&[f32]>,
) -> (Vec<f32>, Workspace) {
    let mut workspace = Workspace::new(weights, (x.len() / weights.shape().d_model).max(1)).unwrap();
    let mut y = vec![f32::NAN; x.len()];
    forward(cpu, weights, x, selection, residual, &mut y, &mut workspace).unwrap();
    (y, workspace)
}

#[test]
fn full_list_matches_dense_w4a8_bit_for_bit_on_every_kind_and_shape() {
    let mut random = Random::new(1);
    for (d_model, d_ff) in [(32, 32), (96, 160), (64, 96), (160, 64), (576, 256), (256, 384)] {
        for (kinds, group_size) in
            [([0; 3], 32), ([1; 3], 32), ([2; 3], 32), ([3; 3], 64), ([2, 1, 3], 128), ([1, 2, 0], 64), ([0, 3, 2], 32)]
        {
            let w = four_bit(&mut random, kinds, group_size, shape(d_model, d_ff));
            for m in [1, 2, 33, 70] {
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

/// A random subset of 0..n, kept with probability `q`.
fn subset(random: &mut Random, n: usize, q: f32) -> Vec<u32> {
    (0..n as u32).filter(|_| random.unit() < q).collect()
}

fn masks_of(random: &mut Random, tokens: usize, n: usize, q: f32) -> Vec<u64> {
    let mut words = vec![0; tokens * n.div_ceil(64)];
    for token in words.chunks_exact_mut(n.div_ceil(64)) {
        mask_from_list(IndexList::new(&subset(random, n, q), n).unwrap(), token).unwrap();
    }
    words
}

fn has(masks: &[u64], n: usize, token: usize, j: usize) -> bool {
    masks[token * n.div_ceil(64) + j / 64] >> (j % 64) & 1 == 1
}

#[test]
fn lists_and_masks_match_dense_w4a8_with_zeroed_neurons_bit_for_bit() {
    let mut random = Random::new(2);
    for (kind, group_size) in [(0, 32), (1, 64), (2, 32), (3, 128)] {
        let (d_model, d_ff) = (160, 384);
        let w = four_bit(&mut random, [kind; 3], group_size, shape(d_model, d_ff));
        for (m, q) in [(1, 0.5), (1, 0.0), (1, 0.01), (3, 0.3), (40, 0.7), (5, 0.0)] {
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

#[test]
fn exact_top_k_takes_the_lower_index_where_scores_are_equal() {
    let shape = Shape { d_model: 1, d_ff: 100, activation: Activation::Relu };
    // neurons 10..90 have the same gate; 5 is higher
    let gate: Vec<f32> =
        (0..100).map(|j| if j == 5 { 2.0 } else { f32::from(u8::from((10..90).contains(&j))) }).collect();
    let weights = Weights::new(shape, &gate, &[1.0; 100], &[1.0f32; 100]).unwrap();
    for cpu in cpus() {
        for k in [1, 2, 40, 71, 81] {
            let selection = Selection::TopK { score: Score::plain(ScoreOn::Gate), k };
            let (y, ws) = call(&cpu, &weights, &[1.0], &selection, None);
            assert!(ws.kept().iter().copied().eq(std::iter::once(5).chain(10..9 + k as u32)), "{k}: {:?}", ws.kept());
            assert_eq!(y, [k as f32 + 1.0]);
        }
    }
}

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

/// Every way to select, for `m` tokens.
fn selections<'a>(list: &'a [u32], words: &'a [u64], factors: &'a [f32], m: usize, d_ff: usize) -> Vec<Selection<'a>> {
    let list = IndexList::new(list, d_ff).unwrap();
    let masks = TokenMasks::new(words, m, d_ff).unwrap();
    let hidden = Score { on: ScoreOn::Hidden, channel_scale: Some(factors) };
    vec![
        Selection::All,
        Selection::List(list),
        Selection::Masks(masks),
        Selection::Union { list, masks },
        Selection::Threshold { score: Score::plain(ScoreOn::Gate), threshold: 0.1 },
        Selection::Threshold { score: Score::plain(ScoreOn::Input), threshold: 0.5 },
        Selection::TopK { score: hidden, k: d_ff.div_ceil(3) },
        Selection::TopK { score: Score::plain(ScoreOn::Gate), k: d_ff.div_ceil(2) },
    ]
}

/// All weight forms of one shape: 16-bit and f32, and 4-bit where the sizes allow it; with and without biases.
fn all_weights(random: &mut Random, d_model: usize, d_ff: usize) -> Vec<Weights> {
    let n = d_model * d_ff;
    let (gate, up, down) = (random.weights(n, 0.1), random.weights(n, 0.1), random.weights(n, 0.1));
    let shape = shape(d_model, d_ff);
    let half = |w: &[f32]| w.iter().map(|&w| f16::from_f32(w)).collect::<Vec<_>>();
    let brain = |w: &[f32]| w.iter().map(|&w| bf16::from_f32(w)).collect::<Vec<_>>();
    let (b0, b1, b2) = (random.weights(d_ff, 0.1), random.weights(d_ff, 0.1), random.weights(d_model, 0.1));
    let mut all = vec![
        Weights::new(shape, &gate, &up, &down).unwrap(),
        Weights::new(shape, &half(&gate), &half(&up), &half(&down)).unwrap(),
        Weights::new(shape, &brain(&gate), &brain(&up), &brain(&down)).unwrap(),
    ];
    if d_model % 32 == 0 && d_ff % 32 == 0 {
        for kind in 0..4 {
            all.push(four_bit(random, [kind; 3], 32, shape).weights);
        }
    }
    let biased = all.iter().map(|w| w.clone().with_biases(&b0, &b1, &b2).unwrap()).collect::<Vec<_>>();
    all.extend(biased);
    all
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

/// Rounding errors of the f32 path, stage by stage against f64: u = 2⁻²⁴ for each of the K steps of a sum of products,
/// with the sum of their sizes, plus the elementwise steps.
#[test]
fn dense_rows_match_f64_within_the_bound_of_f32_sums() {
    let random = &mut Random::new(8);
    let u = f64::from(f32::EPSILON) / 2.0;
    for (d, d_ff, m) in [(576, 96, 2), (100, 77, 3), (7, 5, 1)] {
        for weights in &all_weights(random, d, d_ff)[..3] {
            let x = random.weights(m * d, 1.0);
            let list = subset(random, d_ff, 0.6);
            let selection = Selection::List(IndexList::new(&list, d_ff).unwrap());
            let row = |matrix, j: u32| {
                let mut row = vec![0.0; d];
                weights.row(matrix, j as usize, &mut row).unwrap();
                row
            };
            let dot = |a: &[f32], b: &[f32]| {
                let terms = || a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b));
                (terms().sum::<f64>(), (d as f64 + 4.0) * u * terms().map(f64::abs).sum::<f64>())
            };
            for cpu in cpus() {
                let (y, ws) = call(&cpu, weights, &x, &selection, None);
                for t in 0..m {
                    let x = &x[t * d..(t + 1) * d];
                    for (&j, &h) in list.iter().zip(ws.hidden(t)) {
                        let (g, g_error) = dot(x, &row(Matrix::Gate, j));
                        let (up, up_error) = dot(x, &row(Matrix::Up, j));
                        // |silu′| < 1.1; exp, sum, quotient and product round a few times
                        let (a, a_error) = (g / (1.0 + (-g).exp()), 1.1 * g_error);
                        let bound = a_error * (up.abs() + up_error) + a.abs() * up_error + 8.0 * u * (a * up).abs();
                        assert!((f64::from(h) - a * up).abs() <= bound, "{h} against {}, bound {bound}", a * up);
                    }
                    for n in 0..d {
                        let terms = || {
                            let h = ws.hidden(t).iter();
                            list.iter().zip(h).map(|(&j, &h)| f64::from(h) * f64::from(row(Matrix::Down, j)[n]))
                        };
                        let bound = (list.len() as f64 + 1.0) * u * terms().map(f64::abs).sum::<f64>();
                        let (got, expected) = (f64::from(y[t * d + n]), terms().sum::<f64>());
                        assert!((got - expected).abs() <= bound, "{got} against {expected}, bound {bound}");
                    }
                    if d > 500 {
                        break; // one token of the large shape is enough for f64
                    }
                }
            }
        }
    }
}

#[test]
fn silu_matches_f64_within_four_roundings_over_its_range() {
    let gate: Vec<f32> = (-87_000..=90_000).map(|i| i as f32 / 1000.0).collect();
    let mut results = cpus().into_iter().map(|cpu| {
        let mut up = vec![1.0; gate.len()];
        activate_product(&cpu, Activation::Silu, &gate, &mut up).unwrap();
        up
    });
    let portable = results.next().unwrap();
    results.for_each(|other| assert_eq!(bits(&other), bits(&portable)));
    for (&g, &got) in gate.iter().zip(&portable) {
        let exact = f64::from(g) / (1.0 + (-f64::from(g)).exp());
        // exp's reduction, polynomial and last step, the sum, the quotient: 4 half units in the last place and 2⁻²⁷
        let bound = 4.5 * exact.abs() * f64::from(f32::EPSILON) / 2.0;
        assert!((f64::from(got) - exact).abs() <= bound, "silu({g}) = {got}, exactly {exact}");
    }
    let mut far = [1.0f32; 4];
    activate_product(&Cpu::detect(), Activation::Silu, &[-1e4, 1e4, 0.0, -100.0], &mut far).unwrap();
    assert!(far[0].abs() < 1e-33 && far[1] == 1e4 && far[2] == 0.0 && far[3].abs() < 1e-35);
}

#[test]
fn stored_rows_match_the_quantized_weight_exactly() {
    let random = &mut Random::new(9);
    for (kind, group_size) in [(0, 32), (1, 32), (1, 64), (2, 64), (3, 32)] {
        for (d, d_ff) in [(96, 64), (64, 160), (576, 64), (416, 32)] {
            let w = four_bit(random, [kind; 3], group_size, shape(d, d_ff));
            let mut row = vec![0.0; d];
            for j in 0..d_ff {
                for (matrix, source) in [(Matrix::Gate, &w.gate), (Matrix::Up, &w.up)] {
                    w.weights.row(matrix, j, &mut row).unwrap();
                    assert!((0..d).all(|k| row[k] == source.dequantize_at(j, k) as f32), "{matrix:?} {j}");
                }
                w.weights.row(Matrix::Down, j, &mut row).unwrap();
                assert!((0..d).all(|n| row[n] == w.down.dequantize_at(n, j) as f32), "down {j}");
            }
            let norms = w.weights.down_norms();
            let norm = (0..d).map(|n| w.down.dequantize_at(n, 3).powi(2)).sum::<f64>().sqrt();
            // each element was rounded to f32 once, and the norm once more
            assert!((f64::from(norms[3]) - norm).abs() <= norm * f64::from(f32::EPSILON));
        }
    }
}

#[test]
fn empty_list_gives_bias_and_residual_and_single_list_one_neuron() {
    for weights in all_weights(&mut Random::new(10), 64, 96) {
        let weights = weights.with_biases(&[], &[], &[0.25; 64]).unwrap();
        let x = [0.5; 128];
        for cpu in cpus() {
            let none = Selection::List(IndexList::new(&[], 96).unwrap());
            let (y, ws) = call(&cpu, &weights, &x, &none, Some(&[2.0; 128]));
            assert_eq!(y, [2.25; 128]);
            assert!(ws.kept().is_empty() && ws.hidden(1).is_empty());
            let single = Selection::List(IndexList::new(&[95], 96).unwrap());
            assert_eq!(call(&cpu, &weights, &x, &single, None).1.hidden(1).len(), 1);
        }
    }
}

#[test]
fn bytes_read_match_a_count_by_hand() {
    let random = &mut Random::new(11);
    let shape = shape(64, 128);
    // one row: 32 bytes of codes, 2 groups of scale and offset (4 bytes each); a block of down scales: 64 · 4 bytes
    let weights = four_bit(random, [2; 3], 32, shape).weights;
    let kept = [0, 1, 31, 64];
    let list = Selection::List(IndexList::new(&kept, 128).unwrap());
    assert_eq!(bytes_read(&weights, &list, &kept), 4 * 40 * 2 + 4 * 32 + 2 * 256);
    let score = Score::plain(ScoreOn::Gate);
    assert_eq!(bytes_read(&weights, &Selection::TopK { score, k: 4 }, &kept), 132 * 40 + 4 * 32 + 2 * 256);
    let all: Vec<u32> = (0..128).collect();
    assert_eq!(bytes_read(&weights, &Selection::All, &all), weights.bytes());
    let dense = Weights::new(shape, &[f16::ONE; 8192], &[f16::ONE; 8192], &[f16::ONE; 8192]).unwrap();
    assert_eq!(bytes_read(&dense, &list, &kept), 3 * 4 * 128);
    let hidden = Selection::TopK { score: Score::plain(ScoreOn::Hidden), k: 4 };
    assert_eq!(bytes_read(&dense, &hidden, &kept), (256 + 4) * 128);
}

#[test]
fn forms_convert_into_each_other_without_loss() {
    let random = &mut Random::new(12);
    for n in [1, 63, 64, 65, 200] {
        let list = subset(random, n, 0.4);
        let mut mask = vec![u64::MAX; n.div_ceil(64)];
        mask_from_list(IndexList::new(&list, n).unwrap(), &mut mask).unwrap();
        assert_eq!(list_from_mask(&mask, n).unwrap().indices(), list);
        let words = masks_of(random, 3, n, 0.2);
        let union = TokenMasks::new(&words, 3, n).unwrap().union();
        let expected: Vec<u32> = (0..n as u32).filter(|&j| (0..3).any(|t| has(&words, n, t, j as usize))).collect();
        assert_eq!(union.indices(), expected);
    }
    assert_eq!(IndexList::with_count(&[3, 7, 9, 9], 3, 10).unwrap().indices(), [3, 7, 9]);
    let heads = HeadList::new(&[0, 2, 9, 1, 9, 9], &[2, 1], 3, 4).unwrap();
    assert_eq!((heads.sequence(0).indices(), heads.sequence(1).indices()), (&[0, 2][..], &[1][..]));
}

#[test]
fn bad_lists_and_masks_are_refused_by_name() {
    assert_eq!(IndexList::new(&[1, 4], 4).unwrap_err(), Error::Index { what: "list", limit: 4, got: 4 });
    let repeated = Error::NotIncreasing { what: "list", previous: 2, got: 2 };
    assert_eq!(IndexList::new(&[1, 2, 2], 4).unwrap_err(), repeated);
    assert!(matches!(NeuronList::new(vec![3, 1], 4), Err(Error::NotIncreasing { .. })));
    assert!(matches!(IndexList::with_count(&[1], 2, 4), Err(Error::Length { expected: 2, got: 1, .. })));
    assert_eq!(TokenMasks::new(&[0, 1 << 5], 2, 5).unwrap_err(), Error::Index { what: "masks", limit: 5, got: 5 });
    assert!(matches!(TokenMasks::new(&[0; 3], 2, 64), Err(Error::Length { expected: 2, got: 3, .. })));
    assert!(matches!(HeadList::new(&[0, 1], &[3], 2, 4), Err(Error::Index { got: 3, .. })));
    assert!(matches!(HeadList::new(&[1, 0], &[2], 2, 4), Err(Error::NotIncreasing { .. })));
}

#[test]
fn bad_weights_are_refused_by_name() {
    let shape = shape(64, 64);
    let good = quantize(&vec![0.1; 4096], 64, 64, Mode::PerChannel).unwrap();
    for mode in [Mode::W8, Mode::TwoLevel { group_size: 32 }] {
        let bad = quantize(&vec![0.1; 4096], 64, 64, mode).unwrap();
        assert!(matches!(
            Weights::from_quantized(shape, &good, &bad, &good),
            Err(Error::Unsupported { what: "up", .. })
        ));
        assert!(matches!(
            Weights::from_quantized(shape, &good, &good, &bad),
            Err(Error::Unsupported { what: "down", .. })
        ));
    }
    let wide = quantize(&vec![0.1; 8192], 64, 128, Mode::PerChannel).unwrap();
    assert!(matches!(Weights::from_quantized(shape, &wide, &good, &good), Err(Error::Shape { got: 128, .. })));
    let narrow = Shape { d_model: 48, ..shape };
    let (n48, k48) = (quantize(&vec![0.1; 48 * 64], 48, 64, Mode::PerChannel).unwrap(), good.clone());
    assert!(Weights::from_quantized(narrow, &k48, &k48, &n48).is_err());
    let ones = vec![1.0f32; 4096];
    let mut nan = ones.clone();
    nan[17] = f32::NAN;
    assert!(matches!(Weights::new(shape, &ones, &nan, &ones), Err(Error::Value { what: "up", .. })));
    assert!(matches!(Weights::new(shape, &ones[1..], &ones, &ones), Err(Error::Length { got: 4095, .. })));
    assert!(matches!(Weights::new(Shape { d_ff: 0, ..shape }, &ones, &ones, &ones), Err(Error::Shape { .. })));
    let weights = Weights::new(shape, &ones, &ones, &ones).unwrap();
    assert!(matches!(weights.row(Matrix::Up, 64, &mut [0.0; 64]), Err(Error::Index { limit: 64, got: 64, .. })));
    assert!(matches!(weights.with_biases(&[0.0; 3], &[], &[]), Err(Error::Length { got: 3, .. })));
}

#[test]
fn bad_calls_are_refused_and_leave_the_output_alone() {
    let random = &mut Random::new(13);
    let weights = four_bit(random, [2; 3], 32, shape(64, 96)).weights;
    let cpu = Cpu::detect();
    let refused = |weights: &Weights, x: &[f32], selection: &Selection<'_>, workspace: &mut Workspace| {
        let mut y = vec![7.0; x.len()];
        let error = forward(&cpu, weights, x, selection, None, &mut y, workspace).unwrap_err();
        assert!(y.iter().all(|&y| y == 7.0), "{error}");
        error
    };
    let mut ws = Workspace::new(&weights, 2).unwrap();
    let all = Selection::All;
    let mut x = vec![1.0; 128];
    assert!(matches!(refused(&weights, &x[..100], &all, &mut ws), Error::Shape { what: "x", got: 100, .. }));
    assert!(matches!(refused(&weights, &[1.0; 192], &all, &mut ws), Error::Shape { what: "tokens", got: 3, .. }));
    let short = Selection::List(IndexList::new(&[1], 95).unwrap());
    assert!(matches!(refused(&weights, &x, &short, &mut ws), Error::Length { expected: 96, got: 95, .. }));
    let words = [0; 2];
    let masks = Selection::Masks(TokenMasks::new(&words, 1, 96).unwrap());
    assert!(matches!(refused(&weights, &x, &masks, &mut ws), Error::Length { expected: 2, got: 1, .. }));
    let score = Score::plain(ScoreOn::Gate);
    for k in [0, 97] {
        assert!(matches!(
            refused(&weights, &x, &Selection::TopK { score, k }, &mut ws),
            Error::Shape { what: "k", .. }
        ));
    }
    for threshold in [f32::NAN, -1.0, f32::INFINITY] {
        let selection = Selection::Threshold { score, threshold };
        assert!(matches!(refused(&weights, &x, &selection, &mut ws), Error::Value { what: "threshold", .. }));
    }
    let scaled = Score { on: ScoreOn::Gate, channel_scale: Some(&[-1.0; 96]) };
    let selection = Selection::TopK { score: scaled, k: 3 };
    assert!(matches!(refused(&weights, &x, &selection, &mut ws), Error::Value { what: "channel_scale", .. }));
    let heads = Selection::Heads(HeadList::new(&[0], &[1], 1, 1).unwrap());
    assert!(matches!(refused(&weights, &x, &heads, &mut ws), Error::Unsupported { .. }));
    x[70] = f32::INFINITY;
    assert!(matches!(refused(&weights, &x, &all, &mut ws), Error::Value { what: "x", .. }));
    let huge = [1e30; 64];
    assert!(matches!(refused(&weights, &huge, &all, &mut ws), Error::Value { .. }), "products overflow");
    let other = four_bit(random, [2; 3], 32, shape(64, 64)).weights;
    assert!(matches!(refused(&other, &huge, &all, &mut ws), Error::Length { .. }));
    assert!(Workspace::new(&weights, 0).is_err());
    let mut y = [7.0; 63];
    let error = forward(&cpu, &weights, &[0.0; 64], &all, None, &mut y, &mut ws).unwrap_err();
    assert_eq!(error, Error::Length { what: "y", expected: 64, got: 63 });
}
