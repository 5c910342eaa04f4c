//! A head policy without training: keep the heads whose outputs were large over the prompt.

use super::{AttentionShape, Heads, Span, check_index, check_spans};
use crate::error::{Error, Result, check_len};

/// Keeps the ⌈kept · n_q_heads⌉ query heads with the largest mean output norm, per layer and sequence.
///
/// The statistic of a head is mean over the prompt's tokens of ‖out[t, h]‖₂, times the head's weight (for example the
/// Frobenius norm of its columns of the output projection, see [`HeadNormState::set_weights`]). The choice is fixed by the
/// prompt; with `refresh` > 0 every `refresh`-th generated token runs all heads, the statistic becomes the mean of the old one
/// and that token's norms, and the heads are chosen again.
///
/// # Source
/// The norm of head outputs as a head's importance: Deja Vu (ICML 2023); the maximum over a group: Polar Sparsity
/// (arXiv 2505.14884); a selection fixed by the prompt: GRIFFIN and TDA (arXiv 2408.11393), for neurons.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeadNorm {
    kept: f32,
    refresh: usize,
    whole_groups: bool,
}

impl HeadNorm {
    /// Keeps the fraction `kept` of the query heads, chosen again every `refresh` generated tokens (0: never).
    ///
    /// # Errors
    /// [`Error::Value`] if `kept` is not in (0, 1].
    pub fn new(kept: f32, refresh: usize) -> Result<HeadNorm> {
        if !(kept > 0.0 && kept <= 1.0) {
            return Err(Error::Value { what: "kept", expected: "a fraction in (0, 1]", got: kept });
        }
        Ok(HeadNorm { kept, refresh, whole_groups: false })
    }

    /// Keeps ⌈kept · n_kv_heads⌉ whole groups instead, a group's statistic being the largest of its heads': only whole groups
    /// save reading K and V.
    pub fn whole_groups(self) -> HeadNorm {
        HeadNorm { whole_groups: true, ..self }
    }

    /// Query heads (or groups) kept of `n`.
    fn kept_of(&self, n: usize) -> usize {
        // In f32, where 0.3 · 10 is 3; the exact product of the two is a little more.
        ((self.kept * n as f32).ceil() as usize).clamp(1, n)
    }

