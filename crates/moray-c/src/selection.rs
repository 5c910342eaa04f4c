//! Which neurons a call computes.

use crate::arguments::MorayBytes;
use crate::status::{Fault, Outcome};
use moray::sparse_mlp::{IndexList, Score, ScoreOn, Selection, Shape, TokenMasks};

/// The kind of a selection: one of the `MORAY_SELECT_..` constants.
pub type MoraySelect = u32;

/// All neurons.
pub const MORAY_SELECT_ALL: MoraySelect = 0;
/// One list for every token.
pub const MORAY_SELECT_LIST: MoraySelect = 1;
/// One mask for each token.
pub const MORAY_SELECT_MASKS: MoraySelect = 2;
/// Each token keeps what scores above a threshold.
pub const MORAY_SELECT_THRESHOLD: MoraySelect = 3;
/// Each token keeps the highest scores.
pub const MORAY_SELECT_TOP_K: MoraySelect = 4;
/// A list that every token shares, and a mask for each: token t computes what is in both.
pub const MORAY_SELECT_UNION: MoraySelect = 5;

/// What a score is the size of: one of the `MORAY_SCORE_..` constants.
pub type MorayScore = u32;

/// The inputs |x[i]|: an input that is not kept counts as zero.
pub const MORAY_SCORE_INPUT: MorayScore = 0;
/// The gate |act(gate[j] * x)|.
pub const MORAY_SCORE_GATE: MorayScore = 1;
/// The product |act(gate[j] * x) * (up[j] * x)|.
pub const MORAY_SCORE_HIDDEN: MorayScore = 2;

/// Which neurons each token of a call computes. What its kind does not name is not looked at.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct MoraySelection {
    /// `sizeof(MoraySelection)`.
    pub struct_size: u32,
    /// The kind.
    pub kind: MoraySelect,
    /// List, union: u32, strictly increasing, below d_ff.
    pub list: MorayBytes,
    /// Masks, union: u64 [tokens, ceil(d_ff / 64)], neuron j is bit j % 64 of word j / 64.
    pub masks: MorayBytes,
    /// Threshold, top-k: what is scored.
    pub score: MorayScore,
    /// Threshold: finite, at least 0.
    pub threshold: f32,
    /// Top-k: 1 to the number of what is scored; the lower index first where scores are equal.
    pub k: usize,
    /// Threshold, top-k: f32 [d_ff] (d_model for inputs) that scores are multiplied with, or left out.
    pub channel_scale: MorayBytes,
}

impl MoraySelection {
    /// Borrows the lists and masks of a call of so many tokens.
    ///
    /// # Safety
    /// As [`MorayBytes::read`], for each buffer that the kind names.
    pub(crate) unsafe fn read<'a>(&self, tokens: usize, shape: Shape) -> Outcome<Selection<'a>> {
        // SAFETY: the caller's.
        let list = || Ok::<_, Fault>(IndexList::new(unsafe { self.list.read("list")? }, shape.d_ff)?);
        // SAFETY: the caller's.
        let masks = || Ok::<_, Fault>(TokenMasks::new(unsafe { self.masks.read("masks")? }, tokens, shape.d_ff)?);
        let score = || {
            let on = score_on(self.score)?;
            // SAFETY: the caller's.
            Ok::<_, Fault>(Score { on, channel_scale: unsafe { self.channel_scale.optional("channel_scale")? } })
        };
        match self.kind {
            MORAY_SELECT_ALL => Ok(Selection::All),
            MORAY_SELECT_LIST => Ok(Selection::List(list()?)),
            MORAY_SELECT_MASKS => Ok(Selection::Masks(masks()?)),
            MORAY_SELECT_THRESHOLD => Ok(Selection::Threshold { score: score()?, threshold: self.threshold }),
            MORAY_SELECT_TOP_K => Ok(Selection::TopK { score: score()?, k: self.k }),
            MORAY_SELECT_UNION => Ok(Selection::Union { list: list()?, masks: masks()? }),
            other => Err(Fault::unsupported("selection.kind", "a MORAY_SELECT_ constant", other)),
        }
    }
}

/// What a constant says is scored.
pub(crate) fn score_on(score: MorayScore) -> Outcome<ScoreOn> {
    match score {
        MORAY_SCORE_INPUT => Ok(ScoreOn::Input),
        MORAY_SCORE_GATE => Ok(ScoreOn::Gate),
        MORAY_SCORE_HIDDEN => Ok(ScoreOn::Hidden),
        other => Err(Fault::unsupported("selection.score", "a MORAY_SCORE_ constant", other)),
    }
}
