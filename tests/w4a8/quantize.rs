//! The quantizers of weights and of tokens against their definitions.

use half::f16;
use moray::w4a8::{
    ACT_BLOCK, ActScales, Activations, Bits, Format, GroupScale, Offset, QuantizedWeight, Scales, quantize,
};

use crate::case::{FORMATS, activations};
use crate::common::{Random, cpus};

#[test]
fn quantize_rounds_to_the_nearest_code_of_the_stored_scales_in_every_mode() {
    let mut random = Random::new(11);
    for format in FORMATS {
        let (n, k) = (9, 384);
        let mut w = random.weights(n * k, 0.02);
        w[..128].fill(0.0); // a group of zeros
        let q = quantize(&w, n, k, format).unwrap();
        for (i, &w) in w.iter().enumerate() {
            let (stored, step) = (q.dequantize_at(i / k, i % k), step(&q, i / k, i % k));
            let error = (stored - f64::from(w)).abs();
            assert!(error <= step.abs() * error_limit_steps(format), "{format:?} {i}: {w} became {stored}");
            let (low, high) = if q.format().bits == Bits::Four { (0, 15) } else { (-127, 127) };
            let code = q.codes()[i];
            for (neighbour, allowed) in [(stored - step, code > low), (stored + step, code < high)] {
                let better = (neighbour - f64::from(w)).abs() < error * (1.0 - 4.0 * place_error_steps(&q));
                let unused = format == Format::per_channel() && code == 1 && neighbour < stored; // −8 stays unused
                // QQQ's codes are chosen before their scale is rounded to int8
                assert!(!(better && allowed) || unused || format == Format::qqq(), "{format:?} {i}: {w}");
            }
        }
    }
}

fn step(q: &QuantizedWeight, n: usize, k: usize) -> f64 {
    let at = |size: usize| n * (q.k() / size) + k / size;
    let channel = q.scales().channel.as_ref().map_or(1.0, |channel| f64::from(channel[n].abs()));
    let group = q
        .format()
        .group_size()
        .zip(q.scales().group.as_ref())
        .map_or(1.0, |(size, group)| f64::from(group.get(at(size))));
    match q.format().group_scale() {
        Some(GroupScale::Qqq) => channel * group.abs(),
        _ => channel * group,
    }
}

/// How far off, in steps, f32 finds a weight between its codes: two roundings of at most 15 or 127 steps. A code may then be
/// half a step and that much away, its neighbour half a step less as much: nearer by four times the share.
fn place_error_steps(q: &QuantizedWeight) -> f64 {
    let reach = if q.format().bits == Bits::Four { 15.0 } else { 127.0 };
    2.0 * reach * f64::from(f32::EPSILON) / 2.0
}

/// The largest error in steps: half a step, more where the grid is one-sided, clipped by choice or rounded twice.
fn error_limit_steps(format: Format) -> f64 {
    match (format.group_scale(), format.offset()) {
        // two roundings of f32, at up to 127 steps
        (None, _) => 0.5 + 127.0 * f64::from(f32::EPSILON),
        // ends of the range may be clipped, but never so far that a wider range were better: see the test below
        (Some(GroupScale::F16), Offset::F16) => 15.0,
        // an extreme of the other sign is clipped by up to one step
        (Some(GroupScale::F16), _) => 1.01,
        // the best integer scale may clip the extremes
        (Some(GroupScale::Integer), _) => 7.0 / 0.5,
        // codes reach +7 where the scale spans 7.5, and the int8 weight is rounded again
        (Some(GroupScale::Qqq), _) => 1.1,
    }
}