    /// Chooses by `statistic` (`[n_q_heads]`, larger is better, ties to the lower index) and sets the bits of the chosen query
    /// heads in `mask`, u32, [⌈n_q_heads / 32⌉], in the form of [`Heads::Mask`]. NaN counts as the smallest.
    ///
    /// # Errors
    /// [`Error::Length`] if a buffer does not fit the shape.
    pub fn choose(&self, shape: &AttentionShape, statistic: &[f32], mask: &mut [u32]) -> Result<()> {
        shape.check()?;
        check_len("statistic", shape.n_q_heads, statistic.len())?;
        check_len("mask", shape.n_q_heads.div_ceil(32), mask.len())?;
        let unit = if self.whole_groups { shape.group_size() } else { 1 };
        let of_unit = |i: usize| statistic[i * unit..(i + 1) * unit].iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
        let n_units = shape.n_q_heads / unit;
        mask.fill(0);
        for i in 0..n_units {
            // A unit's rank is the number of units that go before it; n is small, and nothing is allocated.
            let mine = of_unit(i);
            let before = |j: usize| of_unit(j) > mine || (of_unit(j) == mine && j < i);
            if (0..n_units).filter(|&j| before(j)).count() < self.kept_of(n_units) {
                (i * unit..(i + 1) * unit).for_each(|head| mask[head / 32] |= 1 << (head % 32));
            }
        }
        Ok(())
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
///
/// A forward pass asks [`HeadNormState::mask`] before a layer's attention and shows its output to
/// [`HeadNormState::observe`]; it calls [`HeadNormState::start_generation`] after the prompt and
/// [`HeadNormState::advance`] after each generated token.
///
/// # Example
/// ```
/// use moray::attention::{AttentionShape, HeadNorm, HeadNormState, Span};
/// let shape = AttentionShape::new(4, 2, 8)?;
/// let mut state = HeadNormState::new(HeadNorm::new(0.5, 0)?, shape, 1, 1)?;
/// let prompt = [Span { slot: 0, start: 0, len: 1 }];
/// let out: Vec<f32> = (0..32).map(|i| if i / 8 == 1 || i / 8 == 3 { 2.0 } else { 1.0 }).collect();
/// state.observe(0, &prompt, &out)?;
/// state.start_generation(0)?;
/// let mut mask = [0];
/// state.mask(0, &[Span { slot: 0, start: 1, len: 1 }], &mut mask)?;
/// assert_eq!(mask, [0b1010]); // as Heads::Mask { words: &mask }
/// # Ok::<(), moray::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct HeadNormState {
    policy: HeadNorm,
    shape: AttentionShape,
    n_layers: usize,
    /// [slot]
    phases: Vec<Phase>,
    /// [layer][n_q_heads]
    weights: Vec<f32>,
    /// [layer][slot][n_q_heads]: sums over the prompt, then the statistic.
    statistics: Vec<f32>,
    /// [layer][slot]: tokens in the sum.
    tokens: Vec<usize>,
    /// [layer][slot][⌈n_q_heads / 32⌉]
    masks: Vec<u32>,
}

impl HeadNormState {
    /// All slots in the prompt phase with nothing observed, all weights 1.
    ///
    /// # Errors
    /// [`Error::Shape`] for a shape that [`AttentionShape::new`] refuses.
    pub fn new(policy: HeadNorm, shape: AttentionShape, n_layers: usize, n_slots: usize) -> Result<HeadNormState> {
        shape.check()?;
        Ok(HeadNormState {
            policy,
            shape,
            n_layers,
            phases: vec![Phase::Prompt; n_slots],
            weights: vec![1.0; n_layers * shape.n_q_heads],
            statistics: vec![0.0; n_layers * n_slots * shape.n_q_heads],
            tokens: vec![0; n_layers * n_slots],
            masks: vec![u32::MAX; n_layers * n_slots * shape.n_q_heads.div_ceil(32)],
        })
    }

    /// Weighs the heads of a layer, f32, [n_q_heads].
    ///
    /// # Errors
    /// [`Error::Index`] or [`Error::Length`]; [`Error::Value`] for a negative or NaN weight.
    pub fn set_weights(&mut self, layer: usize, weights: &[f32]) -> Result<()> {
        check_index("layer", layer, self.n_layers)?;
        check_len("weights", self.shape.n_q_heads, weights.len())?;
        if let Some(&got) = weights.iter().find(|&&weight| weight.is_nan() || weight < 0.0) {
            return Err(Error::Value { what: "weights", expected: "no negative number", got });
        }
        self.weights[layer * weights.len()..][..weights.len()].copy_from_slice(weights);
        Ok(())
    }

    /// Writes the heads that run, for [`Heads::Mask`]: u32, [spans, ⌈n_q_heads / 32⌉].
    ///
    /// # Errors
    /// [`Error::Index`] for a layer or slot out of range, [`Error::Length`] for a wrong buffer.
    pub fn mask(&self, layer: usize, spans: &[Span], mask: &mut [u32]) -> Result<()> {
        self.check(layer, spans)?;
        let words = self.shape.n_q_heads.div_ceil(32);
        check_len("mask", spans.len() * words, mask.len())?;
        for (span, mask) in spans.iter().zip(mask.chunks_exact_mut(words)) {
            if self.runs_all(span.slot) {
                mask.fill(u32::MAX);
            } else {
                mask.copy_from_slice(&self.masks[self.place(layer, span.slot) * words..][..words]);
            }
        }
        Ok(())
    }

