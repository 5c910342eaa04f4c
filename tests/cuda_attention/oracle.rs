//! Attention in f64 from the definition, and how far the operands of tensor cores may be from it.

use half::{bf16, f16};
use moray::Device;
use moray::attention::cuda::{KvCache, KvFormat};
use moray::attention::{KvRow, Span};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::case::{Case, any_case};
use crate::device::{device, with_cut_sums};
use crate::run::DeviceCase;

/// The rounding of the operands of a format: relative, and absolute below the normal numbers; and the products that stand for one.
struct Rounding {
    relative: f64,
    absolute: f64,
    products: f64,
}

impl Rounding {
    fn new(format: KvFormat) -> Rounding {
        match format {
            // both factors are off by 2⁻²², and the product of their low parts is left out
            KvFormat::F32 => Rounding { relative: 3.0 * 2f64.powi(-22), absolute: 0.0, products: 3.0 },
            KvFormat::Bf16 => Rounding { relative: 2f64.powi(-8), absolute: 0.0, products: 1.0 },
            _ => Rounding { relative: 2f64.powi(-11), absolute: 2f64.powi(-25), products: 1.0 },
        }
    }

    fn of(&self, x: f64) -> f64 {
        (x.abs() * self.relative).max(self.absolute)
    }
}

/// One row's output, and how far the kernel may be from it, element by element.
///
/// With u = 2⁻²⁴ and r the operands' rounding: q times log₂ e / √d is rounded to 16 bits, so a score is off by Σ r(q)|k| and by
/// 2·(d + 3)·u·Σ|q k| of accumulation (2, since tensor cores may truncate); K and V of int8 caches are rounded to 16 bits
/// too. Over f32 caches r is that of a product of sums of two tf32 numbers, whose three parts are accumulated one by one: three
/// times the terms. Taking the maximum away adds 2·u times the largest score, 2^x 2⁻²² relative. That is a weight's relative
/// error, which is then rounded to 16 bits itself; the sum of weights has it all again. Sums over n positions and rescalings
/// add (n + 4·n/16 + 40)·u.
fn attention_f64(q: &[f32], rows: &[(Vec<f32>, Vec<f32>)], d: usize, format: KvFormat) -> (Vec<f64>, Vec<f64>) {
    if rows.is_empty() {
        return (vec![0.0; d], vec![0.0; d]);
    }
    let (u, r) = (2f64.powi(-24), Rounding::new(format));
    let factor = std::f64::consts::LOG2_E / (d as f64).sqrt();
    let q: Vec<f64> = q.iter().map(|&q| f64::from(q) * factor).collect();
    let quantized = format == KvFormat::Int8;
    let (mut scores, mut score_error) = (Vec::new(), 0f64);
    for (k, _) in rows {
        let products = || q.iter().zip(k).map(|(&q, &k)| (q, f64::from(k)));
        scores.push(products().map(|(q, k)| q * k).sum::<f64>());
        let magnitude: f64 = products().map(|(q, k)| (q * k).abs()).sum();
        let rounding: f64 = products().map(|(q, k)| (r.of(q) + 2.0 * u * q.abs()) * k.abs()).sum();
        let widening: f64 = if quantized { products().map(|(q, k)| q.abs() * r.of(k)).sum() } else { 0.0 };
        score_error = score_error.max(2.0 * (d + 3) as f64 * r.products * u * magnitude + rounding + widening);
    }
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp2()).collect();
    let sum: f64 = weights.iter().sum();
    let extent = scores.iter().map(|score| score.abs()).fold(0.0, f64::max);
    let n = rows.len() as f64;
    let of_weight = (score_error + 2.0 * u * extent) * std::f64::consts::LN_2 + 2f64.powi(-22) + r.relative;
    let relative = 2.0 * of_weight + (n + 4.0 * n / 16.0 + 40.0) * r.products * u;
    // 1.01 for the second-order terms
    let (mut expected, mut bound) = (vec![0.0; d], vec![0.0; d]);
    for i in 0..d {
        let values = || rows.iter().map(|(_, v)| f64::from(v[i])).zip(&weights);
        expected[i] = values().map(|(v, weight)| weight / sum * v).sum();
        let magnitude: f64 = values().map(|(v, weight)| weight / sum * v.abs()).sum();
        let tiny: f64 = values().map(|(v, _)| r.absolute * v.abs()).sum::<f64>() + n * r.absolute * magnitude;
        let widening = if quantized { values().map(|(v, weight)| weight / sum * r.of(v)).sum() } else { 0.0 };
        bound[i] = 1.01 * (relative * magnitude + tiny / sum + widening);
    }
    (expected, bound)
}

