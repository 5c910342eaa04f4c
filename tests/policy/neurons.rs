//! Policies for neurons.

use std::sync::Arc;

use moray::policy::{
    Calibration, Cats, CatsCalibrator, Cett, Griffin, LayerRule, Observed, Policy, PolicyConfig, PromptStatistic,
    Refresh, RefreshOptions, Refreshed, Tda, TdaQuantile, TdaShareOfMax, TopK, cett_of_dropping, kept_count,
    threshold_for_cett,
};
use moray::sparse_mlp::{Activation, Matrix, NeuronList, Selection, Shape, Weights, Workspace, forward};
use moray::{Cpu, Error};
use proptest::prelude::*;

use crate::common::Random;
use crate::{sizes, token};

fn statistic(activations: &[f32], d_ff: usize) -> PromptStatistic {
    let mut statistic = PromptStatistic::new(d_ff).unwrap();
    statistic.observe(activations).unwrap();
    statistic
}

/// Activations whose neurons differ in size.
fn activations(random: &mut Random, tokens: usize, d_ff: usize, spread: f32) -> Vec<f32> {
    let sizes: Vec<f32> = (0..d_ff).map(|_| (spread * random.weight(1.0)).exp()).collect();
    (0..tokens * d_ff).map(|i| random.weight(1.0) * sizes[i % d_ff]).collect()
}

proptest! {
    #[test]
    fn prompt_statistic_matches_one_piece_bit_for_bit_for_every_split(
        seed: u64, tokens in 1usize..30, d_ff in 1usize..40, cuts in prop::collection::vec(1usize..10, 0..8),
    ) {
        let mut a = activations(&mut Random::new(seed), tokens, d_ff, 1.0);
        a[..d_ff].fill(0.0); // a token without activations
        let whole = statistic(&a, d_ff);
        let mut pieces = PromptStatistic::new(d_ff).unwrap();
        let mut left = &a[..];
        for cut in cuts {
            let (piece, rest) = left.split_at(left.len().min(cut * d_ff));
            pieces.observe(piece).unwrap();
            left = rest;
        }
        pieces.observe(left).unwrap();
        prop_assert_eq!(&pieces, &whole);
        prop_assert_eq!(whole.tokens(), tokens);
        for j in 0..d_ff {
            let ratio = |row: &[f32]| {
                let norm = row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
                if norm > 0.0 { f64::from(row[j]) / norm } else { 0.0 }
            };
            let s = a.chunks_exact(d_ff).map(|row| ratio(row).powi(2)).sum::<f64>().sqrt() / (tokens as f64).sqrt();
            // a root and a quotient in f64, in another order, for each token
            prop_assert!((whole.normalised(j) - s).abs() <= 4.0 * f64::EPSILON * tokens as f64);
        }
    }

    #[test]
    fn griffin_matches_a_full_sort(seed: u64, d_ff in 1usize..200, kept in 0.01f32..=1.0) {
        let mut a = activations(&mut Random::new(seed), 3, d_ff, 1.0);
        a.iter_mut().for_each(|v| *v = v.round()); // makes equal scores
        a[0] = 1.0;
        let statistic = statistic(&a, d_ff);
        let mut order: Vec<u32> = (0..d_ff as u32).collect();
        order.sort_by(|&x, &y| {
            statistic.normalised(y as usize).total_cmp(&statistic.normalised(x as usize)).then(x.cmp(&y))
        });
        order.truncate(kept_count(kept, d_ff).unwrap());
        order.sort_unstable();
        let list = Griffin::new(kept).unwrap().list(0, &statistic).unwrap();
        prop_assert_eq!(list.indices(), &order[..]);
    }
}

#[test]
fn kept_count_matches_the_ceiling_of_decimals() {
    for (kept, d_ff, expected) in [(0.5, 1536, 768), (0.7, 10, 7), (0.7, 1536, 1076), (0.3, 10, 3), (0.31, 10, 4)] {
        assert_eq!(kept_count(kept, d_ff).unwrap(), expected, "{kept} of {d_ff}");
    }
    assert_eq!((kept_count(1.0, 7).unwrap(), kept_count(1e-6, 7).unwrap()), (7, 1));
    for bad in [0.0, -0.5, 1.0001, f32::NAN] {
        assert!(matches!(kept_count(bad, 10), Err(Error::Value { what: "kept fraction", .. })));
        assert!(Griffin::new(bad).is_err() && TopK::by_gate(bad, 10).is_err());
    }
}

