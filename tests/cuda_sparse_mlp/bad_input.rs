//! Refusals: typed, before any launch, and the device goes on.

use moray::Error;
use moray::sparse_mlp::cuda::{
    Keep, NeuronList, PromptStatistic, Score, Selection, Weights, Workspace, forward, mask_words, select_mask,
};
use moray::sparse_mlp::{IndexList, ScoreOn, Weights as HostWeights};

use crate::common::Random;
use crate::device::{device, metered};
use crate::run::{Model, call, shape};

#[test]
fn weights_that_no_kernel_takes_are_refused() {
    let Some(device) = device() else { return };
    let ones = vec![1.0f32; 64];
    let host = HostWeights::new(shape(8, 8), &ones, &ones, &ones).unwrap();
    assert!(matches!(Weights::upload(&device, &host).unwrap_err(), Error::Unsupported { what: "weights", .. }));
    let ones = vec![half::f16::ONE; 96];
    let host = HostWeights::new(shape(12, 8), &ones, &ones, &ones).unwrap();
    assert!(matches!(Weights::upload(&device, &host).unwrap_err(), Error::Shape { what: "d_model", got: 12, .. }));
}

#[test]
fn calls_that_do_not_fit_are_refused_and_the_device_goes_on() {
    let Some(device) = device() else { return };
    let mut random = Random::new(51);
    let model = Model::f16(&device, &mut random, shape(16, 40));
    let other = Model::four_bit(&device, &mut random, [0; 3], 32, shape(32, 64));
    let x = device.zeros::<f32>(64).unwrap();
    let mut y = device.zeros::<f32>(64).unwrap();
    let mut workspace = Workspace::new(&device, &model.device, 2).unwrap();
    let mut run = |elems: usize, tokens, selection: &Selection<'_>| {
        forward(&device, &model.device, &x.slice(..elems), tokens, selection, None, &mut y, &mut workspace).unwrap_err()
    };
    let all = Selection::All;
    assert!(matches!(run(48, 3, &all), Error::Shape { what: "tokens", got: 3, .. }));
    assert_eq!(run(31, 2, &all), Error::Length { what: "x", expected: 32, got: 31 });
    let list = NeuronList::new(&device, 41).unwrap();
    assert_eq!(
        run(16, 1, &Selection::List(&list)),
        Error::Length { what: "selection list's limit", expected: 40, got: 41 }
    );
    let masks = device.zeros::<u32>(3).unwrap();
    let short = Error::Length { what: "selection masks", expected: 4, got: 3 };
    assert_eq!(run(32, 2, &Selection::Masks(&masks)), short);
    let score = Score { on: ScoreOn::Gate, channel_scale: None };
    assert!(matches!(run(16, 1, &Selection::TopK { score, k: 0 }), Error::Shape { what: "k", got: 0, .. }));
    assert!(matches!(run(16, 1, &Selection::TopK { score, k: 41 }), Error::Shape { what: "k", got: 41, .. }));
    for threshold in [-1.0, f32::NAN, f32::INFINITY] {
        let error = run(16, 1, &Selection::Threshold { score, threshold });
        assert!(matches!(error, Error::Value { what: "threshold", .. }), "{error}");
    }
    let factors = device.zeros::<f32>(39).unwrap();
    let score = Score { on: ScoreOn::Hidden, channel_scale: Some(&factors) };
    let wrong = Error::Length { what: "channel_scale", expected: 40, got: 39 };
    assert_eq!(run(16, 1, &Selection::TopK { score, k: 1 }), wrong);

    let misaligned = forward(&device, &model.device, &x.slice(1..17), 1, &all, None, &mut y, &mut workspace);
    assert!(matches!(misaligned.unwrap_err(), Error::Misaligned { what: "x", expected: 16, .. }));
    let mismatch = forward(&device, &other.device, &x, 1, &all, None, &mut y, &mut workspace);
    assert!(matches!(mismatch.unwrap_err(), Error::Length { what: "workspace's d_model", .. }));
    let bf16 = Model::bf16(&device, &mut random, shape(16, 40));
    let format = forward(&device, &bf16.device, &x, 1, &all, None, &mut y, &mut workspace);
    assert!(matches!(format.unwrap_err(), Error::Unsupported { what: "workspace", .. }));
    assert!(matches!(
        Workspace::new(&device, &model.device, 513).unwrap_err(),
        Error::Shape { what: "max_tokens", .. }
    ));
    let good = call(&device, &model.device, &random.weights(16, 1.0), &all, None);
    assert!(good.y.iter().all(|y| y.is_finite()));
}

#[test]
fn selections_that_do_not_fit_are_refused() {
    let Some(device) = device() else { return };
    let mut list = NeuronList::new(&device, 40).unwrap();
    let wrong = Error::Length { what: "list's limit", expected: 40, got: 41 };
    assert_eq!(list.set(&device, IndexList::new(&[1], 41).unwrap()).unwrap_err(), wrong);
    assert!(matches!(NeuronList::new(&device, 0).unwrap_err(), Error::Shape { what: "neurons", .. }));
    let values = device.zeros::<f32>(100).unwrap();
    let mut masks = device.zeros::<u32>(2 * mask_words(50)).unwrap();
    let mut select =
        |tokens, n, stride, keep| select_mask(&device, &values, tokens, n, stride, None, keep, &mut masks).unwrap_err();
    let short = Error::Length { what: "values", expected: 150, got: 100 };
    assert_eq!(select(3, 50, 50, Keep::Top(1)), short);
    assert!(matches!(select(1, 50, 49, Keep::Top(1)), Error::Shape { what: "n", .. }));
    assert!(matches!(select(1, 50, 50, Keep::Top(51)), Error::Shape { what: "k", .. }));
    assert!(matches!(select(1, 50, 50, Keep::Above(f32::NAN)), Error::Value { what: "threshold", .. }));

    let mut statistic = PromptStatistic::new(&device, 40).unwrap();
    assert!(matches!(statistic.select_top(&device, 1, &mut list).unwrap_err(), Error::Shape { what: "prompt", .. }));
    let short = Error::Length { what: "hidden", expected: 120, got: 100 };
    assert_eq!(statistic.observe(&device, &values, 3, 40).unwrap_err(), short);
    let narrow = statistic.observe(&device, &values, 1, 39).unwrap_err();
    assert!(matches!(narrow, Error::Shape { what: "stride", .. }));
    statistic.observe(&device, &values, 2, 40).unwrap();
    assert!(matches!(statistic.select_top(&device, 41, &mut list).unwrap_err(), Error::Shape { what: "k", .. }));
    let nan = statistic.select_above(&device, f64::NAN, &mut list).unwrap_err();
    assert!(matches!(nan, Error::Value { what: "threshold", .. }));
}

/// The launches are those of the calls that show that the device goes on.
#[test]
fn refused_calls_launch_nothing() {
    let Some(all) = metered("bad_input::refused_calls_launch_nothing", |_| {
        weights_that_no_kernel_takes_are_refused();
        calls_that_do_not_fit_are_refused_and_the_device_goes_on();
        selections_that_do_not_fit_are_refused();
    }) else {
        return;
    };
    let kernels: Vec<&str> = all.iter().map(|launch| launch.kernel()).collect();
    let call = ["sparse_mlp_whole_f16_1"];
    let observed = ["sparse_mlp_norms", "sparse_mlp_observe"];
    assert_eq!(kernels, [&call[..], &observed].concat());
}
