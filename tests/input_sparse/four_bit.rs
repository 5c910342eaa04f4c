//! Weights in 4 bits: the packed product with codes of 0 for what a token drops.

use moray::input_sparse::{Weight, Workspace};
use moray::w4a8::{self, ActScales, Activations, QuantizedWeight};
use moray::{Cpu, Error, Isa};
use proptest::prelude::*;

use crate::case::{Call, bits};
use crate::common::{Random, cpus};
use crate::w4a8::random_weight;

/// Kinds of [`random_weight`] that have a form by input: per channel, and groups with and without offsets and zero points.
const KINDS: [usize; 4] = [0, 2, 4, 6];

/// x in int8, the codes of dropped inputs 0.
fn kept_codes(call: &Call, m: usize, k: usize) -> Activations {
    let cpu = Cpu::new(1, Isa::Portable).unwrap();
    let mut all = Activations::default();
    all.quantize(&cpu, &call.x, m, k).unwrap();
    let codes =
        all.codes().chunks(all.padded_k()).zip(call.x.chunks(k)).flat_map(|(codes, x)| {
            codes.iter().zip(x).map(|(&code, x)| if x.abs() <= call.threshold { 0 } else { code })
        });
    let mut kept = Activations::default();
    kept.set_codes(ActScales::Token, &codes.collect::<Vec<i8>>(), all.scale(), m, k).unwrap();
    kept
}

fn compare(random: &mut Random, quantized: &QuantizedWeight, m: usize, threshold: f32) {
    compare_call(&Call::new(random, m, quantized.n(), quantized.k(), threshold), quantized, m);
}

fn compare_call(call: &Call, quantized: &QuantizedWeight, m: usize) {
    let (n, k) = (quantized.n(), quantized.k());
    let mut expected = vec![f32::NAN; m * n];
    w4a8::linear_reference(quantized, &kept_codes(call, m, k), call.epilogue(), &mut expected).unwrap();
    let weight = Weight::from_quantized(quantized).unwrap();
    for cpu in cpus().iter().chain([&Cpu::new(3, Isa::detect()).unwrap()]) {
        let got = call.run(cpu, &weight, &mut Workspace::default());
        let what = (quantized.format(), n, k, m, call.threshold, cpu.isa());
        assert_eq!(bits(&got), bits(&expected), "{what:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn products_match_those_of_codes_that_are_0_where_dropped(
        seed: u64, kind in 0usize..4, n in 1usize..300, k in 1usize..9, m in 1usize..21, threshold in 0usize..4,
    ) {
        let random = &mut Random::new(seed);
        let quantized = random_weight(random, KINDS[kind], n, 32 * k);
        compare(random, &quantized, m, [0.0, 0.5, 4.0, 1e30][threshold]);
    }
}

#[test]
fn one_token_of_a_wide_matrix_matches() {
    let random = &mut Random::new(8);
    for (n, k) in [(1024, 128), (2080, 64), (33, 2048), (100, 1056), (40, 9344)] {
        for kind in KINDS {
            let quantized = random_weight(random, kind, n, k);
            compare(random, &quantized, 1, 0.6);
            compare(random, &quantized, 40, 0.6);
        }
    }
}

#[test]
fn largest_sums_match() {
    let random = &mut Random::new(11);
    for (kind, code, x) in KINDS.into_iter().flat_map(|kind| [(kind, 0, 1.0), (kind, 15, 1.0), (kind, 15, -1.0)]) {
        let w = random_weight(random, kind, 40, 256);
        let w = QuantizedWeight::new(40, 256, w.format(), vec![code; 40 * 256], w.scales().clone()).unwrap();
        let mut call = Call::new(random, 1, 40, 256, 0.5);
        call.x.fill(x);
        compare_call(&call, &w, 1);
    }
}

#[test]
fn one_workspace_serves_calls_of_any_size_on_any_number_of_threads() {
    let random = &mut Random::new(9);
    let mut workspace = Workspace::default();
    let sizes = [(3, 64, 1), (40, 1536, 1), (300, 96, 5), (576, 2112, 1), (17, 32, 1), (40, 1536, 1), (2100, 64, 1)];
    for (threads, first) in [(1, 0), (2, 1), (4, 2), (3, 3)] {
        let cpu = Cpu::new(threads, Isa::detect()).unwrap();
        for (at, (n, k, m)) in sizes.into_iter().enumerate() {
            let quantized = random_weight(random, KINDS[(first + at) % 4], n, k);
            let mut call = Call::new(random, m, n, k, 0.5);
            if k > 1024 {
                // a run of K of which nothing is kept
                call.x[..k / 2].fill(0.0);
            }
            let kept = kept_codes(&call, m, k);
            let mut expected = vec![f32::NAN; m * n];
            w4a8::linear_reference(&quantized, &kept, call.epilogue(), &mut expected).unwrap();
            let weight = Weight::from_quantized(&quantized).unwrap();
            assert_eq!(bits(&call.run(&cpu, &weight, &mut workspace)), bits(&expected), "{threads}, {n}, {k}, {m}");
            let is_read = |&i: &u32| kept.codes().chunks(kept.padded_k()).any(|codes| codes[i as usize] != 0);
            let read: Vec<u32> = (0..k as u32).filter(is_read).collect();
            assert_eq!(workspace.kept(), read, "{threads}, {n}, {k}, {m}");
        }
    }
}

#[test]
fn inputs_whose_codes_are_0_are_not_read() {
    let random = &mut Random::new(9);
    let weight = Weight::from_quantized(&random_weight(random, 4, 64, 64)).unwrap();
    let mut call = Call::new(random, 1, 64, 64, 0.0);
    call.x.fill(1e-3);
    call.x[7] = 1.0;
    call.x[40] = -0.5;
    let mut workspace = Workspace::default();
    call.run(&Cpu::detect(), &weight, &mut workspace);
    assert_eq!(workspace.kept(), [7, 40]);
    call.x[9] = f32::NAN;
    assert!(call.run(&Cpu::detect(), &weight, &mut workspace).iter().all(|y| y.is_nan()));
}

#[test]
fn rows_are_the_numbers_of_the_codes_and_other_formats_are_refused() {
    let random = &mut Random::new(10);
    let quantized = random_weight(random, 6, 45, 64);
    let (weight, all) = (Weight::from_quantized(&quantized).unwrap(), quantized.dequantize());
    let mut row = vec![0.0; 64];
    for n in 0..45 {
        weight.row(n, &mut row).unwrap();
        assert_eq!(row, all[n * 64..(n + 1) * 64]);
    }
    for kind in [1, 3, 5, 7] {
        let refused = Weight::from_quantized(&random_weight(random, kind, 32, 64));
        assert!(matches!(refused, Err(Error::Unsupported { what: "weight", .. })));
    }
}
