//! Policies that choose before any text: random, and static by magnitude.

use moray::Error;
use moray::attention::Span;
use moray::policy::{
    Calibrate, Calibration, Kept, Lists, Magnitude, Observed, Policy, PolicyConfig, Random, Site, Values, Wanted,
    kept_count,
};
use moray::sparse_mlp::{NeuronList, Selection};
use proptest::prelude::*;

use crate::{common, sizes, token};

fn list(policy: &mut dyn Policy, layer: usize, spans: &[Span]) -> Vec<u32> {
    match policy.select(layer, spans).unwrap() {
        Selection::List(list) => list.indices().to_vec(),
        other => panic!("{other:?}"),
    }
}

/// The first number of SplitMix64 from `seed`.
fn split_mix(seed: u64) -> u64 {
    common::Random::new(seed).bits()
}

proptest! {
    #[test]
    fn random_keeps_the_smallest_keys_of_each_layer_for_every_token(kept in 0.01f32..=1.0, d_ff in 1usize..150) {
        let sizes = sizes(3, d_ff);
        let mut policy = Random::new(Site::Neurons, kept).unwrap().policy(&sizes).unwrap();
        for layer in 0..3u64 {
            let mut order: Vec<u64> = (0..d_ff as u64).collect();
            order.sort_by_key(|&j| split_mix(split_mix(layer) ^ j));
            let mut expected: Vec<u32> = order.iter().take(kept_count(kept, d_ff).unwrap()).map(|&j| j as u32).collect();
            expected.sort_unstable();
            for spans in [token(0, 0), token(1, 7)] {
                prop_assert_eq!(&list(&mut *policy, layer as usize, &spans), &expected);
            }
            let observed = policy.observe(layer as usize, &token(0, 0), &Observed::LENGTHS).unwrap();
            prop_assert_eq!(observed, Kept::each(1, expected.len(), d_ff));
        }
        prop_assert!(policy.is_settled(&token(0, 0)) && policy.wants(&token(0, 0)) == Wanted::Lengths);
    }

    #[test]
    fn static_keeps_the_largest_means_of_neurons(seed: u64, kept in 0.01f32..=1.0, tokens in 1usize..20) {
        let (random, d_ff) = (&mut common::Random::new(seed), 70);
        // sixteenths, so that some are equal and every sum is exact
        let mut values = |_| (random.weight(1.0) * 16.0).round() / 16.0;
        let activations: Vec<f32> = (0..2 * tokens * d_ff).map(&mut values).collect();
        let mut magnitude = Magnitude::of_neurons(2, d_ff).unwrap();
        for (i, row) in activations.chunks(d_ff).enumerate() {
            magnitude.observe(i % 2, row).unwrap();
        }
        let lists = magnitude.finish(kept).unwrap();
        for layer in 0..2 {
            let mean = |j: usize| -> f64 {
                let rows = activations.chunks(d_ff).skip(layer).step_by(2);
                rows.map(|row| f64::from(row[j].abs())).sum::<f64>() / tokens as f64
            };
            let mut order: Vec<usize> = (0..d_ff).collect();
            order.sort_by(|&a, &b| mean(b).total_cmp(&mean(a))); // stable
            let mut expected: Vec<u32> = order.iter().take(kept_count(kept, d_ff).unwrap()).map(|&j| j as u32).collect();
            expected.sort_unstable();
            prop_assert_eq!(lists.lists()[layer].indices(), &expected[..]);
        }
    }
}

#[test]
fn static_keeps_the_heads_with_the_largest_mean_norms() {
    let sizes = sizes(1, 64);
    let calibrate = Calibrate::new(Magnitude::of_heads(1, sizes.model.attention).unwrap());
    let mut observer = calibrate.policy(&sizes).unwrap();
    assert_eq!((observer.site(), observer.wants(&token(0, 0))), (Site::Heads, Wanted::Copied(Values::HeadOutputs)));
    assert!(matches!(observer.select(0, &token(0, 0)).unwrap(), Selection::All) && !observer.is_settled(&token(0, 0)));
    // norms 5 and 5, 6 and 0, 0 and 9, 1 and 1: means 5, 3, 4.5, 1
    let rows = [[[3.0, 4.0], [6.0, 0.0], [0.0, 0.0], [1.0, 0.0]], [[-5.0, 0.0], [0.0, 0.0], [0.0, -9.0], [0.0, 1.0]]];
    let head = |h: [f32; 2]| [h[0], h[1], 0., 0., 0., 0., 0., 0.];
    let outs: Vec<f32> = rows.iter().flatten().flat_map(|&h| head(h)).collect();
    let spans = [Span { slot: 0, start: 0, len: 2 }];
    assert_eq!(observer.observe(0, &spans, &Observed::new(&outs, 32, 32)).unwrap(), Kept::default());
    for (kept, expected) in [(0.5, &[0, 2][..]), (0.75, &[0, 1, 2]), (1.0, &[0, 1, 2, 3])] {
        let lists = calibrate.with(|magnitude| magnitude.finish(kept)).unwrap();
        let mut policy = lists.policy(&sizes).unwrap();
        assert_eq!((policy.site(), &list(&mut *policy, 0, &token(1, 3))[..]), (Site::Heads, expected));
    }
}

#[test]
fn bad_lists_and_calibrations_are_refused() {
    assert!(Random::new(Site::Heads, 0.0).is_err() && Magnitude::of_neurons(0, 4).is_err());
    let mut magnitude = Magnitude::of_neurons(2, 4).unwrap();
    assert!(matches!(magnitude.observe(2, &[1.0; 4]), Err(Error::Index { limit: 2, got: 2, .. })));
    assert!(matches!(magnitude.observe(0, &[1.0; 3]), Err(Error::Length { expected: 4, got: 3, .. })));
    assert!(matches!(magnitude.observe(0, &[1.0, f32::NAN, 1.0, 1.0]), Err(Error::Value { .. })));
    magnitude.observe(0, &[1.0; 4]).unwrap();
    assert!(matches!(magnitude.finish(0.5), Err(Error::Shape { what: "calibration", .. })), "layer 1 saw nothing");
    magnitude.observe(1, &[1.0; 4]).unwrap();
    assert!(magnitude.finish(0.5).is_ok() && magnitude.finish(1.5).is_err());
    let lists = |limit, n| Lists::new(Site::Neurons, vec![NeuronList::from_fn(limit, |_| true); n]);
    assert!(matches!(lists(64, 1).policy(&sizes(2, 64)), Err(Error::Length { expected: 2, got: 1, .. })));
    assert!(matches!(lists(63, 2).policy(&sizes(2, 64)), Err(Error::Length { expected: 64, got: 63, .. })));
    assert!(lists(64, 2).policy(&sizes(2, 64)).unwrap().select(2, &token(0, 0)).is_err());
}
