//! Bad input is a typed error, and nothing has been written.

use moray::sparse_mlp::{
    IndexList, Matrix, NeuronList, Score, ScoreOn, Selection, Shape, TokenMasks, Weights, Workspace, forward,
};
use moray::w4a8::{Format, quantize};
use moray::{Cpu, Error};

use crate::case::{four_bit, shape};
use crate::common::Random;

#[test]
fn bad_lists_and_masks_are_refused_by_name() {
    assert_eq!(IndexList::new(&[1, 4], 4).unwrap_err(), Error::Index { what: "list", limit: 4, got: 4 });
    let repeated = Error::NotIncreasing { what: "list", previous: 2, got: 2 };
    assert_eq!(IndexList::new(&[1, 2, 2], 4).unwrap_err(), repeated);
    assert!(matches!(NeuronList::new(vec![3, 1], 4), Err(Error::NotIncreasing { .. })));
    assert!(matches!(IndexList::with_count(&[1], 2, 4), Err(Error::Length { expected: 2, got: 1, .. })));
    assert_eq!(TokenMasks::new(&[0, 1 << 5], 2, 5).unwrap_err(), Error::Index { what: "masks", limit: 5, got: 5 });
    assert!(matches!(TokenMasks::new(&[0; 3], 2, 64), Err(Error::Length { expected: 2, got: 3, .. })));
}

#[test]
fn bad_weights_are_refused_by_name() {
    let shape = shape(64, 64);
    let good = quantize(&vec![0.1; 4096], 64, 64, Format::per_channel()).unwrap();
    for format in [Format::w8(), Format::two_level(32)] {
        let bad = quantize(&vec![0.1; 4096], 64, 64, format).unwrap();
        assert!(matches!(
            Weights::from_quantized(shape, &good, &bad, &good),
            Err(Error::Unsupported { what: "up", .. })
        ));
        assert!(matches!(
            Weights::from_quantized(shape, &good, &good, &bad),
            Err(Error::Unsupported { what: "down", .. })
        ));
    }
    let wide = quantize(&vec![0.1; 8192], 64, 128, Format::per_channel()).unwrap();
    assert!(matches!(Weights::from_quantized(shape, &wide, &good, &good), Err(Error::Shape { got: 128, .. })));
    let narrow = Shape { d_model: 48, ..shape };
    let (n48, k48) = (quantize(&vec![0.1; 48 * 64], 48, 64, Format::per_channel()).unwrap(), good.clone());
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
    let x = vec![1.0; 128];
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
    let other = four_bit(random, [2; 3], 32, shape(64, 64)).weights;
    assert!(matches!(refused(&other, &x[..64], &all, &mut ws), Error::Length { .. }));
    assert!(Workspace::new(&weights, 0).is_err());
    let mut y = [7.0; 63];
    let error = forward(&cpu, &weights, &[0.0; 64], &all, None, &mut y, &mut ws).unwrap_err();
    assert_eq!(error, Error::Length { what: "y", expected: 64, got: 63 });
}
