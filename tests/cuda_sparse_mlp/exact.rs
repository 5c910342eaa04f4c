//! What must be equal bit for bit.

use half::{bf16, f16};
use moray::device::cudarc::driver::sys::CUgraphInstantiate_flags_enum as InstantiateFlags;
use moray::device::cudarc::driver::sys::CUstreamCaptureMode_enum as CaptureMode;
use moray::sparse_mlp::IndexList;
use moray::sparse_mlp::cuda::{NeuronList, Selection, Workspace, forward};

use crate::common::{Random, bits};
use crate::device::device;
use crate::run::{Model, call, call_in, shape, subset};

#[test]
fn batch_matches_its_tokens_one_by_one() {
    let Some(device) = device() else { return };
    let mut random = Random::new(31);
    let (d_model, d_ff, tokens) = (96, 192, 11);
    for model in [
        Model::f16(&device, &mut random, shape(d_model, d_ff)),
        Model::four_bit(&device, &mut random, [2, 3, 2], 32, shape(d_model, d_ff)),
    ] {
        let x = random.weights(tokens * d_model, 1.0);
        let mut list = NeuronList::new(&device, d_ff).unwrap();
        list.set(&device, IndexList::new(&subset(&mut random, d_ff, 0.4), d_ff).unwrap()).unwrap();
        let mut workspace = Workspace::new(&device, &model.device, tokens).unwrap();
        let selection = Selection::List(&list);
        let batch = call_in(&device, &model.device, &x, &selection, None, &mut workspace);
        for t in 0..tokens {
            let token = &x[t * d_model..(t + 1) * d_model];
            let alone = call_in(&device, &model.device, token, &selection, None, &mut workspace);
            assert_eq!(bits(&alone.y), bits(&batch.y[t * d_model..(t + 1) * d_model]), "token {t}");
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
