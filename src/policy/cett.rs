//! CETT: the error that dropping neurons makes, and thresholds that keep it at a target.

use std::sync::Arc;

use super::found::Threshold;
use super::observed::tokens_of;
use super::record::Record;
use super::table::{Arguments, Context, Policies};
use super::{
    Found, Kept, ModelSizes, Observed, Policy, PolicyConfig, Site, Sizes, Values, Wanted, check_activations,
    check_fraction, check_layer,
};
use crate::attention::Span;
use crate::error::{Error, Result, check_len};
use crate::sparse_mlp::{Matrix, Score, ScoreOn, Selection, Weights};

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
    // the first score that is too much; CETT grows with the set up to cancellation between neurons
    let mut search = Search::new(&contributions, |i| score(i / d_ff, i % d_ff));
    let (mut low, mut high) = (0, scores.len());
    while low < high {
        let middle = low + (high - low) / 2;
        if search.drop_to(scores[middle], f64::from(target)) { low = middle + 1 } else { high = middle }
    }
    Ok(if low == 0 { 0.0 } else { scores[low - 1] })
}

/// What a bisection knows: which (token, neuron) are dropped for certain, as a sum, and which are not decided.
struct Search<'a> {
    all: &'a Contributions<'a>,
    /// f64 \[tokens, d_model\]: Σ over dropped neurons.
    dropped: Vec<f64>,
    trial: Vec<f64>,
    /// Score and place in A \[tokens, d_ff\], in order of place.
    open: Vec<(f64, usize)>,
}

impl<'a> Search<'a> {
    fn new(all: &'a Contributions<'a>, score: impl Fn(usize) -> f64) -> Self {
        let sums = vec![0.0; all.whole.len() * all.d_model];
        // what adds nothing needs no decision
        let places = (0..all.activations.len()).filter(|&i| all.activations[i] != 0.0);
        Search { all, trial: sums.clone(), dropped: sums, open: places.map(|i| (score(i), i)).collect() }
    }

    /// Drops what scores at most `score` too, and says whether that costs at most `target`: it stays dropped then, and otherwise
    /// nothing above `score` will be.
    fn drop_to(&mut self, score: f64, target: f64) -> bool {
        self.trial.copy_from_slice(&self.dropped);
        for &(_, i) in self.open.iter().filter(|open| open.0 <= score) {
            self.all.add(i, &mut self.trial);
        }
        let fits = self.all.mean_ratio(self.trial.chunks_exact(self.all.d_model)) <= target;
        if fits {
            std::mem::swap(&mut self.dropped, &mut self.trial);
        }
        self.open.retain(|open| (open.0 <= score) != fits);
        fits
    }
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
        all.whole = all.sums(|_, _| true).chunks_exact(d_model).map(norm).collect();
        Ok(all)
    }

    /// Adds neuron i % d_ff's part in the output of token i / d_ff to sums f64 \[tokens, d_model\].
    fn add(&self, i: usize, sums: &mut [f64]) {
        let (t, j) = (i / self.d_ff, i % self.d_ff);
        let (sum, down) =
            (&mut sums[t * self.d_model..][..self.d_model], &self.down[j * self.d_model..][..self.d_model]);
        let a = f64::from(self.activations[i]);
        sum.iter_mut().zip(down).for_each(|(sum, &w)| *sum += a * f64::from(w));
    }

    /// Σ_{i∈D} n_i for each token, f64 \[tokens, d_model\].
    fn sums(&self, in_set: impl Fn(usize, usize) -> bool) -> Vec<f64> {
        let mut sums = vec![0.0; self.activations.len() / self.d_ff * self.d_model];
        for (i, &a) in self.activations.iter().enumerate() {
            if a != 0.0 && in_set(i / self.d_ff, i % self.d_ff) {
                self.add(i, &mut sums);
            }
        }
        sums
    }

    /// The mean over tokens of ‖part‖₂ / ‖whole‖₂.
    fn mean_ratio<'b>(&self, parts: impl Iterator<Item = &'b [f64]>) -> f64 {
        let ratios = parts.map(norm).zip(&self.whole);
        let sum: f64 = ratios.map(|(part, &whole)| if whole > 0.0 { part / whole } else { 0.0 }).sum();
        sum / self.whole.len() as f64
    }

    fn cett(&self, dropped: impl Fn(usize, usize) -> bool) -> f64 {
        self.mean_ratio(self.sums(dropped).chunks_exact(self.d_model))
    }
}

fn norm(v: &[f64]) -> f64 {
    v.iter().map(|v| v * v).sum::<f64>().sqrt()
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

    pub(super) fn find(arguments: &Arguments, context: &mut dyn Context) -> Result<Found> {
        let (mut cett, mut thresholds) = (Cett::new(), Vec::new());
        for (layer, activations) in Record::of(context, Values::Hidden, TOKENS)?.iter().enumerate() {
            cett.calibrate_layer(context.mlp(layer)?, activations, arguments.fraction)?;
            let scores = activations.iter().zip(cett.norms[layer].iter().cycle()).map(|(a, norm)| a.abs() * norm);
            let found = Threshold { threshold: cett.thresholds[layer], largest: scores.fold(0.0, f32::max) };
            found.check()?;
            thresholds.push(found);
        }
        let (n_layers, d_ff) = (thresholds.len(), context.model().d_ff);
        let mut found = Found::default();
        found.put_thresholds(&[n_layers], thresholds)?;
        found.put_f32("norms", &[n_layers, d_ff], cett.norms.concat())?;
        Ok(found)
    }

    pub(super) fn make(_: &Arguments, model: &ModelSizes, found: &Found) -> Policies {
        let (n_layers, d_ff) = (model.n_layers, model.d_ff);
        let norms = found.f32("norms", &[n_layers, d_ff])?.chunks_exact(d_ff).map(<[f32]>::to_vec).collect();
        Ok(vec![Arc::new(Cett { thresholds: found.thresholds(&[n_layers])?.to_vec(), norms })])
    }
}

impl Default for Cett {
    fn default() -> Self {
        Cett::new()
    }
}

impl PolicyConfig for Cett {
    fn policy(&self, sizes: &Sizes) -> Result<Box<dyn Policy>> {
        check_len("calibrated layers", sizes.model.n_layers, self.thresholds.len())?;
        Ok(Box::new(self.clone()))
    }
}

impl Policy for Cett {
    fn site(&self) -> Site {
        Site::Neurons
    }

    /// On a device the products stay there: what it keeps is not counted.
    fn wants(&self, _: &[Span]) -> Wanted {
        Wanted::AtHand(Values::Hidden)
    }

    fn select(&mut self, layer: usize, _: &[Span]) -> Result<Selection<'_>> {
        check_layer(layer, self.thresholds.len())?;
        let score = Score { on: ScoreOn::Hidden, channel_scale: Some(&self.norms[layer]) };
        Ok(Selection::Threshold { score, threshold: self.thresholds[layer] })
    }

    fn observe(&mut self, layer: usize, spans: &[Span], observed: &Observed<'_>) -> Result<Kept> {
        check_layer(layer, self.norms.len())?;
        let mut kept = Kept::default();
        for token in 0..tokens_of(spans) {
            // a product that is kept is above a threshold of at least 0, and what is not kept is shown as 0
            let above = observed.token(token).iter().filter(|a| **a != 0.0).count();
            kept += Kept::each(1, above, self.norms[layer].len());
        }
        Ok(kept)
    }

    fn is_settled(&self, _: &[Span]) -> bool {
        true
    }
}

/// Tokens whose activations are held for each layer: with d_ff 1536, a threshold is then one of 196 608 scores.
const TOKENS: usize = 128;
