//! W4A8 against its definition: every mode, instruction set and ragged shape.

mod common;
#[path = "common/w4a8.rs"]
mod weights;

use common::{Random, bits, cpus};
use half::{bf16, f16};
use moray::element::Element;
use moray::w4a8::{
    Activations, Bits, Block, Epilogue, GroupOffset, Mode, PackedWeight, QuantizedWeight, Scales, TILE_N, from_tile,
    linear, linear_reference, quantize, tile_k, to_tile,
};
use moray::{Cpu, Error};
use proptest::prelude::*;
use weights::random_weight;

const MODES: [Mode; 10] = [
    Mode::PerChannel,
    Mode::PerGroup { group_size: 32, offset: false },
    Mode::PerGroup { group_size: 64, offset: false },
    Mode::PerGroup { group_size: 128, offset: false },
    Mode::PerGroup { group_size: 32, offset: true },
    Mode::PerGroup { group_size: 64, offset: true },
    Mode::TwoLevel { group_size: 32 },
    Mode::TwoLevel { group_size: 64 },
    Mode::Qqq,
    Mode::W8,
];

fn group_of(mode: Mode) -> usize {
    match mode {
        Mode::PerGroup { group_size, .. } | Mode::TwoLevel { group_size } => group_size,
        Mode::Qqq => 128,
        Mode::PerChannel | Mode::W8 => 32,
    }
}

fn activations(cpu: &Cpu, random: &mut Random, m: usize, k: usize) -> (Vec<f32>, Activations) {
    let mut x = random.weights(m * k, 1.0);
    if m > 2 {
        x[k..2 * k].fill(0.0); // one token of zeros
    }
    let mut activations = Activations::default();
    activations.quantize(cpu, &x, m, k).unwrap();
    (x, activations)
}

fn compare_with_reference(weight: &QuantizedWeight, m: usize, random: &mut Random) {
    let (n, k) = (weight.n(), weight.k());
    let (bias, residual) = (random.weights(n, 1.0), random.weights(m * n, 1.0));
    let epilogue = Epilogue { bias: Some(&bias), residual: Some(&residual) };
    let mut expected = vec![f32::NAN; m * n];
    for cpu in cpus() {
        let (_, x) = activations(&cpu, &mut Random::new(7), m, k);
        linear_reference(weight, &x, epilogue, &mut expected).unwrap();
        let packed = PackedWeight::pack(weight);
        let mut y = vec![f32::NAN; m * n];
        linear(&cpu, &packed, &x, epilogue, &mut y).unwrap();
        assert_eq!(bits(&y), bits(&expected), "{:?}, {m} × {n} × {k}, {weight:.0?}", cpu.isa());
    }
}

#[test]
fn linear_matches_reference_bit_for_bit_on_every_kind_and_edge_shape() {
    let mut random = Random::new(1);
    for kind in 0..9 {
        for (n, k) in [(1, 128), (15, 128), (16, 256), (17, 384), (33, 128)] {
            for m in [1, 2, 3, 4, 5, 13] {
                compare_with_reference(&random_weight(&mut random, kind, n, k), m, &mut Random::new(3));
            }
        }
    }
}

