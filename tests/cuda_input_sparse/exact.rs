//! The CPU's bits, whatever the shape, the tokens and what is kept.

use moray::device::cudarc::driver::sys::{
    CUgraphInstantiate_flags as InstantiateFlags, CUstreamCaptureMode as CaptureMode,
};
use moray::input_sparse::cuda::{Weight, Workspace as Room, linear};
use moray::input_sparse::{self as host, Workspace};
use moray::{Cpu, DenseType, Device};

use crate::case::{Call, bits};
use crate::common::Random;
use crate::device::device;

const TYPES: [DenseType; 3] = [DenseType::F32, DenseType::F16, DenseType::Bf16];

/// N and K: one of each, sides of the 32 columns of a block, of the 8 rows that are copied together, of what a warp looks at together
/// and of its queue, runs of unequal length and none, more rows than a ring has several times.
const SHAPES: [(usize, usize); 9] =
    [(1, 1), (5, 3), (31, 34), (32, 128), (33, 383), (63, 385), (100, 515), (8, 1029), (40, 4100)];

pub fn run(device: &Device, weight: &Weight, call: &Call, epilogue: bool) -> Vec<f32> {
    let x = device.upload(&call.x).unwrap();
    let (bias, residual) = (device.upload(&call.bias).unwrap(), device.upload(&call.residual).unwrap());
    let (bias, residual) = (bias.as_view(), residual.as_view());
    let mut y = device.upload(&vec![f32::NAN; call.residual.len()]).unwrap();
    let (bias, residual) = (epilogue.then_some(&bias), epilogue.then_some(&residual));
    let mut room = Room::with_capacity(device, call.x.len() / weight.k(), weight.n(), weight.k()).unwrap();
    linear(device, weight, &x.as_view(), call.threshold, bias, residual, &mut y.as_view_mut(), &mut room).unwrap();
    assert!(device.download(&room.counters()).unwrap().iter().all(|&count| count == 0));
    device.download(&y).unwrap()
}

#[test]
fn products_match_the_cpu_bit_for_bit_for_every_type_shape_and_threshold() {
    let Some(device) = device() else { return };
    let (cpu, mut random) = (Cpu::detect(), Random::new(91));
    for (n, k) in SHAPES {
        for dtype in TYPES {
            let weight = host::Weight::from_f32(&random.weights(n * k, 0.2), n, k, dtype).unwrap();
            let on_device = Weight::upload(&device, &weight).unwrap();
            for m in [1, 2, 8, 9, 17] {
                // everything but zeros; some; few; nothing
                for threshold in [0.0, 0.7, 3.0, 1e9] {
                    let call = Call::new(&mut random, m, n, k, threshold);
                    let expected = call.run(&cpu, &weight, &mut Workspace::default());
                    let what = format!("{dtype:?}, {m} tokens, N {n}, K {k}, above {threshold}");
                    assert_eq!(bits(&run(&device, &on_device, &call, true)), bits(&expected), "{what}");
                }
            }
        }
    }
}

#[test]
fn a_token_does_not_depend_on_the_others_and_needs_no_epilogue() {
    let Some(device) = device() else { return };
    let mut random = Random::new(92);
    let (m, n, k) = (11, 70, 300);
    let weight = host::Weight::from_f32(&random.weights(n * k, 0.2), n, k, DenseType::F16).unwrap();
    let weight = Weight::upload(&device, &weight).unwrap();
    let call = Call::new(&mut random, m, n, k, 0.8);
    let all = run(&device, &weight, &call, false);
    for token in 0..m {
        let alone = run(&device, &weight, &call.token(token, n, k), false);
        assert_eq!(bits(&all[token * n..][..n]), bits(&alone), "token {token}");
    }
}

#[test]
fn values_that_are_not_finite_reach_their_own_token_alone() {
    let Some(device) = device() else { return };
    let (cpu, mut random) = (Cpu::detect(), Random::new(93));
    let (m, n, k) = (3, 33, 200);
    let weight = host::Weight::from_f32(&random.weights(n * k, 0.2), n, k, DenseType::Bf16).unwrap();
    let on_device = Weight::upload(&device, &weight).unwrap();
    for spoiler in [f32::NAN, f32::INFINITY] {
        let mut call = Call::new(&mut random, m, n, k, 0.8);
        call.x[k + 7] = spoiler;
        let got = run(&device, &on_device, &call, true);
        assert_eq!(bits(&got), bits(&call.run(&cpu, &weight, &mut Workspace::default())), "{spoiler}");
        assert!(got[..n].iter().chain(&got[2 * n..]).all(|y| y.is_finite()), "{spoiler}");
        assert!(got[n..2 * n].iter().all(|y| !y.is_finite()), "{spoiler}");
    }
}

#[test]
fn replayed_graph_matches_single_calls_with_other_inputs() {
    let Some(device) = device() else { return };
    let mut random = Random::new(94);
    let (m, n, k) = (2, 96, 700);
    let weight = host::Weight::from_f32(&random.weights(n * k, 0.2), n, k, DenseType::F16).unwrap();
    let weight = Weight::upload(&device, &weight).unwrap();
    let (mut x, mut y) = (device.zeros::<f32>(m * k).unwrap(), device.zeros::<f32>(m * n).unwrap());
    let mut room = Room::with_capacity(&device, m, n, k).unwrap();
    device.synchronize().unwrap();
    device.stream().begin_capture(CaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    linear(&device, &weight, &x.as_view(), 0.9, None, None, &mut y.as_view_mut(), &mut room).unwrap();
    let flags = InstantiateFlags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = device.stream().end_capture(flags).unwrap().expect("a graph");
    for _ in 0..3 {
        let call = Call::new(&mut random, m, n, k, 0.9);
        device.upload_into(&call.x, &mut x).unwrap();
        graph.launch().unwrap();
        assert_eq!(bits(&device.download(&y).unwrap()), bits(&run(&device, &weight, &call, false)));
    }
}
