//! Quantization of activations, plain and fused.

use crate::common::{Random, bits};
use crate::device::device;
use half::{bf16, f16};
use moray::device::DeviceElement;
use moray::llama::rms_norm;
use moray::sparse_mlp::{Activation, activate_product};
use moray::w4a8::{ActScales, Activations, cuda};
use moray::{Cpu, Device};

/// One value, one tile less a half, the model's width, more than a chunk of RMSNorm.
const SHAPES: [(usize, usize); 6] = [(1, 32), (3, 64), (2, 96), (5, 576), (1, 4128), (2, 8192)];

const SCALES: [ActScales; 2] = [ActScales::Token, ActScales::Fine];

fn inputs<E: DeviceElement>(random: &mut Random, m: usize, k: usize) -> Vec<E> {
    let mut x = random.weights(m * k, 1.0);
    if m > 2 {
        x[k..2 * k].fill(0.0); // one token of zeros
    }
    x.into_iter().map(E::from_f32).collect()
}

fn widen<E: DeviceElement>(x: &[E]) -> Vec<f32> {
    x.iter().map(|v| v.to_f32()).collect()
}

fn compare(device: &Device, got: &cuda::Activations, cpu: &Cpu, x: &[f32]) {
    let (m, k) = (got.m(), got.k());
    let mut expected = Activations::default();
    expected.set_scales(got.scales());
    expected.quantize(cpu, x, m, k).unwrap();
    assert_eq!(device.download(&got.codes()).unwrap(), expected.codes(), "codes of {m} × {k}");
    let blocks = got.scales().of_token(k);
    let in_order: Vec<f32> = (0..blocks * m).map(|i| expected.scale()[i % m * blocks + i / m]).collect();
    assert_eq!(bits(&device.download(&got.scale()).unwrap()), bits(&in_order), "scales of {m} × {k}");
    let groups = k.next_multiple_of(64) / 32;
    for group_size in [32, 64, 128] {
        let sums = device.download(&got.sums(Some(group_size)).unwrap()).unwrap();
        let each = group_size / 32;
        for token in 0..m {
            let fine = &expected.sums()[token * groups..(token + 1) * groups];
            for (g, fine) in fine.chunks(each).enumerate() {
                assert_eq!(sums[g * m + token], fine.iter().sum::<i32>(), "sum {g} of {group_size}, token {token}");
            }
        }
    }
    let totals = device.download(&got.sums(None).unwrap()).unwrap();
    let rows = expected.codes().chunks(k.next_multiple_of(64));
    assert_eq!(totals, rows.map(|row| row.iter().map(|&c| i32::from(c)).sum()).collect::<Vec<i32>>());
}

fn quantize_matches_cpu<E: DeviceElement>() {
    let Some(device) = device() else { return };
    let (cpu, mut random) = (Cpu::detect(), Random::new(1));
    for ((m, k), scales) in SHAPES.into_iter().flat_map(|shape| SCALES.map(|scales| (shape, scales))) {
        // codes of wider tokens lie where this call's padding goes
        let mut got = cuda::Activations::with_capacity(&device, m, k + 64).unwrap();
        let wider = device.upload(&random.weights(m * (k + 64), 1.0)).unwrap();
        got.quantize(&device, &wider.as_view(), m, k + 64).unwrap();
        got.set_scales(scales);
        let x = inputs::<E>(&mut random, m, k);
        got.quantize(&device, &device.upload(&x).unwrap().as_view(), m, k).unwrap();
        compare(&device, &got, &cpu, &widen(&x));

        let weight: Vec<f32> = (0..k).map(|_| random.unit() + 0.5).collect();
        let mut normed = vec![0.0; m * k];
        rms_norm(&cpu, &widen(&x), &weight, 1e-5, &mut normed).unwrap();
        let weight = device.upload(&weight).unwrap();
        got.quantize_rms_norm(&device, &device.upload(&x).unwrap().as_view(), m, &weight, 1e-5).unwrap();
        compare(&device, &got, &cpu, &normed);

        for activation in [Activation::Silu, Activation::Relu] {
            let gate_up = inputs::<E>(&mut random, m, 2 * k);
            let mut hidden = Vec::new();
            for token in widen(&gate_up).chunks(2 * k) {
                let mut up = token[k..].to_vec();
                activate_product(&cpu, activation, &token[..k], &mut up).unwrap();
                hidden.extend(up);
            }
            let gate_up = device.upload(&gate_up).unwrap();
            got.quantize_swiglu(&device, &gate_up.as_view(), m, k, activation).unwrap();
            compare(&device, &got, &cpu, &hidden);
        }
    }
}

