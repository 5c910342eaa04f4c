//! A head policy without training: keep the heads whose outputs were large over the prompt.

use std::sync::Arc;

use super::table::{Arguments, Policies};
use super::{
    Kept, ModelSizes, Observed, Policy, PolicyConfig, Site, Sizes, Values, Wanted, check_fraction, check_layer,
    kept_count,
};
use crate::attention::{AttentionShape, Span};
use crate::error::{Error, Result, check_len};
use crate::sparse_mlp::{Selection, TokenMasks};

/// Keeps the ⌈kept · n_q_heads⌉ query heads with the largest mean output norm, per layer and sequence.
///
/// The statistic of a head is mean over the prompt's tokens of ‖out[t, h]‖₂, times the head's weight (for example the
/// Frobenius norm of its columns of the output projection, see [`HeadNorm::weighted`]). The choice is fixed by the
/// prompt; with `refresh` > 0 every `refresh`-th generated token runs all heads, the statistic becomes the mean of the old one
/// and that token's norms, and the heads are chosen again.
///
/// # Source
/// The norm of head outputs as a head's importance: Deja Vu (ICML 2023); the maximum over a group: Polar Sparsity
/// (arXiv 2505.14884); a selection fixed by the prompt: GRIFFIN and TDA (arXiv 2408.11393), for neurons.
///
/// # Example
/// ```
/// use moray::attention::{AttentionShape, Span};
/// use moray::policy::{HeadNorm, ModelSizes, Observed, Policy, PolicyConfig, Sizes};
/// use moray::sparse_mlp::Selection;
///
/// let attention = AttentionShape::new(4, 2, 8)?;
/// let model = ModelSizes { n_layers: 1, d_model: 32, d_ff: 64, attention };
/// let mut policy = HeadNorm::new(0.5, 0)?.policy(&Sizes { model, slots: 1, max_tokens: 1 })?;
/// let out: Vec<f32> = (0..32).map(|i| if i / 8 == 1 || i / 8 == 3 { 2.0 } else { 1.0 }).collect();
/// policy.observe(0, &[Span { slot: 0, start: 0, len: 1 }], &Observed::new(&out, 32, 32))?;
/// policy.begin_generation(0)?;
/// let Selection::Masks(masks) = policy.select(0, &[Span { slot: 0, start: 1, len: 1 }])? else { panic!("masks") };
/// assert_eq!(masks.token(0), [0b1010]);
/// # Ok::<(), moray::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct HeadNorm {
    kept: f32,
    refresh: usize,
    whole_groups: bool,
    /// \[layer\]\[n_q_heads\]; empty for 1 everywhere.
    weights: Vec<f32>,
}

impl HeadNorm {
    /// Keeps the fraction `kept` of the query heads, chosen again every `refresh` generated tokens (0: never).
    ///
    /// # Errors
    /// [`Error::Value`] if `kept` is not in (0, 1].
    pub fn new(kept: f32, refresh: usize) -> Result<HeadNorm> {
        check_fraction("kept fraction", kept)?;
        Ok(HeadNorm { kept, refresh, whole_groups: false, weights: Vec::new() })
    }

    /// Keeps ⌈kept · n_kv_heads⌉ whole groups instead, a group's statistic being the largest of its heads': only whole groups
    /// save reading K and V.
    pub fn whole_groups(self) -> HeadNorm {
        HeadNorm { whole_groups: true, ..self }
    }

    /// Weighs the heads, f32 \[layers, n_q_heads\].
    ///
    /// # Errors
    /// [`Error::Value`] for a negative or NaN weight.
    pub fn weighted(self, weights: Vec<f32>) -> Result<HeadNorm> {
        match weights.iter().find(|weight| weight.is_nan() || **weight < 0.0) {
            Some(&got) => Err(Error::Value { what: "weights", expected: "no negative number", got }),
            None => Ok(HeadNorm { weights, ..self }),
        }
    }

