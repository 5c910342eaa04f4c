//! Masks, and how they are made from scores.

use crate::error::{Error, Result};

/// u32 words of a mask over `n` indices: whole pairs, so that a pair is a word of [`TokenMasks`](crate::sparse_mlp::TokenMasks).
pub fn mask_words(n: usize) -> usize {
    2 * n.div_ceil(64)
}

/// How a mask is made from scores.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Keep {
    /// Scores above this.
    Above(f32),
    /// This many of the highest, the lower index first where equal.
    Top(usize),
}

impl Keep {
    /// Checks the rule for n values.
    pub(super) fn check(self, n: usize) -> Result<()> {
        match self {
            Keep::Above(threshold) if threshold.is_finite() && threshold >= 0.0 => Ok(()),
            Keep::Above(got) => Err(Error::Value { what: "threshold", expected: "a finite number of at least 0", got }),
            Keep::Top(k) if (1..=n).contains(&k) => Ok(()),
            Keep::Top(got) => Err(Error::Shape { what: "k", expected: "1 to the number of channels", got }),
        }
    }
}
