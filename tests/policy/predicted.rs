//! Neurons by prediction: the predictor, the clusters, and what is chosen of them.

use moray::Error;
use moray::attention::{AttentionShape, Span};
use moray::policy::{
    LowRank, Observed, PolicyConfig, Predicted, PredictedHeads, PredictedLayer, PromptStatistic, Training,
    balanced_clusters, deja_vu, largest_heads, predicted_heads,
};
use moray::sparse_mlp::Selection;
use proptest::prelude::*;

use crate::common::Random;
use crate::{sizes, token};

/// The ridge of centred Y by centred X in f64, by elimination, and with the means added again: y of `at`.
fn ridge(x: &[f32], y: &[f32], (d, n): (usize, usize), at: &[f32]) -> Vec<f64> {
    let tokens = x.len() / d;
    let mean = |v: &[f32], width: usize, j: usize| {
        (0..tokens).map(|t| f64::from(v[t * width + j])).sum::<f64>() / tokens as f64
    };
    let centred = |v: &[f32], width: usize| -> Vec<f64> {
        (0..v.len()).map(|i| f64::from(v[i]) - mean(v, width, i % width)).collect()
    };
    let (cx, cy) = (centred(x, d), centred(y, n));
    let mut rows: Vec<Vec<f64>> = (0..d)
        .map(|i| {
            let dot = |other: &[f64], width: usize, j: usize| {
                (0..tokens).map(|t| cx[t * d + i] * other[t * width + j]).sum::<f64>()
            };
            (0..d).map(|j| dot(&cx, d, j)).chain((0..n).map(|j| dot(&cy, n, j))).collect()
        })
        .collect();
    let trace: f64 = (0..d).map(|i| rows[i][i]).sum();
    (0..d).for_each(|i| rows[i][i] += 0.1 * trace / d as f64);
    for i in 0..d {
        let pivot = rows[i].clone();
        for (_, row) in rows.iter_mut().enumerate().filter(|(other, _)| *other != i) {
            let factor = row[i] / pivot[i];
            row.iter_mut().zip(&pivot).for_each(|(a, b)| *a -= factor * b);
        }
    }
    (0..n)
        .map(|j| {
            let w = |i: usize| rows[i][d + j] / rows[i][i];
            mean(y, n, j) + (0..d).map(|i| (f64::from(at[i]) - mean(x, d, i)) * w(i)).sum::<f64>()
        })
        .collect()
}

fn predicted(predictor: &LowRank, x: &[f32]) -> Vec<f32> {
    let [_, rank, n] = predictor.sizes();
    let (mut room, mut y) = (vec![0.0; rank], vec![f32::NAN; n]);
    predictor.predict(x, &mut room, &mut y);
    y
}

#[test]
fn a_predictor_of_full_rank_matches_the_ridge() {
    let random = &mut Random::new(1);
    for (tokens, d, n) in [(40, 8, 5), (6, 12, 20), (30, 3, 1)] {
        let (x, y, at) = (random.weights(tokens * d, 1.0), random.weights(tokens * n, 1.0), random.weights(d, 1.0));
        let fitted = LowRank::fit(&x, &y, (d, n), d.max(n)).unwrap();
        assert_eq!(fitted.sizes(), [d, d.min(n), n]);
        for (found, expected) in predicted(&fitted, &at).iter().zip(ridge(&x, &y, (d, n), &at)) {
            // sums of up to 40 products of numbers near 1 in f32, solved with a condition below 100
            let bound = 100.0 * 40.0 * f64::from(f32::EPSILON);
            assert!((f64::from(*found) - expected).abs() < bound, "{tokens} {d} {n}: {found} and {expected}");
        }
    }
}

#[test]
fn two_directions_are_enough_for_what_has_two() {
    let random = &mut Random::new(2);
    let (tokens, d, n) = (50, 10, 30);
    let x = random.weights(tokens * d, 1.0);
    let (read, write) = (random.weights(2 * d, 1.0), random.weights(2 * n, 1.0));
    let along = |x: &[f32], i: usize| x.iter().zip(&read[i * d..]).map(|(x, r)| x * r).sum::<f32>();
    let y: Vec<f32> = x
        .chunks(d)
        .flat_map(|x| (0..n).map(|j| along(x, 0) * write[j] + along(x, 1) * write[n + j]).collect::<Vec<_>>())
        .collect();
    let [two, all] = [2, d].map(|rank| LowRank::fit(&x, &y, (d, n), rank).unwrap());
    assert_eq!((two.sizes(), all.sizes()), ([d, 2, n], [d, d, n]));
    let one = LowRank::fit(&x, &y, (d, n), 1).unwrap();
    let apart = |other: &LowRank| {
        let pairs =
            x.chunks(d).flat_map(|x| predicted(other, x).into_iter().zip(predicted(&all, x)).collect::<Vec<_>>());
        pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    };
    // values of some units, decomposed and multiplied in f32; the second direction carries as much as the first
    assert!(apart(&two) < 1e-3 && apart(&one) > 0.1, "{} and {}", apart(&two), apart(&one));
}