#[test]
fn tda_joint_quantile_keeps_the_fraction_over_all_layers_and_varies_by_layer() {
    let random = &mut Random::new(1);
    let d_ff = 400;
    let layers: Vec<PromptStatistic> =
        [0.1, 0.5, 1.0, 2.0].iter().map(|&spread| statistic(&activations(random, 12, d_ff, spread), d_ff)).collect();
    for kept in [0.1, 0.5, 0.7, 1.0] {
        let tda = Tda::joint_quantile(&layers, kept).unwrap();
        let counts: Vec<usize> =
            layers.iter().enumerate().map(|(l, s)| tda.list(l, s).unwrap().indices().len()).collect();
        assert_eq!(counts.iter().sum::<usize>(), kept_count(kept, 4 * d_ff).unwrap(), "{counts:?}");
        assert!(kept == 1.0 || counts.iter().min() < counts.iter().max(), "{counts:?}");
        for (l, s) in layers.iter().enumerate() {
            let list = tda.list(l, s).unwrap();
            let above = (0..d_ff as u32).filter(|&j| s.normalised(j as usize) > tda.thresholds()[l]);
            assert!(list.indices().iter().copied().eq(above));
        }
    }
}

#[test]
fn tda_fraction_of_max_keeps_what_is_above_it() {
    let random = &mut Random::new(2);
    let layers = [0.2, 1.0].map(|spread| statistic(&activations(random, 5, 64, spread), 64));
    let tda = Tda::fraction_of_max(&layers, 0.4).unwrap();
    for (l, s) in layers.iter().enumerate() {
        let max = s.all_normalised().into_iter().fold(0.0, f64::max);
        let expected = NeuronList::from_fn(64, |j| s.normalised(j) > max * f64::from(0.4f32));
        assert_eq!(tda.list(l, s).unwrap(), expected);
        assert!(!expected.indices().is_empty() && expected.indices().len() < 64);
    }
    // nothing is above the maximum
    for fraction in [1.0, 0.0, 1.5, f32::NAN] {
        let refused = Tda::fraction_of_max(&layers, fraction).unwrap_err().to_string();
        assert!(refused.contains("nothing is above the maximum"), "{refused}");
        assert_eq!(TdaShareOfMax::new(fraction).unwrap_err().to_string(), refused);
    }
    let nearly = Tda::fraction_of_max(&layers, f32::from_bits(1.0f32.to_bits() - 1)).unwrap();
    for (l, s) in layers.iter().enumerate() {
        assert!(!nearly.list(l, s).unwrap().indices().is_empty());
    }
}

fn weights(random: &mut Random, d_model: usize, d_ff: usize) -> Weights {
    let n = d_model * d_ff;
    let shape = Shape { d_model, d_ff, activation: Activation::Silu };
    Weights::new(shape, &random.weights(n, 0.3), &random.weights(n, 0.3), &random.weights(n, 0.3)).unwrap()
}

fn run(weights: &Weights, x: &[f32], selection: &Selection<'_>) -> (Vec<f32>, Workspace) {
    let mut workspace = Workspace::new(weights, x.len() / weights.shape().d_model).unwrap();
    let mut y = vec![0.0; x.len()];
    forward(&Cpu::detect(), weights, x, selection, None, &mut y, &mut workspace).unwrap();
    (y, workspace)
}

#[test]
fn cats_threshold_keeps_the_calibrated_fraction_of_its_own_text() {
    let random = &mut Random::new(3);
    let (d_model, d_ff, m) = (48, 200, 40);
    let weights = weights(random, d_model, d_ff);
    let x = random.weights(m * d_model, 1.0);
    let (_, dense) = run(&weights, &x, &Selection::All);
    let mut together = CatsCalibrator::new(2).unwrap();
    let mut by_token = together.clone();
    let all: Vec<f32> = (0..m).flat_map(|t| dense.gate(t).to_vec()).collect();
    for layer in 0..2 {
        together.observe(layer, &all).unwrap();
        (0..m).for_each(|t| by_token.observe(layer, dense.gate(t)).unwrap());
    }
    for kept in [0.05, 0.3, 0.5, 0.9] {
        let mut cats = together.finish(kept).unwrap();
        assert_eq!(cats, by_token.finish(kept).unwrap());
        let threshold = cats.thresholds()[1];
        let above = all.iter().filter(|v| v.abs() > threshold).count();
        // values in the same bin, 2⁻¹¹ wide, fall together
        let in_bin = all.iter().filter(|v| (v.abs() / threshold - 1.0).abs() < 1.0 / 1024.0).count();
        let target = (all.len() as f64 * f64::from(kept)).round() as usize;
        assert!(above <= target && above + in_bin >= target, "{above} + {in_bin} of {target}");
        let (_, ws) = run(&weights, &x[..d_model], &cats.select(1, &token(0, 0)).unwrap());
        assert_eq!(ws.kept().len(), dense.gate(0).iter().filter(|v| v.abs() > threshold).count());
    }
    assert_eq!(together.finish(1.0).unwrap().thresholds(), [0.0, 0.0]);
}

