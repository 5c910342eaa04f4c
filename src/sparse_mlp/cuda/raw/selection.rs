//! Which neurons a whole call computes, by addresses.

use super::List;
use crate::device::Address;
use crate::sparse_mlp::ScoreOn;

/// [`crate::sparse_mlp::cuda::Score`] by addresses.
#[derive(Debug, Clone, Copy)]
pub struct Score {
    /// Whose size.
    pub on: ScoreOn,
    /// f32, d_model for [`ScoreOn::Input`] and d_ff otherwise; finite and not negative.
    pub channel_scale: Option<Address<f32>>,
}

/// [`crate::sparse_mlp::cuda::Selection`] by addresses.
#[derive(Debug, Clone, Copy)]
pub enum Selection {
    /// All of them.
    All,
    /// One list for every token.
    List(List),
    /// One mask for each token, u32 \[tokens, [`crate::sparse_mlp::cuda::mask_words`] of d_ff\].
    Masks(Address<u32>),
    /// A list that every token shares and a mask for each: token t computes list ∩ mask t.
    Union {
        /// Neurons to read.
        list: List,
        /// Neurons of each token.
        masks: Address<u32>,
    },
    /// Each token keeps what scores above the threshold.
    Threshold {
        /// The score.
        score: Score,
        /// f32, finite, at least 0.
        threshold: f32,
    },
    /// Each token keeps exactly the `k` highest scores, the lower index first where equal.
    TopK {
        /// The score.
        score: Score,
        /// 1 to the number of channels.
        k: usize,
    },
}
