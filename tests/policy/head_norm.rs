//! The policy that keeps the heads with large outputs.

use moray::Error;
use moray::attention::{AttentionShape, Span};
use moray::policy::{HeadNorm, Kept, ModelSizes, Observed, Policy, PolicyConfig, Sizes, Values, Wanted};
use moray::sparse_mlp::Selection;

use crate::common::Random;
use crate::sizes;

fn noise(n: usize, seed: u64) -> Vec<f32> {
    Random::new(seed).weights(n, 1.0)
}

fn made(config: &HeadNorm, attention: AttentionShape, n_layers: usize, slots: usize) -> Box<dyn Policy> {
    let model = ModelSizes { n_layers, d_model: 32, d_ff: 64, attention };
    config.policy(&Sizes { model, slots, max_tokens: 16 }).unwrap()
}

/// The heads of each span.
fn masks(policy: &mut dyn Policy, layer: usize, spans: &[Span]) -> Vec<u64> {
    match policy.select(layer, spans).unwrap() {
        Selection::Masks(masks) => (0..spans.len()).map(|span| masks.token(span)[0]).collect(),
        other => panic!("{other:?}"),
    }
}

fn choose(policy: HeadNorm, shape: (usize, usize), statistic: &[f32]) -> u64 {
    let mut mask = [0];
    policy.choose(&AttentionShape::new(shape.0, shape.1, 8).unwrap(), statistic, &mut mask).unwrap();
    mask[0]
}

#[test]
fn kept_heads_match_a_sort_with_ties_to_the_lower_index() {
    for seed in 0..50 {
        // Sixteenths, so that ties occur.
        let statistic: Vec<f32> = noise(30, seed).iter().map(|x| (x * 16.0).round() / 16.0).collect();
        for kept in [0.01, 0.1, 0.3, 0.5, 0.7, 1.0] {
            let mut order: Vec<usize> = (0..30).collect();
            order.sort_by(|&a, &b| statistic[b].partial_cmp(&statistic[a]).unwrap()); // stable
            let n = [(0.01, 1), (0.1, 3), (0.3, 9), (0.5, 15), (0.7, 21), (1.0, 30)]
                .iter()
                .find(|k| k.0 == kept)
                .unwrap()
                .1;
            let expected = order[..n].iter().fold(0u64, |mask, head| mask | 1 << head);
            assert_eq!(choose(HeadNorm::new(kept, 0).unwrap(), (30, 10), &statistic), expected, "kept {kept}");
        }
    }
}

#[test]
fn the_count_kept_is_rounded_up() {
    let statistic = [1.0; 9];
    for (kept, n) in [(1e-6, 1), (0.5, 5), (0.7, 7), (0.9, 9), (1.0, 9)] {
        assert_eq!(choose(HeadNorm::new(kept, 0).unwrap(), (9, 3), &statistic), (1 << n) - 1, "kept {kept}");
    }
}

#[test]
fn whole_groups_go_by_their_largest_head() {
    let groups = HeadNorm::new(0.6, 0).unwrap().whole_groups(); // 2 of 3
    assert_eq!(choose(groups.clone(), (9, 3), &[1., 1., 1., 0., 9., 0., 5., 5., 5.]), 0b111_111_000);
    assert_eq!(choose(groups.clone(), (9, 3), &[2., 2., 2., 2., 0., 0., 0., 2., 0.]), 0b000_111_111);
    let nan = f32::NAN;
    assert_eq!(choose(groups.clone(), (9, 3), &[nan, nan, nan, 0., 0., nan, 0., 1., 0.]), 0b111_111_000);
}

#[test]
fn the_statistic_matches_the_weighted_mean_norm_over_any_split_of_the_prompt() {
    let shape = AttentionShape::new(4, 2, 8).unwrap();
    let prompt = noise(10 * 32, 3);
    let weights = [[1f32, 2.0, 0.5, 1.5], [3.0, 0.0, 1.0, 1.0]];
    let config = HeadNorm::new(0.5, 0).unwrap().weighted(weights.concat()).unwrap();
    for layer in 0..2 {
        let norm = |token: usize, head: usize| {
            let out = &prompt[token * 32 + head * 8..][..8];
            out.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt()
        };
        let mut means: Vec<(f64, usize)> =
            (0..4).map(|h| ((0..10).map(|t| norm(t, h)).sum::<f64>() * f64::from(weights[layer][h]), h)).collect();
        means.sort_by(|a, b| b.0.total_cmp(&a.0));
        let expected = 1u64 << means[0].1 | 1 << means[1].1;
        for split in [1, 3, 10] {
            let mut policy = made(&config, shape, 2, 3);
            for layer in 0..2 {
                for start in (0..10).step_by(split) {
                    let len = split.min(10 - start);
                    let observed = Observed::new(&prompt[start * 32..(start + len) * 32], 32, 32);
                    policy.observe(layer, &[Span { slot: 2, start, len }], &observed).unwrap();
                }
            }
            policy.begin_generation(2).unwrap();
            let spans = [Span { slot: 1, start: 0, len: 1 }, Span { slot: 2, start: 10, len: 1 }];
            assert_eq!(masks(&mut *policy, layer, &spans), [0b1111, expected], "slot 1 is still in its prompt");
        }
    }
}

