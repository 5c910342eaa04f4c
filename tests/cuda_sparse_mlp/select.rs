//! Selections, exactly: masks, unions, what a score keeps of the device's own values, the prompt statistic.

use moray::Device;
use moray::policy::{self, Griffin, LayerRule, Tda};
use moray::sparse_mlp::cuda::{
    Keep, NeuronList, PromptStatistic, Score, Selection, mask_words, select_mask, upload_masks,
};
use moray::sparse_mlp::{ScoreOn, TokenMasks};

use crate::common::{Random, bits};
use crate::device::device;
use crate::run::{Model, call, shape};

/// Exactly k numbers of the highest scores, the lower index first where equal, by a full sort; NaN is none.
fn top(scores: &[f32], k: usize) -> Vec<bool> {
    let mut order: Vec<usize> = (0..scores.len()).filter(|&i| !scores[i].is_nan()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    let mut kept = vec![false; scores.len()];
    order.iter().take(k).for_each(|&i| kept[i] = true);
    kept
}

fn scores(values: &[f32], scale: Option<&[f32]>) -> Vec<f32> {
    values.iter().enumerate().map(|(i, v)| v.abs() * scale.map_or(1.0, |scale| scale[i])).collect()
}

fn masked(words: &[u32], token: usize, n: usize) -> Vec<bool> {
    let words = &words[token * mask_words(n)..][..mask_words(n)];
    assert!((n..words.len() * 32).all(|i| words[i / 32] >> (i % 32) & 1 == 0), "bits past n are 0");
    (0..n).map(|i| words[i / 32] >> (i % 32) & 1 == 1).collect()
}

fn check_masks(device: &Device, values: &[f32], tokens: usize, n: usize, stride: usize, scale: Option<&[f32]>) {
    let on_device = device.upload(values).unwrap();
    let device_scale = scale.map(|scale| device.upload(scale).unwrap());
    let scores: Vec<Vec<f32>> = (0..tokens).map(|t| scores(&values[t * stride..][..n], scale)).collect();
    let select = |keep| {
        let mut masks = device.upload(&vec![u32::MAX; tokens * mask_words(n)]).unwrap();
        select_mask(device, &on_device, tokens, n, stride, device_scale.as_ref(), keep, &mut masks).unwrap();
        device.download(&masks).unwrap()
    };
    for k in [1, 2, n / 3, n - 1, n].into_iter().filter(|k| (1..=n).contains(k)) {
        let words = select(Keep::Top(k));
        for (t, scores) in scores.iter().enumerate() {
            assert_eq!(masked(&words, t, n), top(scores, k), "top {k} of {n}, token {t}");
        }
    }
    for threshold in [0.0, scores[0][n / 2].min(1e30), 1e30] {
        let threshold = if threshold.is_nan() { 0.5 } else { threshold };
        let words = select(Keep::Above(threshold));
        for (t, scores) in scores.iter().enumerate() {
            let expected: Vec<bool> = scores.iter().map(|&s| s > threshold).collect();
            assert_eq!(masked(&words, t, n), expected, "above {threshold} of {n}, token {t}");
        }
    }
}

#[test]
fn masks_match_a_full_sort_with_ties_and_special_values() {
    let Some(device) = device() else { return };
    let mut random = Random::new(21);
    for n in [1, 31, 64, 65, 1000, 1024, 1025, 3000] {
        let (tokens, stride) = (3, n + 5);
        let mut values = random.weights(tokens * stride, 1.0);
        // the second token has few distinct values, the third special ones
        values[stride..2 * stride].iter_mut().for_each(|v| *v = (*v * 2.0).round() / 2.0);
        for (i, v) in values[2 * stride..].iter_mut().enumerate() {
            match i % 7 {
                0 => *v = f32::NAN,
                1 => *v = if i % 2 == 0 { f32::INFINITY } else { f32::NEG_INFINITY },
                2 => *v = -0.0,
                3 => *v = 1e-42,
                _ => {}
            }
        }
        let factors: Vec<f32> = (0..n).map(|_| random.unit()).collect();
        check_masks(&device, &values, tokens, n, stride, None);
        check_masks(&device, &values, tokens, n, stride, Some(&factors));
    }
}

#[test]
fn union_matches_the_hosts_in_order() {
    let Some(device) = device() else { return };
    let mut random = Random::new(22);
    for (n, tokens, q) in [(1, 1, 1.0), (64, 3, 0.0), (100, 5, 0.2), (3000, 2, 0.5), (70_000, 4, 0.01), (33, 64, 1.0)] {
        let per_token = usize::div_ceil(n, 64);
        let mut words = vec![0u64; tokens * per_token];
        for t in 0..tokens {
            (0..n).filter(|_| random.unit() < q).for_each(|i| words[t * per_token + i / 64] |= 1 << (i % 64));
        }
        let host = TokenMasks::new(&words, tokens, n).unwrap();
        let mut list = NeuronList::new(&device, n).unwrap();
        list.set_union(&device, &upload_masks(&device, &host).unwrap(), tokens).unwrap();
        assert_eq!(list.download(&device).unwrap(), host.union().indices());
    }
}

#[test]
fn scores_keep_what_the_definition_keeps_of_the_same_values() {
    let Some(device) = device() else { return };
    let mut random = Random::new(23);
    let (d_model, d_ff, tokens) = (64, 160, 3);
    let models = [
        Model::f16(&device, &mut random, shape(d_model, d_ff)),
        Model::four_bit(&device, &mut random, [2, 1, 3], 32, shape(d_model, d_ff)),
    ];
    let x = random.weights(tokens * d_model, 1.0);
    let factors: Vec<f32> = (0..d_ff).map(|_| random.unit()).collect();
    let device_factors = device.upload(&factors).unwrap();
    for model in &models {
        let dense = call(&device, &model.device, &x, &Selection::All, None);
        for on in [ScoreOn::Gate, ScoreOn::Hidden] {
            let values = if on == ScoreOn::Gate { &dense.gate } else { &dense.hidden };
            for scaled in [false, true] {
                let host_scale = scaled.then_some(&factors[..]);
                let score = Score { on, channel_scale: scaled.then_some(&device_factors) };
                let of_token = |t: usize| scores(&values[t * dense.stride..][..d_ff], host_scale);
                let threshold = of_token(0)[7];
                let above = |t: usize| of_token(t).iter().map(|&s| s > threshold).collect::<Vec<bool>>();
                let threshold_case = (Selection::Threshold { score, threshold }, (0..tokens).map(above).collect());
                let top_case = (Selection::TopK { score, k: 40 }, (0..tokens).map(|t| top(&of_token(t), 40)).collect());
                for (selection, kept) in [threshold_case, top_case] {
                    let kept: Vec<Vec<bool>> = kept;
                    let out = call(&device, &model.device, &x, &selection, None);
                    let union = (0..d_ff as u32).filter(|&j| kept.iter().any(|kept| kept[j as usize]));
                    assert!(out.kept.iter().copied().eq(union), "{selection:?}");
                    for (t, kept) in kept.iter().enumerate() {
                        for (at, &j) in out.kept.iter().enumerate() {
                            let dense = dense.hidden[t * dense.stride + j as usize];
                            let expected = if kept[j as usize] { dense } else { 0.0 };
                            let got = out.hidden[t * out.stride + at];
                            assert_eq!(got.to_bits(), expected.to_bits(), "{selection:?}, token {t}, neuron {j}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn scores_on_inputs_match_a_dense_call_with_the_inputs_zeroed() {
    let Some(device) = device() else { return };
    let mut random = Random::new(24);
    let (d_model, tokens) = (96, 2);
    for model in [
        Model::bf16(&device, &mut random, shape(d_model, 64)),
        Model::four_bit(&device, &mut random, [1; 3], 32, shape(d_model, 64)),
    ] {
        let x = random.weights(tokens * d_model, 1.0);
        let score = Score { on: ScoreOn::Input, channel_scale: None };
        let out = call(&device, &model.device, &x, &Selection::TopK { score, k: 30 }, None);
        let zeroed: Vec<f32> = x
            .chunks_exact(d_model)
            .flat_map(|x| {
                let kept = top(&scores(x, None), 30);
                x.iter().zip(kept).map(|(&x, kept)| if kept { x } else { 0.0 }).collect::<Vec<_>>()
            })
            .collect();
        let expected = call(&device, &model.device, &zeroed, &Selection::All, None);
        assert_eq!(bits(&out.y), bits(&expected.y));
    }
}

#[test]
fn prompt_statistic_and_its_selections_match_the_cpu_bit_for_bit() {
    let Some(device) = device() else { return };
    let mut random = Random::new(25);
    let (d_ff, stride) = (300, 320);
    let mut host = policy::PromptStatistic::new(d_ff).unwrap();
    let mut statistic = PromptStatistic::new(&device, d_ff).unwrap();
    for tokens in [1, 70, 3] {
        let mut values = random.weights(tokens * stride, 1.0);
        values[..stride].fill(0.0); // a token of zeros is counted
        for row in values.chunks_exact(stride) {
            host.observe(&row[..d_ff]).unwrap();
        }
        let values = device.upload(&values).unwrap();
        statistic.observe(&device, &values, tokens, stride).unwrap();
    }
    assert_eq!(statistic.tokens(), host.tokens());
    // the mean square is the host's own rounding of the square, so equal normalised values of all neurons are equal squares
    let squares = statistic.squares(&device).unwrap();
    for (j, square) in squares.iter().enumerate() {
        assert_eq!((square / 74.0).sqrt().to_bits(), host.normalised(j).to_bits(), "neuron {j}");
    }
    let mut list = NeuronList::new(&device, d_ff).unwrap();
    for kept in [0.1, 0.5, 1.0] {
        let griffin = Griffin::new(kept).unwrap().list(0, &host).unwrap();
        statistic.select_top(&device, griffin.indices().len(), &mut list).unwrap();
        assert_eq!(list.download(&device).unwrap(), griffin.indices());
    }
    for threshold in [0.0, host.normalised(17), 2.0] {
        let tda = Tda::new(vec![threshold]).unwrap().list(0, &host).unwrap();
        statistic.select_above(&device, threshold, &mut list).unwrap();
        assert_eq!(list.download(&device).unwrap(), tda.indices());
    }
    statistic.clear(&device).unwrap();
    assert!(statistic.select_top(&device, 1, &mut list).is_err());
}