#[test]
fn predictors_of_other_sizes_or_without_tokens_are_refused() {
    assert!(matches!(LowRank::fit(&[1.0; 4], &[1.0; 3], (4, 3), 1), Err(Error::Shape { what: "calibration", .. })));
    assert!(matches!(LowRank::fit(&[1.0; 8], &[1.0; 3], (4, 3), 1), Err(Error::Length { expected: 6, got: 3, .. })));
    assert!(matches!(LowRank::fit(&[f32::NAN; 8], &[1.0; 6], (4, 3), 1), Err(Error::Value { .. })));
    assert!(LowRank::new(2, 1, vec![0.0; 2], vec![0.0; 3], vec![0.0; 3]).is_ok());
    assert!(LowRank::new(2, 1, vec![0.0; 1], vec![0.0; 3], vec![0.0; 3]).is_err());
    // what never varies predicts the mean
    let constant = LowRank::fit(&[1.0; 8], &[1.0, 2.0, 3.0, 4.0], (4, 2), 2).unwrap();
    assert_eq!(predicted(&constant, &[1.0; 4]), [2.0, 3.0]);
}

/// A layer whose scores are these whatever its inputs are.
fn fixed(scores: Vec<f32>, units: Vec<u32>) -> PredictedLayer {
    let (d, n) = (32, scores.len());
    PredictedLayer { predictor: LowRank::new(d, 1, vec![0.0; d], vec![0.0; n], scores).unwrap(), units }
}

fn bits_of(selection: Selection<'_>, token: usize) -> Vec<usize> {
    let Selection::Masks(masks) = selection else { panic!("masks") };
    (0..masks.n()).filter(|&j| masks.token(token)[j / 64] >> (j % 64) & 1 == 1).collect()
}

proptest! {
    #[test]
    fn kept_are_the_neurons_of_the_units_of_the_highest_scores(seed: u64, d_ff in 3usize..150, clusters in 1usize..20) {
        let random = &mut Random::new(seed);
        let count = clusters.min(d_ff);
        let by_cluster = seed % 2 == 0;
        let n = if by_cluster { count } else { d_ff };
        // some are equal; none is −0, which a sum with 0 is not
        let scores: Vec<f32> = (0..n).map(|_| (random.weight(1.0) * 4.0).round() + 0.0).collect();
        let units: Vec<u32> = if by_cluster { (0..d_ff).map(|_| random.below(n) as u32).collect() } else { Vec::new() };
        let k = 1 + random.below(n);
        let layer = fixed(scores.clone(), units.clone());
        let config = Predicted::new(vec![layer.clone(), layer], k, false).unwrap();
        let mut policy = config.policy(&sizes(2, d_ff)).unwrap();
        let spans = [Span { slot: 0, start: 0, len: 2 }];
        policy.predict(1, &spans, &Observed::new(&[0.0; 64], 32, 32)).unwrap();
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
        let unit = |j: usize| units.get(j).map_or(j, |&unit| unit as usize);
        let expected: Vec<usize> = (0..d_ff).filter(|&j| order[..k].contains(&unit(j))).collect();
        for token in 0..2 {
            prop_assert_eq!(&bits_of(policy.select(1, &spans).unwrap(), token), &expected);
        }
        let kept = policy.observe(1, &spans, &Observed::LENGTHS).unwrap();
        prop_assert_eq!((kept.kept, kept.all), (2 * expected.len() as u64, 2 * d_ff as u64));
        prop_assert!(policy.select(1, &token(0, 0)).is_err(), "nothing was predicted of one token");
    }

    #[test]
    fn clusters_are_as_large_as_each_other(seed: u64, n in 1usize..120, count in 1usize..12) {
        let rows = Random::new(seed).weights(n * 5, 1.0);
        let clusters = balanced_clusters(&rows, 5, count).unwrap();
        let count = count.min(n);
        let sizes: Vec<usize> = (0..count as u32).map(|c| clusters.iter().filter(|&&other| other == c).count()).collect();
        prop_assert_eq!(sizes.iter().sum::<usize>(), n);
        prop_assert!(sizes.iter().all(|&size| size == n / count || size == n.div_ceil(count)), "{:?}", sizes);
    }
}

