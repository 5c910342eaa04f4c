//! What GPTQ leaves on the table: scales fitted to the output for given codes, and codes for given scales, in turn.
//!
//! GPTQ rounds each column once and never looks back. Here the objective f(q) = (q − w*) H (q − w*)ᵀ of each row goes down
//! step by step until nothing moves: the best scales (and offsets) of a row for fixed codes are a small linear least-squares
//! problem, and the best code of one column for fixed others is the level nearest to q − (q − w*)·Hₖ / Hₖₖ.

mod fit;
#[cfg(test)]
mod tests;

use rayon::prelude::*;

use self::fit::{dot, fitted};
use super::grid::{CENTRE, Grid, inverse};
use super::matrix::{Matrix, multiply_add};

/// Passes over the columns between two fits of the scales.
const SWEEPS: usize = 3;

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
        let has_integers = !integers.is_empty();
        // a row without integers gets an empty slice
        let width = if has_integers { groups } else { 0 };
        let mut none: Vec<Vec<u8>> = Vec::new();
        let integer_rows: Vec<&mut [u8]> = if has_integers {
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
