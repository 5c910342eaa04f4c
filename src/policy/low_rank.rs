//! Linear predictors of few directions, fitted in closed form.

use super::random::split_mix;
use crate::error::{Error, Result, check_len};
use crate::sparse_mlp::check_finite;

/// λ over the mean of the squares of the inputs, summed over the tokens.
const RIDGE: f64 = 0.1;

/// Rounds of the search for the leading directions: of two directions whose squares differ by a tenth, the lesser fades to a fifth.
const ROUNDS: usize = 16;

/// Predicts y \[n\] = bias + write · (read · x) from x \[d\], through `rank` directions.
///
/// [`LowRank::fit`] is the best such predictor under the ridge: with X and Y less their means over the tokens,
/// S = XᵀX + λI = LLᵀ and M = L⁻¹XᵀY, the ridge is L⁻ᵀM, and of its rank the best is read = (L⁻ᵀU)ᵀ, write = (UᵀM)ᵀ, where U are the
/// directions of M that hold most of it.
///
/// # Source
/// Reduced-rank regression (Izenman, 1975); the two matrices without a function between them are Deja Vu's predictor.
#[derive(Debug, Clone, PartialEq)]
pub struct LowRank {
    d: usize,
    rank: usize,
    /// f32 \[d, rank\].
    read: Vec<f32>,
    /// f32 \[rank, n\].
    write: Vec<f32>,
    /// f32 \[n\].
    bias: Vec<f32>,
}

impl LowRank {
    /// Takes read \[d, rank\], write \[rank, n\] and bias \[n\].
    ///
    /// # Errors
    /// [`Error::Shape`] for d or a rank of 0, [`Error::Length`] for matrices of other sizes, [`Error::Value`] for numbers that are not finite.
    pub fn new(d: usize, rank: usize, read: Vec<f32>, write: Vec<f32>, bias: Vec<f32>) -> Result<Self> {
        for (what, got) in [("predictor's inputs", d), ("predictor's rank", rank), ("predictor's outputs", bias.len())]
        {
            if got == 0 {
                return Err(Error::Shape { what, expected: "at least 1", got });
            }
        }
        check_len("predictor's first matrix", d * rank, read.len())?;
        check_len("predictor's second matrix", rank * bias.len(), write.len())?;
        [&read, &write, &bias].into_iter().try_for_each(|values| check_finite("predictor", values))?;
        Ok(LowRank { d, rank, read, write, bias })
    }

    /// Fits y \[tokens, n\] by x \[tokens, d\], through at most `rank` directions.
    ///
    /// # Errors
    /// [`Error::Length`] unless both have the same whole tokens, [`Error::Shape`] for fewer than 2 tokens, [`Error::Value`] for numbers that
    /// are not finite.
    pub fn fit(x: &[f32], y: &[f32], (d, n): (usize, usize), rank: usize) -> Result<Self> {
        let tokens = x.len() / d.max(1);
        check_len("calibration inputs", tokens * d, x.len())?;
        check_len("calibration outputs", tokens * n, y.len())?;
        if tokens < 2 {
            return Err(Error::Shape { what: "calibration", expected: "at least 2 tokens", got: tokens });
        }
        [x, y].into_iter().try_for_each(|values| check_finite("calibration", values))?;
        let (mean_x, mean_y) = (mean(x, d), mean(y, n));
        let (x, y) = (less(x, &mean_x), less(y, &mean_y));
        let factor = cholesky(ridge(&x, d), d);
        let m = solved(&factor, products(&x, &y, d, n), d, n);
        let rank = rank.min(d).min(n).max(1);
        let directions = leading(&m, (d, n), rank);
        let mut read = vec![0.0; d * rank];
        let mut write = vec![0.0; rank * n];
        for (i, direction) in directions.chunks_exact(d).enumerate() {
            let back = solved_back(&factor, direction, d);
            back.iter().enumerate().for_each(|(k, &value)| read[k * rank + i] = value as f32);
            let row = &mut write[i * n..(i + 1) * n];
            direction.iter().zip(m.chunks_exact(n)).for_each(|(&u, m)| add(row, u as f32, m));
        }
        let mut fitted = LowRank { d, rank, read, write, bias: vec![0.0; n] };
        let (mut room, mut at_mean) = (vec![0.0; rank], vec![0.0; n]);
        fitted.predict(&mean_x, &mut room, &mut at_mean);
        fitted.bias = mean_y.iter().zip(at_mean).map(|(mean, at_mean)| mean - at_mean).collect();
        Ok(fitted)
    }

