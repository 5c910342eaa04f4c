//! What GPTQ leaves on the table: scales fitted to the output for given codes, and codes for given scales, in turn.
//!
//! GPTQ rounds each column once and never looks back. Here the objective f(q) = (q − w*) H (q − w*)ᵀ of each row goes down
//! step by step until nothing moves: the best scales (and offsets) of a row for fixed codes are a small linear least-squares
//! problem, and the best code of one column for fixed others is the level nearest to q − (q − w*)·Hₖ / Hₖₖ.

use moray::w4a8::Mode;
use rayon::prelude::*;

use super::grid::{CENTRE, Grid, inverse};
use super::matrix::{Matrix, multiply_add, multiply_add_columns};

/// Passes over the columns between two fits of the scales.
const SWEEPS: usize = 3;

/// Keeps a fit near the scales it starts from where codes say nothing, relative to the diagonal.
const RIDGE: f64 = 1e-4;

/// Codes, scales and what they cost.
#[derive(Debug, Clone)]
pub struct Refined {
    /// Scales.
    pub grid: Grid,
    /// \[N, K\].
    pub codes: Vec<i8>,
    /// f(q) by row; empty where nothing was refined.
    pub loss: Vec<f32>,
}

impl Refined {
    /// Takes over the rows in which another attempt costs less.
    pub fn take_better_rows(&mut self, other: &Refined, rows: usize, k: usize) {
        for row in 0..rows {
            if other.loss[row] < self.loss[row] {
                self.loss[row] = other.loss[row];
                self.grid.copy_row(&other.grid, row);
                self.codes[row * k..(row + 1) * k].copy_from_slice(&other.codes[row * k..(row + 1) * k]);
            }
        }
    }
}

/// Descends from the given codes in `rounds` rounds.
pub fn refine(wanted: &Matrix, hessian: &[f32], grid: Grid, codes: Vec<i8>, rounds: usize) -> Refined {
    let mut state = Refined { grid, codes, loss: Vec::new() };
    if rounds == 0 {
        return state;
    }
    let k = wanted.columns;
    let mut wanted_h = vec![0.0; wanted.data.len()];
    multiply_add(&wanted.data, hessian, k, 1.0, &mut wanted_h);
    let mut gradient = state.evaluate(wanted, hessian);
    state.descend(wanted, hessian, &mut gradient);
    for _ in 0..rounds {
        let grid = fitted(&state.grid, &state.codes, hessian, &wanted_h);
        let mut fitted = Refined { grid, codes: state.codes.clone(), loss: Vec::new() };
        let new_gradient = fitted.evaluate(wanted, hessian);
        // rounding the fitted scales may have cost more than the fit gained
        for row in 0..wanted.rows {
            if fitted.loss[row] < state.loss[row] {
                state.grid.copy_row(&fitted.grid, row);
                gradient[row * k..(row + 1) * k].copy_from_slice(&new_gradient[row * k..(row + 1) * k]);
            }
        }
        state.descend(wanted, hessian, &mut gradient);
    }
    state.evaluate(wanted, hessian);
    state
}

impl Refined {
    /// (q − w*)·H \[N, K\], and the rows' losses.
    fn evaluate(&mut self, wanted: &Matrix, hessian: &[f32]) -> Vec<f32> {
        let k = wanted.columns;
        let mut difference = self.grid.values(&self.codes);
        difference.par_iter_mut().zip(&wanted.data).for_each(|(q, w)| *q -= w);
        let mut gradient = vec![0.0; difference.len()];
        multiply_add(&difference, hessian, k, 1.0, &mut gradient);
        let arch = pulp::Arch::new();
        let dot = |(a, b): (&[f32], &[f32])| arch.dispatch(|| dot(a, b)) as f32;
        self.loss = difference.par_chunks_exact(k).zip(gradient.par_chunks_exact(k)).map(dot).collect();
        gradient
    }

