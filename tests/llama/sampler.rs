//! The sampler against its definition.

use moray::llama::{Backend, LogitRows, Sampler, Sampling, Sequence};
use moray::{Cpu, Error};

use crate::common::Random;
use crate::plain::{Kind, Plain, roomy, tokens};

const LOGITS: [f32; 6] = [1.0, 2.5, -3.0, 2.0, 0.0, f32::NEG_INFINITY];

fn sampling(temperature: f32, top_p: f32, min_p: f32) -> Sampling {
    Sampling { temperature, top_p, min_p }
}

/// The distribution that settings ask for, from the definition: temperature, then top_p, then min_p.
fn distribution(logits: &[f32], Sampling { temperature, top_p, min_p }: Sampling) -> Vec<f64> {
    let weights: Vec<f64> = logits.iter().map(|&logit| f64::from(logit / temperature).exp()).collect();
    let total: f64 = weights.iter().sum();
    let largest = weights.iter().copied().fold(0.0, f64::max);
    let kept = |i: usize| {
        let before: f64 = weights.iter().filter(|&&weight| weight > weights[i]).sum();
        before < f64::from(top_p) * total && weights[i] >= f64::from(min_p) * largest && weights[i] > 0.0
    };
    let kept: Vec<f64> = weights.iter().enumerate().map(|(i, &w)| if kept(i) { w } else { 0.0 }).collect();
    let total: f64 = kept.iter().sum();
    kept.iter().map(|weight| weight / total).collect()
}

#[test]
fn greedy_matches_the_first_of_the_largest_for_any_seed() {
    for seed in 0..5 {
        let mut sampler = Sampler::new(Sampling::GREEDY, seed).unwrap();
        assert_eq!(sampler.sample(&LOGITS).unwrap(), 1);
        assert_eq!(sampler.sample(&[-1.0, 7.0, 7.0, 7.0]).unwrap(), 1);
        assert_eq!(sampler.sample(&[f32::NEG_INFINITY, f32::MIN]).unwrap(), 1);
    }
}

#[test]
fn draws_match_the_distribution_of_their_settings() {
    const DRAWS: usize = 20_000;
    let settings = [
        sampling(1.0, 1.0, 0.0),
        sampling(2.5, 1.0, 0.0),
        sampling(0.3, 1.0, 0.0),
        sampling(1.0, 0.8, 0.0),
        sampling(1.0, 0.05, 0.0),
        sampling(1.0, 1.0, 0.3),
        sampling(1.0, 1.0, 1.0),
        sampling(1.7, 0.95, 0.2),
    ];
    for (seed, sampling) in settings.into_iter().enumerate() {
        let mut sampler = Sampler::new(sampling, seed as u64).unwrap();
        let mut counts = [0usize; LOGITS.len()];
        (0..DRAWS).for_each(|_| counts[sampler.sample(&LOGITS).unwrap() as usize] += 1);
        for (token, probability) in distribution(&LOGITS, sampling).into_iter().enumerate() {
            // five standard deviations of a binomial count: one seed in a million draws further off
            let deviation = 5.0 * (DRAWS as f64 * probability * (1.0 - probability)).sqrt();
            let off = (counts[token] as f64 - DRAWS as f64 * probability).abs();
            assert!(off <= deviation, "{sampling:?}, token {token}: {counts:?}, p {probability}");
        }
    }
}

#[test]
fn the_same_seed_matches_itself_and_another_does_not() {
    let draw = |seed| {
        let mut sampler = Sampler::new(sampling(1.0, 0.9, 0.05), seed).unwrap();
        (0..200).map(|_| sampler.sample(&LOGITS).unwrap()).collect::<Vec<u32>>()
    };
    assert_eq!(draw(7), draw(7));
    assert_ne!(draw(7), draw(8));
}

#[test]
fn draws_match_the_inverse_of_the_cumulative_distribution_of_splitmix64() {
    for seed in [0, 1, u64::MAX] {
        let (mut random, mut sampler) = (Random::new(seed), Sampler::new(sampling(1.0, 1.0, 0.0), seed).unwrap());
        let probabilities = distribution(&LOGITS, sampling(1.0, 1.0, 0.0));
        for _ in 0..100 {
            let mut left = (random.bits() >> 11) as f64 / (1u64 << 53) as f64;
            let expected = probabilities.iter().position(|p| {
                left -= p;
                left < 0.0
            });
            assert_eq!(sampler.sample(&LOGITS).unwrap() as usize, expected.unwrap());
        }
    }
}

