//! Policies that the prompt fixes: it runs dense, then each sequence computes the neurons that its prompt used.

use std::sync::Arc;

use super::observed::tokens_of;
use super::{
    Kept, Observed, Policy, PromptStatistic, Refresh, RefreshOptions, Site, Sizes, Values, Wanted, check_layer,
};
use crate::attention::Span;
use crate::error::{Error, Result};
use crate::sparse_mlp::{NeuronList, Selection, TokenMasks, mask_from_list};

/// Turns a layer's statistic into a list.
pub trait LayerRule: std::fmt::Debug + Send + Sync {
    /// The neurons of a layer.
    ///
    /// # Errors
    /// [`Error::Index`] for a layer that it does not know, [`Error::Shape`] for a statistic without tokens.
    fn list(&self, layer: usize, statistic: &PromptStatistic) -> Result<NeuronList>;

    /// The most neurons of a list, of `d_ff`, where that is known before any prompt.
    fn longest_list(&self, d_ff: usize) -> Option<usize> {
        let _ = d_ff;
        None
    }
}

/// Turns a whole prompt into the rule of its generation.
pub trait PromptRule: std::fmt::Debug + Send + Sync {
    /// What is added up over the prompt, before any token.
    ///
    /// # Errors
    /// [`Error::Shape`] for no neurons.
    fn statistic(&self, d_ff: usize) -> Result<PromptStatistic> {
        PromptStatistic::new(d_ff)
    }

    /// The rule after a prompt with these statistics, one for each layer.
    ///
    /// # Errors
    /// [`Error::Shape`] for no layers or a statistic without tokens.
    fn settle(&self, prompt: &[PromptStatistic]) -> Result<Arc<dyn LayerRule>>;

    /// As [`LayerRule::longest_list`], of every layer.
    fn longest_list(&self, d_ff: usize) -> Option<usize> {
        let _ = d_ff;
        None
    }
}

/// A rule that takes nothing from the prompt as a whole.
impl<R: LayerRule + Clone + 'static> PromptRule for R {
    fn settle(&self, _: &[PromptStatistic]) -> Result<Arc<dyn LayerRule>> {
        Ok(Arc::new(self.clone()))
    }

    fn longest_list(&self, d_ff: usize) -> Option<usize> {
        LayerRule::longest_list(self, d_ff)
    }
}

/// Where a slot stands.
#[derive(Debug)]
enum Slot {
    /// Statistics of each layer so far.
    Prompt(Vec<PromptStatistic>),
    Generation(Refresh),
}

impl Slot {
    fn new(rule: &dyn PromptRule, n_layers: usize, d_ff: usize) -> Result<Self> {
        Ok(Slot::Prompt((0..n_layers).map(|_| rule.statistic(d_ff)).collect::<Result<_>>()?))
    }

    fn is_dense(&self) -> bool {
        match self {
            Slot::Prompt(_) => true,
            Slot::Generation(refresh) => refresh.next_is_dense(),
        }
    }
}

/// The policy of a [`PromptRule`]: statistics and lists of each slot.
#[derive(Debug)]
pub(super) struct ByPrompt {
    rule: Arc<dyn PromptRule>,
    refresh: RefreshOptions,
    /// Whether the rule is settled anew with each renewal.
    resettles: bool,
    n_layers: usize,
    d_ff: usize,
    slots: Vec<Slot>,
    /// One mask for each token of a call with several sequences, \[max_tokens, ⌈d_ff/64⌉\].
    masks: Vec<u64>,
}

impl ByPrompt {
    pub(super) fn new(rule: Arc<dyn PromptRule>, refresh: RefreshOptions, sizes: &Sizes) -> Result<Self> {
        refresh.check()?;
        let (n_layers, d_ff) = (sizes.model.n_layers, sizes.model.d_ff);
        let words = if sizes.slots > 1 { sizes.max_tokens * d_ff.div_ceil(64) } else { 0 };
        let slots = (0..sizes.slots).map(|_| Slot::new(&*rule, n_layers, d_ff)).collect::<Result<_>>()?;
        Ok(ByPrompt { rule, refresh, resettles: false, n_layers, d_ff, slots, masks: vec![0; words] })
    }

    pub(super) fn resettling(self, resettles: bool) -> Self {
        ByPrompt { resettles, ..self }
    }

    fn check(&self, layer: usize, spans: &[Span]) -> Result<()> {
        check_layer(layer, self.n_layers)?;
        spans.iter().try_for_each(|span| self.slot(span.slot).map(drop))
    }

