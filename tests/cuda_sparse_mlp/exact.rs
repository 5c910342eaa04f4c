//! What must be equal bit for bit.

use half::{bf16, f16};
use moray::device::cudarc::driver::sys::CUgraphInstantiate_flags_enum as InstantiateFlags;
use moray::device::cudarc::driver::sys::CUstreamCaptureMode_enum as CaptureMode;
use moray::sparse_mlp::cuda::{NeuronList, Selection, Workspace, forward};
use moray::sparse_mlp::{self as host, Activation, IndexList, Shape};

use crate::common::{Random, bits, cpus};
use crate::device::device;
use crate::run::{Model, call, call_in, shape, subset};

/// Up to 8 tokens every number of tokens gives a token the same bits, and so it does above.
#[test]
fn batch_matches_smaller_batches_bit_for_bit() {
    let Some(device) = device() else { return };
    let mut random = Random::new(31);
    let (d_model, d_ff, tokens) = (96, 512, 69);
    for model in [
        Model::f16(&device, &mut random, shape(d_model, d_ff)),
        Model::bf16(&device, &mut random, shape(d_model, d_ff)),
        Model::four_bit(&device, &mut random, [2, 3, 2], 32, shape(d_model, d_ff)),
    ] {
        let x = random.weights(tokens * d_model, 1.0);
        let mut list = NeuronList::new(&device, d_ff).unwrap();
        list.set(&device, IndexList::new(&subset(&mut random, d_ff, 0.7), d_ff).unwrap()).unwrap();
        let mut workspace = Workspace::new(&device, &model.device, tokens).unwrap();
        let selection = Selection::List(&list);
        let mut batch = |first: usize, n: usize| {
            let x = &x[first * d_model..(first + n) * d_model];
            call_in(&device, &model.device, x, &selection, None, &mut workspace).y
        };
        let (few, many) = (batch(0, 8), batch(0, tokens));
        for (first, n) in [(0, 1), (5, 1), (3, 4)] {
            assert_eq!(bits(&batch(first, n)), bits(&few[first * d_model..(first + n) * d_model]), "{n} from {first}");
        }
        // one tile of 16 tokens, one of 64 in part, and whole tiles past the first
        for (first, n) in [(0, 9), (50, 16), (20, 17), (4, 64), (0, 66)] {
            assert_eq!(bits(&batch(first, n)), bits(&many[first * d_model..(first + n) * d_model]), "{n} from {first}");
        }
    }
}

/// Rows of which shared memory has a piece at a time, quantized by each block for one token and before the call for several; more
/// neurons than blocks, so that a block goes through the pieces again.
#[test]
fn one_token_of_rows_wider_than_shared_memory_matches_several_bit_for_bit() {
    let Some(device) = device() else { return };
    let mut random = Random::new(36);
    let (d_model, d_ff) = (32_768 + 1056, 160);
    let model = Model::four_bit(&device, &mut random, [2, 1, 0], 32, shape(d_model, d_ff));
    let x = random.weights(2 * d_model, 1.0);
    let both = call(&device, &model.device, &x, &Selection::All, None);
    for (token, x) in x.chunks_exact(d_model).enumerate() {
        let alone = call(&device, &model.device, x, &Selection::All, None);
        assert_eq!(bits(&alone.hidden[..d_ff]), bits(&both.hidden[token * both.stride..][..d_ff]), "hidden of {token}");
        assert_eq!(bits(&alone.y), bits(&both.y[token * d_model..][..d_model]), "y of {token}");
    }
}

/// The integer sums of gate and up are added in the CPU's order, and so are those of down where the list is one part and its neurons are of one run.
#[test]
fn four_bit_rows_on_matrix_units_match_the_cpu_bit_for_bit() {
    let Some(device) = device() else { return };
    let mut random = Random::new(34);
    let cpu = &cpus()[0];
    for (kinds, group_size, d_model, d_ff, q) in [
        ([0, 0, 0], 32, 96, 256, 1.0),
        ([1, 1, 1], 32, 1056, 224, 0.3),
        ([2, 2, 2], 64, 320, 256, 0.5),
        ([3, 3, 3], 128, 640, 256, 0.1),
        ([1, 2, 3], 32, 576, 192, 0.9),
        ([3, 0, 2], 32, 32, 32, 0.5),
    ] {
        let shape = Shape { d_model, d_ff, activation: Activation::Silu };
        let model = Model::four_bit(&device, &mut random, kinds, group_size, shape).with_biases(&device, &mut random);
        for tokens in [9, 33, 64] {
            let (x, residual) = (random.weights(tokens * d_model, 1.0), random.weights(tokens * d_model, 1.0));
            let kept = subset(&mut random, d_ff, q);
            let list = IndexList::new(&kept, d_ff).unwrap();
            let mut on_device = NeuronList::new(&device, d_ff).unwrap();
            on_device.set(&device, list).unwrap();
            let got = call(&device, &model.device, &x, &Selection::List(&on_device), Some(&residual));

            let mut workspace = host::Workspace::new(&model.host, tokens).unwrap();
            let mut y = vec![0.0; x.len()];
            let selection = host::Selection::List(list);
            host::forward(cpu, &model.host, &x, &selection, Some(&residual), &mut y, &mut workspace).unwrap();
            for t in 0..tokens {
                let hidden = &got.hidden[t * got.stride..][..kept.len()];
                assert_eq!(bits(hidden), bits(workspace.hidden(t)), "{kinds:?}, {tokens} tokens, hidden of {t}");
            }
            assert_eq!(bits(&got.y), bits(&y), "{kinds:?}, {tokens} tokens");
        }
    }
}

