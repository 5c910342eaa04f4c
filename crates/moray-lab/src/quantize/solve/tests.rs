//! The damped problem and error feedback against their definitions.

use moray::w4a8::Offset;

use super::*;
use crate::fixture::SplitMix;

/// GPTQ by its definition, one column at a time with the inverse of what is left of H, all in f64.
fn by_definition(w: &[f64], h: &[f64], order: &[usize], level: impl Fn(usize, f64) -> (i8, f64)) -> Vec<i8> {
    let k = w.len();
    let (mut w, mut left, mut codes) = (w.to_vec(), order.to_vec(), vec![0; k]);
    while let Some(&column) = left.first() {
        let inverse =
            inverse_of(&left.iter().flat_map(|&i| left.iter().map(move |&j| h[i * k + j])).collect::<Vec<_>>());
        let (code, value) = level(column, w[column]);
        codes[column] = code;
        let error = (w[column] - value) / inverse[0];
        for (at, &other) in left.iter().enumerate() {
            w[other] -= error * inverse[at];
        }
        left.remove(0);
    }
    codes
}

/// Gauss–Jordan.
fn inverse_of(h: &[f64]) -> Vec<f64> {
    let k = h.len().isqrt();
    let mut a = h.to_vec();
    let mut out: Vec<f64> = (0..k * k).map(|i| f64::from(u8::from(i / k == i % k))).collect();
    for p in 0..k {
        let pivot = a[p * k + p];
        for j in 0..k {
            a[p * k + j] /= pivot;
            out[p * k + j] /= pivot;
        }
        for i in (0..k).filter(|&i| i != p) {
            let factor = a[i * k + p];
            for j in 0..k {
                a[i * k + j] -= factor * a[p * k + j];
                out[i * k + j] -= factor * out[p * k + j];
            }
        }
    }
    out
}

#[test]
fn damped_problem_matches_its_definition() {
    let mut random = SplitMix(23);
    let (n, k) = (3, 8);
    let w = Matrix { rows: n, columns: k, data: (0..n * k).map(|_| random.signed()).collect() };
    let mut wide = |len: usize| (0..len).map(|_| f64::from(random.signed())).collect::<Vec<f64>>();
    let (a, target) = (wide(k * k), wide(n * k));
    let mut sums = Sums::new(k);
    for i in 0..k * k {
        sums.hessian[i] = (0..k).map(|p| a[i / k * k + p] * a[i % k * k + p]).sum();
    }
    let damping = 0.01 * (0..k).map(|i| sums.hessian[i * k + i]).sum::<f64>() / k as f64;
    let mut damped = sums.hessian.clone();
    (0..k).for_each(|i| damped[i * k + i] += damping);
    let inverse = inverse_of(&damped);
    sums.target = Some(target.clone());
    let problem = Problem::new(&w, &sums).unwrap();
    assert_eq!(problem.hessian, damped);
    // half an epsilon for each rounding to f32; what f64 loses with a condition below 10⁵ is far less
    let close = |a: f32, b: f64, roundings: f64| {
        assert!((f64::from(a) - b).abs() <= roundings / 2.0 * f64::from(f32::EPSILON) * b.abs(), "{a} {b}");
    };
    for row in 0..n {
        for column in 0..k {
            let right = |i: usize| target[row * k + i] + damping * f64::from(w.row(row)[i]);
            close(problem.wanted.row(row)[column], (0..k).map(|i| right(i) * inverse[i * k + column]).sum(), 1.1);
        }
    }
    let cost = |i: usize| 1.0 / inverse[i * k + i];
    let mean = (0..k).map(cost).sum::<f64>() / k as f64;
    for act_order in [false, true] {
        let order = problem.order(act_order);
        let permuted: Vec<f64> =
            order.iter().flat_map(|&i| order.iter().map(move |&j| i * k + j)).map(|at| damped[at]).collect();
        let importance = problem.importance(&inverse_factor(&permuted, k).unwrap(), &order);
        // stored, summed over k, divided by k, and into each
        (0..k).for_each(|i| close(importance[i], cost(i) / mean, k as f64 + 3.0));
    }
    let diagonal: Vec<f64> = problem.order(true).iter().map(|&i| damped[i * k + i]).collect();
    assert!(diagonal.windows(2).all(|pair| pair[0] > pair[1]), "{diagonal:?}");
    assert!(problem.order(false).is_sorted());
}

#[test]
fn feedback_matches_the_column_by_column_definition_in_f64_for_both_orders() {
    let mut random = SplitMix(17);
    // more than one block of columns, and groups
    let (n, k) = (3, 192);
    let w = Matrix { rows: n, columns: k, data: (0..n * k).map(|_| random.signed()).collect() };
    let a: Vec<f64> = (0..k * k).map(|_| f64::from(random.signed())).collect();
    let entry = |i: usize, j: usize| (0..k).map(|p| a[i * k + p] * a[j * k + p]).sum::<f64>();
    let h: Vec<f64> = (0..k * k).map(|i| entry(i / k, i % k) + if i / k == i % k { 20.0 } else { 0.0 }).collect();
    let grid = Grid::plain(&w, Format::per_group(64, Offset::F16)).unwrap();
    let mut reversed: Vec<usize> = (0..k).collect();
    reversed.sort_by(|&a, &b| h[b * k + b].total_cmp(&h[a * k + a]));
    for order in [(0..k).collect::<Vec<_>>(), reversed] {
        let permuted: Vec<f64> =
            order.iter().flat_map(|&i| order.iter().map(move |&j| i * k + j)).map(|at| h[at]).collect();
        let factor: Vec<f32> = inverse_factor(&permuted, k).unwrap().iter().map(|&v| v as f32).collect();
        let codes = feedback(&w, &factor, &order, &grid);
        let mut different = 0;
        for row in 0..n {
            let wide: Vec<f64> = w.row(row).iter().map(|&v| f64::from(v)).collect();
            let level = |column: usize, value: f64| {
                let step = grid.step(row, column / 64);
                let (scale, centre) = (f64::from(step.scale), f64::from(step.centre));
                let code = ((value - centre) / scale).round_ties_even().clamp(-8.0, 7.0);
                ((code + 8.0) as i8, scale * code + centre)
            };
            let expected = by_definition(&wide, &h, &order, level);
            let got = &codes[row * k..(row + 1) * k];
            different += expected.iter().zip(got).filter(|(a, b)| a != b).count();
        }
        // a value within f32's rounding of a tie may go the other way, and what follows with it; none does here
        assert_eq!(different, 0);
    }
}