#[test]
fn clusters_are_of_rows_that_point_the_same_way() {
    let random = &mut Random::new(3);
    let rows: Vec<f32> = (0..30)
        .flat_map(|j| {
            let mut row = random.weights(3, 0.05);
            row[j % 3] += 1.0 + random.weight(0.5).abs();
            row
        })
        .collect();
    let clusters = balanced_clusters(&rows, 3, 3).unwrap();
    assert!(
        (0..30).all(|j| clusters[j] == clusters[j % 3]) && clusters[0] != clusters[1] && clusters[1] != clusters[2]
    );
}

#[test]
fn looking_ahead_chooses_a_layers_neurons_from_the_inputs_before() {
    // neuron j of 64 scores x[j % 32]; layer 1 the other way round
    let picks = |sign: f32| {
        let write = (0..32 * 64).map(|i| if i % 64 % 32 == i / 64 { sign } else { 0.0 }).collect();
        let read = (0..32 * 32).map(|i| f32::from(u8::from(i % 33 == 0))).collect();
        PredictedLayer { predictor: LowRank::new(32, 32, read, write, vec![0.0; 64]).unwrap(), units: Vec::new() }
    };
    let input =
        |large: usize| (0..32).map(|i| if i == large { 2.0 } else { 0.5 + i as f32 / 100.0 }).collect::<Vec<_>>();
    for ahead in [false, true] {
        let config = Predicted::new(vec![picks(1.0), picks(1.0), picks(1.0)], 2, ahead).unwrap();
        let mut policy = config.policy(&sizes(3, 64)).unwrap();
        // two calls, so that nothing of the first is left in the second
        for large in [[3, 7, 11], [4, 8, 12]] {
            for layer in 0..3 {
                policy.predict(layer, &token(0, 0), &Observed::new(&input(large[layer]), 32, 32)).unwrap();
                let from = if ahead { large[layer.saturating_sub(1)] } else { large[layer] };
                assert_eq!(
                    bits_of(policy.select(layer, &token(0, 0)).unwrap(), 0),
                    [from, from + 32],
                    "{ahead} {layer}"
                );
            }
        }
    }
}

#[test]
fn deja_vu_finds_neurons_that_follow_the_inputs() {
    // neuron j is active where x[j] is
    let (tokens, d) = (200, 16);
    let random = &mut Random::new(4);
    let x = random.weights(tokens * d, 1.0);
    let hidden: Vec<f32> = x.iter().map(|x| x.max(0.0)).collect();
    let config = deja_vu(std::slice::from_ref(&x), &[hidden], &[vec![1.0; d]], (0.25, false), Training::NONE).unwrap();
    let predictor = &config.layers()[0].predictor;
    let mut found = 0;
    let largest = |values: &[f32]| {
        let mut order: Vec<usize> = (0..d).collect();
        order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
        order[..4].to_vec()
    };
    let fresh = random.weights(50 * d, 1.0);
    for x in fresh.chunks(d) {
        let (mine, own) = (largest(&predicted(predictor, x)), largest(x));
        found += own.iter().filter(|j| mine.contains(j)).count();
    }
    // half of the 16 directions are followed; by chance a quarter of 200 would be found
    assert!(found > 100, "{found} of 200");
    assert!(matches!(
        deja_vu(&[x], &[vec![0.0; 16]], &[vec![1.0; d]], (1.5, false), Training::NONE),
        Err(Error::Value { .. })
    ));
}

