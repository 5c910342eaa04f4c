//! Kernels on floating point against f64 definitions. Every tolerance is an error bound of the kernel's own operations.

mod common;
#[path = "common/device.rs"]
mod device;

use common::under_simcuda;
use cudarc::driver::PushKernelArg;
use device::{Device, Random, shape};
use half::{bf16, f16};

/// Relative error of one correctly rounded f32 operation.
const UNIT_ROUNDOFF: f64 = 1.0 / (1u64 << 24) as f64;

#[test]
fn vector_add_matches_rust_bit_for_bit() {
    under_simcuda("vector_add_matches_rust_bit_for_bit", &[], || {
        let device = Device::with_kernels("vector_add");
        let (add, scale) = (device.function("vector_add"), device.function("scale_in_place"));
        let mut random = Random::new(10);
        for n in [1usize, 255, 256, 1001] {
            let (a, b) = (random.take(n, Random::unit), random.take(n, |r| r.unit() * 1e-3));
            let stream = &device.stream;
            let (a_gmem, b_gmem) = (stream.clone_htod(&a).expect("a"), stream.clone_htod(&b).expect("b"));
            let mut y = stream.alloc_zeros::<f32>(n).expect("memory");
            let length = n as u32;
            let mut launch = stream.launch_builder(&add);
            launch.arg(&a_gmem).arg(&b_gmem).arg(&mut y).arg(&length);
            // SAFETY: the arguments are those that the kernel's text lists.
            unsafe { launch.launch(shape((2, 1), 128)) }.expect("launched");
            let sum: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
            assert_eq!(stream.clone_dtoh(&y).expect("sums"), sum, "n {n}");
            let mut launch = stream.launch_builder(&scale);
            launch.arg(&mut y).arg(&1.7f32).arg(&-0.3f32).arg(&length);
            // SAFETY: as above.
            unsafe { launch.launch(shape((n.div_ceil(64) as u32, 1), 64)) }.expect("launched");
            let fused: Vec<f32> = sum.iter().map(|&x| x.mul_add(1.7, -0.3)).collect();
            assert_eq!(stream.clone_dtoh(&y).expect("results"), fused, "n {n}");
        }
    });
}

#[test]
fn row_sums_match_f64_within_their_rounding() {
    under_simcuda("row_sums_match_f64_within_their_rounding", &[], || {
        let device = Device::with_kernels("reduce");
        let function = device.function("row_sums_f32");
        let (rows, cols) = (5usize, 777usize);
        let x = Random::new(11).take(rows * cols, Random::unit);
        let input = device.stream.clone_htod(&x).expect("input");
        let mut sums = device.stream.alloc_zeros::<f32>(rows).expect("memory");
        let mut launch = device.stream.launch_builder(&function);
        let columns = cols as u32;
        launch.arg(&input).arg(&mut sums).arg(&columns);
        // SAFETY: the arguments are those that the kernel's text lists.
        unsafe { launch.launch(shape((rows as u32, 1), 128)) }.expect("launched");
        let got = device.stream.clone_dtoh(&sums).expect("sums");
        for (row, &sum) in x.chunks(cols).zip(&got) {
            let exact: f64 = row.iter().map(|&v| f64::from(v)).sum();
            let magnitude: f64 = row.iter().map(|&v| f64::from(v).abs()).sum();
            // A value passes through its thread's 7 additions, then 5 and 5 of the two shuffle trees.
            let additions = (cols.div_ceil(128) + 10) as f64;
            assert!((f64::from(sum) - exact).abs() <= additions * UNIT_ROUNDOFF * magnitude, "{sum} for {exact}");
        }
    });
}

