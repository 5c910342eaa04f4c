//! The multiplication: every mode, variant and ragged shape.

use crate::common::{Random, bits};
use crate::device::{device, with_late_warps};
use crate::weights::random_weight;
use half::{bf16, f16};
use moray::device::DeviceElement;
use moray::w4a8::cuda::{self, Architecture, Variant};
use moray::w4a8::{ActScales, Activations, Epilogue, PackedWeight, QuantizedWeight, linear};
use moray::{Cpu, Device};
use proptest::prelude::*;
use std::sync::OnceLock;

/// Kinds that `random_weight` makes.
const KINDS: usize = 9;

/// Everything a comparison needs, on both sides.
struct Case {
    m: usize,
    scales: ActScales,
    x: Vec<f32>,
    packed: PackedWeight,
    bias: Vec<f32>,
    residual: Vec<f32>,
}

impl Case {
    fn new(random: &mut Random, weight: &QuantizedWeight, scales: ActScales, m: usize) -> Self {
        let (n, k) = (weight.n(), weight.k());
        let mut x = random.weights(m * k, 1.0);
        if m > 2 {
            x[k..2 * k].fill(0.0);
        }
        let (bias, residual) = (random.weights(n, 1.0), random.weights(m * n, 1.0));
        Case { m, scales, x, packed: PackedWeight::pack(weight), bias, residual }
    }

    fn on_cpu<E: DeviceElement>(&self) -> Vec<E> {
        static CPU: OnceLock<Cpu> = OnceLock::new();
        let cpu = CPU.get_or_init(Cpu::detect);
        let mut activations = Activations::default();
        activations.set_scales(self.scales);
        activations.quantize(cpu, &self.x, self.m, self.packed.k()).unwrap();
        let residual: Vec<E> = self.residual.iter().map(|&v| E::from_f32(v)).collect();
        let mut y = vec![E::default(); self.m * self.packed.n()];
        let epilogue = Epilogue { bias: Some(&self.bias), residual: Some(&residual) };
        linear(cpu, &self.packed, &activations, epilogue, &mut y).unwrap();
        y
    }

    fn on_device<E: DeviceElement>(&self, device: &Device, variant: Option<Variant>) -> Vec<E> {
        let (m, n, k) = (self.m, self.packed.n(), self.packed.k());
        let weight = cuda::Weight::upload(device, &self.packed).unwrap();
        let mut activations = cuda::Activations::with_capacity(device, m, k).unwrap();
        activations.set_scales(self.scales);
        activations.quantize(device, &device.upload(&self.x).unwrap().as_view(), m, k).unwrap();
        let residual: Vec<E> = self.residual.iter().map(|&v| E::from_f32(v)).collect();
        let (bias, residual) = (device.upload(&self.bias).unwrap(), device.upload(&residual).unwrap());
        let residual = residual.as_view();
        let epilogue = cuda::Epilogue { bias: Some(&bias), residual: Some(&residual) };
        let format = weight.format();
        let variant = variant.unwrap_or(Variant::choose(Architecture::of(device), format, self.scales, m, n, k));
        let (partial, arrived) = variant.workspace_words(format, self.scales, m, n, k);
        let mut workspace = cuda::Workspace::with_words(device, partial, arrived).unwrap();
        // not written by this library before the call: what is left out of y would be read as it was
        let fresh = vec![E::from_f32(f32::NAN); m * n];
        let mut y = device.upload(&fresh).unwrap();
        if arrived > 0 && m < 16 {
            // the workspace is to be left as it was found, which takes a second call to see
            let mut out = y.as_view_mut();
            cuda::linear_with(device, variant, &weight, &activations, epilogue, &mut out, &mut workspace).unwrap();
            y = device.upload(&fresh).unwrap();
        }
        let mut out = y.as_view_mut();
        cuda::linear_with(device, variant, &weight, &activations, epilogue, &mut out, &mut workspace).unwrap();
        assert!(device.download(&workspace.counters()).unwrap().iter().all(|&count| count == 0), "{variant:?}");
        device.download(&y).unwrap()
    }

    fn compare<E: DeviceElement>(&self, device: &Device, variant: Option<Variant>) {
        let widen = |y: Vec<E>| bits(&y.iter().map(|v| v.to_f32()).collect::<Vec<f32>>());
        let (got, expected) = (widen(self.on_device(device, variant)), widen(self.on_cpu()));
        let shape = (self.m, self.packed.n(), self.packed.k());
        let first = got.iter().zip(&expected).position(|(a, b)| a != b);
        assert_eq!(first, None, "first difference, {variant:?}, {:?}, M N K {shape:?}, {:?}", self.scales, self.packed);
    }
}

/// Every variant that takes the shape: tiles by turns of one block and of several, and tiles that blocks share.
fn variants(m: usize) -> Vec<Variant> {
    let gemm = |tokens| [1, 3, 7].map(|blocks| Variant::Gemm { tokens, blocks });
    let all = [16, 64, 128].into_iter().flat_map(gemm).chain([Variant::Gemv]);
    all.filter(|variant| variant.check(m).is_ok()).collect()
}

fn linear_matches_cpu(kind: usize) {
    let Some(device) = device() else { return };
    let compare = |random: &mut Random, weight: &QuantizedWeight, m: usize| {
        for scales in [ActScales::Token, ActScales::Fine] {
            let case = Case::new(random, weight, scales, m);
            for variant in variants(m) {
                case.compare::<f32>(&device, Some(variant));
            }
        }
    };
    let mut random = Random::new(kind as u64);
    // N: one row, a tile less one, one tile, one more, a block and a row. K: less than a stage, stages and a rest.
    for (n, k) in [(1, 128), (15, 128), (16, 256), (17, 384), (65, 640), (257, 256)] {
        let weight = random_weight(&mut random, kind, n, k);
        [1, 4, 5, 17, 65].into_iter().for_each(|m| compare(&mut random, &weight, m));
    }
    // K that is no multiple of a tile, a stage or a run's step, of one run and of several, and long enough for two chunks of the GEMV
    for k in [32, 64, 96, 576, 1024, 1056, 2336].map(|k: usize| if kind == 8 { 128 * k.div_ceil(128) } else { k }) {
        let weight = random_weight(&mut random, kind, 20, k);
        [2, 6].into_iter().for_each(|m| compare(&mut random, &weight, m));
    }
}