/// The rows that the cache holds for a KV head, by position.
fn held(
    device: &Device,
    cache: &KvCache,
    slot: usize,
    kv_head: usize,
    end: usize,
) -> Vec<Option<(Vec<f32>, Vec<f32>)>> {
    let d = cache.shape().head_dim;
    let read = |position| {
        let (mut k, mut v) = (vec![0.0; d], vec![0.0; d]);
        let row = KvRow { slot, kv_head, position };
        cache.read_row(device, 1, row, &mut k, &mut v).unwrap().then_some((k, v))
    };
    (0..end).map(read).collect()
}

/// Checks outputs of `spans`, every second token of long ones; `rounding` is that of the output's type.
pub fn check(device: &Device, case: &DeviceCase, cache: &KvCache, spans: &[Span], out: &[f32], rounding: f64) {
    let Case { shape, heads, .. } = &case.case;
    let (q, d) = (case.case.q(), shape.head_dim);
    let mut first_row = 0;
    for (index, span) in spans.iter().enumerate() {
        for kv_head in 0..shape.n_kv_heads {
            let rows = held(device, cache, span.slot, kv_head, span.end());
            for head in kv_head * shape.group_size()..(kv_head + 1) * shape.group_size() {
                for token in (0..span.len).step_by(if span.len > 8 { 3 } else { 1 }) {
                    let at = (first_row + token) * shape.q_elems() + head * d;
                    let got = &out[at..at + d];
                    if !heads.as_heads().contains(shape, index, head) {
                        assert!(got.iter().all(|x| x.to_bits() == 0), "a skipped head's output is not zero");
                        continue;
                    }
                    let visible: Vec<_> = rows[..=span.start + token].iter().flatten().cloned().collect();
                    let (expected, bound) = attention_f64(&q[at..at + d], &visible, d, case.format);
                    for i in 0..d {
                        let error = (f64::from(got[i]) - expected[i]).abs();
                        let bound = bound[i] + rounding * expected[i].abs() + rounding * 2f64.powi(-14);
                        assert!(
                            error <= bound,
                            "{:?} span {index}, token {token}, head {head}, element {i}: {} instead of {}, bound {bound:e}",
                            case.format,
                            got[i],
                            expected[i],
                        );
                    }
                }
            }
        }
        first_row += span.len;
    }
}

/// Any case, half of them decode steps.
fn any_device_case() -> impl Strategy<Value = DeviceCase> {
    (any_case(300), any::<bool>(), 1..4usize).prop_map(|(mut case, decodes, longest)| {
        if decodes {
            case.spans.iter_mut().for_each(|span| span.len = span.len.min(longest));
        }
        DeviceCase::new(case)
    })
}

#[test]
fn attention_matches_f64_for_any_shape_batch_selection_policy_and_layout() {
    let Some(device) = device() else { return };
    let mut runner = TestRunner::new(Config { cases: 40, ..Config::default() });
    let run = runner.run(&any_device_case(), |case| {
        let cache = case.fill(&device);
        check(&device, &case, &cache, &case.case.spans, &case.attend::<f32>(&device, &cache), 0.0);
        Ok(())
    });
    run.unwrap();
}

#[test]
fn attention_in_16_bits_matches_the_rounded_result() {
    let Some(device) = device() else { return };
    let mut runner = TestRunner::new(Config { cases: 4, ..Config::default() });
    let run = runner.run(&any_device_case(), |case| {
        let cache = case.fill(&device);
        let wide = case.attend::<f32>(&device, &cache);
        let f16s: Vec<f32> = wide.iter().map(|&x| f16::from_f32(x).to_f32()).collect();
        let bf16s: Vec<f32> = wide.iter().map(|&x| bf16::from_f32(x).to_f32()).collect();
        prop_assert_eq!(case.attend::<f16>(&device, &cache), f16s);
        prop_assert_eq!(case.attend::<bf16>(&device, &cache), bf16s);
        Ok(())
    });
    run.unwrap();
}

/// Head sizes at and beside every kernel's own, every format, one and several row tiles.
#[test]
fn attention_matches_f64_over_the_table_of_kernels() {
    let Some(device) = device() else { return };
    for (index, head_dim) in [16, 64, 80, 128, 144, 256].into_iter().enumerate() {
        for format in [KvFormat::F32, KvFormat::F16, KvFormat::Bf16, KvFormat::Int8] {
            for len in [1, 9, 40] {
                let mut case = crate::exact::plain_case(4, 2, head_dim, &[(100 + 64 * (index % 2), len)]);
                case.format = format;
                let cache = case.fill(&device);
                check(&device, &case, &cache, &case.case.spans, &case.attend::<f32>(&device, &cache), 0.0);
            }
        }
    }
}

#[test]
fn attention_matches_f64_where_matrix_units_cut_their_sums() {
    const NAME: &str = "oracle::attention_matches_f64_where_matrix_units_cut_their_sums";
    with_cut_sums(NAME, attention_matches_f64_over_the_table_of_kernels);
}
