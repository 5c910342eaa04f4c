//! RoPE against its definition in f64.

use moray::Cpu;
use moray::attention::*;
use moray::{Error, Isa};

use crate::case::{bits, isas, noise, rounded};

/// The frequency of pair i, in the words of the checkpoints' configuration.
fn frequency(i: usize, head_dim: usize, theta: f64, scaling: &RopeScaling) -> f64 {
    let plain = 1.0 / theta.powf(2.0 * i as f64 / head_dim as f64);
    match scaling {
        RopeScaling::Linear { factor } => plain / factor,
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            let original = *original_context as f64;
            let (low_wavelen, high_wavelen) = (original / low_freq_factor, original / high_freq_factor);
            let wavelen = 2.0 * std::f64::consts::PI / plain;
            if wavelen > low_wavelen {
                plain / factor
            } else if wavelen < high_wavelen {
                plain
            } else {
                let smooth = (original / wavelen - low_freq_factor) / (high_freq_factor - low_freq_factor);
                (1.0 - smooth) * plain / factor + smooth * plain
            }
        }
        RopeScaling::Factors(factors) | RopeScaling::LongRope { factors, .. } => plain / f64::from(factors[i]),
        RopeScaling::Yarn { factor, beta_fast, beta_slow, original_context, truncate, .. } => {
            // the pair that turns `turns` times in the original context
            let pair = |turns: f64| {
                let wavelen = *original_context as f64 / turns;
                head_dim as f64 * (wavelen / (2.0 * std::f64::consts::PI)).ln() / (2.0 * theta.ln())
            };
            let (mut low, mut high) = (pair(*beta_fast), pair(*beta_slow));
            if *truncate {
                (low, high) = (low.floor(), high.ceil());
            }
            (low, high) = (low.max(0.0), high.min(head_dim as f64 - 1.0));
            let divided =
                if low == high { f64::from(i as f64 > low) } else { ((i as f64 - low) / (high - low)).clamp(0.0, 1.0) };
            divided * plain / factor + (1.0 - divided) * plain
        }
        _ => plain,
    }
}

/// What rotated queries and keys grow by.
fn growth(scaling: &RopeScaling) -> f64 {
    match scaling {
        RopeScaling::Yarn { attention_factor, .. } | RopeScaling::LongRope { attention_factor, .. } => {
            *attention_factor
        }
        _ => 1.0,
    }
}

fn rotated(x: &[f32], position: usize, theta: f64, scaling: &RopeScaling) -> Vec<f64> {
    let half = x.len() / 2;
    let mut out = vec![0.0; x.len()];
    for i in 0..half {
        let (sin, cos) = (position as f64 * frequency(i, x.len(), theta, scaling)).sin_cos();
        let (sin, cos) = (growth(scaling) * sin, growth(scaling) * cos);
        let (a, b) = (f64::from(x[i]), f64::from(x[i + half]));
        (out[i], out[i + half]) = (a * cos - b * sin, b * cos + a * sin);
    }
    out
}

fn yarn(factor: f64, original_context: usize, attention_factor: f64, truncate: bool) -> RopeScaling {
    RopeScaling::Yarn { factor, beta_fast: 32.0, beta_slow: 1.0, original_context, attention_factor, truncate }
}

fn scalings(head_dim: usize) -> [RopeScaling; 8] {
    let factors: Vec<f32> = (0..head_dim / 2).map(|i| 1.0 + i as f32 / 4.0).collect();
    [
        RopeScaling::Default,
        RopeScaling::Linear { factor: 4.0 },
        RopeScaling::Llama3 { factor: 32.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 8192 },
        RopeScaling::Factors(factors.clone()),
        yarn(4.0, 4096, 1.0, true),
        yarn(8.0, 4096, 0.75, false),
        // no pair turns even once: all but the first are divided
        yarn(8.0, 6, 1.0, true),
        RopeScaling::LongRope { factors, attention_factor: 0.5 },
    ]
}