    /// Chooses by `statistic` (`[n_q_heads]`, larger is better, ties to the lower index) and sets the bits of the chosen query
    /// heads in `mask`, u64, [⌈n_q_heads / 64⌉], in the form of [`TokenMasks`]. NaN counts as the smallest.
    ///
    /// # Errors
    /// [`Error::Length`] if a buffer does not fit the shape.
    pub fn choose(&self, shape: &AttentionShape, statistic: &[f32], mask: &mut [u64]) -> Result<()> {
        shape.check()?;
        check_len("statistic", shape.n_q_heads, statistic.len())?;
        check_len("mask", shape.n_q_heads.div_ceil(64), mask.len())?;
        let unit = if self.whole_groups { shape.group_size() } else { 1 };
        let of_unit = |i: usize| statistic[i * unit..(i + 1) * unit].iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
        let n_units = shape.n_q_heads / unit;
        let kept = kept_count(self.kept, n_units)?;
        mask.fill(0);
        for i in 0..n_units {
            // A unit's rank is the number of units that go before it; n is small, and nothing is allocated.
            let mine = of_unit(i);
            let before = |j: usize| of_unit(j) > mine || (of_unit(j) == mine && j < i);
            if (0..n_units).filter(|&j| before(j)).count() < kept {
                (i * unit..(i + 1) * unit).for_each(|head| mask[head / 64] |= 1 << (head % 64));
            }
        }
        Ok(())
    }

    pub(super) fn make(arguments: &Arguments, _: &ModelSizes) -> Policies {
        Ok(vec![Arc::new(HeadNorm::new(arguments.fraction, arguments.tokens)?)])
    }

    pub(super) fn make_groups(arguments: &Arguments, _: &ModelSizes) -> Policies {
        Ok(vec![Arc::new(HeadNorm::new(arguments.fraction, arguments.tokens)?.whole_groups())])
    }
}

impl PolicyConfig for HeadNorm {
    fn policy(&self, sizes: &Sizes) -> Result<Box<dyn Policy>> {
        let (shape, n_layers, slots) = (sizes.model.attention, sizes.model.n_layers, sizes.slots);
        shape.check()?;
        if !self.weights.is_empty() {
            check_len("weights", n_layers * shape.n_q_heads, self.weights.len())?;
        }
        let words = shape.n_q_heads.div_ceil(64);
        Ok(Box::new(ByHeadNorm {
            config: self.clone(),
            shape,
            n_layers,
            phases: vec![Phase::Prompt; slots],
            statistics: vec![0.0; n_layers * slots * shape.n_q_heads],
            tokens: vec![0; n_layers * slots],
            masks: vec![0; n_layers * slots * words],
            call: vec![0; slots * words],
        }))
    }
}

/// Where a slot stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// All heads run, and their norms are added up.
    Prompt,
    /// The chosen heads run; so many tokens have been generated.
    Generation(usize),
}

/// The statistics and selections of [`HeadNorm`], per layer and slot.
#[derive(Debug)]
struct ByHeadNorm {
    config: HeadNorm,
    shape: AttentionShape,
    n_layers: usize,
    /// \[slot\]
    phases: Vec<Phase>,
    /// \[layer\]\[slot\]\[n_q_heads\]: sums over the prompt, then the statistic.
    statistics: Vec<f32>,
    /// \[layer\]\[slot\]: tokens in the sum.
    tokens: Vec<usize>,
    /// \[layer\]\[slot\]\[⌈n_q_heads / 64⌉\]
    masks: Vec<u64>,
    /// \[spans\]\[⌈n_q_heads / 64⌉\]: the masks of a call.
    call: Vec<u64>,
}

impl ByHeadNorm {
    /// Says whether all heads of a slot run on its next token: in its prompt, and when the choice is renewed.
    fn runs_all(&self, slot: usize) -> bool {
        match self.phases[slot] {
            Phase::Prompt => true,
            Phase::Generation(tokens) => self.config.refresh > 0 && (tokens + 1).is_multiple_of(self.config.refresh),
        }
    }

    fn words(&self) -> usize {
        self.shape.n_q_heads.div_ceil(64)
    }

    fn place(&self, layer: usize, slot: usize) -> usize {
        layer * self.phases.len() + slot
    }

    fn mask(&self, layer: usize, slot: usize) -> &[u64] {
        &self.masks[self.place(layer, slot) * self.words()..][..self.words()]
    }

    fn check(&self, layer: usize, spans: &[Span]) -> Result<()> {
        check_layer(layer, self.n_layers)?;
        spans.iter().try_for_each(|span| self.check_slot(span.slot))
    }

    fn check_slot(&self, slot: usize) -> Result<()> {
        let limit = self.phases.len();
        if slot < limit { Ok(()) } else { Err(Error::Index { what: "slot", limit, got: slot }) }
    }

    fn choose(&mut self, place: usize) -> Result<()> {
        let (n_heads, words) = (self.shape.n_q_heads, self.words());
        let statistic = &self.statistics[place * n_heads..][..n_heads];
        self.config.choose(&self.shape, statistic, &mut self.masks[place * words..][..words])
    }

