//! Renewing a prompt's selection as generation goes on.

use std::sync::Arc;

use super::table::{Arguments, Policies};
use super::{
    ByPrompt, Griffin, LayerRule, ModelSizes, Policy, PolicyConfig, PromptRule, PromptStatistic, Sizes, TdaQuantile,
};
use crate::error::{Error, Result};
use crate::sparse_mlp::NeuronList;

/// When and how a selection is renewed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RefreshOptions {
    /// Generated tokens between two refreshes, R; 0 for never.
    pub every: usize,
    /// Tokens before a refresh that run dense, so that activations of unselected neurons are known; 1..=every.
    pub window: usize,
    /// Weight of the window against the prompt in the statistic, 0..=1.
    pub recent_weight: f32,
    /// Renew a layer only if the Jaccard similarity of its list and the new one is below this; `None` to renew always.
    pub drift: Option<f32>,
}

impl RefreshOptions {
    /// The prompt's selection stays.
    pub const NEVER: RefreshOptions = RefreshOptions { every: 0, window: 0, recent_weight: 0.0, drift: None };

    /// Checks them.
    ///
    /// # Errors
    /// [`Error::Shape`] for a window that does not fit between refreshes, [`Error::Value`] for a weight or drift outside 0..=1.
    pub fn check(&self) -> Result<()> {
        if self.every > 0 && !(1..=self.every).contains(&self.window) {
            let expected = "1 to the tokens between refreshes";
            return Err(Error::Shape { what: "window", expected, got: self.window });
        }
        for (what, got) in [("recent_weight", self.recent_weight), ("drift", self.drift.unwrap_or(0.0))] {
            if !(0.0..=1.0).contains(&got) {
                return Err(Error::Value { what, expected: "a number in 0..=1", got });
            }
        }
        Ok(())
    }
}

/// A policy by the prompt whose selection is renewed: the neurons of `rule`, as `options` say.
#[derive(Debug, Clone)]
pub struct Refreshed {
    rule: Arc<dyn PromptRule>,
    options: RefreshOptions,
    resettles: bool,
}

impl Refreshed {
    /// Renews what `rule` selects.
    ///
    /// # Errors
    /// As [`RefreshOptions::check`].
    pub fn new(rule: impl PromptRule + 'static, options: RefreshOptions) -> Result<Self> {
        options.check()?;
        Ok(Refreshed { rule: Arc::new(rule), options, resettles: false })
    }

    /// Settles the rule anew with each renewal, by the mixed statistics as by a prompt's: the thresholds of [`TdaQuantile`] keep its share then, where
    /// those of the prompt would keep fewer, because few tokens leave most of a statistic to few neurons.
    pub fn resettled(self) -> Self {
        Refreshed { resettles: true, ..self }
    }
}

/// Tokens between refreshes where a command names none.
const EVERY: usize = 32;

/// Of the tokens between refreshes, one in so many runs whole before each.
const TOKENS_FOR_ONE_WHOLE: usize = 8;

/// Weight of these tokens against the prompt.
const RECENT: f32 = 0.5;

/// When a command's selection is renewed, and what it keeps in between so that the average, with the tokens that run whole, is `kept`.
fn of_average(kept: f32, every: usize) -> Result<(RefreshOptions, f32)> {
    let every = if every == 0 { EVERY } else { every };
    let window = (every / TOKENS_FOR_ONE_WHOLE).max(1);
    let options = RefreshOptions { every, window, recent_weight: RECENT, drift: None };
    let between = (kept * every as f32 - window as f32) / (every - window).max(1) as f32;
    if between <= 0.0 {
        let expected = "more than the share of the tokens that run whole to renew the neurons";
        return Err(Error::Value { what: "kept fraction", expected, got: kept });
    }
    Ok((options, between.min(1.0)))
}

impl Refreshed {
    pub(super) fn make_griffin(arguments: &Arguments, _: &ModelSizes) -> Policies {
        let (options, between) = of_average(arguments.fraction, arguments.tokens)?;
        Ok(vec![Arc::new(Refreshed::new(Griffin::new(between)?, options)?)])
    }

    pub(super) fn make_tda(arguments: &Arguments, _: &ModelSizes) -> Policies {
        let (options, between) = of_average(arguments.fraction, arguments.tokens)?;
        Ok(vec![Arc::new(Refreshed::new(TdaQuantile::new(between)?, options)?.resettled())])
    }
}

