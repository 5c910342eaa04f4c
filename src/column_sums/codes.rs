//! What rows of codes are multiplied with.

use super::SEGMENT;
use crate::w4a8::Activations;

/// int8 activations of consecutive tokens.
#[derive(Clone, Copy)]
pub(crate) struct Codes<'a> {
    /// \[tokens, stride\].
    pub codes: &'a [i8],
    pub stride: usize,
    /// Sums over each 32 codes (gate, up) or each run (down), \[tokens, sum_stride\].
    pub sums: &'a [i32],
    pub sum_stride: usize,
    /// \[tokens\].
    pub scale: &'a [f32],
}

impl<'a> Codes<'a> {
    /// Activations with a scale for each token.
    pub(crate) fn of(x: &'a Activations) -> Self {
        let (sums, sum_stride) = x.group_sums(Some(SEGMENT));
        Codes { codes: x.codes(), stride: x.padded_k(), sums, sum_stride, scale: x.scale() }
    }
}

impl Codes<'_> {
    /// Those from a token on.
    pub(crate) fn at_token(&self, token: usize) -> Self {
        Codes {
            codes: &self.codes[token * self.stride..],
            sums: &self.sums[token * self.sum_stride..],
            scale: &self.scale[token..],
            ..*self
        }
    }
}