#[test]
fn rotation_matches_f64_for_every_scaling() {
    for (head_dim, theta) in [(8, 10_000.0), (64, 100_000.0), (128, 500_000.0)] {
        for scaling in scalings(head_dim) {
            let rope = Rope::new(head_dim, theta, &scaling, 3000).unwrap();
            let spans = [Span { slot: 1, start: 2970, len: 30 }, Span { slot: 0, start: 3, len: 2 }];
            let x = noise(32 * 2 * head_dim, 1);
            let mut turned = x.clone();
            rope.apply(&Cpu::detect(), &spans, 2, &mut turned).unwrap();
            for row in 0..32 {
                let position = if row < 30 { 2970 + row } else { 3 + row - 30 };
                for head in 0..2 {
                    let at = (row * 2 + head) * head_dim..(row * 2 + head + 1) * head_dim;
                    let expected = rotated(&x[at.clone()], position, theta, &scaling);
                    for (got, expected) in turned[at].iter().zip(expected) {
                        // Two products of numbers up to 1 with a rounded factor each, rounded, and their sum: 5 roundings of at
                        // most 2⁻²⁴ · √2; the angles themselves, of up to 3000, agree but for 8 roundings of f64.
                        let angle = 3000.0 * 8.0 * (f64::EPSILON / 2.0);
                        assert!((f64::from(*got) - expected).abs() < 7.1 * 2f64.powi(-24) + angle);
                    }
                }
            }
        }
    }
}

#[test]
fn llama3_scaling_matches_its_three_ranges() {
    let [_, _, llama3, ..] = scalings(128);
    let (theta, d) = (500_000.0, 128);
    let plain = |i: usize| 1.0 / f64::powf(theta, 2.0 * i as f64 / d as f64);
    let kinds: Vec<f64> = (0..d / 2).map(|i| plain(i) / frequency(i, d, theta, &llama3)).collect();
    assert_eq!(kinds[0], 1.0);
    assert_eq!(kinds[63], 32.0, "a power of two divides without rounding");
    assert!(kinds.iter().any(|&ratio| ratio > 1.001 && ratio < 31.9), "the blended range is empty");
    // The library's table: at position 1 the angle is the frequency.
    let rope = Rope::new(d, theta, &llama3, 2).unwrap();
    let mut x = [vec![0.0; d], [vec![1.0; d / 2], vec![0.0; d / 2]].concat()].concat();
    rope.apply(&Cpu::detect(), &[Span { slot: 0, start: 0, len: 2 }], 1, &mut x).unwrap();
    for i in 0..d / 2 {
        let angle = frequency(i, d, theta, &llama3);
        assert_eq!((x[d + i], x[d + d / 2 + i]), (angle.cos() as f32, angle.sin() as f32), "pair {i}");
    }
}

#[test]
fn an_extended_table_matches_one_made_at_once() {
    let at_once = Rope::new(64, 10_000.0, &RopeScaling::Default, 200).unwrap();
    let mut extended = Rope::new(64, 10_000.0, &RopeScaling::Default, 3).unwrap();
    for context in [50, 20, 200] {
        extended.extend(context).unwrap();
    }
    assert_eq!([extended.context(), at_once.context()], [200; 2]);
    let turn = |rope: &Rope| {
        let mut x = noise(200 * 64, 5);
        rope.apply(&Cpu::detect(), &[Span { slot: 0, start: 0, len: 200 }], 1, &mut x).unwrap();
        bits(&x)
    };
    assert_eq!(turn(&extended), turn(&at_once));
}

