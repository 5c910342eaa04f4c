//! The policy that keeps the heads with large outputs.

use moray::Error;
use moray::attention::*;

use crate::case::noise;

fn choose(policy: HeadNorm, shape: (usize, usize), statistic: &[f32]) -> u32 {
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
            let expected = order[..n].iter().fold(0u32, |mask, head| mask | 1 << head);
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
    assert_eq!(choose(groups, (9, 3), &[1., 1., 1., 0., 9., 0., 5., 5., 5.]), 0b111_111_000);
    assert_eq!(choose(groups, (9, 3), &[2., 2., 2., 2., 0., 0., 0., 2., 0.]), 0b000_111_111);
    let nan = f32::NAN;
    assert_eq!(choose(groups, (9, 3), &[nan, nan, nan, 0., 0., nan, 0., 1., 0.]), 0b111_111_000);
}

#[test]
fn the_statistic_matches_the_weighted_mean_norm_over_any_split_of_the_prompt() {
    let shape = AttentionShape::new(4, 2, 8).unwrap();
    let prompt = noise(10 * 32, 3);
    let weights = [[1f32, 2.0, 0.5, 1.5], [3.0, 0.0, 1.0, 1.0]];
    for layer in 0..2 {
        let norm = |token: usize, head: usize| {
            let out = &prompt[token * 32 + head * 8..][..8];
            out.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt()
        };
        let mut means: Vec<(f64, usize)> =
            (0..4).map(|h| ((0..10).map(|t| norm(t, h)).sum::<f64>() * f64::from(weights[layer][h]), h)).collect();
        means.sort_by(|a, b| b.0.total_cmp(&a.0));
        let expected = 1u32 << means[0].1 | 1 << means[1].1;
        for split in [1, 3, 10] {
            let mut state = HeadNormState::new(HeadNorm::new(0.5, 0).unwrap(), shape, 2, 3).unwrap();
            for (layer, weights) in weights.iter().enumerate() {
                state.set_weights(layer, weights).unwrap();
                for start in (0..10).step_by(split) {
                    let len = split.min(10 - start);
                    state
                        .observe(layer, &[Span { slot: 2, start, len }], &prompt[start * 32..(start + len) * 32])
                        .unwrap();
                }
            }
            state.start_generation(2).unwrap();
            let mut mask = [0; 2];
            let spans = [Span { slot: 1, start: 0, len: 1 }, Span { slot: 2, start: 10, len: 1 }];
            state.mask(layer, &spans, &mut mask).unwrap();
            assert_eq!(mask, [u32::MAX, expected], "slot 1 is still in its prompt");
        }
    }
}

#[test]
fn every_refresh_th_token_runs_all_heads_and_chooses_again() {
    let shape = AttentionShape::new(4, 4, 8).unwrap();
    let mut state = HeadNormState::new(HeadNorm::new(0.25, 3).unwrap(), shape, 1, 1).unwrap();
    let token = |norms: [f32; 4]| norms.iter().flat_map(|&x| [x, 0., 0., 0., 0., 0., 0., 0.]).collect::<Vec<f32>>();
    let span = |start| [Span { slot: 0, start, len: 1 }];
    state.observe(0, &span(0), &token([4., 1., 1., 1.])).unwrap();
    state.start_generation(0).unwrap();
    let mut masks = Vec::new();
    for generated in 1..=9 {
        let mut mask = [0];
        state.mask(0, &span(generated), &mut mask).unwrap();
        masks.push(mask[0] & 0b1111);
        assert_eq!(state.runs_all(0), generated % 3 == 0);
        // Half of (4, 1, 1, 1) and (0, 2, 2, 6) is (2, 1.5, 1.5, 3.5): head 3 leads from token 3 on.
        state.observe(0, &span(generated), &token([0., 2., 2., if generated == 3 { 6. } else { 9. }])).unwrap();
        state.advance(0).unwrap();
    }
    assert_eq!(masks, [1, 1, 15, 8, 8, 15, 8, 8, 15]);
    state.reset(0).unwrap();
    assert!(state.runs_all(0));
    assert!(matches!(state.start_generation(0), Err(Error::Shape { .. })), "nothing was observed after the reset");
    // The statistic started anew.
    state.observe(0, &span(0), &token([0., 1., 0., 0.])).unwrap();
    state.start_generation(0).unwrap();
    let mut mask = [0];
    state.mask(0, &span(1), &mut mask).unwrap();
    assert_eq!(mask[0], 0b0010);
}

#[test]
fn head_norm_rejects_bad_arguments_with_a_typed_error() {
    for kept in [0.0, -0.5, 1.1, f32::NAN, f32::INFINITY] {
        assert!(matches!(HeadNorm::new(kept, 0), Err(Error::Value { what: "kept", .. })));
    }
    let shape = AttentionShape::new(4, 2, 8).unwrap();
    let policy = HeadNorm::new(0.5, 0).unwrap();
    assert!(matches!(policy.choose(&shape, &[0.0; 3], &mut [0]), Err(Error::Length { what: "statistic", .. })));
    assert!(matches!(policy.choose(&shape, &[0.0; 4], &mut [0; 2]), Err(Error::Length { what: "mask", .. })));
    let mut state = HeadNormState::new(policy, shape, 2, 2).unwrap();
    let span = |slot| [Span { slot, start: 0, len: 1 }];
    assert!(matches!(state.set_weights(2, &[1.0; 4]), Err(Error::Index { what: "layer", .. })));
    assert!(matches!(state.set_weights(0, &[1.0; 3]), Err(Error::Length { what: "weights", .. })));
    assert!(matches!(state.set_weights(0, &[1.0, 1.0, f32::NAN, 1.0]), Err(Error::Value { what: "weights", .. })));
    assert!(matches!(state.observe(0, &span(2), &[0.0; 32]), Err(Error::Index { what: "span slot", .. })));
    assert!(matches!(state.observe(2, &span(0), &[0.0; 32]), Err(Error::Index { what: "layer", .. })));
    assert!(matches!(state.observe(0, &span(0), &[0.0; 31]), Err(Error::Length { what: "out", .. })));
    assert!(matches!(state.mask(0, &span(0), &mut [0; 2]), Err(Error::Length { what: "mask", .. })));
    for result in [state.start_generation(2), state.advance(2), state.reset(2)] {
        assert!(matches!(result, Err(Error::Index { what: "slot", limit: 2, got: 2 })));
    }
}