    /// Predicts y \[n\] of x \[d\], working in `room` \[rank\]; sums in the order of the inputs, then of the directions.
    ///
    /// # Panics
    /// If a buffer is shorter than that.
    pub fn predict(&self, x: &[f32], room: &mut [f32], y: &mut [f32]) {
        self.inner(x, &mut room[..self.rank]);
        self.outer(&room[..self.rank], &mut y[..self.bias.len()]);
    }

    /// read · x \[rank\].
    pub(super) fn inner(&self, x: &[f32], h: &mut [f32]) {
        h.fill(0.0);
        x[..self.d].iter().zip(self.read.chunks_exact(self.rank)).for_each(|(&x, row)| add(h, x, row));
    }

    /// bias + write · h \[n\].
    pub(super) fn outer(&self, h: &[f32], y: &mut [f32]) {
        y.copy_from_slice(&self.bias);
        h.iter().zip(self.write.chunks_exact(self.bias.len())).for_each(|(&h, row)| add(y, h, row));
    }

    /// As [`LowRank::parts`], to be changed.
    pub(super) fn parts_mut(&mut self) -> [&mut [f32]; 3] {
        [&mut self.read, &mut self.write, &mut self.bias]
    }

    /// Inputs, directions and outputs.
    pub fn sizes(&self) -> [usize; 3] {
        [self.d, self.rank, self.bias.len()]
    }

    /// The matrices: read \[d, rank\], write \[rank, n\], bias \[n\].
    pub fn parts(&self) -> [&[f32]; 3] {
        [&self.read, &self.write, &self.bias]
    }
}

/// y += a · x.
pub(super) fn add(y: &mut [f32], a: f32, x: &[f32]) {
    y.iter_mut().zip(x).for_each(|(y, &x)| *y += a * x);
}

fn mean(rows: &[f32], width: usize) -> Vec<f32> {
    let mut sums = vec![0.0f64; width];
    rows.chunks_exact(width).for_each(|row| sums.iter_mut().zip(row).for_each(|(sum, &v)| *sum += f64::from(v)));
    sums.iter().map(|sum| (sum / (rows.len() / width) as f64) as f32).collect()
}

fn less(rows: &[f32], mean: &[f32]) -> Vec<f32> {
    rows.chunks_exact(mean.len()).flat_map(|row| row.iter().zip(mean).map(|(v, mean)| v - mean)).collect()
}

/// Tokens of which a row of sums takes in one after another while it is in the nearest cache.
const TOKENS: usize = 16;

/// XᵀY \[d, n\], in the order of the tokens.
fn products(x: &[f32], y: &[f32], d: usize, n: usize) -> Vec<f32> {
    let mut sums = vec![0.0; d * n];
    for (x, y) in x.chunks(TOKENS * d).zip(y.chunks(TOKENS * n)) {
        for (k, row) in sums.chunks_exact_mut(n).enumerate() {
            x.chunks_exact(d).zip(y.chunks_exact(n)).for_each(|(x, y)| add(row, x[k], y));
        }
    }
    sums
}

/// XᵀX + λI, f64 \[d, d\].
fn ridge(x: &[f32], d: usize) -> Vec<f64> {
    let mut s: Vec<f64> = products(x, x, d, d).into_iter().map(f64::from).collect();
    let trace: f64 = (0..d).map(|k| s[k * d + k]).sum();
    // inputs that never vary predict nothing
    let lambda = (RIDGE * trace / d as f64).max(f64::from(f32::MIN_POSITIVE));
    (0..d).for_each(|k| s[k * d + k] += lambda);
    s
}