/// A call leaves its activations in the workspace, past the positions and tokens of a smaller one that follows: none of them
/// may meet a weight, not even one of 0, whose product with NaN or an infinity is NaN.
#[test]
fn calls_after_inputs_that_are_not_finite_match_those_in_a_new_workspace() {
    let Some(device) = device() else { return };
    let mut random = Random::new(35);
    let (d_model, d_ff, tokens) = (96, 320, 40);
    for model in [
        Model::f16(&device, &mut random, shape(d_model, d_ff)),
        Model::bf16(&device, &mut random, shape(d_model, d_ff)),
        Model::four_bit(&device, &mut random, [2, 1, 3], 32, shape(d_model, d_ff)),
    ] {
        let mut used = Workspace::new(&device, &model.device, tokens).unwrap();
        let mut list = NeuronList::new(&device, d_ff).unwrap();
        // 1 and 8 tokens without matrix units, 9 to 40 in tiles of 8 that they fill in part; neurons within spans of 32 and 64
        for (n, q) in [(1, 0.5), (3, 0.03), (8, 0.9), (9, 0.03), (12, 0.3), (17, 0.6), (33, 0.9), (40, 0.0)] {
            for spoiler in [f32::NAN, f32::INFINITY] {
                let spoilt = vec![spoiler; tokens * d_model];
                call_in(&device, &model.device, &spoilt, &Selection::All, None, &mut used);
                call_in(&device, &model.device, &spoilt[..8 * d_model], &Selection::All, None, &mut used);
            }
            let kept = subset(&mut random, d_ff, q);
            list.set(&device, IndexList::new(&kept, d_ff).unwrap()).unwrap();
            let x = random.weights(n * d_model, 1.0);
            let after = call_in(&device, &model.device, &x, &Selection::List(&list), None, &mut used);
            let mut new = Workspace::new(&device, &model.device, tokens).unwrap();
            let alone = call_in(&device, &model.device, &x, &Selection::List(&list), None, &mut new);
            assert!(alone.y.iter().all(|y| y.is_finite()));
            assert_eq!(bits(&after.y), bits(&alone.y), "{n} tokens, {} of {d_ff} neurons", kept.len());
        }
    }
}

#[test]
fn outputs_in_16_bits_match_the_rounded_result() {
    let Some(device) = device() else { return };
    let mut random = Random::new(32);
    let model = Model::bf16(&device, &mut random, shape(40, 64));
    let x = random.weights(40, 1.0);
    let wide = call(&device, &model.device, &x, &Selection::All, None).y;
    let x = device.upload(&x).unwrap();
    let mut workspace = Workspace::new(&device, &model.device, 1).unwrap();
    let mut half = device.zeros::<f16>(40).unwrap();
    forward(&device, &model.device, &x, 1, &Selection::All, None, &mut half, &mut workspace).unwrap();
    let expected: Vec<f16> = wide.iter().map(|&y| f16::from_f32(y)).collect();
    assert_eq!(device.download(&half).unwrap(), expected);
    let residual = device.upload(&[bf16::from_f32(0.5); 40]).unwrap();
    let mut brain = device.zeros::<bf16>(40).unwrap();
    forward(&device, &model.device, &x, 1, &Selection::All, Some(&residual.as_view()), &mut brain, &mut workspace)
        .unwrap();
    let expected: Vec<bf16> = wide.iter().map(|&y| bf16::from_f32(y + 0.5)).collect();
    assert_eq!(device.download(&brain).unwrap(), expected);
}

/// A call is captured once; its replays read another list and count, and other inputs.
#[test]
fn replayed_graph_matches_single_calls_with_new_lists() {
    let Some(device) = device() else { return };
    let mut random = Random::new(33);
    let (d_model, d_ff) = (64, 128);
    let model = Model::four_bit(&device, &mut random, [1, 2, 3], 32, shape(d_model, d_ff));
    let mut list = NeuronList::new(&device, d_ff).unwrap();
    let mut workspace = Workspace::new(&device, &model.device, 1).unwrap();
    let (mut x, mut y) = (device.zeros::<f32>(d_model).unwrap(), device.zeros::<f32>(d_model).unwrap());
    device.synchronize().unwrap();
    device.stream().begin_capture(CaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    forward(&device, &model.device, &x, 1, &Selection::List(&list), None, &mut y, &mut workspace).unwrap();
    let flags = InstantiateFlags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = device.stream().end_capture(flags).unwrap().expect("a graph");
    for q in [0.5, 0.05, 0.0, 1.0] {
        let (kept, inputs) = (subset(&mut random, d_ff, q), random.weights(d_model, 1.0));
        list.set(&device, IndexList::new(&kept, d_ff).unwrap()).unwrap();
        device.stream().memcpy_htod(&inputs, &mut x).unwrap();
        graph.launch().unwrap();
        let replayed = device.download(&y).unwrap();
        let single = call(&device, &model.device, &inputs, &Selection::List(&list), None);
        assert_eq!(bits(&replayed), bits(&single.y), "{} neurons", kept.len());
    }
}
