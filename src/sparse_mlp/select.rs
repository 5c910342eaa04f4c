//! What a selection is: the six forms, as borrowed views that kernels consume and policies produce.

use crate::error::{Error, Result, check_len};

/// A strictly increasing list of indices below a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexList<'a> {
    indices: &'a [u32],
    limit: usize,
}

impl<'a> IndexList<'a> {
    /// Checks a list; empty, full and single lists are lists.
    ///
    /// # Errors
    /// [`Error::Index`] for an index that is `limit` or more, [`Error::NotIncreasing`] for one that is not larger than
    /// the one before it.
    pub fn new(indices: &'a [u32], limit: usize) -> Result<Self> {
        check_indices("list", indices, limit)?;
        Ok(IndexList { indices, limit })
    }

    /// Checks the first `count` entries of a buffer: the {list, count} pair that a device keeps.
    ///
    /// # Errors
    /// [`Error::Length`] if the buffer is shorter than `count`; otherwise as [`IndexList::new`].
    pub fn with_count(buffer: &'a [u32], count: usize, limit: usize) -> Result<Self> {
        let Some(indices) = buffer.get(..count) else {
            return Err(Error::Length { what: "list", expected: count, got: buffer.len() });
        };
        Self::new(indices, limit)
    }

    /// The indices.
    pub fn indices(&self) -> &'a [u32] {
        self.indices
    }

    /// The first index that would be too large: d_ff for neurons.
    pub fn limit(&self) -> usize {
        self.limit
    }
}

fn check_indices(what: &'static str, indices: &[u32], limit: usize) -> Result<()> {
    let mut previous = None;
    for &index in indices {
        let got = index as usize;
        if got >= limit {
            return Err(Error::Index { what, limit, got });
        }
        if let Some(previous) = previous.filter(|&p| p >= got) {
            return Err(Error::NotIncreasing { what, previous, got });
        }
        previous = Some(got);
    }
    Ok(())
}

/// An owned list, as a policy that looks at a whole prompt produces it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NeuronList {
    indices: Vec<u32>,
    limit: usize,
}

impl NeuronList {
    /// Takes a list after the checks of [`IndexList::new`].
    ///
    /// # Errors
    /// As [`IndexList::new`].
    pub fn new(indices: Vec<u32>, limit: usize) -> Result<Self> {
        IndexList::new(&indices, limit)?;
        Ok(NeuronList { indices, limit })
    }

    /// The neurons for which `keep` holds.
    pub fn from_fn(limit: usize, mut keep: impl FnMut(usize) -> bool) -> Self {
        NeuronList { indices: (0..limit).filter(|&j| keep(j)).map(|j| j as u32).collect(), limit }
    }

    /// Borrows it as a view.
    pub fn view(&self) -> IndexList<'_> {
        IndexList { indices: &self.indices, limit: self.limit }
    }

    /// The indices.
    pub fn indices(&self) -> &[u32] {
        &self.indices
    }

    /// Borrows it as a selection for every token of a call.
    pub fn selection(&self) -> Selection<'_> {
        Selection::List(self.view())
    }

    /// |A ∩ B| / |A ∪ B|, 1 for two empty lists.
    pub fn jaccard(&self, other: &NeuronList) -> f64 {
        let (mut common, mut at) = (0usize, 0);
        for &index in &self.indices {
            while other.indices.get(at).is_some_and(|&o| o < index) {
                at += 1;
            }
            common += usize::from(other.indices.get(at) == Some(&index));
        }
        let union = self.indices.len() + other.indices.len() - common;
        if union == 0 { 1.0 } else { common as f64 / union as f64 }
    }
}

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
        check_len("masks", tokens * per_token, words.len())?;
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

    /// The indices that any token keeps, for [`Selection::Union`].
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
    check_len("mask", list.limit.div_ceil(64), mask.len())?;
    mask.fill(0);
    list.indices.iter().for_each(|&i| mask[i as usize / 64] |= 1 << (i % 64));
    Ok(())
}

/// Reads one token's mask over `n` indices as a list.
///
/// # Errors
/// As [`TokenMasks::new`].
pub fn list_from_mask(mask: &[u64], n: usize) -> Result<NeuronList> {
    Ok(TokenMasks::new(mask, 1, n)?.union())
}

/// Query or key-value heads per sequence: u32 \[batch, capacity\], of which row b uses the first `counts[b]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadList<'a> {
    heads: &'a [u32],
    counts: &'a [u32],
    capacity: usize,
    n_heads: usize,
}

impl<'a> HeadList<'a> {
    /// Checks a list for `counts.len()` sequences.
    ///
    /// # Errors
    /// [`Error::Length`] unless `heads` has batch · capacity entries, [`Error::Index`] for a count above the capacity or
    /// a head that is `n_heads` or more, [`Error::NotIncreasing`] for heads out of order.
    pub fn new(heads: &'a [u32], counts: &'a [u32], capacity: usize, n_heads: usize) -> Result<Self> {
        check_len("heads", counts.len() * capacity, heads.len())?;
        for (sequence, &count) in counts.iter().enumerate() {
            if count as usize > capacity {
                return Err(Error::Index { what: "counts", limit: capacity + 1, got: count as usize });
            }
            check_indices("heads", &heads[sequence * capacity..][..count as usize], n_heads)?;
        }
        Ok(HeadList { heads, counts, capacity, n_heads })
    }

