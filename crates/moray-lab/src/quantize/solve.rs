//! Choosing the codes of one matrix against its layer's output: GPTQ, then refinement.
//!
//! For inputs X \[T, K\] (as the quantized model will see them), token weights ω and wanted outputs Y \[T, N\] the objective is
//!
//! ```text
//! Σₜ ωₜ ‖q · xₜ − yₜ‖² + λ ‖q − w‖²  =  tr((q − w*) H (q − w*)ᵀ) + constant
//! H = Σ ωₜ xₜ xₜᵀ + λ I        w* = (Σ ωₜ yₜ xₜᵀ + λ w) H⁻¹
//! ```
//!
//! With yₜ = w · xₜ this is GPTQ's objective and w* = w. With the unquantized model's outputs as yₜ, w* also makes up for the
//! errors of the layers before, as far as a linear map of the inputs can.
//!
//! # Source
//! GPTQ (arXiv 2210.17323); outputs of the unquantized model as targets: GPTAQ (arXiv 2504.02692).

use moray::w4a8::{Format, QuantizedWeight};
use rayon::prelude::*;

use super::grid::{CENTRE, Grid, inverse};
use super::matrix::{Matrix, inverse_factor, multiply_add, multiply_add_tail, solve_symmetric};
use super::refine::{Refined, refine};
use crate::error::Result;

/// Columns between two updates of the rest of the matrix.
const BLOCK: usize = 128;

/// Added to the Hessian's diagonal, as a fraction of its mean.
pub const DAMPING: f64 = 0.01;

/// Scales tried for each row besides the best by weight, where one scale rules a whole row; the row takes the best by output.
const FACTORS: [f32; 2] = [0.93, 1.06];

/// How codes are chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SolveOptions {
    /// Codes and scales.
    pub format: Format,
    /// Error feedback; otherwise every weight is rounded to nearest.
    pub gptq: bool,
    /// Columns of large inputs first, scales still by the original groups.
    pub act_order: bool,
    /// Whether scales are searched for; otherwise they reach the largest weight.
    pub clip_search: bool,
    /// Rounds of fitting scales and descending over codes after GPTQ, where a row has one scale with several tried; 0 for none.
    pub refinements: usize,
}

/// Sums over the calibration tokens of one site.
#[derive(Debug, Clone)]
pub struct Sums {
    /// Inputs K.
    pub columns: usize,
    /// Σ ω x xᵀ, f64 \[K, K\].
    pub hessian: Vec<f64>,
    /// Σ ω y xᵀ, f64 \[N, K\]; none if the wanted outputs are those of the unquantized weights on the same inputs.
    pub target: Option<Vec<f64>>,
    /// Σ ω ‖y‖².
    pub energy: f64,
    /// Tokens.
    pub tokens: usize,
}

/// Errors of one site, Σ ω ‖q·x − y‖² / Σ ω ‖y‖².
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct SiteError {
    /// Of round-to-nearest with the format's plain scales.
    pub nearest: f64,
    /// Of the codes chosen.
    pub chosen: f64,
}

/// A matrix whose codes are chosen.
#[derive(Debug, Clone)]
pub struct Solved {
    /// The library's form.
    pub weight: QuantizedWeight,
    /// What its codes stand for, \[N, K\].
    pub values: Matrix,
    /// How far from the wanted outputs.
    pub error: SiteError,
}

/// Chooses the codes of w \[N, K\].
///
/// # Errors
/// [`crate::Error::Kernel`] for a group size that does not divide K and a Hessian that is singular despite damping.
pub fn solve(w: &Matrix, sums: &Sums, options: SolveOptions) -> Result<Solved> {
    let problem = Problem::new(w, sums)?;
    let plain = Grid::plain(w, options.format)?;
    let nearest = plain.nearest_codes(&w.data);
    let error_of = |values: &[f32]| sums.error(w, values);
    let nearest_error = error_of(&plain.values(&nearest));
    let best = if !options.gptq {
        let grid = if options.clip_search { Grid::searched(w, options.format, &vec![1.0; w.columns])? } else { plain };
        let codes = grid.nearest_codes(&w.data);
        Refined { grid, codes, loss: Vec::new() }
    } else {
        problem.gptq(options, plain)?
    };
    let weight = best.grid.finish(w.rows, best.codes)?;
    let values = Matrix { rows: w.rows, columns: w.columns, data: dequantized(&weight) };
    let error = SiteError { nearest: nearest_error, chosen: error_of(&values.data) };
    Ok(Solved { weight, values, error })
}