#[test]
fn settings_out_of_range_are_refused() {
    let bad = [
        (sampling(-0.1, 1.0, 0.0), "temperature"),
        (sampling(f32::NAN, 1.0, 0.0), "temperature"),
        (sampling(f32::INFINITY, 1.0, 0.0), "temperature"),
        (sampling(1.0, 0.0, 0.0), "top_p"),
        (sampling(1.0, 1.1, 0.0), "top_p"),
        (sampling(1.0, f32::NAN, 0.0), "top_p"),
        (sampling(1.0, 1.0, -0.1), "min_p"),
        (sampling(1.0, 1.0, 1.1), "min_p"),
    ];
    for (sampling, argument) in bad {
        let error = Sampler::new(sampling, 0).unwrap_err();
        assert!(matches!(error, Error::Value { what, .. } if what == argument), "{error}");
    }
}

#[test]
fn logits_without_a_choice_are_refused() {
    let mut sampler = Sampler::new(sampling(1.0, 1.0, 0.0), 0).unwrap();
    assert!(matches!(sampler.sample(&[]), Err(Error::Length { what: "logits", expected: 1, got: 0 })));
    for logits in [&[1.0, f32::NAN][..], &[f32::INFINITY, 0.0], &[f32::NEG_INFINITY; 3]] {
        assert!(matches!(sampler.sample(logits), Err(Error::Value { what: "logits", .. })), "{logits:?}");
    }
}

/// The definition by sorting: tokens by falling probability and rising index, kept while those before make up less than top_p.
fn kept_by_sorting(logits: &[f32], Sampling { temperature, top_p, min_p }: Sampling) -> Vec<u32> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let p: Vec<f64> = logits.iter().map(|&logit| f64::from((logit - largest) / temperature).exp()).collect();
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[b].total_cmp(&p[a]).then(a.cmp(&b)));
    let total: f64 = p.iter().sum();
    let mut before = 0.0;
    let mut kept = Vec::new();
    for token in order {
        if before < f64::from(top_p) * total && p[token] >= f64::from(min_p) {
            kept.push(token as u32);
        }
        before += p[token];
    }
    kept.sort_unstable();
    kept
}

#[test]
fn drawn_tokens_match_those_that_sorting_keeps_among_equal_logits() {
    // 64 tokens of two logits; cuts that fall among either and not within rounding of an edge
    let logits: Vec<f32> = (0..64).map(|token| if token % 3 == 0 { 1.0 } else { 0.0 }).collect();
    let settings = [(0.1, 0.0), (0.3, 0.0), (0.5, 0.0), (0.77, 0.0), (0.99, 0.0), (0.9, 0.5), (1.0, 0.5)];
    for (seed, (top_p, min_p)) in settings.into_iter().enumerate() {
        let sampling = sampling(1.0, top_p, min_p);
        let mut sampler = Sampler::new(sampling, seed as u64).unwrap();
        // every kept token has at least e⁻¹/64 of the mass: 3000 draws leave one out three times in 10⁸
        let mut drawn: Vec<u32> = (0..3000).map(|_| sampler.sample(&logits).unwrap()).collect();
        drawn.sort_unstable();
        drawn.dedup();
        assert_eq!(drawn, kept_by_sorting(&logits, sampling), "top_p {top_p}, min_p {min_p}");
    }
}

#[test]
fn more_logits_than_sums_have_room_for_are_refused() {
    let mut sampler = Sampler::new(Sampling::GREEDY, 0).unwrap();
    let error = sampler.sample(&vec![0.0; (1 << 24) + 1]).unwrap_err();
    assert!(matches!(error, Error::Shape { what: "logits", .. }), "{error}");
}

#[test]
fn next_tokens_match_samplers_over_the_logits_of_each_sequence() {
    let (cpu, plain) = (Cpu::detect(), Plain::new(&Kind::default(), 31));
    let model = plain.dense();
    let samplers = [1, 2].map(|seed| Sampler::new(sampling(1.0, 0.9, 0.0), seed).unwrap());
    let mut on_backend = cpu.samplers(&samplers, model.config().vocab).unwrap();
    let mut sessions = [0, 1].map(|_| model.session(&cpu, roomy(20)).unwrap());
    let mut samplers = samplers;
    let mut next = [tokens(1, 4), tokens(2, 7)];
    for _ in 0..6 {
        let sequences = [0, 1].map(|slot| Sequence { slot, tokens: &next[slot] });
        let logits = model.forward(&cpu, &mut sessions[0], &sequences, LogitRows::Last).unwrap();
        let rows = logits.chunks(model.config().vocab).zip(&mut samplers);
        let expected: Vec<u32> = rows.map(|(logits, sampler)| sampler.sample(logits).unwrap()).collect();
        let got = model.next_tokens(&cpu, &mut sessions[1], &sequences, &mut on_backend).unwrap();
        assert_eq!(got, expected);
        next = [vec![expected[0]], vec![expected[1]]];
    }
    let sequence = [Sequence { slot: 0, tokens: &next[0] }];
    let error = model.next_tokens(&cpu, &mut sessions[1], &sequence, &mut on_backend).unwrap_err();
    assert_eq!(error, Error::Length { what: "samplers", expected: 1, got: 2 });
    assert_eq!(sessions[1].len(0), 4 + 5);
}
