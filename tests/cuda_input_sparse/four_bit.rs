//! Weights in 4 bits: the CPU's bits, whatever the shape, the scales, the tokens and what is kept.

use moray::device::cudarc::driver::sys::{
    CUgraphInstantiate_flags as InstantiateFlags, CUstreamCaptureMode as CaptureMode,
};
use moray::input_sparse::cuda::{Weight, Workspace as Room, linear};
use moray::input_sparse::{self as host, Workspace};
use moray::w4a8::QuantizedWeight;
use moray::{Cpu, Device};

use crate::case::{Call, bits};
use crate::common::Random;
use crate::device::{device, metered, with_late_warps};
use crate::exact::run;
use crate::w4a8::random_weight;

/// Kinds of [`random_weight`] that have a form by input: per channel, and groups with and without offsets and zero points.
const KINDS: [usize; 4] = [0, 2, 4, 6];

/// N and K: one of each, sides of the 32 columns that share bytes and of the 128 of a block, groups that are no whole round of the
/// eight warps, a last group that is short, one run of K and several, of one round and of more.
const SHAPES: [(usize, usize); 8] =
    [(1, 32), (31, 96), (33, 256), (127, 416), (129, 1056), (96, 2176), (260, 1280), (40, 9344)];

fn compare(device: &Device, random: &mut Random, quantized: &QuantizedWeight, m: usize, threshold: f32) {
    let (n, k) = (quantized.n(), quantized.k());
    let weight = host::Weight::from_quantized(quantized).unwrap();
    let on_device = Weight::upload(device, &weight).unwrap();
    let call = Call::new(random, m, n, k, threshold);
    let expected = call.run(&Cpu::detect(), &weight, &mut Workspace::default());
    let what = format!("{:?}, {m} tokens, N {n}, K {k}, above {threshold}", quantized.format());
    assert_eq!(bits(&run(device, &on_device, &call, true)), bits(&expected), "{what}");
}

#[test]
fn products_match_the_cpu_bit_for_bit_for_every_kind_shape_and_threshold() {
    let Some(device) = device() else { return };
    let mut random = Random::new(95);
    for (n, k) in SHAPES {
        for kind in KINDS {
            let quantized = random_weight(&mut random, kind, n, k);
            // everything but zeros; some; few; nothing
            for (m, threshold) in [(1, 0.0), (1, 0.7), (1, 1e9), (2, 0.6), (8, 0.8), (9, 0.4), (17, 1.5)] {
                compare(&device, &mut random, &quantized, m, threshold);
            }
        }
    }
}

/// A run tells that it is there when all of its warps have left their sums.
#[test]
fn runs_are_added_whole_where_warps_are_late() {
    const NAME: &str = "four_bit::runs_are_added_whole_where_warps_are_late";
    with_late_warps(NAME, products_match_the_cpu_bit_for_bit_for_every_kind_shape_and_threshold);
}

#[test]
fn largest_sums_match() {
    let Some(device) = device() else { return };
    let mut random = Random::new(96);
    let (n, k) = (40, 1280);
    for (kind, code, x) in KINDS.into_iter().flat_map(|kind| [(kind, 0, 1.0), (kind, 15, 1.0), (kind, 15, -1.0)]) {
        let w = random_weight(&mut random, kind, n, k);
        let w = QuantizedWeight::new(n, k, w.format(), vec![code; n * k], w.scales().clone()).unwrap();
        let weight = host::Weight::from_quantized(&w).unwrap();
        let mut call = Call::new(&mut random, 1, n, k, 0.5);
        call.x.fill(x);
        let got = run(&device, &Weight::upload(&device, &weight).unwrap(), &call, true);
        assert_eq!(
            bits(&got),
            bits(&call.run(&Cpu::detect(), &weight, &mut Workspace::default())),
            "{kind} {code} {x}"
        );
    }
}