/// The numbers of a quantized matrix, in parallel.
pub fn dequantized(weight: &QuantizedWeight) -> Vec<f32> {
    let k = weight.k();
    let mut out = vec![0.0; weight.n() * k];
    out.par_chunks_exact_mut(k).enumerate().for_each(|(n, row)| {
        row.iter_mut().enumerate().for_each(|(k, v)| *v = weight.dequantize_at(n, k) as f32);
    });
    out
}

impl Sums {
    /// Starts at zero.
    pub fn new(columns: usize) -> Self {
        Sums { columns, hessian: vec![0.0; columns * columns], target: None, energy: 0.0, tokens: 0 }
    }

    /// Σ ω ‖v·x − y‖² / Σ ω ‖y‖² for weights v \[N, K\].
    fn error(&self, w: &Matrix, values: &[f32]) -> f64 {
        let k = self.columns;
        let wide: Vec<f64> = values.iter().map(|&v| f64::from(v)).collect();
        // tr(v H vᵀ) − 2 tr(v Tᵀ) + energy, around w to keep digits where y = w·x
        let (difference, target) = match &self.target {
            None => (wide.iter().zip(&w.data).map(|(v, &w)| v - f64::from(w)).collect(), None),
            Some(target) => (wide, Some(target)),
        };
        let mut product = vec![0.0; difference.len()];
        multiply_add(&difference, &self.hessian, k, 1.0, &mut product);
        let quadratic: f64 = difference.iter().zip(&product).map(|(a, b)| a * b).sum();
        let linear: f64 = target.map_or(0.0, |t| difference.iter().zip(t).map(|(a, b)| a * b).sum());
        let constant = if target.is_some() { self.energy } else { 0.0 };
        (quadratic - 2.0 * linear + constant).max(0.0) / self.energy.max(f64::MIN_POSITIVE)
    }
}

/// A site's damped Hessian and the weights that codes should come near to.
pub(super) struct Problem {
    rows: usize,
    columns: usize,
    /// f64 \[K, K\], damped, dead channels 1 on the diagonal.
    hessian: Vec<f64>,
    /// The same in f32.
    narrow: Vec<f32>,
    /// w*, f32 \[N, K\].
    wanted: Matrix,
}

impl Problem {
    fn new(w: &Matrix, sums: &Sums) -> Result<Self> {
        let k = w.columns;
        let mut hessian = sums.hessian.clone();
        let diagonal = |h: &[f64]| (0..k).map(|i| h[i * k + i]).collect::<Vec<_>>();
        let before = diagonal(&hessian);
        let damping = DAMPING * before.iter().sum::<f64>() / k as f64;
        let damping = if damping > 0.0 { damping } else { 1.0 };
        for (i, &h) in before.iter().enumerate() {
            hessian[i * k + i] += if h == 0.0 { 1.0 } else { damping };
        }
        let mut wanted = w.clone();
        if let Some(target) = &sums.target {
            let mut right: Vec<f64> = target.iter().zip(&w.data).map(|(t, &w)| t + damping * f64::from(w)).collect();
            solve_symmetric(&hessian, k, &mut right)?;
            wanted.data = right.into_iter().map(|v| v as f32).collect();
        }
        // what meets no input may as well be zero
        for row in wanted.data.chunks_exact_mut(k) {
            row.iter_mut().zip(&before).filter(|(_, h)| **h == 0.0).for_each(|(w, _)| *w = 0.0);
        }
        let narrow = hessian.iter().map(|&h| h as f32).collect();
        Ok(Problem { rows: w.rows, columns: k, hessian, narrow, wanted })
    }