/// The definition of CETT for one token, in f64.
fn naive_cett(weights: &Weights, a: &[f32], dropped: &dyn Fn(usize) -> bool) -> f64 {
    let d = weights.shape().d_model;
    let (mut part, mut whole) = (vec![0.0f64; d], vec![0.0f64; d]);
    let mut row = vec![0.0; d];
    for (j, &a) in a.iter().enumerate() {
        weights.row(Matrix::Down, j, &mut row).unwrap();
        for n in 0..d {
            let v = f64::from(a) * f64::from(row[n]);
            whole[n] += v;
            part[n] += if dropped(j) { v } else { 0.0 };
        }
    }
    let norm = |v: &[f64]| v.iter().map(|v| v * v).sum::<f64>().sqrt();
    norm(&part) / norm(&whole)
}

#[test]
fn cett_matches_its_definition_and_thresholds_meet_their_target() {
    let random = &mut Random::new(4);
    let (d_model, d_ff, tokens) = (24, 90, 4);
    let weights = weights(random, d_model, d_ff);
    let a = activations(random, tokens, d_ff, 1.0);
    let norms = weights.down_norms();
    let score = |t: usize, j: usize| f64::from(a[t * d_ff + j].abs() * norms[j]);
    let cett = |epsilon: f64| cett_of_dropping(&weights, &a, |t, j| score(t, j) <= epsilon).unwrap();
    let naive =
        (0..tokens).map(|t| naive_cett(&weights, &a[t * d_ff..(t + 1) * d_ff], &|j| score(t, j) <= 0.5)).sum::<f64>()
            / tokens as f64;
    assert_eq!(cett(0.5), naive, "f64 sums in the same order but for zeros");
    for target in [0.05, 0.2, 0.5] {
        let epsilon = threshold_for_cett(&weights, &a, target, score).unwrap();
        assert!(cett(epsilon) <= f64::from(target));
        let next =
            (0..a.len()).map(|i| score(i / d_ff, i % d_ff)).filter(|&s| s > epsilon).fold(f64::INFINITY, f64::min);
        assert!(cett(next) > f64::from(target), "{target}: a higher threshold would do");
        let mut policy = Cett::new();
        policy.calibrate_layer(&weights, &a, target).unwrap();
        assert_eq!(f64::from(policy.thresholds()[0]), epsilon);
        assert!(matches!(policy.select(0, &token(0, 0)).unwrap(), Selection::Threshold { .. }));
        assert!(policy.select(1, &token(0, 0)).is_err());
    }
    let s = statistic(&a, d_ff);
    let threshold = Tda::calibrated_by_cett(&weights, &s, &a, 0.3).unwrap();
    let list = Tda::new(vec![threshold]).unwrap().list(0, &s).unwrap();
    assert!((1..d_ff).contains(&list.indices().len()));
    let kept = |j: usize| list.indices().binary_search(&(j as u32)).is_ok();
    assert!(cett_of_dropping(&weights, &a, |_, j| !kept(j)).unwrap() <= 0.3f32.into());
}

#[test]
fn contribution_top_k_has_less_error_than_gate_top_k() {
    let random = &mut Random::new(5);
    let (d_model, d_ff, m) = (64, 300, 8);
    let weights = weights(random, d_model, d_ff);
    let x = random.weights(m * d_model, 1.0);
    let (dense, _) = run(&weights, &x, &Selection::All);
    let error = |mut policy: TopK| -> f64 {
        let (y, ws) = run(&weights, &x, &policy.select(0, &token(0, 0)).unwrap());
        assert!(ws.kept().len() >= policy.k());
        y.iter().zip(&dense).map(|(a, b)| f64::from(a - b).powi(2)).sum()
    };
    let gate = error(TopK::by_gate(0.5, d_ff).unwrap());
    let contribution = error(TopK::by_contribution(0.5, d_ff, vec![weights.down_norms()]).unwrap());
    assert!(0.0 < contribution && contribution < gate, "{contribution} against {gate}");
}