    /// Takes in the outputs of a span's tokens, all of whose heads ran.
    fn add(&mut self, layer: usize, span: &Span, first: usize, observed: &Observed<'_>) -> Result<()> {
        let (n_heads, width, place) = (self.shape.n_q_heads, self.shape.q_elems(), self.place(layer, span.slot));
        (first..first + span.len).try_for_each(|token| observed.whole_token(token, width).map(drop))?;
        let prompt = self.phases[span.slot] == Phase::Prompt;
        for head in 0..n_heads {
            let norm = |token| norm(&observed.token(token)[head * self.shape.head_dim..][..self.shape.head_dim]);
            let sum: f32 = (first..first + span.len).map(norm).sum();
            let sum = self.config.weights.get(layer * n_heads + head).unwrap_or(&1.0) * sum;
            let statistic = &mut self.statistics[place * n_heads + head];
            *statistic = if prompt { *statistic + sum } else { (*statistic + sum / span.len as f32) / 2.0 };
        }
        if prompt {
            self.tokens[place] += span.len;
            return Ok(());
        }
        self.choose(place)
    }
}

impl Policy for ByHeadNorm {
    fn site(&self) -> Site {
        Site::Heads
    }

    fn wants(&self, spans: &[Span]) -> Wanted {
        let whole = |span: &Span| span.slot < self.phases.len() && self.runs_all(span.slot);
        if spans.iter().any(whole) { Wanted::Copied(Values::HeadOutputs) } else { Wanted::Lengths }
    }

    fn select(&mut self, layer: usize, spans: &[Span]) -> Result<Selection<'_>> {
        self.check(layer, spans)?;
        let (n_heads, words) = (self.shape.n_q_heads, self.words());
        let mut call = std::mem::take(&mut self.call);
        for (span, mask) in spans.iter().zip(call.chunks_exact_mut(words)) {
            if self.runs_all(span.slot) {
                mask.fill(u64::MAX);
                if n_heads % 64 != 0 {
                    mask[words - 1] = (1 << (n_heads % 64)) - 1;
                }
            } else {
                mask.copy_from_slice(self.mask(layer, span.slot));
            }
        }
        self.call = call;
        Ok(Selection::Masks(TokenMasks::new(&self.call[..spans.len() * words], spans.len(), n_heads)?))
    }

    fn observe(&mut self, layer: usize, spans: &[Span], observed: &Observed<'_>) -> Result<Kept> {
        self.check(layer, spans)?;
        let (mut first, mut kept) = (0, Kept::default());
        for span in spans {
            if !self.runs_all(span.slot) {
                let run = self.mask(layer, span.slot).iter().map(|word| word.count_ones()).sum::<u32>();
                kept += Kept::each(span.len, run as usize, self.shape.n_q_heads);
            } else if span.len > 0 {
                self.add(layer, span, first, observed)?;
            }
            first += span.len;
        }
        Ok(kept)
    }

    fn begin_generation(&mut self, slot: usize) -> Result<()> {
        self.check_slot(slot)?;
        let n_heads = self.shape.n_q_heads;
        if (0..self.n_layers).any(|layer| self.tokens[self.place(layer, slot)] == 0) {
            return Err(Error::Shape { what: "observed prompt tokens", expected: "at least 1 in every layer", got: 0 });
        }
        if self.phases[slot] != Phase::Prompt {
            return Ok(());
        }
        self.phases[slot] = Phase::Generation(0);
        for layer in 0..self.n_layers {
            let place = self.place(layer, slot);
            let tokens = self.tokens[place] as f32;
            self.statistics[place * n_heads..][..n_heads].iter_mut().for_each(|sum| *sum /= tokens);
            self.choose(place)?;
        }
        Ok(())
    }

    fn end_token(&mut self, slot: usize) -> Result<()> {
        self.check_slot(slot)?;
        if let Phase::Generation(tokens) = &mut self.phases[slot] {
            *tokens += 1;
        }
        Ok(())
    }

    fn reset(&mut self, slot: usize) -> Result<()> {
        self.check_slot(slot)?;
        self.phases[slot] = Phase::Prompt;
        for layer in 0..self.n_layers {
            let place = self.place(layer, slot);
            self.tokens[place] = 0;
            self.statistics[place * self.shape.n_q_heads..][..self.shape.n_q_heads].fill(0.0);
        }
        Ok(())
    }

    fn is_settled(&self, spans: &[Span]) -> bool {
        let chosen = |span: &Span| matches!(self.phases.get(span.slot), Some(Phase::Generation(_)));
        self.config.refresh == 0 && spans.iter().all(chosen)
    }
}

/// ‖out‖₂.
fn norm(out: &[f32]) -> f32 {
    out.iter().map(|x| x * x).sum::<f32>().sqrt()
}
