//! TDA: a threshold per layer on the prompt statistic.

use std::sync::Arc;

use super::found::Threshold;
use super::record::Record;
use super::statistic::check_seen;
use super::table::{Arguments, Context, Policies};
use super::{
    ByPrompt, Found, LayerRule, ModelSizes, Policy, PolicyConfig, PromptRule, PromptStatistic, RefreshOptions, Sizes,
    Values, check_layer, kept_count, threshold_for_cett,
};
use crate::error::{Error, Result};
use crate::sparse_mlp::{NeuronList, Weights};

/// Keeps neuron j of a layer for a whole generation iff s_j / √P > threshold\[layer\]; the count varies by layer.
///
/// How thresholds are set is not published with the method; these are the ways offered: [`Tda::joint_quantile`],
/// [`Tda::fraction_of_max`], [`Tda::calibrated_by_cett`], or any list.
///
/// # Source
/// Training-free threshold-based dynamic activation (arXiv 2408.11393).
#[derive(Debug, Clone, PartialEq)]
pub struct Tda {
    thresholds: Vec<f64>,
}

impl Tda {
    /// Takes one threshold on s_j / √P for each layer.
    ///
    /// # Errors
    /// [`Error::Value`] for a threshold that is negative or not finite.
    pub fn new(thresholds: Vec<f64>) -> Result<Self> {
        match thresholds.iter().find(|t| !(t.is_finite() && **t >= 0.0)) {
            Some(&got) => {
                Err(Error::Value { what: "threshold", expected: "a finite number of at least 0", got: got as f32 })
            }
            None => Ok(Tda { thresholds }),
        }
    }

    /// Sets one threshold for all layers: the quantile of all layers' s_j / √P together that keeps the fraction `kept`
    /// (up to equal scores at the threshold), so that layers whose activations are spread out keep more.
    ///
    /// # Errors
    /// [`Error::Value`] for a fraction outside (0, 1], [`Error::Shape`] without layers or tokens.
    pub fn joint_quantile(layers: &[PromptStatistic], kept: f32) -> Result<Self> {
        check_layers(layers)?;
        let mut scores: Vec<f64> = layers.iter().flat_map(PromptStatistic::all_normalised).collect();
        let k = kept_count(kept, scores.len())?;
        // keeping what is above the (k + 1)-th highest score keeps k, if scores differ there
        let threshold = if k < scores.len() { *scores.select_nth_unstable_by(k, |a, b| b.total_cmp(a)).1 } else { 0.0 };
        Ok(Tda { thresholds: vec![threshold; layers.len()] })
    }

    /// Sets each layer's threshold to a fraction of its highest s_j / √P.
    ///
    /// # Errors
    /// [`Error::Value`] for a fraction outside (0, 1), [`Error::Shape`] without layers or tokens.
    pub fn fraction_of_max(layers: &[PromptStatistic], fraction: f32) -> Result<Self> {
        check_layers(layers)?;
        check_below_max(fraction)?;
        let max = |layer: &PromptStatistic| layer.all_normalised().into_iter().fold(0.0, f64::max);
        Ok(Tda { thresholds: layers.iter().map(|layer| max(layer) * f64::from(fraction)).collect() })
    }

    /// Finds one layer's threshold: the highest for which dropping the neurons at or below it costs a mean CETT of at
    /// most `target` over the tokens whose A \[tokens, d_ff\] is given. Layers together make [`Tda::new`]'s list.
    ///
    /// # Errors
    /// [`Error::Value`] for a target outside (0, 1], [`Error::Shape`] before any token, [`Error::Length`] for a statistic of
    /// another d_ff; otherwise as [`PromptStatistic::observe`].
    pub fn calibrated_by_cett(
        weights: &Weights,
        statistic: &PromptStatistic,
        activations: &[f32],
        target: f32,
    ) -> Result<f64> {
        check_seen(statistic)?;
        crate::error::check_len("statistic", weights.shape().d_ff, statistic.d_ff())?;
        let scores = statistic.all_normalised();
        threshold_for_cett(weights, activations, target, |_, j| scores[j])
    }

    /// The thresholds, one for each layer.
    pub fn thresholds(&self) -> &[f64] {
        &self.thresholds
    }

    /// Finds thresholds by CETT as if the calibration text's beginning were a prompt: on its statistic, by the errors of its own tokens.
    pub(super) fn find_by_cett(arguments: &Arguments, context: &mut dyn Context) -> Result<Found> {
        let mut thresholds = Vec::new();
        for (layer, activations) in Record::of(context, Values::Hidden, TOKENS)?.iter().enumerate() {
            let mut statistic = PromptStatistic::new(context.model().d_ff)?;
            statistic.observe(activations)?;
            let threshold = Tda::calibrated_by_cett(context.mlp(layer)?, &statistic, activations, arguments.fraction)?;
            let largest = statistic.all_normalised().into_iter().fold(0.0, f64::max) as f32;
            let found = Threshold { threshold: threshold as f32, largest };
            found.check()?;
            thresholds.push(found);
        }
        let mut found = Found::default();
        found.put_thresholds(&[thresholds.len()], thresholds)?;
        Ok(found)
    }

