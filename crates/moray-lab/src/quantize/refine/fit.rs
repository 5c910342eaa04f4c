//! The scales and offsets of least loss for given codes: one small linear least-squares problem for each row.

use moray::w4a8::Offset;
use rayon::prelude::*;

use super::add_scaled;
use crate::quantize::grid::{CENTRE, Grid};
use crate::quantize::matrix::multiply_add_columns;

/// Keeps a fit near the scales it starts from where codes say nothing, relative to the diagonal.
pub(super) const RIDGE: f64 = 1e-4;

/// The scales, and offsets where the format has them, with the least loss for the codes as they are.
pub(super) fn fitted(grid: &Grid, codes: &[i8], hessian: &[f32], wanted_h: &[f32]) -> Grid {
    let (k, groups, size) = (grid.columns, grid.groups(), grid.group_size);
    let rows = codes.len() / k;
    let offsets = grid.format.offset() == Offset::F16;
    let single = !grid.integer.is_empty();
    // the vectors whose multiples the rows are made of: codes of each group (times its integer), and ones
    let mut basis: Vec<f32> = codes.iter().map(|&c| f32::from(c) - CENTRE).collect();
    if single {
        basis.par_chunks_exact_mut(size).zip(&grid.integer).for_each(|(codes, &integer)| {
            codes.iter_mut().for_each(|c| *c *= f32::from(integer));
        });
    }
    let parts = if single { 1 } else { groups };
    let width = k / parts;
    let unknowns = if offsets { 2 * parts } else { parts };
    let mut system = vec![0.0f64; rows * unknowns * unknowns];
    let arch = pulp::Arch::new();
    let mut ones_h = vec![0.0f32; parts * k];
    for g in 0..parts {
        for row in hessian[g * width * k..(g + 1) * width * k].chunks_exact(k) {
            add_scaled(&mut ones_h[g * k..(g + 1) * k], row, 1.0);
        }
    }
    let mut product = vec![0.0; rows * k];
    for g in 0..parts {
        product.fill(0.0);
        multiply_add_columns((&basis, k), g * width..(g + 1) * width, hessian, k, 1.0, &mut product);
        let systems = system.par_chunks_exact_mut(unknowns * unknowns);
        systems.zip(product.par_chunks_exact(k)).zip(basis.par_chunks_exact(k)).for_each(|((a, product), basis)| {
            arch.dispatch(|| {
                for other in 0..parts {
                    let columns = other * width..(other + 1) * width;
                    a[g * unknowns + other] = dot(&product[columns.clone()], &basis[columns.clone()]);
                    if offsets {
                        let cross = total(&product[columns]);
                        a[g * unknowns + parts + other] = cross;
                        a[(parts + other) * unknowns + g] = cross;
                    }
                }
            });
        });
    }
    let ones: Vec<f64> = (0..parts * parts)
        .map(|i| total(&ones_h[i / parts * k..][i % parts * width..(i % parts + 1) * width]))
        .collect();
    let mut out = grid.clone();
    let systems = system.par_chunks_exact_mut(unknowns * unknowns).zip(basis.par_chunks_exact(k));
    let steps = out.scale.par_chunks_exact_mut(groups).zip(out.centre.par_chunks_exact_mut(groups));
    systems.zip(wanted_h.par_chunks_exact(k)).zip(steps).enumerate().for_each(
        |(n, (((a, basis), wanted_h), (scale, centre)))| {
            let columns = |g: usize| g * width..(g + 1) * width;
            let mut right: Vec<f64> = (0..parts).map(|g| dot(&wanted_h[columns(g)], &basis[columns(g)])).collect();
            let mut start: Vec<f64> = scale.iter().map(|&s| f64::from(s)).collect();
            if single {
                start = vec![f64::from(scale[0] / f32::from(grid.integer[n * groups]))];
            }
            if offsets {
                for g in 0..parts {
                    right.push(total(&wanted_h[columns(g)]));
                    start.push(f64::from(centre[g]));
                    a[(parts + g) * unknowns + parts..][..parts].copy_from_slice(&ones[g * parts..(g + 1) * parts]);
                }
            }
            if !arch.dispatch(|| solve_small(a, &mut right, &start)) {
                return;
            }
            if single {
                let integers = &grid.integer[n * groups..(n + 1) * groups];
                let positive = right[0] > 0.0;
                scale
                    .iter_mut()
                    .zip(integers)
                    .filter(|_| positive)
                    .for_each(|(s, &i)| *s = right[0] as f32 * f32::from(i));
                return;
            }
            for g in 0..parts {
                // a scale that changes its sign or size by much fits noise
                if right[g] * start[g] > 0.25 * start[g] * start[g] {
                    scale[g] = right[g] as f32;
                    if offsets {
                        centre[g] = right[parts + g] as f32;
                    }
                }
            }
        },
    );
    if !single {
        out.round();
    }
    out
}

/// In 16 chains, so that it vectorizes.
#[inline(always)]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f64 {
    let mut sums = [0.0f32; 16];
    for (a, b) in a.as_chunks::<16>().0.iter().zip(b.as_chunks::<16>().0) {
        for i in 0..16 {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().map(|&v| f64::from(v)).sum()
}

/// As [`dot`] with ones.
#[inline(always)]
fn total(a: &[f32]) -> f64 {
    let mut sums = [0.0f32; 16];
    for a in a.as_chunks::<16>().0 {
        for i in 0..16 {
            sums[i] += a[i];
        }
    }
    sums.iter().map(|&v| f64::from(v)).sum()
}

/// In 8 chains.
#[inline(always)]
fn dot_wide(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let whole = a.len() / 8 * 8;
    for (a, b) in a[..whole].as_chunks::<8>().0.iter().zip(b[..whole].as_chunks::<8>().0) {
        for i in 0..8 {
            sums[i] += a[i] * b[i];
        }
    }
    let rest: f64 = a[whole..].iter().zip(&b[whole..]).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f64>() + rest
}

/// Solves a·x = b (x replaces b) with a ridge towards `start`, by Cholesky; false if a is not positive definite.
#[inline(always)]
fn solve_small(a: &mut [f64], b: &mut [f64], start: &[f64]) -> bool {
    let n = b.len();
    for i in 0..n {
        let ridge = RIDGE * a[i * n + i].abs() + f64::MIN_POSITIVE;
        a[i * n + i] += ridge;
        b[i] += ridge * start[i];
    }
    for j in 0..n {
        let pivot = a[j * n + j] - dot_wide(&a[j * n..j * n + j], &a[j * n..j * n + j]);
        if !(pivot > 0.0) {
            return false;
        }
        let pivot = pivot.sqrt();
        a[j * n + j] = pivot;
        for i in j + 1..n {
            let sum = dot_wide(&a[i * n..i * n + j], &a[j * n..j * n + j]);
            a[i * n + j] = (a[i * n + j] - sum) / pivot;
        }
    }
    for i in 0..n {
        let sum: f64 = (0..i).map(|p| a[i * n + p] * b[p]).sum();
        b[i] = (b[i] - sum) / a[i * n + i];
    }
    for i in (0..n).rev() {
        let sum: f64 = (i + 1..n).map(|p| a[p * n + i] * b[p]).sum();
        b[i] = (b[i] - sum) / a[i * n + i];
    }
    true
}