#[test]
fn cores_count_how_often_a_neuron_is_among_the_largest_positive_ones() {
    let mut statistic = PromptStatistic::of_cores(6, 0.4).unwrap();
    // of five positive ones two are the core, of two one, of none none
    statistic.observe(&[5.0, 4.0, 3.0, 2.0, 1.0, -9.0]).unwrap();
    statistic.observe(&[-1.0, 1.0, 0.0, 0.0, 2.0, -2.0, -1.0, 0.0, -1.0, -1.0, -1.0, -1.0]).unwrap();
    let share = |count: f64| (count / 3.0).sqrt();
    assert_eq!(statistic.all_normalised(), [share(1.0), share(1.0), 0.0, 0.0, share(1.0), 0.0]);
    assert!(PromptStatistic::of_cores(6, 0.0).is_err());
    // by size, of six the largest three (⌈2.4⌉), of four two
    let mut statistic = PromptStatistic::of_cores(6, 0.4).unwrap().by_size();
    statistic.observe(&[5.0, 4.0, 3.0, 2.0, 1.0, -9.0]).unwrap();
    statistic.observe(&[-1.0, 1.0, 0.0, 0.0, 2.0, -3.0]).unwrap();
    let share = |count: f64| (count / 2.0).sqrt();
    assert_eq!(statistic.all_normalised(), [share(1.0), share(1.0), 0.0, 0.0, share(1.0), share(2.0)]);
}

/// Labels of the `k` largest of x's own values.
fn own_largest(x: &[f32], n: usize, k: usize) -> Vec<f32> {
    let ranks = |token: &[f32]| {
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|&a, &b| token[b].total_cmp(&token[a]));
        (0..n).map(|j| if order[..k].contains(&j) { 1.0 } else { 0.0 }).collect::<Vec<f32>>()
    };
    x.chunks(n).flat_map(ranks).collect()
}

#[test]
fn training_finds_more_ones_of_other_tokens_and_depends_on_the_seed_alone() {
    let (tokens, n) = (320, 12);
    let mut better = 0;
    for seed in 0..6 {
        let random = &mut Random::new(seed);
        let (x, fresh) = (random.weights(tokens * n, 1.0), random.weights(tokens * n, 1.0));
        let (labels, fresh_labels) = (own_largest(&x, n, 3), own_largest(&fresh, n, 3));
        // fitted to few tokens, so that there is something left to learn
        let start = LowRank::fit(&x[..20 * n], &labels[..20 * n], (n, n), n).unwrap();
        let trained = |seed| start.clone().trained(&x, &labels, Training { epochs: 60, seed }).unwrap();
        let found = trained(1);
        let recall = |predictor: &LowRank| predictor.recall(&fresh, &fresh_labels);
        better += usize::from(recall(&found) > recall(&start) + 0.01);
        assert_eq!(found, trained(1));
        assert_ne!(found, trained(2));
        assert_eq!(start.clone().trained(&x, &labels, Training::NONE).unwrap(), start);
        // what it is fitted to has all there is to learn: training may add nothing, and takes little away
        let fit = |training| LowRank::fit_and_train(&x, &labels, (n, n), 6, training).unwrap();
        let (fitted, both) = (fit(Training::NONE), fit(Training::STANDARD));
        assert_eq!(fitted, LowRank::fit(&x, &labels, (n, n), 6).unwrap());
        assert!(recall(&both) > recall(&fitted) - 0.02, "{seed}: {} {}", recall(&both), recall(&fitted));
    }
    assert_eq!(better, 6);
    let (x, n) = (vec![1.0; 64], 2);
    let start = LowRank::fit(&x, &[1.0; 64], (2, n), 1).unwrap();
    assert_eq!(start.clone().trained(&x, &[1.0; 64], Training::STANDARD).unwrap(), start, "all are ones");
    assert!(matches!(start.clone().trained(&x, &[0.0; 64], Training::STANDARD), Err(Error::Value { .. })));
    assert!(matches!(start.clone().trained(&x, &[0.0; 63], Training::STANDARD), Err(Error::Length { .. })));
    assert!(matches!(start.trained(&x, &[f32::NAN; 64], Training::STANDARD), Err(Error::Value { .. })));
}

#[test]
fn recall_is_the_share_of_ones_among_as_many_of_the_highest() {
    // scores are the inputs
    let read = vec![1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0];
    let own = LowRank::new(3, 3, read.clone(), read, vec![0.0; 3]).unwrap();
    let x = [3.0, 2.0, 1.0, 5.0, 5.0, 4.0];
    assert_eq!(own.recall(&x, &[1.0, 0.0, 1.0, 0.0, 1.0, 0.0]), 1.0 / 3.0);
    assert_eq!(own.recall(&x, &[1.0, 1.0, 0.0, 1.0, 0.0, 0.0]), 1.0);
    assert_eq!(own.recall(&x, &[0.0; 6]), 0.0);
}

