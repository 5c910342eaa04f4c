//! Bitmasks, one for each token.

use super::{IndexList, NeuronList};
use crate::error::{Error, Result, check_len, product};

/// One bitmask per token, u64 \[tokens, ⌈n/64⌉\]; bit i of word w is index 64w + i.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenMasks<'a> {
    words: &'a [u64],
    tokens: usize,
    n: usize,
}

impl<'a> TokenMasks<'a> {
    /// Checks masks over `n` indices.
    ///
    /// # Errors
    /// [`Error::Length`] unless there are tokens · ⌈n/64⌉ words, [`Error::Index`] if a bit at `n` or above is set.
    pub fn new(words: &'a [u64], tokens: usize, n: usize) -> Result<Self> {
        let per_token = n.div_ceil(64);
        check_len("masks", product("masks", &[tokens, per_token])?, words.len())?;
        if n % 64 != 0 {
            for row in words.chunks_exact(per_token) {
                let excess = row[per_token - 1] >> (n % 64);
                if excess != 0 {
                    let got = n + excess.trailing_zeros() as usize;
                    return Err(Error::Index { what: "masks", limit: n, got });
                }
            }
        }
        Ok(TokenMasks { words, tokens, n })
    }

    /// All words.
    pub(crate) fn words(&self) -> &'a [u64] {
        self.words
    }

    /// The words of one token.
    pub fn token(&self, token: usize) -> &'a [u64] {
        let per_token = self.n.div_ceil(64);
        &self.words[token * per_token..(token + 1) * per_token]
    }

    /// Tokens.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Indices that a mask covers: d_ff for neurons.
    pub fn n(&self) -> usize {
        self.n
    }

    /// The indices that any token keeps, for [`Selection::Union`](super::Selection::Union).
    pub fn union(&self) -> NeuronList {
        let mut indices = Vec::new();
        union_into(self.words, self.n.div_ceil(64), &mut indices);
        NeuronList { indices, limit: self.n }
    }
}

/// Clears `list` and fills it with the bits set in any of the masks of `per_token` words.
pub(crate) fn union_into(words: &[u64], per_token: usize, list: &mut Vec<u32>) {
    list.clear();
    for at in 0..per_token {
        let mut bits = words.iter().skip(at).step_by(per_token).fold(0, |all, word| all | word);
        while bits != 0 {
            list.push((at * 64) as u32 + bits.trailing_zeros());
            bits &= bits - 1;
        }
    }
}

/// Writes a list as one token's mask.
///
/// # Errors
/// [`Error::Length`] unless `mask` has ⌈limit/64⌉ words.
pub fn mask_from_list(list: IndexList<'_>, mask: &mut [u64]) -> Result<()> {
    check_len("mask", list.limit().div_ceil(64), mask.len())?;
    mask.fill(0);
    list.indices().iter().for_each(|&i| mask[i as usize / 64] |= 1 << (i % 64));
    Ok(())
}

/// Reads one token's mask over `n` indices as a list.
///
/// # Errors
/// As [`TokenMasks::new`].
pub fn list_from_mask(mask: &[u64], n: usize) -> Result<NeuronList> {
    Ok(TokenMasks::new(mask, 1, n)?.union())
}
