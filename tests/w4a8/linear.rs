//! The product against its definition, bit for bit, and against f64.

use half::{bf16, f16};
use moray::element::Element;
use moray::w4a8::{
    ACT_BLOCK, ActScales, Activations, Epilogue, Format, Offset, PackedWeight, QuantizedWeight, Scales, linear,
    linear_reference, quantize,
};
use moray::{Cpu, Error};
use proptest::prelude::*;

use crate::case::{FORMATS, SCALES, activations, group_of};
use crate::common::{Random, bits, cpus};
use crate::weights::random_weight;

fn compare_with_reference(weight: &QuantizedWeight, m: usize, random: &mut Random) {
    let (n, k) = (weight.n(), weight.k());
    let (bias, residual) = (random.weights(n, 1.0), random.weights(m * n, 1.0));
    let epilogue = Epilogue { bias: Some(&bias), residual: Some(&residual) };
    let mut expected = vec![f32::NAN; m * n];
    let packed = PackedWeight::pack(weight);
    for (cpu, scales) in cpus().iter().flat_map(|cpu| SCALES.map(|scales| (cpu, scales))) {
        let (_, x) = activations(cpu, &mut Random::new(7), scales, m, k);
        linear_reference(weight, &x, epilogue, &mut expected).unwrap();
        let mut y = vec![f32::NAN; m * n];
        linear(cpu, &packed, &x, epilogue, &mut y).unwrap();
        assert_eq!(bits(&y), bits(&expected), "{:?}, {scales:?}, {m} × {n} × {k}, {weight:.0?}", cpu.isa());
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

#[test]
fn linear_matches_reference_bit_for_bit_where_k_has_several_runs() {
    let mut random = Random::new(4);
    for kind in 0..9 {
        for k in [1024, 1056, 1152, 2080, 9344] {
            for m in if kind == 8 && k % 128 > 0 { vec![] } else { vec![1, 2, 4, 13] } {
                compare_with_reference(&random_weight(&mut random, kind, 17, k), m, &mut Random::new(5));
            }
        }
    }
}

#[test]
fn sums_of_the_largest_codes_are_exact_over_long_rows() {
    // whole bytes of two codes times activations fit into 32 bits over 65793 columns, just more than a weight may have
    let (n, k) = (16, 65_536);
    let weight = QuantizedWeight::new(n, k, Format::per_channel(), vec![15; n * k], Scales::per_channel(vec![0.5; n]));
    let packed = PackedWeight::pack(&weight.unwrap());
    for (cpu, m) in cpus().iter().flat_map(|cpu| (1..=5).map(move |m| (cpu, m))) {
        for code in [127, -128] {
            let mut x = Activations::default();
            x.set_codes(ActScales::Token, &vec![code; m * k], &vec![1.0; m], m, k).unwrap();
            let mut y = vec![0.0f32; m * n];
            linear(cpu, &packed, &x, Epilogue::default(), &mut y).unwrap();
            assert!(y.iter().all(|&y| y == 3.5 * f32::from(code) * k as f32), "{:?}, {m}: {y:?}", cpu.isa());
        }
    }
}

/// Groups of 32 with offsets over K columns, and codes of M tokens, cut to some columns; the token's scale is 1.
fn product_over(random: &Random, (m, n, k): (usize, usize, usize), columns: std::ops::Range<usize>) -> Vec<f32> {
    let (mut random, len) = (random.clone(), columns.len());
    let cut = |row: usize, from: usize, size: usize| {
        row * from / size + columns.start / size..row * from / size + columns.end / size
    };
    let codes: Vec<i8> = (0..n * k).map(|_| random.below(16) as i8).collect();
    let mut halves = || (0..n * k / 32).map(|_| f16::from_f32(random.weight(0.01))).collect::<Vec<f16>>();
    let (scale, offset) = (halves(), halves());
    let a: Vec<i8> = (0..m * k).map(|_| random.below(255) as i8).collect();
    let rows = |values: &[f16]| (0..n).flat_map(|row| values[cut(row, k, 32)].to_vec()).collect::<Vec<f16>>();
    let rows_of =
        |values: &[i8], count| (0..count).flat_map(|row| values[cut(row, k, 1)].to_vec()).collect::<Vec<i8>>();
    let scales = Scales::per_group(rows(&scale), Some(rows(&offset).into()));
    let weight = QuantizedWeight::new(n, len, Format::per_group(32, Offset::F16), rows_of(&codes, n), scales).unwrap();
    let mut x = Activations::default();
    x.set_codes(ActScales::Token, &rows_of(&a, m), &vec![1.0; m], m, len).unwrap();
    let mut y = vec![0.0; m * n];
    linear(&Cpu::detect(), &PackedWeight::pack(&weight), &x, Epilogue::default(), &mut y).unwrap();
    y
}

#[test]
fn a_product_is_the_sum_of_those_of_its_runs_in_order() {
    let random = Random::new(6);
    for (k, starts) in [(1056, vec![0, 512]), (2080, vec![0, 768, 1536]), (4096, vec![0, 1024, 2048, 3072])] {
        for m in [1, 4, 7] {
            let shape = (m, 20, k);
            let ends = starts[1..].iter().chain([&k]);
            let mut expected = vec![0.0f32; m * 20];
            for (&start, &end) in starts.iter().zip(ends) {
                let run = product_over(&random, shape, start..end);
                expected.iter_mut().zip(run).for_each(|(sum, run)| *sum += run);
            }
            assert_eq!(bits(&product_over(&random, shape, 0..k)), bits(&expected), "{m} × {k}");
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
        for (cpu, scales) in cpus().iter().flat_map(|cpu| SCALES.map(|scales| (cpu, scales))) {
            let (x, all) = activations(cpu, &mut random, scales, m, k);
            let mut together = vec![0.0f32; m * n];
            linear(cpu, &packed, &all, Epilogue::default(), &mut together).unwrap();
            let mut one = Activations::default();
            one.set_scales(scales);
            let mut alone = vec![0.0f32; n];
            for token in 0..m {
                one.quantize(cpu, &x[token * k..][..k], 1, k).unwrap();
                linear(cpu, &packed, &one, Epilogue::default(), &mut alone).unwrap();
                prop_assert_eq!(bits(&alone), bits(&together[token * n..][..n]));
            }
        }
    }
}

#[test]
fn quantized_product_matches_f64_product_of_the_dequantized_numbers() {
    let cpu = Cpu::detect();
    for (format, scales) in FORMATS.into_iter().flat_map(|format| SCALES.map(|scales| (format, scales))) {
        let (m, n, k) = (5, 48, 512);
        let mut random = Random::new(13);
        let w = random.weights(n * k, 0.02);
        let q = quantize(&w, n, k, format).unwrap();
        let (_, x) = activations(&cpu, &mut random, scales, m, k);
        let mut y = vec![0.0f32; m * n];
        linear(&cpu, &PackedWeight::pack(&q), &x, Epilogue::default(), &mut y).unwrap();
        for (i, &y) in y.iter().enumerate() {
            let (mut exact, mut size) = (0.0f64, 0.0f64);
            for kk in 0..k {
                let act_scale = match scales {
                    ActScales::Token => x.scale()[i / n],
                    ActScales::Fine => x.scale()[i / n * (k / ACT_BLOCK) + kk / ACT_BLOCK],
                };
                let a = f64::from(x.codes()[i / n * x.padded_k() + kk]) * f64::from(act_scale);
                let product = a * q.dequantize_at(i % n, kk);
                exact += product;
                size += product.abs();
            }
            // integers are exact; per group two roundings of a partial sum no larger than `size`, three with a scale of its
            // own for the activations, and two at the end
            let groups = (k / group_of(format)) as f64;
            let each = if scales == ActScales::Token { 2.0 } else { 3.0 };
            let limit = size * (each * groups + 4.0) * f64::from(f32::EPSILON) / 2.0;
            let offset_free = if format.offset() == Offset::F16 { 8.0 } else { 1.0 };
            assert!((f64::from(y) - exact).abs() <= limit * offset_free, "{format:?}: {y} against {exact} ± {limit}");
        }
    }
}

/// Outliers in few blocks, as after a SwiGLU: they cost the others nothing where scales are fine.
#[test]
fn fine_scales_keep_blocks_without_outliers_exact() {
    let cpu = Cpu::detect();
    let (n, k) = (32, 1024);
    let mut random = Random::new(31);
    let w = random.weights(n * k, 0.02);
    let weight = PackedWeight::pack(&quantize(&w, n, k, Format::w8()).unwrap());
    let mut x = random.weights(k, 1.0);
    x[300] = 400.0;
    let exact: Vec<f64> =
        (0..n).map(|n| (0..k).map(|k| f64::from(x[k]) * weight.unpack().dequantize_at(n, k)).sum()).collect();
    let error = |scales| {
        let (mut a, mut y) = (Activations::default(), vec![0.0f32; n]);
        a.set_scales(scales);
        a.quantize(&cpu, &x, 1, k).unwrap();
        linear(&cpu, &weight, &a, Epilogue::default(), &mut y).unwrap();
        y.iter().zip(&exact).map(|(y, exact)| (f64::from(*y) - exact).powi(2)).sum::<f64>().sqrt()
    };
    // seven of eight blocks are rounded to a 127th of 1 instead of 400
    let (token, fine) = (error(ActScales::Token), error(ActScales::Fine));
    assert!(fine < 0.5 * token, "{fine} against {token}");
}

#[test]
fn a_token_that_is_not_finite_gives_nan_and_leaves_the_others_as_they_are() {
    let (m, n, k) = (5, 24, 160);
    let mut random = Random::new(37);
    for kind in 0..8 {
        let packed = PackedWeight::pack(&random_weight(&mut random, kind, n, k));
        for (cpu, scales) in cpus().iter().flat_map(|cpu| SCALES.map(|scales| (cpu, scales))) {
            let (mut x, mut a) = activations(cpu, &mut random, scales, m, k);
            let (mut expected, mut y) = (vec![0.0f32; m * n], vec![0.0f32; m * n]);
            linear(cpu, &packed, &a, Epilogue::default(), &mut expected).unwrap();
            x[3 * k + 150] = f32::INFINITY;
            a.quantize(cpu, &x, m, k).unwrap();
            linear(cpu, &packed, &a, Epilogue::default(), &mut y).unwrap();
            assert!(y[3 * n..4 * n].iter().all(|y| y.is_nan()), "{kind} {scales:?}");
            y[3 * n..4 * n].copy_from_slice(&expected[3 * n..4 * n]);
            assert_eq!(bits(&y), bits(&expected), "{kind} {scales:?}");
        }
    }
}

#[test]
fn an_engine_s_own_codes_give_the_same_results() {
    let cpu = Cpu::detect();
    let (m, n, k) = (3, 20, 160);
    let mut random = Random::new(41);
    let packed = PackedWeight::pack(&random_weight(&mut random, 4, n, k));
    for scales in SCALES {
        let (_, a) = activations(&cpu, &mut random, scales, m, k);
        let codes: Vec<i8> = (0..m * k).map(|i| a.codes()[i / k * a.padded_k() + i % k]).collect();
        let mut own = Activations::default();
        own.set_codes(scales, &codes, a.scale(), m, k).unwrap();
        assert_eq!((own.codes(), own.scale(), own.sums()), (a.codes(), a.scale(), a.sums()));
        let (mut expected, mut y) = (vec![0.0f32; m * n], vec![1.0f32; m * n]);
        linear(&cpu, &packed, &a, Epilogue::default(), &mut expected).unwrap();
        linear(&cpu, &packed, &own, Epilogue::default(), &mut y).unwrap();
        assert_eq!(bits(&y), bits(&expected));
        let short = own.set_codes(scales, &codes, &a.scale()[1..], m, k);
        assert!(matches!(short, Err(Error::Length { what: "scale", .. })), "{short:?}");
        let short = own.set_codes(scales, &codes[1..], a.scale(), m, k);
        assert!(matches!(short, Err(Error::Length { what: "codes", .. })), "{short:?}");
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