    /// Sequences.
    pub fn batch(&self) -> usize {
        self.counts.len()
    }

    /// The heads of one sequence.
    pub fn sequence(&self, b: usize) -> IndexList<'a> {
        let indices = &self.heads[b * self.capacity..][..self.counts[b] as usize];
        IndexList { indices, limit: self.n_heads }
    }
}

/// What a score is the size of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ScoreOn {
    /// The inputs |x\[i\]|, i < d_model: an input below is taken as zero. In neuron-major weights this saves no bytes.
    Input,
    /// The gate |act(gate\[j\]·x)|: the gate is read whole, up and down only where kept.
    Gate,
    /// The product |act(gate\[j\]·x) · (up\[j\]·x)|: gate and up are read whole, down only where kept.
    Hidden,
}

/// A score per token and channel: the size of a value, times a factor per channel if there is one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score<'a> {
    /// Whose size.
    pub on: ScoreOn,
    /// f32, d_model for [`ScoreOn::Input`] and d_ff otherwise; finite and not negative. Column norms of the weights make it
    /// WINA's score (input) or the contribution ‖n_j‖ of CETT (hidden).
    pub channel_scale: Option<&'a [f32]>,
}

impl Score<'static> {
    /// The score without factors.
    pub fn plain(on: ScoreOn) -> Self {
        Score { on, channel_scale: None }
    }
}

/// Which neurons (or inputs, or heads) a call computes.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Selection<'a> {
    /// All of them.
    All,
    /// One list for every token.
    List(IndexList<'a>),
    /// One mask for each token; the union is computed, masked.
    Masks(TokenMasks<'a>),
    /// Each token keeps what scores above the threshold.
    Threshold {
        /// The score.
        score: Score<'a>,
        /// f32, finite, at least 0.
        threshold: f32,
    },
    /// Each token keeps exactly the `k` highest scores, the lower index first where equal. A score that is NaN is not kept.
    TopK {
        /// The score.
        score: Score<'a>,
        /// 1 to the number of channels.
        k: usize,
    },
    /// Heads for each sequence; for attention only.
    Heads(HeadList<'a>),
    /// A list that every token shares and a mask for each: token t computes list ∩ mask t. Rows are read once for all.
    Union {
        /// Neurons to read.
        list: IndexList<'a>,
        /// Neurons of each token.
        masks: TokenMasks<'a>,
    },
}

impl Selection<'_> {
    /// The score, for the two forms that look at values.
    pub(crate) fn score(&self) -> Option<Score<'_>> {
        match self {
            Selection::Threshold { score, .. } | Selection::TopK { score, .. } => Some(*score),
            _ => None,
        }
    }

    /// Checks it against the sizes of a call.
    pub(crate) fn check(&self, tokens: usize, d_model: usize, d_ff: usize) -> Result<()> {
        let list = |list: &IndexList<'_>| check_len("selection list's limit", d_ff, list.limit);
        let masks = |masks: &TokenMasks<'_>| {
            check_len("selection masks' neurons", d_ff, masks.n)?;
            check_len("selection masks' tokens", tokens, masks.tokens)
        };
        let n = |score: &Score<'_>| if score.on == ScoreOn::Input { d_model } else { d_ff };
        if let Some(score) = self.score() {
            check_channel_scale(&score, n(&score))?;
        }
        match self {
            Selection::All => Ok(()),
            Selection::List(l) => list(l),
            Selection::Masks(m) => masks(m),
            Selection::Union { list: l, masks: m } => list(l).and_then(|()| masks(m)),
            Selection::Threshold { threshold, .. } if threshold.is_finite() && *threshold >= 0.0 => Ok(()),
            Selection::Threshold { threshold, .. } => {
                Err(Error::Value { what: "threshold", expected: "a finite number of at least 0", got: *threshold })
            }
            Selection::TopK { score, k } if (1..=n(score)).contains(k) => Ok(()),
            Selection::TopK { k, .. } => {
                Err(Error::Shape { what: "k", expected: "1 to the number of channels", got: *k })
            }
            Selection::Heads(_) => {
                let expected = "a selection of neurons or inputs";
                Err(Error::Unsupported { what: "selection", expected, got: "heads".into() })
            }
        }
    }
}

fn check_channel_scale(score: &Score<'_>, n: usize) -> Result<()> {
    let Some(scale) = score.channel_scale else { return Ok(()) };
    check_len("channel_scale", n, scale.len())?;
    match scale.iter().find(|s| !(s.is_finite() && **s >= 0.0)) {
        Some(&got) => Err(Error::Value { what: "channel_scale", expected: "finite factors of at least 0", got }),
        None => Ok(()),
    }
}