    fn slot(&self, slot: usize) -> Result<&Slot> {
        self.slots.get(slot).ok_or(Error::Index { what: "slot", limit: self.slots.len(), got: slot })
    }

    fn slot_mut(&mut self, slot: usize) -> Result<&mut Slot> {
        let limit = self.slots.len();
        self.slots.get_mut(slot).ok_or(Error::Index { what: "slot", limit, got: slot })
    }

    /// Writes each token's own mask, for a call with sequences of different lists, and returns the number of words.
    fn fill_masks(&mut self, layer: usize, spans: &[Span]) -> Result<usize> {
        let (words, tokens) = (self.d_ff.div_ceil(64), tokens_of(spans));
        let Some(masks) = self.masks.get_mut(..tokens * words) else {
            let expected = "no more than the session's max_tokens";
            return Err(Error::Shape { what: "tokens", expected, got: tokens });
        };
        let mut masks = masks.chunks_exact_mut(words);
        for span in spans {
            for mask in masks.by_ref().take(span.len) {
                match &self.slots[span.slot] {
                    Slot::Generation(refresh) if !refresh.next_is_dense() => {
                        mask_from_list(refresh.list(layer)?.view(), mask)?;
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
        Ok(tokens * words)
    }
}

impl Policy for ByPrompt {
    fn site(&self) -> Site {
        Site::Neurons
    }

    fn wants(&self, spans: &[Span]) -> Wanted {
        let dense = |span: &Span| self.slots.get(span.slot).is_some_and(Slot::is_dense);
        if spans.iter().any(dense) { Wanted::Copied(Values::Hidden) } else { Wanted::Lengths }
    }

    fn select(&mut self, layer: usize, spans: &[Span]) -> Result<Selection<'_>> {
        self.check(layer, spans)?;
        if spans.iter().all(|span| self.slots[span.slot].is_dense()) {
            return Ok(Selection::All);
        }
        if spans.len() > 1 {
            let words = self.fill_masks(layer, spans)?;
            return Ok(Selection::Masks(TokenMasks::new(&self.masks[..words], tokens_of(spans), self.d_ff)?));
        }
        match spans.first().map(|span| &self.slots[span.slot]) {
            Some(Slot::Generation(refresh)) => Ok(refresh.list(layer)?.selection()),
            _ => Ok(Selection::All),
        }
    }

    fn longest_list(&self, _: usize) -> Option<usize> {
        self.rule.longest_list(self.d_ff)
    }

    fn observe(&mut self, layer: usize, spans: &[Span], observed: &Observed<'_>) -> Result<Kept> {
        self.check(layer, spans)?;
        let (mut first, mut kept) = (0, Kept::default());
        for span in spans {
            for token in first..first + span.len {
                match &mut self.slots[span.slot] {
                    // where a sequence runs dense, every neuron is in the union, so positions are neurons
                    Slot::Prompt(layers) => layers[layer].observe(observed.whole_token(token, self.d_ff)?)?,
                    Slot::Generation(refresh) if refresh.next_is_dense() => {
                        refresh.observe(layer, observed.whole_token(token, self.d_ff)?)?;
                        kept += Kept::each(1, self.d_ff, self.d_ff);
                    }
                    Slot::Generation(refresh) => {
                        kept += Kept::each(1, refresh.list(layer)?.indices().len(), self.d_ff);
                    }
                }
            }
            first += span.len;
        }
        Ok(kept)
    }

    fn begin_generation(&mut self, slot: usize) -> Result<()> {
        let (rule, options, resettles) = (Arc::clone(&self.rule), self.refresh, self.resettles);
        let state = self.slot_mut(slot)?;
        if let Slot::Prompt(layers) = state {
            let refresh = Refresh::new(rule.settle(layers)?, layers.clone(), options)?;
            *state = Slot::Generation(if resettles { refresh.resettled_by(rule) } else { refresh });
        }
        Ok(())
    }

    fn end_token(&mut self, slot: usize) -> Result<()> {
        if let Slot::Generation(refresh) = self.slot_mut(slot)? {
            refresh.end_token()?;
        }
        Ok(())
    }

    fn reset(&mut self, slot: usize) -> Result<()> {
        let new = Slot::new(&*self.rule, self.n_layers, self.d_ff)?;
        *self.slot_mut(slot)? = new;
        Ok(())
    }

    fn is_settled(&self, spans: &[Span]) -> bool {
        let fixed = |span: &Span| matches!(self.slots.get(span.slot), Some(Slot::Generation(_)));
        self.refresh.every == 0 && spans.iter().all(fixed)
    }
}
