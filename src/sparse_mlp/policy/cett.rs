//! CETT: the error that dropping neurons makes, and thresholds that keep it at a target.

use super::{check_activations, check_fraction, check_layer};
use crate::error::{Error, Result, check_len};
use crate::sparse_mlp::select::{Score, ScoreOn, Selection};
use crate::sparse_mlp::weights::{Matrix, Weights};

/// Computes the mean CETT over tokens of dropping neurons: ‖Σ_{i∈D} n_i‖₂ / ‖Σ_i n_i‖₂, n_i = a_i · down\[:, i\].
///
/// `activations` is A, f32 \[tokens, d_ff\]; `dropped(token, neuron)` says what is in D. A token whose MLP gives 0 counts 0.
///
/// # Errors
/// As [`super::PromptStatistic::observe`]; [`Error::Shape`] without tokens.
///
/// # Source
/// Cumulative errors of tail truncation, as used by arXiv 2405.09274.
pub fn cett_of_dropping(weights: &Weights, activations: &[f32], dropped: impl Fn(usize, usize) -> bool) -> Result<f64> {
    Ok(Contributions::new(weights, activations)?.cett(dropped))
}

/// Finds the highest threshold t for which dropping every (token, neuron) with score ≤ t costs a mean CETT of at most
/// `target`, by bisection over the scores that occur; 0 if even the smallest costs more.
///
/// # Errors
/// [`Error::Value`] for a target outside (0, 1] or a score that is not a number; otherwise as [`cett_of_dropping`].
pub fn threshold_for_cett(
    weights: &Weights,
    activations: &[f32],
    target: f32,
    score: impl Fn(usize, usize) -> f64,
) -> Result<f64> {
    check_fraction("CETT target", target)?;
    let contributions = Contributions::new(weights, activations)?;
    let d_ff = contributions.d_ff;
    let mut scores: Vec<f64> = (0..activations.len()).map(|i| score(i / d_ff, i % d_ff)).collect();
    if let Some(&got) = scores.iter().find(|s| !s.is_finite()) {
        return Err(Error::Value { what: "score", expected: "a finite number", got: got as f32 });
    }
    scores.sort_unstable_by(f64::total_cmp);
    scores.dedup();
    let fits = |at: usize| contributions.cett(|t, j| score(t, j) <= scores[at]) <= f64::from(target);
    // the first score that is too much; CETT grows with the set up to cancellation between neurons
    let (mut low, mut high) = (0, scores.len());
    while low < high {
        let middle = low + (high - low) / 2;
        if fits(middle) { low = middle + 1 } else { high = middle }
    }
    Ok(if low == 0 { 0.0 } else { scores[low - 1] })
}

/// Activations with down's rows at hand.
struct Contributions<'a> {
    activations: &'a [f32],
    d_ff: usize,
    d_model: usize,
    /// f32 \[d_ff, d_model\].
    down: Vec<f32>,
    /// ‖Σ_i n_i‖₂ for each token.
    whole: Vec<f64>,
}

impl<'a> Contributions<'a> {
    fn new(weights: &Weights, activations: &'a [f32]) -> Result<Self> {
        let shape = weights.shape();
        let (d_ff, d_model) = (shape.d_ff, shape.d_model);
        if check_activations(activations, d_ff)? == 0 {
            return Err(Error::Shape { what: "activations", expected: "at least 1 token", got: 0 });
        }
        let mut down = vec![0.0; d_ff * d_model];
        for (j, row) in down.chunks_exact_mut(d_model).enumerate() {
            weights.row(Matrix::Down, j, row)?;
        }
        let mut all = Contributions { activations, d_ff, d_model, down, whole: Vec::new() };
        all.whole = all.norms(|_, _| true);
        Ok(all)
    }

    /// ‖Σ_{i∈D} n_i‖₂ for each token.
    fn norms(&self, in_set: impl Fn(usize, usize) -> bool) -> Vec<f64> {
        let mut sum = vec![0.0f64; self.d_model];
        let norm = |(t, row): (usize, &[f32])| {
            sum.fill(0.0);
            for (j, &a) in row.iter().enumerate() {
                if a != 0.0 && in_set(t, j) {
                    let down = &self.down[j * self.d_model..(j + 1) * self.d_model];
                    sum.iter_mut().zip(down).for_each(|(s, &w)| *s += f64::from(a) * f64::from(w));
                }
            }
            sum.iter().map(|s| s * s).sum::<f64>().sqrt()
        };
        self.activations.chunks_exact(self.d_ff).enumerate().map(norm).collect()
    }

    fn cett(&self, dropped: impl Fn(usize, usize) -> bool) -> f64 {
        let ratios = self.norms(dropped).into_iter().zip(&self.whole);
        let sum: f64 = ratios.map(|(part, &whole)| if whole > 0.0 { part / whole } else { 0.0 }).sum();
        sum / self.whole.len() as f64
    }
}

/// Keeps neuron j for a token iff |a_j| · ‖down\[:, j\]‖₂ > threshold\[layer\].
///
/// # Source
/// The threshold sparsification that arXiv 2405.09274 tests at CETT = 0.2.
#[derive(Debug, Clone, PartialEq)]
pub struct Cett {
    thresholds: Vec<f32>,
    norms: Vec<Vec<f32>>,
}

impl Cett {
    /// Starts without layers; each [`Cett::calibrate_layer`] adds one.
    pub fn new() -> Self {
        Cett { thresholds: Vec::new(), norms: Vec::new() }
    }

    /// Adds a layer: finds the threshold at which the mean CETT over the tokens of A \[tokens, d_ff\] is at most `target`.
    ///
    /// # Errors
    /// As [`threshold_for_cett`].
    pub fn calibrate_layer(&mut self, weights: &Weights, activations: &[f32], target: f32) -> Result<()> {
        let norms = weights.down_norms();
        check_activations(activations, norms.len())?;
        check_len("down_norms", weights.shape().d_ff, norms.len())?;
        // in f32, as the kernel scores
        let score = |t: usize, j: usize| f64::from(activations[t * norms.len() + j].abs() * norms[j]);
        self.thresholds.push(threshold_for_cett(weights, activations, target, score)? as f32);
        self.norms.push(norms);
        Ok(())
    }

    /// The thresholds, one for each layer.
    pub fn thresholds(&self) -> &[f32] {
        &self.thresholds
    }

    /// The selection for a layer.
    ///
    /// # Errors
    /// [`Error::Index`] for a layer that was not calibrated.
    pub fn selection(&self, layer: usize) -> Result<Selection<'_>> {
        check_layer(layer, self.thresholds.len())?;
        let score = Score { on: ScoreOn::Hidden, channel_scale: Some(&self.norms[layer]) };
        Ok(Selection::Threshold { score, threshold: self.thresholds[layer] })
    }
}

impl Default for Cett {
    fn default() -> Self {
        Cett::new()
    }
}