#[test]
fn every_refresh_th_token_runs_all_heads_and_chooses_again() {
    let shape = AttentionShape::new(4, 4, 8).unwrap();
    let mut policy = made(&HeadNorm::new(0.25, 3).unwrap(), shape, 1, 1);
    let token = |norms: [f32; 4]| norms.iter().flat_map(|&x| [x, 0., 0., 0., 0., 0., 0., 0.]).collect::<Vec<f32>>();
    let span = |start| [Span { slot: 0, start, len: 1 }];
    let show = |policy: &mut Box<dyn Policy>, start, norms| {
        policy.observe(0, &span(start), &Observed::new(&token(norms), 32, 32)).unwrap()
    };
    show(&mut policy, 0, [4., 1., 1., 1.]);
    policy.begin_generation(0).unwrap();
    let mut chosen = Vec::new();
    for generated in 1..=9 {
        chosen.push(masks(&mut *policy, 0, &span(generated))[0]);
        assert_eq!(policy.wants(&span(generated)) == Wanted::Copied(Values::HeadOutputs), generated % 3 == 0);
        // Half of (4, 1, 1, 1) and (0, 2, 2, 6) is (2, 1.5, 1.5, 3.5): head 3 leads from token 3 on.
        let kept = show(&mut policy, generated, [0., 2., 2., if generated == 3 { 6. } else { 9. }]);
        assert_eq!(kept, if generated % 3 == 0 { Kept::default() } else { Kept::each(1, 1, 4) });
        policy.end_token(0).unwrap();
    }
    assert_eq!(chosen, [1, 1, 15, 8, 8, 15, 8, 8, 15]);
    policy.reset(0).unwrap();
    assert_eq!(policy.wants(&span(0)), Wanted::Copied(Values::HeadOutputs));
    assert!(matches!(policy.begin_generation(0), Err(Error::Shape { .. })), "nothing was observed after the reset");
    // The statistic started anew.
    show(&mut policy, 0, [0., 1., 0., 0.]);
    policy.begin_generation(0).unwrap();
    assert_eq!(masks(&mut *policy, 0, &span(1)), [0b0010]);
}

#[test]
fn head_norm_rejects_bad_arguments_with_a_typed_error() {
    for kept in [0.0, -0.5, 1.1, f32::NAN, f32::INFINITY] {
        assert!(matches!(HeadNorm::new(kept, 0), Err(Error::Value { what: "kept fraction", .. })));
    }
    let shape = AttentionShape::new(4, 2, 8).unwrap();
    let config = HeadNorm::new(0.5, 0).unwrap();
    assert!(matches!(config.choose(&shape, &[0.0; 3], &mut [0]), Err(Error::Length { what: "statistic", .. })));
    assert!(matches!(config.choose(&shape, &[0.0; 4], &mut [0; 2]), Err(Error::Length { what: "mask", .. })));
    for weight in [f32::NAN, -1.0] {
        let weighted = config.clone().weighted(vec![1.0, 1.0, weight, 1.0]);
        assert!(matches!(weighted, Err(Error::Value { what: "weights", .. })));
    }
    let few = config.clone().weighted(vec![1.0; 7]).unwrap().policy(&sizes(2, 64));
    assert!(matches!(few, Err(Error::Length { what: "weights", expected: 8, got: 7 })));
    let mut policy = made(&config, shape, 2, 2);
    let span = |slot| [Span { slot, start: 0, len: 1 }];
    let mut observe = |layer, slot, n: usize| policy.observe(layer, &span(slot), &Observed::new(&vec![0.0; n], n, n));
    assert!(matches!(observe(0, 2, 32), Err(Error::Index { what: "slot", .. })));
    assert!(matches!(observe(2, 0, 32), Err(Error::Index { what: "layer", .. })));
    assert!(matches!(observe(0, 0, 31), Err(Error::Length { expected: 32, got: 31, .. })));
    assert!(matches!(policy.select(2, &span(0)), Err(Error::Index { what: "layer", .. })));
    for result in [policy.begin_generation(2), policy.end_token(2), policy.reset(2)] {
        assert!(matches!(result, Err(Error::Index { what: "slot", limit: 2, got: 2 })));
    }
}
