//! What a policy is shown of a call.

use super::Projection;
use crate::attention::Span;
use crate::error::{Result, check_len};

/// Values that a layer computes and a policy can look at, by token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Values {
    /// act(x·gate) \[d_ff\].
    Gate,
    /// act(x·gate) ⊙ (x·up) \[d_ff\].
    Hidden,
    /// The outputs of attention \[n_q_heads · head_dim\].
    HeadOutputs,
    /// The inputs of a matrix \[K\].
    Inputs(Projection),
}

/// What a policy must be shown of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Nothing: it need not be told of the call.
    Nothing,
    /// That the call was, but no values.
    Lengths,
    /// Values where the host holds them anyway, for counting; where they lie in another memory, nothing.
    AtHand(Values),
    /// Values, wherever they lie.
    Copied(Values),
}

/// What a policy is shown: rows of f32, one for each token of the call.
#[derive(Debug, Clone, Copy)]
pub struct Observed<'a> {
    values: &'a [f32],
    stride: usize,
    width: usize,
}

impl<'a> Observed<'a> {
    /// No values: only that the call was.
    pub const LENGTHS: Observed<'static> = Observed { values: &[], stride: 0, width: 0 };

    /// Shows the first `width` of every `stride` values.
    pub fn new(values: &'a [f32], stride: usize, width: usize) -> Self {
        Observed { values, stride, width }
    }

    /// The values of one token; none where it has none.
    ///
    /// Where a token's every neuron was computed they are by neuron, otherwise by position among those that were.
    pub fn token(&self, token: usize) -> &'a [f32] {
        let start = token * self.stride;
        self.values.get(start..start + self.width).unwrap_or(&[])
    }

    /// The values of one token, all `expected` of them.
    ///
    /// # Errors
    /// [`crate::Error::Length`] if it has others.
    pub fn whole_token(&self, token: usize, expected: usize) -> Result<&'a [f32]> {
        let values = self.token(token);
        check_len("observed values of a token", expected, values.len())?;
        Ok(values)
    }
}

/// What tokens kept under a selection, and what there was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Kept {
    /// Kept, over all tokens and layers.
    pub kept: u64,
    /// There were.
    pub all: u64,
}

impl Kept {
    /// `tokens` tokens that kept `kept` of `all` each.
    pub fn each(tokens: usize, kept: usize, all: usize) -> Self {
        Kept { kept: (tokens * kept) as u64, all: (tokens * all) as u64 }
    }

    /// The mean fraction; None if there was no token.
    pub fn fraction(&self) -> Option<f64> {
        (self.all > 0).then(|| self.kept as f64 / self.all as f64)
    }
}

impl std::ops::AddAssign for Kept {
    fn add_assign(&mut self, other: Kept) {
        self.kept += other.kept;
        self.all += other.all;
    }
}

/// Tokens of a call.
pub(super) fn tokens_of(spans: &[Span]) -> usize {
    spans.iter().map(|span| span.len).sum()
}
