//! The memory of a call, allocated once and passed in.

use super::project::FEW_TOKENS;
use super::rows::BLOCK;
use super::weights::{Shape, Store, Weights};
use crate::column_sums::{Codes, SEGMENT, SlotList, SplitSums};
use crate::error::{Error, Result};
use crate::threads::Pieces;
use crate::w4a8::Activations;

/// int8 activations and their scales and sums.
#[derive(Debug, Clone, Default)]
pub(crate) struct Quantized {
    /// \[tokens, width\].
    pub codes: Vec<i8>,
    pub width: usize,
    /// \[tokens, width/32\].
    pub sums: Vec<i32>,
    /// \[tokens\].
    pub scale: Vec<f32>,
}

impl Quantized {
    fn new(tokens: usize, width: usize) -> Self {
        let groups = width.div_ceil(SEGMENT);
        Quantized { codes: vec![0; tokens * width], width, sums: vec![0; tokens * groups], scale: vec![0.0; tokens] }
    }

    /// Sums kept for each token.
    pub(crate) fn sum_stride(&self) -> usize {
        self.width.div_ceil(SEGMENT)
    }

    /// Each token's codes, scale and sums, to be written.
    pub(crate) fn parts(&mut self, tokens: usize) -> (Pieces<'_, i8>, Pieces<'_, f32>, Pieces<'_, i32>) {
        let (width, groups) = (self.width, self.sum_stride());
        (
            Pieces::new(&mut self.codes[..tokens * width], width),
            Pieces::new(&mut self.scale[..tokens], 1),
            Pieces::new(&mut self.sums[..tokens * groups], groups),
        )
    }

    /// The activations from a token on.
    pub(crate) fn at_token(&self, token: usize) -> Codes<'_> {
        let (stride, sum_stride) = (self.width, self.sum_stride());
        let all = Codes { codes: &self.codes, stride, sums: &self.sums, sum_stride, scale: &self.scale };
        all.at_token(token)
    }
}

/// The buffers of [`super::forward`] for up to a number of tokens, and after a call its intermediate activations.
///
/// One workspace serves all layers of the same shape.
#[derive(Debug, Clone)]
pub struct Workspace {
    pub(crate) shape: Shape,
    pub(crate) max_tokens: usize,
    pub(crate) tokens: usize,
    /// Floats between tokens in `gate` and `hidden`: d_ff rounded up to a block.
    pub(crate) stride: usize,
    pub(crate) gate: Vec<f32>,
    pub(crate) hidden: Vec<f32>,
    /// Neurons of the weights of the last call.
    pub(crate) neurons: usize,
    /// Neurons that any token keeps.
    pub(crate) kept: Vec<u32>,
    /// Whether `gate` is by neuron rather than by position in `kept`.
    pub(crate) gate_by_neuron: bool,
    /// Masks made by a score, u64 \[tokens, words\].
    pub(crate) masks: Vec<u64>,
    /// Inputs with those below a threshold zeroed.
    pub(crate) x: Vec<f32>,
    pub(crate) x_int8: Activations,
    /// Codes of `hidden` by position.
    pub(crate) codes: Vec<i8>,
    /// Codes of `hidden` by slot.
    pub(crate) hidden_int8: Quantized,
    /// Which rows of down the slots are.
    pub(crate) slots: SlotList,
    /// Sums of down in floating point.
    pub(crate) split: SplitSums,
}

