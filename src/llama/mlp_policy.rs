//! Which neurons a session computes: a policy's settings, and its statistics and selections.

use super::config::Config;
use super::settings::Settings;
use crate::attention::Span;
use crate::error::{Error, Result};
use crate::sparse_mlp::policy::{
    Cats, CatsCalibrator, Griffin, PromptPolicy, PromptStatistic, Refresh, RefreshOptions, Tda, TopK,
};
use crate::sparse_mlp::{Selection, TokenMasks, mask_from_list};

/// A policy and its settings.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum MlpPolicy {
    /// Every neuron.
    Dense,
    /// Every neuron, while the gates are shown to a calibrator: [`MlpPolicyState::calibrator`].
    Calibrate,
    /// The largest scores of each token.
    TopK(TopK),
    /// What is above a threshold, for each token.
    Cats(Cats),
    /// The prompt runs dense, then a fixed selection.
    Prompt {
        /// How it is made.
        rule: PromptRule,
        /// How it is renewed.
        refresh: RefreshOptions,
    },
}

/// How a selection is made from a prompt.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum PromptRule {
    /// The same number of neurons in every layer.
    Griffin(Griffin),
    /// A threshold for all layers that keeps this fraction in (0, 1] of all neurons of the model.
    TdaQuantile(f32),
    /// Given thresholds.
    Tda(Tda),
}

impl MlpPolicy {
    /// A policy fixed by the prompt, never renewed.
    pub fn prompt(rule: PromptRule) -> Self {
        let refresh = RefreshOptions { every: 0, window: 0, recent_weight: 0.0, drift: None };
        MlpPolicy::Prompt { rule, refresh }
    }
}

/// Where a slot stands with a policy that is fixed by the prompt.
#[derive(Debug)]
enum Slot {
    /// Statistics of each layer so far.
    Prompt(Vec<PromptStatistic>),
    Generation(Refresh),
}

impl Slot {
    fn is_dense(&self) -> bool {
        match self {
            Slot::Prompt(_) => true,
            Slot::Generation(refresh) => refresh.next_is_dense(),
        }
    }
}

/// The activations of a layer's call, token by token and by neuron where every neuron was computed.
pub(super) struct Observed<'a> {
    /// act(gate).
    pub(super) gate: &'a dyn Fn(usize) -> &'a [f32],
    /// act(gate) ⊙ up.
    pub(super) hidden: &'a dyn Fn(usize) -> &'a [f32],
}

/// What a policy has to be told of a layer's call.
#[cfg(feature = "cuda")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Nothing at all.
    Nothing,
    /// That it was, but no values.
    Lengths,
    /// [`Observed::gate`].
    Gate,
    /// [`Observed::hidden`].
    Hidden,
}

/// What a policy keeps of a session.
#[derive(Debug)]
pub struct MlpPolicyState {
    policy: MlpPolicy,
    d_ff: usize,
    n_layers: usize,
    slots: Vec<Slot>,
    /// One mask for each token of a call with several sequences, \[max_tokens, ⌈d_ff/64⌉\].
    masks: Vec<u64>,
    calibrator: Option<CatsCalibrator>,
    /// Neurons kept by tokens under the policy's selection, and neurons that there were.
    kept: (u64, u64),
}

impl MlpPolicyState {
    pub(super) fn new(config: &Config, settings: &Settings) -> Result<Self> {
        let (d_ff, n_layers) = (config.d_ff, config.n_layers);
        let fixed = matches!(settings.mlp, MlpPolicy::Prompt { .. });
        let slots = if fixed { settings.slots } else { 0 };
        let words = if slots > 1 { settings.max_tokens * d_ff.div_ceil(64) } else { 0 };
        if let MlpPolicy::Cats(cats) = &settings.mlp {
            crate::error::check_len("cats thresholds", n_layers, cats.thresholds().len())?;
        }
        let calibrates = matches!(settings.mlp, MlpPolicy::Calibrate);
        Ok(MlpPolicyState {
            policy: settings.mlp.clone(),
            d_ff,
            n_layers,
            slots: (0..slots).map(|_| new_prompt(n_layers, d_ff)).collect::<Result<_>>()?,
            masks: vec![0; words],
            calibrator: if calibrates { Some(CatsCalibrator::new(n_layers)?) } else { None },
            kept: (0, 0),
        })
    }

    /// What [`MlpPolicy::Calibrate`] has seen.
    pub fn calibrator(&self) -> Option<&CatsCalibrator> {
        self.calibrator.as_ref()
    }

    /// The mean fraction of neurons that tokens under a selection kept; None if there was no such token.
    pub fn kept_fraction(&self) -> Option<f64> {
        (self.kept.1 > 0).then(|| self.kept.0 as f64 / self.kept.1 as f64)
    }

    /// Says what [`MlpPolicyState::observe`] will look at. On a device the gates of CATS stay there: what it keeps is not
    /// counted.
    #[cfg(feature = "cuda")]
    pub(super) fn wanted(&self, spans: &[Span]) -> Wanted {
        match &self.policy {
            MlpPolicy::Dense | MlpPolicy::Cats(_) => Wanted::Nothing,
            MlpPolicy::Calibrate => Wanted::Gate,
            MlpPolicy::TopK(_) => Wanted::Lengths,
            MlpPolicy::Prompt { .. } if spans.iter().any(|span| self.slots[span.slot].is_dense()) => Wanted::Hidden,
            MlpPolicy::Prompt { .. } => Wanted::Lengths,
        }
    }

