//! What a selection is: the six forms, as borrowed views that kernels consume and policies produce.

mod lists;
mod masks;

pub use self::lists::{IndexList, NeuronList};
pub(crate) use self::masks::union_into;
pub use self::masks::{TokenMasks, list_from_mask, mask_from_list};
use crate::error::{Error, Result, check_len};

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

/// Which neurons (or inputs, or heads) a call computes: what policies say and kernels consume.
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

    /// The threshold on the sizes of inputs that this is, 0 for all of them; none if it is another selection.
    pub(crate) fn input_threshold(&self) -> Option<f32> {
        match self {
            Selection::All => Some(0.0),
            Selection::Threshold { score: Score { on: ScoreOn::Input, channel_scale: None }, threshold } => {
                Some(*threshold)
            }
            _ => None,
        }
    }

    /// Whether it says of inputs which are kept.
    pub(crate) fn is_of_inputs(&self) -> bool {
        *self == Selection::All || self.score().is_some_and(|score| score.on == ScoreOn::Input)
    }

    /// Checks it against the sizes of a call, as every call does; for those who hand it on to a device, where nothing reads factors first.
    ///
    /// # Errors
    /// [`Error::Length`] for a list, masks or factors of other sizes, [`Error::Value`] for a threshold or a factor that is not finite or below 0,
    /// [`Error::Shape`] for `k` out of range.
    pub fn check(&self, tokens: usize, d_model: usize, d_ff: usize) -> Result<()> {
        let list = |list: &IndexList<'_>| check_len("selection list's limit", d_ff, list.limit());
        let masks = |masks: &TokenMasks<'_>| {
            check_len("selection masks' neurons", d_ff, masks.n())?;
            check_len("selection masks' tokens", tokens, masks.tokens())
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