    /// The order in which columns are rounded.
    fn order(&self, act_order: bool) -> Vec<usize> {
        let k = self.columns;
        let mut order: Vec<usize> = (0..k).collect();
        if act_order {
            order.sort_by(|&a, &b| self.hessian[b * k + b].total_cmp(&self.hessian[a * k + a]));
        }
        order
    }

    fn gptq(&self, options: SolveOptions, plain: Grid) -> Result<Refined> {
        let k = self.columns;
        let order = self.order(options.act_order);
        let permuted: Vec<f64> = order
            .iter()
            .flat_map(|&i| order.iter().map(move |&j| (i, j)))
            .map(|(i, j)| self.hessian[i * k + j])
            .collect();
        let factor = inverse_factor(&permuted, k)?;
        let base = if options.clip_search {
            Grid::searched(&self.wanted, options.format, &self.importance(&factor, &order))?
        } else if options.refinements > 0 {
            plain
        } else {
            Grid::plain(&self.wanted, options.format)?
        };
        let narrow: Vec<f32> = factor.iter().map(|&v| v as f32).collect();
        let attempt = |grid: Grid| {
            let codes = feedback(&self.wanted, &narrow, &order, &grid);
            refine(&self.wanted, &self.narrow, grid, codes, options.refinements)
        };
        let mut best = attempt(base.clone());
        if options.refinements > 0 && options.format == Format::per_channel() {
            for factor in FACTORS {
                best.take_better_rows(&attempt(base.scaled(factor)), self.rows, k);
            }
        }
        Ok(best)
    }

    /// 1 / (H⁻¹)ₖₖ: what an error in column k costs once all others have made up for it.
    fn importance(&self, factor: &[f64], order: &[usize]) -> Vec<f32> {
        let k = self.columns;
        let mut inverse = vec![0.0f64; k];
        for row in factor.chunks_exact(k) {
            inverse.iter_mut().zip(row).for_each(|(sum, u)| *sum += u * u);
        }
        let mut out = vec![0.0; k];
        order.iter().zip(inverse).for_each(|(&column, inverse)| out[column] = (1.0 / inverse) as f32);
        // only the ratios count
        let mean = out.iter().sum::<f32>() / k as f32;
        out.iter_mut().for_each(|v| *v /= mean);
        out
    }
}

/// Rounds column after column in `order`, each error spread over the columns that follow: u is \[K, K\] upper triangular with
/// H⁻¹ = uᵀu in that order. Returns codes \[N, K\] in the matrix's own order.
pub fn feedback(w: &Matrix, u: &[f32], order: &[usize], grid: &Grid) -> Vec<i8> {
    let k = w.columns;
    let mut rest: Vec<f32> = w.data.chunks_exact(k).flat_map(|row| order.iter().map(|&i| row[i])).collect();
    let mut codes = vec![0i8; w.data.len()];
    let arch = pulp::Arch::new();
    for first in (0..k).step_by(BLOCK) {
        let end = (first + BLOCK).min(k);
        let width = end - first;
        let mut errors = vec![0.0f32; w.rows * width];
        let rows = rest.par_chunks_exact_mut(k).zip(errors.par_chunks_exact_mut(width));
        rows.zip(codes.par_chunks_exact_mut(k)).enumerate().for_each(|(n, ((row, errors), codes))| {
            arch.dispatch(|| {
                for i in first..end {
                    let step = grid.step(n, order[i] / grid.group_size);
                    let code = step.code(row[i], inverse(step.scale));
                    codes[order[i]] = (code + CENTRE) as i8;
                    let error = (row[i] - step.scale * code - step.centre) / u[i * k + i];
                    errors[i - first] = error;
                    let later = &u[i * k + i + 1..i * k + end];
                    row[i + 1..end].iter_mut().zip(later).for_each(|(w, u)| *w -= error * u);
                }
            });
        });
        multiply_add_tail(&errors, &u[first * k..end * k], width, k, end, -1.0, &mut rest);
    }
    codes
}

#[cfg(test)]
mod tests;