impl Workspace {
    /// Allocates for `weights` (or others of the same kind and sizes, or neurons gathered from such) and up to `max_tokens` tokens a call.
    ///
    /// # Errors
    /// [`Error::Shape`] unless `max_tokens` is at least 1.
    pub fn new(weights: &Weights, max_tokens: usize) -> Result<Self> {
        if max_tokens == 0 {
            return Err(Error::Shape { what: "max_tokens", expected: "at least 1", got: 0 });
        }
        // gathered neurons are in as many blocks as all
        let shape = Shape { d_ff: weights.all_neurons(), ..weights.shape() };
        let Shape { d_model, d_ff, .. } = shape;
        let stride = d_ff.next_multiple_of(BLOCK);
        let int8_tokens = if weights.is_four_bit() { max_tokens } else { 0 };
        let words = d_ff.div_ceil(64).max(d_model.div_ceil(64));
        Ok(Workspace {
            shape,
            max_tokens,
            tokens: 0,
            stride,
            gate: vec![0.0; max_tokens * stride],
            hidden: vec![0.0; max_tokens * stride],
            neurons: 0,
            kept: Vec::with_capacity(d_ff),
            gate_by_neuron: false,
            masks: vec![0; max_tokens * words],
            x: vec![0.0; max_tokens * d_model],
            x_int8: if int8_tokens > 0 {
                Activations::with_capacity(max_tokens, d_model)
            } else {
                Activations::default()
            },
            codes: vec![0; int8_tokens * stride],
            hidden_int8: Quantized::new(int8_tokens, d_ff),
            slots: SlotList::with_capacity(if int8_tokens > 0 { d_ff } else { 0 }),
            split: match &weights.store {
                Store::FourBit(w) => SplitSums::with_room(w.down.split_sums()),
                _ => SplitSums::with_capacity(max_tokens.min(FEW_TOKENS), d_model),
            },
        })
    }

    /// Bytes that [`Workspace::new`] allocates.
    pub fn bytes(&self) -> usize {
        let int8 = |q: &Quantized| q.codes.len() + 4 * (q.sums.len() + q.scale.len());
        4 * (self.gate.len() + self.hidden.len() + self.x.len() + self.kept.capacity())
            + 8 * self.masks.len()
            + self.codes.len()
            + self.x_int8.bytes()
            + int8(&self.hidden_int8)
            + self.slots.bytes()
            + self.split.bytes()
    }

    pub(crate) fn check(&self, weights: &Weights, tokens: usize) -> Result<()> {
        let shape = weights.shape();
        for (what, expected, got) in [
            ("workspace's d_model", shape.d_model, self.shape.d_model),
            ("workspace's d_ff", weights.all_neurons(), self.shape.d_ff),
        ] {
            crate::error::check_len(what, expected, got)?;
        }
        if tokens > self.max_tokens {
            let expected = "at most the workspace's max_tokens";
            return Err(Error::Shape { what: "tokens", expected, got: tokens });
        }
        if weights.is_four_bit() && self.hidden_int8.scale.is_empty() {
            let expected = "one made for 4-bit weights";
            return Err(Error::Unsupported { what: "workspace", expected, got: "one for 16-bit weights".into() });
        }
        Ok(())
    }

    /// Tokens of the last call.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// The neurons that any token of the last call kept, strictly increasing: the rows of down that were read.
    pub fn kept(&self) -> &[u32] {
        &self.kept
    }

    /// One token's A = act(x·gate) ⊙ (x·up) of the last call, f32 by position in [`Workspace::kept`]: \[d_ff\] after
    /// [`super::Selection::All`]. Neurons that this token did not keep are 0.
    ///
    /// # Panics
    /// If `token` is not below [`Workspace::tokens`].
    pub fn hidden(&self, token: usize) -> &[f32] {
        assert!(token < self.tokens, "token: expected an index below {}, got {token}", self.tokens);
        &self.hidden[token * self.stride..][..self.kept.len()]
    }

    /// One token's act(x·gate) of the last call. By neuron, f32 \[d_ff\], after [`super::Selection::All`] and after scores
    /// on the gate or the product; by position in [`Workspace::kept`] otherwise.
    ///
    /// # Panics
    /// If `token` is not below [`Workspace::tokens`].
    pub fn gate(&self, token: usize) -> &[f32] {
        assert!(token < self.tokens, "token: expected an index below {}, got {token}", self.tokens);
        let n = if self.gate_by_neuron { self.neurons } else { self.kept.len() };
        &self.gate[token * self.stride..][..n]
    }
}