impl PolicyConfig for Refreshed {
    fn policy(&self, sizes: &Sizes) -> Result<Box<dyn Policy>> {
        Ok(Box::new(ByPrompt::new(Arc::clone(&self.rule), self.options, sizes)?.resettling(self.resettles)))
    }
}

/// One sequence's selection: lists per layer from the prompt, renewed from recent tokens.
///
/// A skipped neuron's activation is not known, so the last `window` of every `every` generated tokens run dense
/// ([`Refresh::next_is_dense`]); their A is fed back ([`Refresh::observe`]).
///
/// # Source
/// Mixing prompt and recent statistics as GLASS does, renewing on drift as DART does.
#[derive(Debug, Clone)]
pub struct Refresh {
    rule: Arc<dyn LayerRule>,
    /// What settles the rule anew with each renewal, if anything does.
    prompt_rule: Option<Arc<dyn PromptRule>>,
    options: RefreshOptions,
    prompt: Vec<PromptStatistic>,
    recent: Vec<PromptStatistic>,
    lists: Vec<NeuronList>,
    generated: usize,
    renewed: usize,
}

impl Refresh {
    /// Selects from the prompt's statistics, one for each layer.
    ///
    /// # Errors
    /// [`Error::Shape`] for no layers or no tokens, those of [`RefreshOptions::check`]; otherwise as the rule.
    pub fn new(rule: Arc<dyn LayerRule>, prompt: Vec<PromptStatistic>, options: RefreshOptions) -> Result<Self> {
        if prompt.is_empty() {
            return Err(Error::Shape { what: "layers", expected: "at least 1", got: 0 });
        }
        options.check()?;
        let lists = prompt.iter().enumerate().map(|(l, s)| rule.list(l, s)).collect::<Result<_>>()?;
        let mut recent = prompt.clone();
        recent.iter_mut().for_each(PromptStatistic::clear);
        Ok(Refresh { rule, prompt_rule: None, options, prompt, recent, lists, generated: 0, renewed: 0 })
    }

    /// Settles its rule anew with each renewal.
    pub fn resettled_by(self, prompt_rule: Arc<dyn PromptRule>) -> Self {
        Refresh { prompt_rule: Some(prompt_rule), ..self }
    }

    /// A layer's neurons.
    ///
    /// # Errors
    /// [`Error::Index`] for a layer too high.
    pub fn list(&self, layer: usize) -> Result<&NeuronList> {
        super::check_layer(layer, self.lists.len())?;
        Ok(&self.lists[layer])
    }

    /// Whether the next token should run dense and be observed.
    pub fn next_is_dense(&self) -> bool {
        let RefreshOptions { every, window, .. } = self.options;
        every > 0 && self.generated % every >= every - window
    }

    /// Adds a layer's A \[tokens, d_ff\] of a token that ran dense.
    ///
    /// # Errors
    /// [`Error::Index`] for a layer too high; otherwise as [`PromptStatistic::observe`].
    pub fn observe(&mut self, layer: usize, activations: &[f32]) -> Result<()> {
        super::check_layer(layer, self.recent.len())?;
        self.recent[layer].observe(activations)
    }

    /// Ends a generated token; at the end of a window renews the lists. Returns the number of layers whose list was
    /// renewed.
    ///
    /// # Errors
    /// As the rule; the lists are unchanged then.
    pub fn end_token(&mut self) -> Result<usize> {
        let due = self.options.every > 0 && (self.generated + 1) % self.options.every == 0;
        let mut renewed = 0;
        if due {
            let pairs = self.prompt.iter().zip(&self.recent);
            let mixed = pairs.map(|(prompt, recent)| prompt.mixed(recent, self.options.recent_weight));
            let mixed = mixed.collect::<Result<Vec<_>>>()?;
            let rule = self.prompt_rule.as_ref().map_or(Ok(Arc::clone(&self.rule)), |rule| rule.settle(&mixed))?;
            let mut lists = Vec::with_capacity(self.lists.len());
            for (layer, mixed) in mixed.iter().enumerate() {
                lists.push(rule.list(layer, mixed)?);
            }
            self.rule = rule;
            for (old, new) in self.lists.iter_mut().zip(lists) {
                if self.options.drift.is_none_or(|drift| old.jaccard(&new) < f64::from(drift)) && *old != new {
                    *old = new;
                    renewed += 1;
                }
            }
            self.recent.iter_mut().for_each(PromptStatistic::clear);
        }
        self.generated += 1;
        self.renewed += renewed;
        Ok(renewed)
    }

    /// Layers' lists renewed so far, all together.
    pub fn renewed(&self) -> usize {
        self.renewed
    }
}