#[test]
fn activations_match_their_definition_on_every_instruction_set() {
    for cpu in cpus() {
        for k in [32, 64, 96, 576] {
            let (x, a) = activations(&cpu, &mut Random::new(17), ActScales::Token, 4, k);
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
fn fine_scales_match_tokens_that_end_after_128() {
    for cpu in cpus() {
        for k in [32, 96, 128, 160, 576] {
            let (x, fine) = activations(&cpu, &mut Random::new(19), ActScales::Fine, 4, k);
            let blocks = k.div_ceil(ACT_BLOCK);
            assert_eq!(fine.scale().len(), 4 * blocks);
            for (m, b) in (0..4).flat_map(|m| (0..blocks).map(move |b| (m, b))) {
                let range = b * ACT_BLOCK..((b + 1) * ACT_BLOCK).min(k);
                let mut one = Activations::default();
                one.quantize(&cpu, &x[m * k..][range.clone()], 1, range.len()).unwrap();
                assert_eq!(fine.scale()[m * blocks + b], one.scale()[0]);
                assert_eq!(fine.codes()[m * fine.padded_k()..][range.clone()], one.codes()[..range.len()]);
                let sums = &fine.sums()[m * fine.padded_k() / 32 + range.start / 32..];
                assert_eq!(sums[..range.len() / 32], one.sums()[..range.len() / 32]);
            }
        }
    }
}

#[test]
fn activations_of_extreme_magnitude_stay_in_range_and_invalid_ones_have_no_scale() {
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
            // only this token is lost, as on a device, where nobody could be told
            a.quantize(&cpu, &x, 1, 96).unwrap();
            assert!(a.scale()[0].is_nan() && a.codes().iter().all(|&code| code == 0), "{bad}");
        }
    }
}

/// The squared error of a group rounded to the 16 levels from its least to its greatest value.
fn error_of_the_range(group: &[f32]) -> f64 {
    let (min, max) = group.iter().fold((f32::MAX, f32::MIN), |(low, high), &v| (low.min(v), high.max(v)));
    let [scale, offset] = [(max - min) / 15.0, min].map(|v| f64::from(f16::from_f32(v).to_f32()));
    let miss = |&w: &f32| {
        let code = ((f64::from(w) - offset) / scale).round_ties_even().clamp(0.0, 15.0);
        (scale * code + offset - f64::from(w)).powi(2)
    };
    group.iter().map(miss).sum()
}

#[test]
fn groups_with_offsets_are_never_worse_than_their_range_and_mostly_far_better() {
    let (n, k) = (64, 384);
    let w = Random::new(37).weights(n * k, 0.02);
    for size in [32, 64, 128] {
        let q = quantize(&w, n, k, Format::per_group(size, Offset::F16)).unwrap();
        let (mut fitted, mut range) = (0.0, 0.0);
        for (g, group) in w.chunks_exact(size).enumerate() {
            let at = |i: usize| q.dequantize_at((g * size + i) / k, (g * size + i) % k);
            let error: f64 = group.iter().enumerate().map(|(i, &w)| (at(i) - f64::from(w)).powi(2)).sum();
            // sums of f32 compare two lines that are as good as each other up to their rounding
            assert!(
                error <= error_of_the_range(group) * (1.0 + size as f64 * f64::from(f32::EPSILON)),
                "group {g} of {size}"
            );
            fitted += error;
            range += error_of_the_range(group);
        }
        assert!(fitted < 0.9 * range, "{size}: {fitted} against {range}");
    }
}

/// (code − 8) · scale in integers of the smallest f16's size, rounded to the nearest whole number, ties to even.
fn rounded_once(code: i64, scale: f16) -> i64 {
    let bits = i64::from(scale.to_bits());
    let (exponent, fraction) = (bits >> 10 & 31, bits & 1023);
    let size = if exponent == 0 { fraction } else { (fraction | 1024) << (exponent - 1) };
    let product = (code - 8) * if bits >> 15 == 1 { -size } else { size };
    let (whole, rest, half) = (product >> 24, product & 0xff_ffff, 0x80_0000);
    whole + i64::from(rest > half || (rest == half && whole & 1 == 1))
}

#[test]
fn qqq_rounds_the_exact_product_once_for_every_group_scale() {
    let reach = |scale: &f16| (8.0 * scale.to_f32()).abs() < 127.5;
    let scales: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).filter(reach).collect();
    let (n, k) = (scales.len(), 128);
    let codes = (0..n * k).map(|i| (i % 16) as i8).collect();
    let channel = vec![1.0; n];
    let weight =
        QuantizedWeight::new(n, k, Format::qqq(), codes, Scales::over_channel(scales.clone(), channel)).unwrap();
    for (row, &scale) in scales.iter().enumerate() {
        for code in 0..16 {
            let expected = rounded_once(code as i64, scale) as f64;
            assert_eq!(weight.dequantize_at(row, code), expected, "{code} · {scale:?}");
        }
    }
}

#[test]
fn groups_whose_offset_or_scale_is_no_f16_are_refused_and_none_becomes_its_mean() {
    let format = Format::per_group(32, Offset::F16);
    for (low, high) in [(-7e4, 7e4), (-7e4, 0.0), (7e4, 8e4), (-8e4, -7e4), (-3e38, 3e38), (0.0, 1e6)] {
        let mut w: Vec<f32> = (0..64).map(|i| i as f32 / 64.0).collect();
        for (i, w) in w[32..].iter_mut().enumerate() {
            *w = low + (high - low) * (i as f32 / 31.0);
        }
        assert!(quantize(&w, 1, 64, format).is_err(), "{low} to {high}");
    }
    // the largest that f16 has
    let w: Vec<f32> = (0..32).map(|i| -65504.0 + 65504.0 * (i as f32 / 31.0)).collect();
    let q = quantize(&w, 1, 32, format).unwrap();
    for (k, &w) in w.iter().enumerate() {
        assert!((q.dequantize_at(0, k) - f64::from(w)).abs() < 65504.0 / 15.0, "{k}");
    }
}