fn refresh(every: usize, window: usize, recent_weight: f32, drift: Option<f32>) -> Refresh {
    // the prompt uses neurons 0..4 of 8
    let prompt = statistic(&[1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0], 8);
    let policy = Arc::new(Griffin::new(0.5).unwrap());
    Refresh::new(policy, vec![prompt; 2], RefreshOptions { every, window, recent_weight, drift }).unwrap()
}

#[test]
fn refresh_renews_lists_from_dense_tokens_at_the_end_of_each_window() {
    let mut sequence = refresh(5, 2, 0.9, None);
    let recent = [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0];
    let mut dense = Vec::new();
    for token in 0..10 {
        assert_eq!(sequence.list(0).unwrap().indices(), if token < 5 { [0, 1, 2, 3] } else { [4, 5, 6, 7] });
        if sequence.next_is_dense() {
            dense.push(token);
            sequence.observe(0, &recent).unwrap(); // layer 1 sees nothing new
        }
        assert_eq!(sequence.end_token().unwrap(), usize::from(token == 4));
    }
    assert_eq!(dense, [3, 4, 8, 9]);
    assert_eq!((sequence.list(1).unwrap().indices(), sequence.renewed()), (&[0, 1, 2, 3][..], 1));
}

#[test]
fn refresh_leaves_lists_alone_where_drift_is_small_or_the_prompt_weighs_more() {
    let half_new = [0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0]; // Jaccard 2/6 to the prompt's list
    for (weight, drift, renewed) in [(1.0, Some(0.3), 0), (1.0, Some(0.4), 1), (0.1, None, 0), (1.0, None, 1)] {
        let mut sequence = refresh(1, 1, weight, drift);
        assert!(sequence.next_is_dense());
        sequence.observe(0, &half_new).unwrap();
        assert_eq!(sequence.end_token().unwrap(), renewed, "weight {weight}, drift {drift:?}");
    }
    let mut never = refresh(0, 0, 0.5, None);
    assert!((0..20).all(|_| !never.next_is_dense() && never.end_token().unwrap() == 0));
}

#[test]
fn mixed_statistics_match_the_weighted_mean_of_squares() {
    let (a, b) = (statistic(&[1.0, 0.0], 2), statistic(&[0.0, 1.0, 1.0, 1.0], 2));
    let mixed = a.mixed(&b, 0.25).unwrap();
    assert_eq!(mixed.tokens(), 3);
    // neuron 0: 0.75 · 1 + 0.25 · (0 + 1/2) / 2
    assert!((mixed.normalised(0).powi(2) - 0.8125).abs() < 4.0 * f64::EPSILON);
    let none = PromptStatistic::new(2).unwrap();
    assert_eq!(a.mixed(&none, 1.0).unwrap().all_normalised(), a.all_normalised());
    assert_eq!(none.mixed(&a, 0.0).unwrap().all_normalised(), a.all_normalised());
}

#[test]
fn bad_policy_input_is_refused_and_changes_nothing() {
    let mut s = statistic(&[1.0, 2.0], 2);
    let before = s.clone();
    assert!(matches!(s.observe(&[1.0]), Err(Error::Shape { got: 1, .. })));
    assert!(matches!(s.observe(&[1.0, f32::NAN]), Err(Error::Value { .. })));
    assert_eq!(s, before);
    assert!(PromptStatistic::new(0).is_err() && CatsCalibrator::new(0).is_err());
    let empty = PromptStatistic::new(2).unwrap();
    assert!(matches!(Griffin::new(0.5).unwrap().list(0, &empty), Err(Error::Shape { what: "prompt", .. })));
    assert!(Tda::joint_quantile(&[], 0.5).is_err() && Tda::joint_quantile(std::slice::from_ref(&empty), 0.5).is_err());
    assert!(Tda::new(vec![f64::NAN]).is_err() && Tda::new(vec![-1.0]).is_err());
    assert!(matches!(Tda::new(vec![0.1]).unwrap().list(1, &s), Err(Error::Index { limit: 1, got: 1, .. })));
    assert!(Cats::new(vec![-0.1]).is_err() && Cats::new(vec![f32::INFINITY]).is_err());
    assert!(matches!(Cats::new(vec![0.1]).unwrap().select(1, &token(0, 0)), Err(Error::Index { limit: 1, .. })));
    let mut calibrator = CatsCalibrator::new(1).unwrap();
    assert!(matches!(calibrator.finish(0.5), Err(Error::Shape { what: "calibration", .. })));
    assert!(calibrator.observe(1, &[1.0]).is_err() && calibrator.observe(0, &[f32::INFINITY]).is_err());
    assert!(s.mixed(&PromptStatistic::new(3).unwrap(), 0.5).is_err() && s.mixed(&empty, 1.5).is_err());
    let options = RefreshOptions { every: 4, window: 5, recent_weight: 0.5, drift: None };
    let policy = Arc::new(Griffin::new(0.5).unwrap());
    assert!(matches!(Refresh::new(policy.clone(), vec![s.clone()], options), Err(Error::Shape { what: "window", .. })));
    assert!(Refresh::new(policy.clone(), vec![], options).is_err());
    let heavy = RefreshOptions { window: 1, recent_weight: 2.0, ..options };
    assert!(matches!(Refresh::new(policy, vec![s], heavy), Err(Error::Value { what: "recent_weight", .. })));
    assert!(TopK::by_contribution(0.5, 4, vec![vec![1.0; 3]]).is_err());
    assert!(TopK::by_contribution(0.5, 4, vec![vec![1.0; 4]]).unwrap().select(1, &token(0, 0)).is_err());
}