    /// Moves single codes, and integer group scales, as long as that lowers a row's loss.
    fn descend(&mut self, wanted: &Matrix, hessian: &[f32], gradient: &mut [f32]) {
        let k = wanted.columns;
        let groups = self.grid.groups();
        let mut integers = std::mem::take(&mut self.grid.integer);
        let two_level = !integers.is_empty();
        // a row without integers gets an empty slice
        let width = if two_level { groups } else { 0 };
        let mut none: Vec<Vec<u8>> = Vec::new();
        let integer_rows: Vec<&mut [u8]> = if two_level {
            integers.chunks_exact_mut(width).collect()
        } else {
            none.resize(wanted.rows, Vec::new());
            none.iter_mut().map(Vec::as_mut_slice).collect()
        };
        let (group_size, centre) = (self.grid.group_size, &self.grid.centre);
        let arch = pulp::Arch::new();
        self.codes
            .par_chunks_exact_mut(k)
            .zip(gradient.par_chunks_exact_mut(k))
            .zip(self.grid.scale.par_chunks_exact_mut(groups))
            .zip(integer_rows)
            .enumerate()
            .for_each(|(n, (((codes, gradient), scale), integer))| {
                let centre = &centre[n * groups..(n + 1) * groups];
                let mut row = Row { hessian, codes, gradient, scale, centre, integer, group_size };
                arch.dispatch(|| {
                    for _ in 0..SWEEPS {
                        if row.sweep() + row.sweep_integers() == 0 {
                            break;
                        }
                    }
                });
            });
        self.grid.integer = integers;
        self.evaluate(wanted, hessian);
    }
}

/// One row while its codes move; `gradient` is kept at (q − w*)·H.
struct Row<'a> {
    hessian: &'a [f32],
    codes: &'a mut [i8],
    gradient: &'a mut [f32],
    scale: &'a mut [f32],
    centre: &'a [f32],
    integer: &'a mut [u8],
    group_size: usize,
}

impl Row<'_> {
    /// One pass over the columns; how many codes moved.
    #[inline(always)]
    fn sweep(&mut self) -> usize {
        let k = self.codes.len();
        let mut moved = 0;
        for i in 0..k {
            let g = i / self.group_size;
            let (scale, centre) = (self.scale[g], self.centre[g]);
            let code = f32::from(self.codes[i]) - CENTRE;
            let curvature = self.hessian[i * k + i];
            let target = scale * code + centre - self.gradient[i] / curvature;
            let best = super::grid::Step { scale, centre }.code(target, inverse(scale));
            let change = scale * (best - code);
            // 2·δ·gradient + δ²·H < 0, with room for rounding
            let gain = change * (2.0 * self.gradient[i] + change * curvature);
            if best != code && gain < -1e-6 * change * change * curvature {
                self.codes[i] = (best + CENTRE) as i8;
                add_scaled(self.gradient, &self.hessian[i * k..(i + 1) * k], change);
                moved += 1;
            }
        }
        moved
    }

    /// Moves each group's integer scale by one where that pays.
    #[inline(always)]
    fn sweep_integers(&mut self) -> usize {
        let k = self.codes.len();
        let mut moved = 0;
        for g in 0..self.integer.len() {
            let columns = g * self.group_size..(g + 1) * self.group_size;
            let channel = self.scale[g] / f32::from(self.integer[g]);
            let step: Vec<f32> =
                self.codes[columns.clone()].iter().map(|&c| channel * (f32::from(c) - CENTRE)).collect();
            let linear: f32 = step.iter().zip(&self.gradient[columns.clone()]).map(|(a, b)| a * b).sum();
            let quadratic: f32 = columns
                .clone()
                .zip(&step)
                .map(|(i, a)| {
                    let row = &self.hessian[i * k..][columns.clone()];
                    a * row.iter().zip(&step).map(|(h, b)| h * b).sum::<f32>()
                })
                .sum();
            let sign = if linear > 0.0 { -1.0 } else { 1.0 };
            let new = f32::from(self.integer[g]) + sign;
            if (1.0..=16.0).contains(&new) && sign * 2.0 * linear + quadratic < -1e-6 * quadratic {
                self.integer[g] = new as u8;
                self.scale[g] = channel * new;
                for (i, a) in columns.zip(&step) {
                    add_scaled(self.gradient, &self.hessian[i * k..(i + 1) * k], sign * a);
                }
                moved += 1;
            }
        }
        moved
    }
}

#[inline(always)]
fn add_scaled(out: &mut [f32], row: &[f32], factor: f32) {
    out.iter_mut().zip(row).for_each(|(out, h)| *out += factor * h);
}

/// The scales, and offsets where the mode has them, with the least loss for the codes as they are.
fn fitted(grid: &Grid, codes: &[i8], hessian: &[f32], wanted_h: &[f32]) -> Grid {
    let (k, groups, size) = (grid.columns, grid.groups(), grid.group_size);
    let rows = codes.len() / k;
    let offsets = matches!(grid.mode, Mode::PerGroup { offset: true, .. });
    let single = matches!(grid.mode, Mode::TwoLevel { .. });
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
fn dot(a: &[f32], b: &[f32]) -> f64 {
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