#[test]
fn keys_in_the_cache_match_apply_for_every_isa_and_position() {
    let (d, len) = (24, 150);
    let shape = AttentionShape::new(2, 2, d).unwrap();
    let kv = KvShape { n_layers: 1, n_slots: 1, n_kv_heads: 2, head_dim: d, capacity: 200 };
    let rope = Rope::new(d, 10_000.0, &RopeScaling::Default, 200).unwrap();
    let spans = [Span { slot: 0, start: 37, len }];
    let k = noise(len * 2 * d, 1);
    let mut turned = k.clone();
    rope.apply(&Cpu::new(1, Isa::Portable).unwrap(), &spans, 2, &mut turned).unwrap();
    for isa in isas() {
        for dtype in crate::case::DTYPES {
            let cpu = Cpu::new(2, isa).unwrap();
            let mut cache = KvCache::new(kv, dtype).unwrap();
            let call = Call { shape, layer: 0, spans: &spans, heads: Heads::All };
            write_kv(&cpu, &call, KvPolicy::WriteAll, Some(&rope), &k, &k, &mut cache).unwrap();
            let (mut key, mut value) = (vec![0.0; d], vec![0.0; d]);
            for row in 0..len {
                for kv_head in 0..2 {
                    let at = (row * 2 + kv_head) * d..(row * 2 + kv_head + 1) * d;
                    let place = KvRow { slot: 0, kv_head, position: 37 + row };
                    assert!(cache.read_row(0, place, &mut key, &mut value).unwrap());
                    let stored = |x: &[f32]| rounded(dtype, x);
                    assert_eq!(key, stored(&turned[at.clone()]), "{} {dtype:?}", isa.name());
                    assert_eq!(value, stored(&k[at]), "{} {dtype:?}", isa.name());
                }
            }
        }
    }
}

#[test]
fn rope_rejects_bad_numbers_with_a_typed_error() {
    let new = |theta, scaling: &RopeScaling| Rope::new(64, theta, scaling, 10).map(|_| ());
    for theta in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(matches!(new(theta, &RopeScaling::Default), Err(Error::Value { what: "rope theta", .. })));
        let scaling = RopeScaling::Linear { factor: theta };
        assert!(matches!(new(1e4, &scaling), Err(Error::Value { what: "rope factor", .. })));
    }
    let llama3 = |factor, low, high, original_context| RopeScaling::Llama3 {
        factor,
        low_freq_factor: low,
        high_freq_factor: high,
        original_context,
    };
    assert!(new(1e4, &llama3(8.0, 1.0, 4.0, 8192)).is_ok());
    for bad in [llama3(0.0, 1.0, 4.0, 8192), llama3(8.0, -1.0, 4.0, 8192), llama3(8.0, 4.0, 4.0, 8192)] {
        assert!(matches!(new(1e4, &bad), Err(Error::Value { .. })), "{bad:?}");
    }
    assert!(matches!(new(1e4, &llama3(8.0, 1.0, 4.0, 0)), Err(Error::Shape { .. })));
    let short = RopeScaling::Factors(vec![1.0; 31]);
    assert_eq!(new(1e4, &short), Err(Error::Length { what: "rope factors", expected: 32, got: 31 }));
    assert!(matches!(new(1e4, &RopeScaling::Factors(vec![0.0; 32])), Err(Error::Value { .. })));
    assert!(matches!(Rope::new(12, 1e4, &RopeScaling::Default, 10), Err(Error::Shape { what: "head_dim", .. })));
    for context in [usize::MAX, usize::MAX / 64] {
        let rope = Rope::new(64, 1e4, &RopeScaling::Default, context);
        assert!(matches!(rope, Err(Error::Shape { what: "rope context", .. })));
    }
    let rope = Rope::new(8, 1e4, &RopeScaling::Default, 10).unwrap();
    let apply =
        |start, len, elems| rope.apply(&Cpu::detect(), &[Span { slot: 0, start, len }], 2, &mut vec![0.0; elems]);
    assert_eq!(apply(9, 1, 16), Ok(()));
    assert_eq!(apply(9, 2, 32), Err(Error::Index { what: "rope position", limit: 10, got: 10 }));
    assert!(matches!(apply(usize::MAX, 2, 32), Err(Error::Index { .. })));
    assert_eq!(apply(0, 2, 31), Err(Error::Length { what: "x", expected: 32, got: 31 }));
}