    /// Takes in the attention outputs of a layer, f32, [M, n_q_heads · head_dim]: of prompts, and of tokens whose turn it is to
    /// renew the choice; those of other tokens are ignored.
    ///
    /// # Errors
    /// [`Error::Index`] for a layer or slot out of range, [`Error::Length`] for a wrong buffer.
    pub fn observe(&mut self, layer: usize, spans: &[Span], out: &[f32]) -> Result<()> {
        let rows = self.check(layer, spans)?;
        let (n_heads, width) = (self.shape.n_q_heads, self.shape.q_elems());
        check_len("out", rows.saturating_mul(width), out.len())?;
        let mut first_row = 0;
        for span in spans {
            let tokens = &out[first_row * width..(first_row + span.len) * width];
            first_row += span.len;
            if span.len == 0 || !self.runs_all(span.slot) {
                continue;
            }
            let place = self.place(layer, span.slot);
            let prompt = self.phases[span.slot] == Phase::Prompt;
            for head in 0..n_heads {
                let sum = self.weights[layer * n_heads + head] * sum_of_norms(tokens, head, &self.shape);
                let statistic = &mut self.statistics[place * n_heads + head];
                *statistic = if prompt { *statistic + sum } else { (*statistic + sum / span.len as f32) / 2.0 };
            }
            if prompt { self.tokens[place] += span.len } else { self.choose(place)? }
        }
        Ok(())
    }

    /// Ends the prompt of a slot and chooses its heads.
    ///
    /// # Errors
    /// [`Error::Index`] for a slot out of range, [`Error::Shape`] if a layer has observed no token of it.
    pub fn start_generation(&mut self, slot: usize) -> Result<()> {
        check_index("slot", slot, self.phases.len())?;
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

    /// Counts one generated token of a slot; in the prompt phase it does nothing.
    ///
    /// # Errors
    /// [`Error::Index`] for a slot out of range.
    pub fn advance(&mut self, slot: usize) -> Result<()> {
        check_index("slot", slot, self.phases.len())?;
        if let Phase::Generation(tokens) = &mut self.phases[slot] {
            *tokens += 1;
        }
        Ok(())
    }

    /// Returns a slot to the prompt phase with nothing observed.
    ///
    /// # Errors
    /// [`Error::Index`] for a slot out of range.
    pub fn reset(&mut self, slot: usize) -> Result<()> {
        check_index("slot", slot, self.phases.len())?;
        self.phases[slot] = Phase::Prompt;
        for layer in 0..self.n_layers {
            let place = self.place(layer, slot);
            self.tokens[place] = 0;
            self.statistics[place * self.shape.n_q_heads..][..self.shape.n_q_heads].fill(0.0);
        }
        Ok(())
    }

    /// Says whether the choice is made anew after some tokens.
    #[cfg(feature = "cuda")]
    pub(crate) fn renews(&self) -> bool {
        self.policy.refresh > 0
    }

    /// Says whether all heads of a slot run on its next token: in its prompt, and when the choice is renewed.
    pub fn runs_all(&self, slot: usize) -> bool {
        match self.phases[slot] {
            Phase::Prompt => true,
            Phase::Generation(tokens) => self.policy.refresh > 0 && (tokens + 1).is_multiple_of(self.policy.refresh),
        }
    }

    fn place(&self, layer: usize, slot: usize) -> usize {
        layer * self.phases.len() + slot
    }

    fn check(&self, layer: usize, spans: &[Span]) -> Result<usize> {
        check_index("layer", layer, self.n_layers)?;
        check_spans(spans, self.phases.len(), usize::MAX)
    }

    fn choose(&mut self, place: usize) -> Result<()> {
        let (n_heads, words) = (self.shape.n_q_heads, self.shape.n_q_heads.div_ceil(32));
        let statistic = &self.statistics[place * n_heads..][..n_heads];
        self.policy.choose(&self.shape, statistic, &mut self.masks[place * words..][..words])
    }
}

/// Σ over tokens of ‖out[t, head]‖₂.
fn sum_of_norms(tokens: &[f32], head: usize, shape: &AttentionShape) -> f32 {
    let norm = |token: &[f32]| {
        let out = &token[head * shape.head_dim..][..shape.head_dim];
        out.iter().map(|x| x * x).sum::<f32>().sqrt()
    };
    tokens.chunks_exact(shape.q_elems()).map(norm).sum()
}

impl<'a> From<&'a [u32]> for Heads<'a> {
    /// Takes the words that [`HeadNormState::mask`] wrote.
    fn from(words: &'a [u32]) -> Heads<'a> {
        Heads::Mask { words }
    }
}