    /// Says whether these spans' selections stay as they are while they generate.
    #[cfg(feature = "cuda")]
    pub(super) fn is_settled(&self, spans: &[Span]) -> bool {
        match &self.policy {
            // what is chosen for each token is chosen by kernels
            MlpPolicy::Dense | MlpPolicy::TopK(_) | MlpPolicy::Cats(_) => true,
            MlpPolicy::Prompt { refresh, .. } => {
                let fixed = |span: &Span| matches!(self.slots[span.slot], Slot::Generation(_));
                refresh.every == 0 && refresh.drift.is_none() && spans.iter().all(fixed)
            }
            MlpPolicy::Calibrate => false,
        }
    }

    pub(super) fn selection(&mut self, index: usize, spans: &[Span]) -> Result<Selection<'_>> {
        let fixed = matches!(self.policy, MlpPolicy::Prompt { .. });
        let dense = fixed && spans.iter().all(|span| self.slots[span.slot].is_dense());
        if fixed && !dense && spans.len() > 1 {
            let tokens = self.fill_masks(index, spans)?;
            let words = tokens * self.d_ff.div_ceil(64);
            return Ok(Selection::Masks(TokenMasks::new(&self.masks[..words], tokens, self.d_ff)?));
        }
        match &self.policy {
            MlpPolicy::TopK(top_k) => top_k.selection(index),
            MlpPolicy::Cats(cats) => cats.selection(index),
            MlpPolicy::Prompt { .. } if !dense => match spans.first().map(|span| &self.slots[span.slot]) {
                Some(Slot::Generation(refresh)) => Ok(refresh.list(index)?.selection()),
                _ => Ok(Selection::All),
            },
            _ => Ok(Selection::All),
        }
    }

    /// Writes each token's own mask, for a call with sequences of different lists, and returns the number of tokens.
    fn fill_masks(&mut self, index: usize, spans: &[Span]) -> Result<usize> {
        let words = self.d_ff.div_ceil(64);
        let mut masks = self.masks.chunks_exact_mut(words);
        for span in spans {
            for mask in masks.by_ref().take(span.len) {
                match &self.slots[span.slot] {
                    Slot::Generation(refresh) if !refresh.next_is_dense() => {
                        mask_from_list(refresh.list(index)?.view(), mask)?;
                    }
                    _ => {
                        mask.fill(u64::MAX);
                        if self.d_ff % 64 != 0 {
                            mask[words - 1] = (1 << (self.d_ff % 64)) - 1;
                        }
                    }
                }
            }
        }
        Ok(spans.iter().map(|span| span.len).sum())
    }

    /// Takes in the activations of a layer.
    pub(super) fn observe(&mut self, index: usize, spans: &[Span], observed: &Observed<'_>) -> Result<()> {
        let tokens: usize = spans.iter().map(|span| span.len).sum();
        if let Some(calibrator) = &mut self.calibrator {
            return (0..tokens).try_for_each(|token| calibrator.observe(index, (observed.gate)(token)));
        }
        match &self.policy {
            MlpPolicy::TopK(top_k) => self.kept.0 += (top_k.k() * tokens) as u64,
            MlpPolicy::Cats(cats) => {
                let threshold = cats.thresholds()[index];
                let above = |token| (observed.gate)(token).iter().filter(|gate| gate.abs() > threshold).count();
                self.kept.0 += (0..tokens).map(above).sum::<usize>() as u64;
            }
            MlpPolicy::Prompt { .. } => return self.observe_prompt(index, spans, observed),
            _ => return Ok(()),
        }
        self.kept.1 += (self.d_ff * tokens) as u64;
        Ok(())
    }

    fn observe_prompt(&mut self, index: usize, spans: &[Span], observed: &Observed<'_>) -> Result<()> {
        let mut first = 0;
        for span in spans {
            for token in first..first + span.len {
                match &mut self.slots[span.slot] {
                    // where a sequence runs dense, every neuron is in the union, so positions are neurons
                    Slot::Prompt(layers) => layers[index].observe((observed.hidden)(token))?,
                    Slot::Generation(refresh) if refresh.next_is_dense() => {
                        refresh.observe(index, (observed.hidden)(token))?;
                    }
                    Slot::Generation(refresh) => {
                        self.kept.0 += refresh.list(index)?.indices().len() as u64;
                        self.kept.1 += self.d_ff as u64;
                    }
                }
            }
            first += span.len;
        }
        Ok(())
    }

    pub(super) fn start_generation(&mut self, slot: usize) -> Result<()> {
        let MlpPolicy::Prompt { rule, refresh } = &self.policy else { return Ok(()) };
        let limit = self.slots.len();
        let state = self.slots.get_mut(slot).ok_or(Error::Index { what: "slot", limit, got: slot })?;
        let Slot::Prompt(layers) = state else { return Ok(()) };
        let policy = match rule {
            PromptRule::Griffin(griffin) => PromptPolicy::Griffin(*griffin),
            PromptRule::TdaQuantile(kept) => PromptPolicy::Tda(Tda::joint_quantile(layers, *kept)?),
            PromptRule::Tda(tda) => PromptPolicy::Tda(tda.clone()),
        };
        *state = Slot::Generation(Refresh::new(policy, layers.clone(), *refresh)?);
        Ok(())
    }

    pub(super) fn advance(&mut self, slot: usize) -> Result<()> {
        if let Some(Slot::Generation(refresh)) = self.slots.get_mut(slot) {
            refresh.end_token()?;
        }
        Ok(())
    }

    pub(super) fn reset(&mut self, slot: usize) -> Result<()> {
        if let Some(state) = self.slots.get_mut(slot) {
            *state = new_prompt(self.n_layers, self.d_ff)?;
        }
        Ok(())
    }
}

fn new_prompt(n_layers: usize, d_ff: usize) -> Result<Slot> {
    Ok(Slot::Prompt((0..n_layers).map(|_| PromptStatistic::new(d_ff)).collect::<Result<_>>()?))
}