#[test]
fn a_token_does_not_depend_on_the_others_and_one_that_is_not_finite_spoils_itself_alone() {
    let Some(device) = device() else { return };
    let mut random = Random::new(97);
    let (m, n, k) = (11, 70, 1312);
    let host = host::Weight::from_quantized(&random_weight(&mut random, 4, n, k)).unwrap();
    let weight = Weight::upload(&device, &host).unwrap();
    for spoiler in [0.5, f32::NAN, f32::INFINITY] {
        let mut call = Call::new(&mut random, m, n, k, 0.8);
        call.x[k + 7] = spoiler;
        let all = run(&device, &weight, &call, false);
        for token in 0..m {
            let alone = run(&device, &weight, &call.token(token, n, k), false);
            assert_eq!(bits(&all[token * n..][..n]), bits(&alone), "token {token}, {spoiler}");
            assert!(alone.iter().all(|y| y.is_nan() != (token != 1 || spoiler == 0.5)), "token {token}, {spoiler}");
        }
        let of_cpu = call.run(&Cpu::detect(), &host, &mut Workspace::default());
        assert_eq!(bits(&run(&device, &weight, &call, true)), bits(&of_cpu), "{spoiler}");
    }
}

#[test]
fn replayed_graph_matches_single_calls_with_other_inputs() {
    let Some(device) = device() else { return };
    let mut random = Random::new(98);
    for m in [1, 3] {
        let (n, k) = (160, 2080);
        let weight = host::Weight::from_quantized(&random_weight(&mut random, 6, n, k)).unwrap();
        let weight = Weight::upload(&device, &weight).unwrap();
        let (mut x, mut y) = (device.zeros::<f32>(m * k).unwrap(), device.zeros::<f32>(m * n).unwrap());
        // of larger calls too
        let mut room = Room::with_capacity(&device, 8, 300, 9000).unwrap();
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
}

/// Every third input is kept by one token, every sixth by eight, of which each keeps another eighth of them: the rows of these alone are
/// read, once, in whole sectors.
#[test]
fn kept_rows_are_read_once_for_up_to_8_tokens() {
    const NAME: &str = "four_bit::kept_rows_are_read_once_for_up_to_8_tokens";
    let (n, k) = (512, 960);
    let Some(all) = metered(NAME, |device| {
        let weight = host::Weight::from_quantized(&random_weight(&mut Random::new(99), 0, n, k)).unwrap();
        let weight = Weight::upload(device, &weight).unwrap();
        for (m, every) in [(1, 3), (8, 6)] {
            let keeps = |at: usize| at % k % every == 0 && at % k / every % m == at / k;
            let x: Vec<f32> = (0..m * k).map(|at| if keeps(at) { 1.0 } else { 0.1 }).collect();
            let (x, mut y) = (device.upload(&x).unwrap(), device.zeros::<f32>(m * n).unwrap());
            let mut room = Room::with_capacity(device, m, n, k).unwrap();
            linear(device, &weight, &x.as_view(), 0.5, None, None, &mut y.as_view_mut(), &mut room).unwrap();
        }
    }) else {
        return;
    };
    for (kernel, m, every, looks) in [("input_sparse_four_bit_1", 1, 3, 2), ("input_sparse_four_bit_8", 8, 6, 1)] {
        let launch = all.iter().find(|launch| launch.kernel() == kernel).expect("the kernel has run");
        let (rows, blocks) = (k / every * n / 2 / 32, n / 128);
        // one token is looked through for its scale and for what it keeps; channels have scales of 4 bytes, which each half of a block of
        // several tokens takes
        let ideal = (rows + blocks * looks * m * k * 4 / 32 + n * 4 / 32) as u64;
        let read = launch.count("global_load_sectors");
        let said = format!("{kernel}: {read} sectors, {rows} of rows, {ideal} in all");
        assert!(read >= ideal && read as f64 <= 1.05 * ideal as f64, "{said}");
    }
}