#[test]
fn f16_gemv_matches_f64_within_its_rounding() {
    under_simcuda("f16_gemv_matches_f64_within_its_rounding", &[], || {
        let device = Device::with_kernels("gemv_f16");
        let function = device.function("gemv_f16");
        let mut random = Random::new(12);
        for (n, k) in [(1usize, 8usize), (7, 576), (32, 1536)] {
            let half = |r: &mut Random| f16::from_f32(r.unit());
            let (w, x) = (random.take(n * k, half), random.take(k, half));
            let stream = &device.stream;
            let (w_gmem, x_gmem) = (stream.clone_htod(&w).expect("w"), stream.clone_htod(&x).expect("x"));
            let mut y = stream.alloc_zeros::<f32>(n).expect("memory");
            let (rows, elems) = (n as u32, k as u32);
            let mut launch = stream.launch_builder(&function);
            launch.arg(&w_gmem).arg(&x_gmem).arg(&mut y).arg(&rows).arg(&elems);
            // SAFETY: the arguments are those that the kernel's text lists.
            unsafe { launch.launch(shape((n.div_ceil(4) as u32, 1), 128)) }.expect("launched");
            for (row, &got) in w.chunks(k).zip(&stream.clone_dtoh(&y).expect("outputs")) {
                let terms = || row.iter().zip(&x).map(|(w, x)| w.to_f64() * x.to_f64());
                let (exact, magnitude): (f64, f64) = (terms().sum(), terms().map(f64::abs).sum());
                // One fused step for each of a lane's values, then a tree of 5 additions.
                let roundings = (k.div_ceil(256) * 8 + 5) as f64;
                assert!((f64::from(got) - exact).abs() <= roundings * UNIT_ROUNDOFF * magnitude, "{got} for {exact}");
            }
        }
    });
}

#[test]
fn half2_fma_matches_one_rounding_of_the_exact_result() {
    under_simcuda("half2_fma_matches_one_rounding_of_the_exact_result", &[], || {
        let device = Device::with_kernels("gemv_f16");
        let function = device.function("half2_fma");
        let mut random = Random::new(13);
        let pairs = 500usize;
        let mut draw = || random.take(2 * pairs, |r| f16::from_f32(r.unit() * 8.0));
        let (a, b, c) = (draw(), draw(), draw());
        let stream = &device.stream;
        let [a_gmem, b_gmem, c_gmem] = [&a, &b, &c].map(|v| stream.clone_htod(v).expect("input"));
        let mut out = stream.alloc_zeros::<f16>(2 * pairs).expect("memory");
        let count = pairs as u32;
        let mut launch = stream.launch_builder(&function);
        launch.arg(&a_gmem).arg(&b_gmem).arg(&c_gmem).arg(&mut out).arg(&count);
        // SAFETY: the arguments are those that the kernel's text lists.
        unsafe { launch.launch(shape((4, 1), 128)) }.expect("launched");
        let got = stream.clone_dtoh(&out).expect("outputs");
        for i in 0..2 * pairs {
            // 22 significant bits times a range of 2^17 fit in f64, so the sum is exact before its one rounding.
            let exact = a[i].to_f64() * b[i].to_f64() + c[i].to_f64();
            assert_eq!(got[i].to_bits(), f16::from_f64(exact).to_bits(), "{} · {} + {}", a[i], b[i], c[i]);
        }
    });
}

/// Runs `gemm_f16` or `gemm_bf16` on values of which `bits` gives the 16 bits and `value` the meaning.
fn check_mma(entry: &str, bits: impl Fn(f32) -> u16, value: impl Fn(u16) -> f64) {
    let device = Device::with_kernels("gemm_f16");
    let function = device.function(entry);
    let mut random = Random::new(14);
    let (m, n, k) = (32usize, 24usize, 80usize);
    let a = random.take(m * k, |r| bits(r.unit()));
    let b = random.take(n * k, |r| bits(r.unit()));
    let stream = &device.stream;
    let (a_gmem, b_gmem) = (stream.clone_htod(&a).expect("a"), stream.clone_htod(&b).expect("b"));
    let mut d = stream.alloc_zeros::<f32>(m * n).expect("memory");
    let (columns, elems) = (n as i32, k as i32);
    let mut launch = stream.launch_builder(&function);
    launch.arg(&a_gmem).arg(&b_gmem).arg(&mut d).arg(&columns).arg(&elems);
    // SAFETY: the arguments are those that the kernel's text lists.
    unsafe { launch.launch(shape((n as u32 / 8, m as u32 / 16), 32)) }.expect("launched");
    let got = stream.clone_dtoh(&d).expect("outputs");
    for (i, &got) in got.iter().enumerate() {
        let (a_row, b_row) = (&a[i / n * k..][..k], &b[i % n * k..][..k]);
        let terms = || a_row.iter().zip(b_row).map(|(&a, &b)| value(a) * value(b));
        let (exact, magnitude): (f64, f64) = (terms().sum(), terms().map(f64::abs).sum());
        // Products are exact; each of k additions, in any order, may truncate: twice the unit roundoff.
        assert!((f64::from(got) - exact).abs() <= k as f64 * 2.0 * UNIT_ROUNDOFF * magnitude, "{i}: {got} for {exact}");
    }
}

