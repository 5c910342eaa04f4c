//! Renewing a prompt's selection as generation goes on.

use super::{Griffin, PromptStatistic, Tda};
use crate::error::{Error, Result};
use crate::sparse_mlp::select::NeuronList;

/// A policy that turns a layer's statistic into a list.
#[derive(Debug, Clone, PartialEq)]
pub enum PromptPolicy {
    /// Fixed top-k.
    Griffin(Griffin),
    /// Threshold per layer.
    Tda(Tda),
}

impl PromptPolicy {
    /// The neurons of a layer.
    ///
    /// # Errors
    /// As [`Griffin::list`] and [`Tda::list`].
    pub fn list(&self, layer: usize, statistic: &PromptStatistic) -> Result<NeuronList> {
        match self {
            PromptPolicy::Griffin(griffin) => griffin.list(statistic),
            PromptPolicy::Tda(tda) => tda.list(layer, statistic),
        }
    }
}

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

/// One sequence's selection: lists per layer from the prompt, renewed from recent tokens.
///
/// A skipped neuron's activation is not known, so the last `window` of every `every` generated tokens run dense
/// ([`Refresh::next_is_dense`]); their A is fed back ([`Refresh::observe`]).
///
/// # Source
/// Mixing prompt and recent statistics as GLASS does, renewing on drift as DART does.
#[derive(Debug, Clone)]
pub struct Refresh {
    policy: PromptPolicy,
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
    /// [`Error::Shape`] for no layers, no tokens or a window that does not fit between refreshes; [`Error::Value`] for a
    /// weight or drift outside 0..=1; otherwise as the policy.
    pub fn new(policy: PromptPolicy, prompt: Vec<PromptStatistic>, options: RefreshOptions) -> Result<Self> {
        if prompt.is_empty() {
            return Err(Error::Shape { what: "layers", expected: "at least 1", got: 0 });
        }
        if options.every > 0 && !(1..=options.every).contains(&options.window) {
            let expected = "1 to the tokens between refreshes";
            return Err(Error::Shape { what: "window", expected, got: options.window });
        }
        for (what, got) in [("recent_weight", options.recent_weight), ("drift", options.drift.unwrap_or(0.0))] {
            if !(0.0..=1.0).contains(&got) {
                return Err(Error::Value { what, expected: "a number in 0..=1", got });
            }
        }
        let lists = prompt.iter().enumerate().map(|(l, s)| policy.list(l, s)).collect::<Result<_>>()?;
        let recent = prompt.iter().map(|s| PromptStatistic::new(s.d_ff())).collect::<Result<_>>()?;
        Ok(Refresh { policy, options, prompt, recent, lists, generated: 0, renewed: 0 })
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
    /// As the policy; the lists are unchanged then.
    pub fn end_token(&mut self) -> Result<usize> {
        let due = self.options.every > 0 && (self.generated + 1) % self.options.every == 0;
        let mut renewed = 0;
        if due {
            let mut lists = Vec::with_capacity(self.lists.len());
            for (layer, (prompt, recent)) in self.prompt.iter().zip(&self.recent).enumerate() {
                lists.push(self.policy.list(layer, &prompt.mixed(recent, self.options.recent_weight)?)?);
            }
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