#[test]
fn linear_matches_reference_bit_for_bit_where_k_is_no_multiple_of_a_tile() {
    let mut random = Random::new(2);
    for kind in 0..8 {
        for k in [32, 64, 96, 160, 576] {
            for m in [1, 4, 6] {
                compare_with_reference(&random_weight(&mut random, kind, 20, k), m, &mut Random::new(3));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn linear_matches_reference_bit_for_bit_on_random_shapes(
        seed: u64, kind in 0usize..9, n in 1usize..70, k32 in 1usize..14, m in 1usize..64,
    ) {
        let k = if kind == 8 { 128 * k32.div_ceil(4) } else { 32 * k32 };
        let mut random = Random::new(seed);
        compare_with_reference(&random_weight(&mut random, kind, n, k), m, &mut random);
    }

    #[test]
    fn linear_is_the_same_one_token_at_a_time_as_in_one_call(seed: u64, kind in 0usize..8, m in 2usize..60) {
        let mut random = Random::new(seed);
        let (n, k) = (40, 192);
        let packed = PackedWeight::pack(&random_weight(&mut random, kind, n, k));
        for cpu in cpus() {
            let (x, all) = activations(&cpu, &mut random, m, k);
            let mut together = vec![0.0f32; m * n];
            linear(&cpu, &packed, &all, Epilogue::default(), &mut together).unwrap();
            let mut one = Activations::default();
            let mut alone = vec![0.0f32; n];
            for token in 0..m {
                one.quantize(&cpu, &x[token * k..][..k], 1, k).unwrap();
                linear(&cpu, &packed, &one, Epilogue::default(), &mut alone).unwrap();
                prop_assert_eq!(bits(&alone), bits(&together[token * n..][..n]));
            }
        }
    }

    #[test]
    fn packing_restores_every_code_and_scale(seed: u64, kind in 0usize..9, n in 1usize..40, k32 in 1usize..9) {
        let k = if kind == 8 { 128 * k32.div_ceil(4) } else { 32 * k32 };
        let weight = random_weight(&mut Random::new(seed), kind, n, k);
        let packed = PackedWeight::pack(&weight);
        prop_assert_eq!(packed.unpack(), weight.clone());
        let mut row = vec![0.0; k];
        for n in 0..n {
            packed.dequantize_row(n, &mut row).unwrap();
            for (k, &v) in row.iter().enumerate() {
                // two roundings to f32 against none
                let exact = weight.dequantize_at(n, k);
                let size = exact.abs() + 256.0 * row_scale(&weight, n, k);
                prop_assert!((f64::from(v) - exact).abs() <= size * f64::from(f32::EPSILON), "{v} {exact}");
            }
        }
    }
}

/// The scale of an element: what its code's rounding is relative to.
fn row_scale(weight: &QuantizedWeight, n: usize, k: usize) -> f64 {
    match weight.scales() {
        Scales::PerGroup { group_size, scale, offset: GroupOffset::F16(_) } => {
            scale[n * (weight.k() / group_size) + k / group_size].to_f64().abs()
        }
        _ => 0.0,
    }
}

#[test]
fn packed_bytes_stand_where_the_documented_map_says() {
    for (bits, values) in [(Bits::Four, 32), (Bits::Eight, 16)] {
        let mut seen = vec![false; TILE_N * tile_k(bits)];
        for lane in 0..32 {
            for value in 0..values {
                let (n, k) = from_tile(bits, lane, value);
                assert_eq!(to_tile(bits, n, k), (lane, value));
                assert!(!std::mem::replace(&mut seen[n * tile_k(bits) + k], true));
            }
        }
        assert!(seen.into_iter().all(|seen| seen));
        let weight = random_weight(&mut Random::new(5), if bits == Bits::Four { 0 } else { 1 }, 32, 128);
        let packed = PackedWeight::pack(&weight);
        let tiles = packed.codes().chunks_exact(512).enumerate();
        for (index, tile) in tiles {
            let per_row = 128 / tile_k(bits);
            for lane in 0..32 {
                for value in 0..values {
                    let (n, k) = from_tile(bits, lane, value);
                    let at = (index / per_row * TILE_N + n) * 128 + index % per_row * tile_k(bits) + k;
                    let stored = match bits {
                        Bits::Four => (tile[16 * lane + value / 2] >> (4 * (value % 2)) & 15) as i8,
                        Bits::Eight => tile[16 * lane + value] as i8,
                    };
                    assert_eq!(stored, weight.codes()[at], "tile {index}, lane {lane}, value {value}");
                }
            }
        }
    }
}

#[test]
fn quantize_rounds_to_the_nearest_code_of_the_stored_scales_in_every_mode() {
    let mut random = Random::new(11);
    for mode in MODES {
        let (n, k) = (9, 384);
        let mut w = random.weights(n * k, 0.02);
        w[..128].fill(0.0); // a group of zeros
        let q = quantize(&w, n, k, mode).unwrap();
        for (i, &w) in w.iter().enumerate() {
            let (stored, step) = (q.dequantize_at(i / k, i % k), step(&q, i / k, i % k));
            let error = (stored - f64::from(w)).abs();
            assert!(error <= step.abs() * error_limit_steps(mode), "{mode:?} {i}: {w} became {stored}");
            let (low, high) = if q.bits() == Bits::Four { (0, 15) } else { (-127, 127) };
            let code = q.codes()[i];
            for (neighbour, allowed) in [(stored - step, code > low), (stored + step, code < high)] {
                let better = (neighbour - f64::from(w)).abs() < error * (1.0 - 1e-5);
                let unused = mode == Mode::PerChannel && code == 1 && neighbour < stored; // −8 stays unused
                // QQQ's codes are chosen before their scale is rounded to int8
                assert!(!(better && allowed) || unused || mode == Mode::Qqq, "{mode:?} {i}: {w}");
            }
        }
    }
}

fn step(q: &QuantizedWeight, n: usize, k: usize) -> f64 {
    let group = |size: usize| n * (q.k() / size) + k / size;
    match q.scales() {
        Scales::PerChannel { scale } => f64::from(scale[n].abs()),
        Scales::PerGroup { group_size, scale, .. } => scale[group(*group_size)].to_f64(),
        Scales::TwoLevel { group_size, group_scale, scale } => {
            f64::from(scale[n]) * f64::from(group_scale[group(*group_size)])
        }
        Scales::Qqq { group_scale, scale } => f64::from(scale[n]) * group_scale[group(128)].to_f64().abs(),
    }
}

/// The largest error in steps: half a step, more where the grid is one-sided, clipped by choice or rounded twice.
fn error_limit_steps(mode: Mode) -> f64 {
    match mode {
        Mode::PerChannel | Mode::W8 => 0.5001,
        // the offset is rounded to f16 (2⁻¹¹ of it) and the scale too, 15 steps away
        Mode::PerGroup { offset: true, .. } => 0.53,
        // an extreme of the other sign is clipped by up to one step
        Mode::PerGroup { offset: false, .. } => 1.01,
        // the best integer scale may clip the extremes
        Mode::TwoLevel { .. } => 7.0 / 0.5,
        // codes reach +7 where the scale spans 7.5, and the int8 weight is rounded again
        Mode::Qqq => 1.1,
    }
}

#[test]
fn quantized_product_matches_f64_product_of_the_dequantized_numbers() {
    let cpu = Cpu::detect();
    for mode in MODES {
        let (m, n, k) = (5, 48, 512);
        let mut random = Random::new(13);
        let w = random.weights(n * k, 0.02);
        let q = quantize(&w, n, k, mode).unwrap();
        let (_, x) = activations(&cpu, &mut random, m, k);
        let mut y = vec![0.0f32; m * n];
        linear(&cpu, &PackedWeight::pack(&q), &x, Epilogue::default(), &mut y).unwrap();
        for (i, &y) in y.iter().enumerate() {
            let (mut exact, mut size) = (0.0f64, 0.0f64);
            for kk in 0..k {
                let a = f64::from(x.codes()[i / n * x.padded_k() + kk]) * f64::from(x.scale()[i / n]);
                let product = a * q.dequantize_at(i % n, kk);
                exact += product;
                size += product.abs();
            }
            // integers are exact; per group two roundings of a partial sum no larger than `size`, and two at the end
            let groups = (k / group_of(mode)) as f64;
            let limit = size * (2.0 * groups + 4.0) * f64::from(f32::EPSILON) / 2.0;
            let offset_free = if matches!(mode, Mode::PerGroup { offset: true, .. }) { 8.0 } else { 1.0 };
            assert!((f64::from(y) - exact).abs() <= limit * offset_free, "{mode:?}: {y} against {exact} ± {limit}");
        }
    }
}

#[test]
fn activations_match_their_definition_on_every_instruction_set() {
    for cpu in cpus() {
        for k in [32, 64, 96, 576] {
            let (x, a) = activations(&cpu, &mut Random::new(17), 4, k);
            assert_eq!(a.padded_k(), k.next_multiple_of(64));
            for m in 0..4 {
                let row = &x[m * k..][..k];
                let max = row.iter().fold(0.0f32, |max, v| max.max(v.abs()));
                assert_eq!(a.scale()[m], max / 127.0);
                let codes = &a.codes()[m * a.padded_k()..][..a.padded_k()];
                for (i, &code) in codes.iter().enumerate() {
                    let inverse = if max == 0.0 { 0.0 } else { 1.0 / (max / 127.0) };
                    let expected = if i < k { (row[i] * inverse).round_ties_even().clamp(-127.0, 127.0) } else { 0.0 };
                    assert_eq!(f32::from(code), expected, "{:?} token {m}, feature {i}", cpu.isa());
                }
                for (g, codes) in codes.chunks_exact(32).enumerate() {
                    let sum: i32 = codes.iter().map(|&c| i32::from(c)).sum();
                    assert_eq!(a.sums()[m * a.padded_k() / 32 + g], sum);
                }
            }
        }
    }
}

#[test]
fn activations_of_extreme_magnitude_stay_in_range_and_invalid_ones_are_refused() {
    for cpu in cpus() {
        let mut a = Activations::default();
        for max in [f32::MAX, f32::MIN_POSITIVE, 1e-45, 3e-39] {
            let x: Vec<f32> = (0..64).map(|i| if i % 2 == 0 { max } else { -max / 3.0 }).collect();
            a.quantize(&cpu, &x, 1, 64).unwrap();
            assert!(a.codes().iter().all(|&c| c >= -127), "{max}");
        }
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = vec![1.0f32; 96];
            x[70] = bad;
            assert!(matches!(a.quantize(&cpu, &x, 1, 96), Err(Error::Value { what: "x", .. })));
        }
    }
}

fn half_types_match_rounded_f32<E: Element>() {
    let (m, n, k) = (3, 24, 96);
    let mut random = Random::new(19);
    let weight = random_weight(&mut random, 4, n, k);
    let x: Vec<E> = random.weights(m * k, 1.0).into_iter().map(E::from_f32).collect();
    let wide: Vec<f32> = x.iter().map(|v| v.to_f32()).collect();
    let residual: Vec<E> = random.weights(m * n, 1.0).into_iter().map(E::from_f32).collect();
    let wide_residual: Vec<f32> = residual.iter().map(|v| v.to_f32()).collect();
    let packed = PackedWeight::pack(&weight);
    for cpu in cpus() {
        let (mut a, mut b) = (Activations::default(), Activations::default());
        a.quantize(&cpu, &x, m, k).unwrap();
        b.quantize(&cpu, &wide, m, k).unwrap();
        assert_eq!((a.codes(), a.scale(), a.sums()), (b.codes(), b.scale(), b.sums()));
        let mut y = vec![E::from_f32(0.0); m * n];
        let mut expected = vec![0.0f32; m * n];
        linear(&cpu, &packed, &a, Epilogue { bias: None, residual: Some(&residual) }, &mut y).unwrap();
        linear(&cpu, &packed, &b, Epilogue { bias: None, residual: Some(&wide_residual) }, &mut expected).unwrap();
        let expected: Vec<E> = expected.into_iter().map(E::from_f32).collect();
        assert_eq!(y, expected, "{} {:?}", E::NAME, cpu.isa());
    }
}

#[test]
fn f16_and_bf16_activations_match_f32_rounded_once() {
    half_types_match_rounded_f32::<f16>();
    half_types_match_rounded_f32::<bf16>();
}

#[test]
fn import_of_blocks_is_lossless() {
    let mut random = Random::new(23);
    let (n, k) = (6, 96);
    for block in [Block::Q4_0, Block::Q4_1, Block::Q5_1, Block::Q8_0] {
        let bytes: Vec<u8> = (0..n * k / 32)
            .flat_map(|_| {
                let mut one: Vec<u8> = (0..block.bytes()).map(|_| random.below(256) as u8).collect();
                one[..2].copy_from_slice(&f16::from_f32(random.weight(0.1)).to_le_bytes());
                if matches!(block, Block::Q4_1 | Block::Q5_1) {
                    one[2..4].copy_from_slice(&f16::from_f32(random.weight(0.1)).to_le_bytes());
                }
                one
            })
            .collect();
        let q = block.import(&bytes, n, k).unwrap();
        let packed = PackedWeight::pack(&q);
        assert_eq!(packed.unpack(), q);
        for (i, one) in bytes.chunks_exact(block.bytes()).enumerate() {
            let f = |at: usize| f64::from(f16::from_le_bytes([one[at], one[at + 1]]).to_f32());
            for v in 0..32 {
                let nibble = |at: usize| f64::from(one[at + v % 16] >> (4 * (v / 16)) & 15);
                let expected = match block {
                    Block::Q4_0 => f(0) * (nibble(2) - 8.0),
                    Block::Q4_1 => f(0) * nibble(4) + f(2),
                    Block::Q5_1 => f(0) * (nibble(8) + f64::from(16 * (one[4 + v / 8] >> (v % 8) & 1))) + f(2),
                    Block::Q8_0 => f(0) * f64::from(one[2 + v] as i8),
                };
                assert_eq!(q.dequantize_at(i * 32 / k, i * 32 % k + v), expected, "{block:?}");
            }
        }
    }
}

#[test]
fn rows_can_be_permuted_and_matrices_stacked() {
    let mut random = Random::new(29);
    for kind in 0..9 {
        let (a, b) = (random_weight(&mut Random::new(3), kind, 5, 128), random_weight(&mut random, kind, 7, 128));
        let Ok(both) = QuantizedWeight::concatenate(&[&a, &b]) else {
            assert_ne!(a.scales().group_size(), b.scales().group_size());
            continue;
        };
        let order: Vec<usize> = (0..12).rev().collect();
        let turned = both.permute_rows(&order).unwrap();
        for (row, k) in (0..12).flat_map(|row| (0..128).map(move |k| (row, k))) {
            let from = 11 - row;
            let expected = if from < 5 { a.dequantize_at(from, k) } else { b.dequantize_at(from - 5, k) };
            assert_eq!(turned.dequantize_at(row, k), expected);
        }
    }
}

#[test]
fn wrong_arguments_are_typed_errors_and_write_nothing() {
    let cpu = Cpu::detect();
    let w = vec![0.5f32; 16 * 96];
    let length = |r: moray::Result<QuantizedWeight>| matches!(r, Err(Error::Length { .. }));
    let shape = |r: moray::Result<QuantizedWeight>| matches!(r, Err(Error::Shape { .. }));
    let grouped = |group_size| Mode::PerGroup { group_size, offset: false };
    assert!(length(quantize(&w, 16, 64, Mode::PerChannel)));
    assert!(shape(quantize(&w, 0, 96, Mode::PerChannel)));
    assert!(shape(quantize(&w, 32, 48, Mode::PerChannel)));
    assert!(shape(quantize(&w, 16, 96, grouped(64))));
    assert!(shape(quantize(&w, 16, 96, grouped(48))));
    assert!(shape(quantize(&w, 16, 96, Mode::Qqq)));
    let mut bad = w.clone();
    bad[100] = f32::NAN;
    assert!(matches!(quantize(&bad, 16, 96, grouped(32)), Err(Error::Value { what: "w", .. })));
    bad[100] = 1e30; // its scale is no f16
    assert!(matches!(quantize(&bad, 16, 96, grouped(32)), Err(Error::Value { what: "scale", .. })));
    let scales = Scales::PerChannel { scale: vec![1.0; 16] };
    let codes = vec![16i8; 16 * 96];
    assert!(matches!(QuantizedWeight::new(16, 96, Bits::Four, codes, scales), Err(Error::Value { what: "codes", .. })));
    assert!(matches!(Block::Q4_0.import(&[0; 17], 1, 32), Err(Error::Length { what: "bytes", .. })));

    let packed = PackedWeight::pack(&quantize(&w, 16, 96, grouped(32)).unwrap());
    let mut x = Activations::default();
    assert!(matches!(x.quantize(&cpu, &w[..95], 1, 95), Err(Error::Shape { what: "k", .. })));
    assert!(matches!(x.quantize(&cpu, &w[..96], 0, 96), Err(Error::Shape { what: "m", .. })));
    x.quantize(&cpu, &w[..64], 1, 64).unwrap();
    let mut y = vec![7.0f32; 16];
    assert!(matches!(linear(&cpu, &packed, &x, Epilogue::default(), &mut y), Err(Error::Shape { what: "x", .. })));
    x.quantize(&cpu, &w[..96], 1, 96).unwrap();
    let short = Epilogue { bias: Some(&w[..15]), residual: None };
    assert!(matches!(linear(&cpu, &packed, &x, short, &mut y), Err(Error::Length { what: "bias", .. })));
    let short = Epilogue { bias: None, residual: Some(&w[..15]) };
    assert!(matches!(linear(&cpu, &packed, &x, short, &mut y), Err(Error::Length { what: "residual", .. })));
    let none = Epilogue::default();
    assert!(matches!(linear(&cpu, &packed, &x, none, &mut y[..15]), Err(Error::Length { what: "y", .. })));
    assert_eq!(y, vec![7.0; 16]);
    assert!(matches!(packed.dequantize_row(16, &mut [0.0; 96]), Err(Error::Index { .. })));
}