/// L with LLᵀ = S, below the diagonal of S's place.
fn cholesky(mut s: Vec<f64>, d: usize) -> Vec<f64> {
    for i in 0..d {
        let (before, rest) = s.split_at_mut(i * d);
        let row = &mut rest[..d];
        for j in 0..i {
            let other = &before[j * d..j * d + j + 1];
            let sum: f64 = row[..j].iter().zip(other).map(|(a, b)| a * b).sum();
            row[j] = (row[j] - sum) / other[j];
        }
        let squares: f64 = row[..i].iter().map(|a| a * a).sum();
        // λ keeps it above 0 but for rounding
        row[i] = (row[i] - squares).max(f64::MIN_POSITIVE).sqrt();
    }
    s
}

/// L⁻¹C, of C \[d, n\].
fn solved(factor: &[f64], mut c: Vec<f32>, d: usize, n: usize) -> Vec<f32> {
    for i in 0..d {
        let (before, rest) = c.split_at_mut(i * n);
        let row = &mut rest[..n];
        before.chunks_exact(n).enumerate().for_each(|(k, other)| add(row, -(factor[i * d + k] as f32), other));
        let diagonal = factor[i * d + i] as f32;
        row.iter_mut().for_each(|v| *v /= diagonal);
    }
    c
}

/// L⁻ᵀu.
fn solved_back(factor: &[f64], u: &[f64], d: usize) -> Vec<f64> {
    let mut found = u.to_vec();
    for i in (0..d).rev() {
        found[i] /= factor[i * d + i];
        let value = found[i];
        (0..i).for_each(|k| found[k] -= factor[i * d + k] * value);
    }
    found
}

/// The `rank` directions \[rank, d\] of M \[d, n\] that hold most of it, by powers of MMᵀ from a fixed seed.
fn leading(m: &[f32], (d, n): (usize, usize), rank: usize) -> Vec<f64> {
    let mut transposed = vec![0.0; d * n];
    m.chunks_exact(n).enumerate().for_each(|(k, row)| (0..n).for_each(|j| transposed[j * d + k] = row[j]));
    let square: Vec<f64> = products(&transposed, &transposed, d, d).into_iter().map(f64::from).collect();
    let draw = |i: usize| (split_mix(i as u64) >> 11) as f64 / (1u64 << 53) as f64 - 0.5;
    let mut directions: Vec<f64> = (0..rank * d).map(draw).collect();
    orthonormal(&mut directions, d);
    for _ in 0..ROUNDS {
        let mut next = vec![0.0; rank * d];
        for (next, direction) in next.chunks_exact_mut(d).zip(directions.chunks_exact(d)) {
            for (&u, row) in direction.iter().zip(square.chunks_exact(d)) {
                next.iter_mut().zip(row).for_each(|(next, &s)| *next += u * s);
            }
        }
        directions = next;
        orthonormal(&mut directions, d);
    }
    directions
}

/// Makes rows orthonormal one after another; what is no direction of its own becomes 0.
fn orthonormal(rows: &mut [f64], d: usize) {
    for i in 0..rows.len() / d {
        let (before, rest) = rows.split_at_mut(i * d);
        let row = &mut rest[..d];
        let size = norm(row);
        // twice: once leaves what rounding made of nearly equal rows
        for _ in 0..2 {
            for other in before.chunks_exact(d) {
                let along: f64 = row.iter().zip(other).map(|(a, b)| a * b).sum();
                row.iter_mut().zip(other).for_each(|(a, b)| *a -= along * b);
            }
        }
        let left = norm(row);
        let factor = if left > size * 1e-10 { 1.0 / left } else { 0.0 };
        row.iter_mut().for_each(|a| *a *= factor);
    }
}

fn norm(row: &[f64]) -> f64 {
    row.iter().map(|a| a * a).sum::<f64>().sqrt()
}