/// A session's policy against a [`Refresh`] of its own: the same lists, the same tokens in full.
#[test]
fn a_refreshed_policy_matches_its_refresh_for_every_token() {
    let options = RefreshOptions { every: 4, window: 2, recent_weight: 0.8, drift: None };
    let random = &mut Random::new(7);
    let (tokens, d_ff) = (20, 40);
    let a = activations(random, tokens, d_ff, 1.0);
    let row = |t: usize| &a[t * d_ff..(t + 1) * d_ff];
    let mut policy = Refreshed::new(TdaQuantile::new(0.5).unwrap(), options).unwrap().policy(&sizes(1, d_ff)).unwrap();
    policy.observe(0, &[moray::attention::Span { slot: 1, start: 0, len: 5 }], &Observed::new(&a, d_ff, d_ff)).unwrap();
    policy.begin_generation(1).unwrap();
    let prompt = vec![statistic(&a[..5 * d_ff], d_ff)];
    let rule = Arc::new(Tda::joint_quantile(&prompt, 0.5).unwrap());
    let mut sequence = Refresh::new(rule, prompt, options).unwrap();
    let mut changed = 0;
    for t in 5..tokens {
        let spans = token(1, t);
        match policy.select(0, &spans).unwrap() {
            Selection::All => assert!(sequence.next_is_dense()),
            Selection::List(list) => assert_eq!(list, sequence.list(0).unwrap().view()),
            other => panic!("{other:?}"),
        }
        policy.observe(0, &spans, &Observed::new(row(t), d_ff, d_ff)).unwrap();
        policy.end_token(1).unwrap();
        if sequence.next_is_dense() {
            sequence.observe(0, row(t)).unwrap();
        }
        changed += sequence.end_token().unwrap();
    }
    assert!(changed > 1 && !policy.is_settled(&token(1, tokens)));
    assert!(Refreshed::new(Griffin::new(0.5).unwrap(), RefreshOptions { window: 5, ..options }).is_err());
}

#[test]
fn cats_counts_the_gates_above_its_threshold_where_they_are_shown() {
    let mut policy = Cats::new(vec![0.5, 1.0]).unwrap().policy(&sizes(2, 4)).unwrap();
    let gates = [0.6, -0.7, 0.5, 2.0, /* between rows */ 9.0, -0.1, 0.2, 1.5, -0.51, 9.0];
    let spans = [moray::attention::Span { slot: 0, start: 0, len: 2 }];
    let shown =
        |policy: &mut Box<dyn Policy>, layer| policy.observe(layer, &spans, &Observed::new(&gates, 5, 4)).unwrap();
    assert_eq!((shown(&mut policy, 0).kept, shown(&mut policy, 1).kept, shown(&mut policy, 1).all), (5, 2, 8));
    assert_eq!(policy.observe(0, &spans, &Observed::LENGTHS).unwrap().fraction(), None);
    assert!(Cats::new(vec![0.5]).unwrap().policy(&sizes(2, 4)).is_err(), "a threshold for each layer");
    assert!(TopK::by_gate(0.5, 5).unwrap().policy(&sizes(2, 4)).is_err(), "of another width");
}