    pub(super) fn make_by_cett(_: &Arguments, model: &ModelSizes, found: &Found) -> Policies {
        let thresholds = found.thresholds(&[model.n_layers])?.iter().map(|&threshold| f64::from(threshold)).collect();
        Ok(vec![Arc::new(Tda::new(thresholds)?)])
    }
}

/// Tokens of a calibration text that are taken for a prompt.
const TOKENS: usize = 128;

impl LayerRule for Tda {
    /// There may be none.
    fn list(&self, layer: usize, statistic: &PromptStatistic) -> Result<NeuronList> {
        check_layer(layer, self.thresholds.len())?;
        check_seen(statistic)?;
        Ok(NeuronList::from_fn(statistic.d_ff(), |j| statistic.normalised(j) > self.thresholds[layer]))
    }
}

impl PolicyConfig for Tda {
    fn policy(&self, sizes: &Sizes) -> Result<Box<dyn Policy>> {
        crate::error::check_len("tda thresholds", sizes.model.n_layers, self.thresholds.len())?;
        Ok(Box::new(ByPrompt::new(Arc::new(self.clone()), RefreshOptions::NEVER, sizes)?))
    }
}

/// [`Tda`] with the threshold that each prompt's [`Tda::joint_quantile`] gives.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TdaQuantile {
    kept: f32,
}

impl TdaQuantile {
    /// Takes the fraction of all neurons of the model that a prompt keeps.
    ///
    /// # Errors
    /// [`Error::Value`] outside (0, 1].
    pub fn new(kept: f32) -> Result<Self> {
        super::check_fraction("kept fraction", kept)?;
        Ok(TdaQuantile { kept })
    }

    pub(super) fn make(arguments: &Arguments, _: &ModelSizes) -> Policies {
        Ok(vec![Arc::new(TdaQuantile::new(arguments.fraction)?)])
    }
}

impl PromptRule for TdaQuantile {
    fn settle(&self, prompt: &[PromptStatistic]) -> Result<Arc<dyn LayerRule>> {
        Ok(Arc::new(Tda::joint_quantile(prompt, self.kept)?))
    }
}

impl PolicyConfig for TdaQuantile {
    fn policy(&self, sizes: &Sizes) -> Result<Box<dyn Policy>> {
        Ok(Box::new(ByPrompt::new(Arc::new(*self), RefreshOptions::NEVER, sizes)?))
    }
}

/// Refuses a fraction of the highest score that keeps nothing: no score is above the highest.
fn check_below_max(fraction: f32) -> Result<()> {
    if fraction > 0.0 && fraction < 1.0 {
        return Ok(());
    }
    let expected = "a number in (0, 1), since nothing is above the maximum";
    Err(Error::Value { what: "fraction of the maximum", expected, got: fraction })
}

/// [`Tda`] with the thresholds that each prompt's [`Tda::fraction_of_max`] gives.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TdaShareOfMax {
    fraction: f32,
}

impl TdaShareOfMax {
    /// Takes the fraction of a layer's highest score.
    ///
    /// # Errors
    /// [`Error::Value`] outside (0, 1).
    pub fn new(fraction: f32) -> Result<Self> {
        check_below_max(fraction)?;
        Ok(TdaShareOfMax { fraction })
    }

    pub(super) fn make(arguments: &Arguments, _: &ModelSizes) -> Policies {
        Ok(vec![Arc::new(TdaShareOfMax::new(arguments.fraction)?)])
    }
}

impl PromptRule for TdaShareOfMax {
    fn settle(&self, prompt: &[PromptStatistic]) -> Result<Arc<dyn LayerRule>> {
        Ok(Arc::new(Tda::fraction_of_max(prompt, self.fraction)?))
    }
}

impl PolicyConfig for TdaShareOfMax {
    fn policy(&self, sizes: &Sizes) -> Result<Box<dyn Policy>> {
        Ok(Box::new(ByPrompt::new(Arc::new(*self), RefreshOptions::NEVER, sizes)?))
    }
}

fn check_layers(layers: &[PromptStatistic]) -> Result<()> {
    if layers.is_empty() {
        return Err(Error::Shape { what: "layers", expected: "at least 1", got: 0 });
    }
    layers.iter().try_for_each(check_seen)
}
