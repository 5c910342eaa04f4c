//! WINA against its definition.

use moray::Error;
use moray::policy::{Kept, Named, Observed, PolicyConfig, Projection, Site, Wina};
use moray::sparse_mlp::{ScoreOn, Selection};

use crate::{sizes, token};

#[test]
fn shares_are_exact_and_scores_have_the_norms_of_the_columns() {
    let norms: Vec<f32> = (0..64).map(|k| (k % 7) as f32).collect();
    let config = Wina::exact(Projection::Down, 0.3, vec![norms.clone(); 2]).unwrap();
    let mut policy = config.policy(&sizes(2, 64)).unwrap();
    assert_eq!(policy.site(), Site::Inputs(Projection::Down));
    let Selection::TopK { score, k: 20 } = policy.select(1, &token(0, 0)).unwrap() else { panic!("20 of 64") };
    assert_eq!((score.on, score.channel_scale), (ScoreOn::Input, Some(&norms[..])));
    assert_eq!(policy.observe(1, &token(0, 0), &Observed::LENGTHS).unwrap(), Kept::each(1, 20, 64));
    assert!(policy.select(2, &token(0, 0)).is_err());
}

#[test]
fn thresholds_count_what_is_above_them() {
    let norms = vec![vec![1.0, 2.0, 0.0, 4.0]];
    let attention = moray::attention::AttentionShape::new(1, 1, 8).unwrap();
    let model = moray::policy::ModelSizes { n_layers: 1, d_model: 4, d_ff: 8, attention };
    let sizes = moray::policy::Sizes { model, slots: 1, max_tokens: 1 };
    let mut policy = Wina::above(Projection::Qkv, vec![1.0], norms).unwrap().policy(&sizes).unwrap();
    // 1.0, −1.2, 0 and 1.2, above 1
    let kept = policy.observe(0, &token(0, 0), &Observed::new(&[1.0, -0.6, 9.0, 0.3], 4, 4)).unwrap();
    assert_eq!(kept, Kept::each(1, 2, 4));
    assert!(matches!(policy.select(0, &token(0, 0)).unwrap(), Selection::Threshold { threshold: 1.0, .. }));
}

#[test]
fn other_numbers_and_sizes_are_refused() {
    let norms = || vec![vec![1.0; 32]; 2];
    assert!(matches!(Wina::exact(Projection::Qkv, 1.5, norms()), Err(Error::Value { .. })));
    assert!(matches!(Wina::exact(Projection::Qkv, 0.5, vec![vec![-1.0]]), Err(Error::Value { .. })));
    assert!(matches!(Wina::above(Projection::Qkv, vec![f32::NAN; 2], norms()), Err(Error::Value { .. })));
    assert!(matches!(Wina::above(Projection::Qkv, vec![0.0], norms()), Err(Error::Length { expected: 2, got: 1, .. })));
    let config = Wina::exact(Projection::Down, 0.5, norms()).unwrap();
    assert!(matches!(config.policy(&sizes(2, 64)), Err(Error::Length { expected: 64, got: 32, .. })));
    assert!(matches!(config.policy(&sizes(3, 32)), Err(Error::Length { expected: 3, got: 2, .. })));
    assert!(Named::parse(Site::INPUTS[2], "wina:0.5").is_ok() && Named::parse(Site::Neurons, "wina:0.5").is_err());
}