macro_rules! linear_matches_cpu {
    ($($name:ident: $kind:expr;)*) => {
        $(#[test]
        fn $name() {
            linear_matches_cpu($kind);
        })*
    };
}

linear_matches_cpu! {
    linear_matches_cpu_bit_for_bit_per_channel: 0;
    linear_matches_cpu_bit_for_bit_w8: 1;
    linear_matches_cpu_bit_for_bit_per_group: 2;
    linear_matches_cpu_bit_for_bit_per_group_8_bits: 3;
    linear_matches_cpu_bit_for_bit_per_group_with_offset: 4;
    linear_matches_cpu_bit_for_bit_per_group_8_bits_with_offset: 5;
    linear_matches_cpu_bit_for_bit_per_group_with_zero_point: 6;
    linear_matches_cpu_bit_for_bit_two_level: 7;
    linear_matches_cpu_bit_for_bit_qqq: 8;
}

#[test]
fn linear_matches_cpu_bit_for_bit_in_16_bits() {
    let Some(device) = device() else { return };
    let mut random = Random::new(20);
    for kind in 0..KINDS {
        let weight = random_weight(&mut random, kind, 33, 256);
        for m in [3, 18] {
            let case = Case::new(&mut random, &weight, if m == 3 { ActScales::Fine } else { ActScales::Token }, m);
            case.compare::<f16>(&device, None);
            case.compare::<bf16>(&device, None);
        }
    }
}

/// The products of the model of the demonstration, (K, N).
const SMOLLM2: [(usize, usize); 4] = [(576, 960), (576, 576), (576, 3072), (1536, 576)];

#[test]
fn linear_matches_cpu_bit_for_bit_on_shapes_of_smollm2() {
    let Some(device) = device() else { return };
    let mut random = Random::new(21);
    for (k, n) in SMOLLM2 {
        for kind in [0, 4, 7] {
            let weight = random_weight(&mut random, kind, n, k);
            for m in [1, 13, 70] {
                for scales in [ActScales::Token, ActScales::Fine] {
                    Case::new(&mut random, &weight, scales, m).compare::<f32>(&device, None);
                }
            }
        }
    }
}

#[test]
fn linear_matches_cpu_bit_for_bit_where_blocks_share_what_is_left_of_tiles() {
    let Some(device) = device() else { return };
    let mut random = Random::new(22);
    // 3 by 2 tiles of 256 × 128, whose K of 32 stages of 128 or 64 of 64 is cut at stages that differ from tile to tile
    let (m, n, k) = (130, 520, 4096);
    for kind in [0, 1, 7, 8] {
        let weight = random_weight(&mut random, kind, n, k);
        let case = Case::new(&mut random, &weight, ActScales::Token, m);
        for blocks in [4, 5, 13] {
            case.compare::<f32>(&device, Some(Variant::Gemm { tokens: 128, blocks }));
        }
    }
}

/// Kinds whose groups are combined in f32, and one that is with fine scales.
const IN_F32: [(usize, ActScales); 6] = [
    (2, ActScales::Token),
    (3, ActScales::Token),
    (4, ActScales::Token),
    (6, ActScales::Fine),
    (0, ActScales::Fine),
    (8, ActScales::Fine),
];

#[test]
fn linear_matches_cpu_bit_for_bit_where_blocks_share_runs() {
    let Some(device) = device() else { return };
    let mut random = Random::new(23);
    for (kind, scales) in IN_F32 {
        // tiles of which a block has the end and the beginning, the middle, a run, or nothing
        for (m, n, k, blocks) in [(7, 150, 4992, [2, 5, 40]), (65, 300, 4224, [3, 4, 7]), (33, 270, 9344, [3, 5, 13])] {
            let weight = random_weight(&mut random, kind, n, k);
            let case = Case::new(&mut random, &weight, scales, m);
            for (tokens, blocks) in [16, 64, 128].into_iter().flat_map(|tokens| blocks.map(|blocks| (tokens, blocks))) {
                case.compare::<f32>(&device, Some(Variant::Gemm { tokens, blocks }));
            }
        }
    }
}

/// A block tells that its part of a tile is there when all of its warps have left their sums.
#[test]
fn shared_tiles_match_cpu_where_warps_are_late() {
    const NAME: &str = "linear::shared_tiles_match_cpu_where_warps_are_late";
    with_late_warps(NAME, || {
        linear_matches_cpu_bit_for_bit_where_blocks_share_what_is_left_of_tiles();
        linear_matches_cpu_bit_for_bit_where_blocks_share_runs();
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn linear_matches_cpu_bit_for_bit_on_random_shapes(
        seed: u64, fine: bool, kind in 0..KINDS, n in 1usize..150, k32 in 1usize..70, m in 1usize..90,
    ) {
        let Some(device) = device() else { return Ok(()) };
        let k = if kind == 8 { 128 * k32.div_ceil(4) } else { 32 * k32 };
        let mut random = Random::new(seed);
        let weight = random_weight(&mut random, kind, n, k);
        let scales = if fine { ActScales::Fine } else { ActScales::Token };
        Case::new(&mut random, &weight, scales, m).compare::<f32>(&device, None);
    }
}