#[test]
fn quantize_matches_cpu_bit_for_bit_in_f32() {
    quantize_matches_cpu::<f32>();
}

#[test]
fn quantize_matches_cpu_bit_for_bit_in_f16() {
    quantize_matches_cpu::<f16>();
}

#[test]
fn quantize_matches_cpu_bit_for_bit_in_bf16() {
    quantize_matches_cpu::<bf16>();
}

#[test]
fn quantize_matches_cpu_bit_for_bit_at_the_ends_of_the_range() {
    let Some(device) = device() else { return };
    let k = 64;
    // subnormal, tiny and huge tokens, and halves that round to even
    let mut x = vec![0.0f32; 5 * k];
    x[3] = f32::from_bits(1);
    x[k + 5] = f32::MIN_POSITIVE * 3.0;
    x[2 * k] = f32::MAX;
    x[2 * k + 1] = -f32::MAX;
    (0..k).for_each(|i| x[3 * k + i] = i as f32 + 0.5);
    x[3 * k] = 127.0;
    (0..k).for_each(|i| x[4 * k + i] = -(i as f32) - 0.5);
    x[4 * k] = -127.0;
    let mut got = cuda::Activations::with_capacity(&device, 5, k).unwrap();
    for scales in SCALES {
        got.set_scales(scales);
        got.quantize(&device, &device.upload(&x).unwrap().as_view(), 5, k).unwrap();
        compare(&device, &got, &Cpu::detect(), &x);
    }
}

#[test]
fn token_that_is_not_finite_gets_a_nan_scale_and_the_others_their_own() {
    let Some(device) = device() else { return };
    let (m, k) = (4, 96);
    let mut x = Random::new(2).weights(m * k, 1.0);
    x[k + 40] = f32::NAN;
    x[2 * k + 95] = f32::NEG_INFINITY;
    let mut got = cuda::Activations::with_capacity(&device, m, k).unwrap();
    got.quantize(&device, &device.upload(&x).unwrap().as_view(), m, k).unwrap();
    let scale = device.download(&got.scale()).unwrap();
    assert_eq!(scale.map_nan(), [false, true, true, false]);
    let codes = device.download(&got.codes()).unwrap();
    assert!(codes[128..384].iter().all(|&c| c == 0) && codes[..96].iter().any(|&c| c != 0));
}

#[test]
fn block_that_is_not_finite_gets_a_nan_scale_and_the_tokens_others_their_own() {
    let Some(device) = device() else { return };
    let (m, k) = (2, 288);
    let mut x = Random::new(3).weights(m * k, 1.0);
    x[k + 130] = f32::INFINITY;
    let mut got = cuda::Activations::with_capacity(&device, m, k).unwrap();
    got.set_scales(ActScales::Fine);
    got.quantize(&device, &device.upload(&x).unwrap().as_view(), m, k).unwrap();
    assert_eq!(device.download(&got.scale()).unwrap().map_nan(), [false, false, false, true, false, false]);
    let codes = device.download(&got.codes()).unwrap();
    let token = &codes[320..];
    assert!(token[128..256].iter().all(|&c| c == 0) && token[..128].iter().chain(&token[256..288]).any(|&c| c != 0));
}

trait MapNan {
    fn map_nan(&self) -> Vec<bool>;
}

impl MapNan for Vec<f32> {
    fn map_nan(&self) -> Vec<bool> {
        self.iter().map(|v| v.is_nan()).collect()
    }
}