#[test]
fn f16_mma_matches_f64_within_its_rounding() {
    under_simcuda("f16_mma_matches_f64_within_its_rounding", &[], || {
        check_mma("gemm_f16", |x| f16::from_f32(x).to_bits(), |bits| f16::from_bits(bits).to_f64());
    });
}

#[test]
fn bf16_mma_matches_f64_within_its_rounding() {
    under_simcuda("bf16_mma_matches_f64_within_its_rounding", &[], || {
        check_mma("gemm_bf16", |x| bf16::from_f32(x).to_bits(), |bits| bf16::from_bits(bits).to_f64());
    });
}

#[test]
fn attention_row_matches_f64_softmax() {
    under_simcuda("attention_row_matches_f64_softmax", &[], || {
        let device = Device::with_kernels("attention_row");
        let function = device.function("attention_row");
        let mut random = Random::new(15);
        let scale = 0.125f32;
        for (heads, t) in [(1usize, 1usize), (3, 2), (2, 103)] {
            let q = random.take(heads * 64, |r| r.unit() * 2.0);
            let half = |r: &mut Random| f16::from_f32(r.unit());
            let (k, v) = (random.take(heads * t * 64, half), random.take(heads * t * 64, half));
            let stream = &device.stream;
            let q_gmem = stream.clone_htod(&q).expect("q");
            let (k_gmem, v_gmem) = (stream.clone_htod(&k).expect("k"), stream.clone_htod(&v).expect("v"));
            let mut out = stream.alloc_zeros::<f32>(heads * 64).expect("memory");
            let keys = t as i32;
            let mut launch = stream.launch_builder(&function);
            launch.arg(&q_gmem).arg(&k_gmem).arg(&v_gmem).arg(&mut out).arg(&keys).arg(&scale);
            // SAFETY: the arguments are those that the kernel's text lists.
            unsafe { launch.launch(shape((heads as u32, 1), 128)) }.expect("launched");
            let got = stream.clone_dtoh(&out).expect("outputs");
            for head in 0..heads {
                let rows = |x: &[f16]| x[head * t * 64..][..t * 64].iter().map(|v| v.to_f64()).collect::<Vec<f64>>();
                let (k, v) = (rows(&k), rows(&v));
                let q: Vec<f64> = q[head * 64..][..64].iter().map(|&v| v.into()).collect();
                let (expected, tolerance) = softmax_row(&q, &k, &v, f64::from(scale));
                for (d, expected) in expected.iter().enumerate() {
                    let error = (f64::from(got[head * 64 + d]) - expected).abs();
                    assert!(error <= tolerance, "head {head}, dimension {d}: {error} > {tolerance}");
                }
            }
        }
    });
}

/// The definition in f64, and a bound of the kernel's error for values of magnitude up to 1.
fn softmax_row(q: &[f64], k: &[f64], v: &[f64], scale: f64) -> (Vec<f64>, f64) {
    let dot = |row: &[f64]| row.iter().zip(q).map(|(k, q)| k * q).sum::<f64>() * scale;
    let scores: Vec<f64> = k.chunks(64).map(dot).collect();
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let min = scores.iter().copied().fold(f64::INFINITY, f64::min);
    let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let out = (0..64).map(|d| weights.iter().zip(v.chunks(64)).map(|(w, row)| w * row[d]).sum::<f64>() / sum).collect();
    // A score is 8 roundings of at most Σ|q||k|·scale. __expf errs by 2 + 1.173·|x| units in the last place. A weight
    // passes two of them and 4 roundings in each of its warp's steps, and once more when the warps are merged.
    let magnitude = q.iter().map(|q| q.abs()).sum::<f64>() * scale;
    let exponential = (2.0 + 1.173 * (max - min)) * 2.0 * UNIT_ROUNDOFF;
    let steps = scores.len().div_ceil(4) as f64 + 1.0;
    let weight = 8.0 * UNIT_ROUNDOFF * magnitude * 2.0 + steps * (2.0 * exponential + 4.0 * UNIT_ROUNDOFF);
    // Numerator and denominator carry it, and values are at most 1.
    (out, 2.0 * weight)
}