#[test]
fn heads_are_predicted_from_the_mlp_before_for_what_is_generated() {
    // head h of layer 1 scores x[h]; layer 0 has its bias
    let read: Vec<f32> = (0..32 * 4).map(|i| f32::from(u8::from(i / 4 == i % 4))).collect();
    let write: Vec<f32> = (0..16).map(|i| f32::from(u8::from(i % 5 == 0))).collect();
    let follows = LowRank::new(32, 4, read, write, vec![0.0; 4]).unwrap();
    let fixed = LowRank::new(32, 1, vec![0.0; 32], vec![0.0; 4], vec![0.5, 2.0, 1.0, 2.0]).unwrap();
    let config = PredictedHeads::new(vec![fixed, follows], 2).unwrap();
    let mut policy = config.policy(&sizes(2, 64)).unwrap();
    let input = |large: [usize; 2]| (0..32).map(|i| if large.contains(&i) { 1.0 } else { 0.0 }).collect::<Vec<f32>>();
    let spans = [Span { slot: 0, start: 0, len: 3 }];
    assert_eq!(bits_of(policy.select(0, &spans).unwrap(), 0), [0, 1, 2, 3]);
    policy.predict(0, &spans, &Observed::new(&[0.0; 96], 32, 32)).unwrap();
    assert_eq!(bits_of(policy.select(1, &spans).unwrap(), 0), [0, 1, 2, 3]);
    assert_eq!(policy.observe(1, &spans, &Observed::LENGTHS).unwrap().all, 0);
    policy.begin_generation(0).unwrap();
    for large in [[0, 3], [1, 2]] {
        assert_eq!(bits_of(policy.select(0, &token(0, 3)).unwrap(), 0), [1, 3]);
        policy.predict(0, &token(0, 3), &Observed::new(&input(large), 32, 32)).unwrap();
        assert_eq!(bits_of(policy.select(1, &token(0, 3)).unwrap(), 0), large);
        let kept = policy.observe(1, &token(0, 3), &Observed::LENGTHS).unwrap();
        assert_eq!((kept.kept, kept.all), (2, 4));
        policy.predict(1, &token(0, 3), &Observed::new(&input(large), 32, 32)).unwrap();
    }
    // tokens of one span share their heads: head 0 twice, head 3 twice, head 1 once
    let both = [input([0, 3]), input([0, 1]), input([3, 9])].concat();
    let spans = [Span { slot: 0, start: 3, len: 3 }];
    policy.predict(0, &spans, &Observed::new(&both, 32, 32)).unwrap();
    assert_eq!(bits_of(policy.select(1, &spans).unwrap(), 0), [0, 3]);
    policy.reset(0).unwrap();
    assert_eq!(bits_of(policy.select(0, &token(0, 0)).unwrap(), 0), [0, 1, 2, 3]);
    assert!(policy.select(2, &token(0, 0)).is_err() && policy.select(0, &token(9, 0)).is_err());
    assert!(matches!(PredictedHeads::new(config.layers().to_vec(), 5), Err(Error::Shape { .. })));
    assert!(config.policy(&sizes(3, 64)).is_err());
}

#[test]
fn predictors_of_heads_find_those_that_follow_the_layer_before() {
    let shape = AttentionShape::new(4, 2, 8).unwrap();
    let (tokens, d) = (256, 16);
    let random = &mut Random::new(5);
    let inputs = [(); 2].map(|()| random.weights(tokens * d, 1.0));
    // in layer 1 head h puts out x[h] of layer 0, in layer 0 head 2 the most
    let outputs = [
        (0..tokens * 32).map(|i| if i % 32 / 8 == 2 { 3.0 } else { 0.1 }).collect::<Vec<f32>>(),
        (0..tokens * 32).map(|i| 2.0 + inputs[0][i / 32 * d + i % 32 / 8]).collect(),
    ];
    let found = predicted_heads(&inputs, &outputs, &shape, 0.25, Training::NONE).unwrap();
    assert!(found.layers()[0].parts()[1].iter().all(|&w| w == 0.0), "nothing is known before the first layer");
    assert_eq!(found.layers()[0].parts()[2], [0.0, 0.0, 1.0, 0.0]);
    let labels = largest_heads(&outputs[1], &shape, 1);
    let recall = found.layers()[1].recall(&inputs[0], &labels);
    // by chance a quarter
    assert!(recall > 0.7, "{recall}");
    assert_eq!(largest_heads(&outputs[0][..32], &shape, 1), [0.0, 0.0, 1.0, 0.0]);
    assert_eq!(largest_heads(&[1.0; 32], &shape, 2), [1.0, 1.0, 0.0, 0.0]);
}
