//! GRIFFIN: a fixed top-k by the prompt statistic.

use super::{PromptStatistic, kept_count};
use crate::error::{Error, Result};
use crate::sparse_mlp::select::NeuronList;

/// Keeps the ⌈kept · d_ff⌉ neurons with the highest s_j for a whole generation, the lower index first where equal.
///
/// # Source
/// GRIFFIN: prompt-prompted adaptive structured pruning.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Griffin {
    kept: f32,
}

impl Griffin {
    /// Takes the kept fraction.
    ///
    /// # Errors
    /// [`Error::Value`] outside (0, 1].
    pub fn new(kept: f32) -> Result<Self> {
        super::check_fraction("kept fraction", kept)?;
        Ok(Griffin { kept })
    }

    /// The neurons of a layer after a prompt.
    ///
    /// # Errors
    /// [`Error::Shape`] before any token.
    pub fn list(&self, statistic: &PromptStatistic) -> Result<NeuronList> {
        check_seen(statistic)?;
        let d_ff = statistic.d_ff();
        let k = kept_count(self.kept, d_ff)?;
        let scores = statistic.all_normalised();
        let mut order: Vec<u32> = (0..d_ff as u32).collect();
        let by_score = |a: &u32, b: &u32| scores[*b as usize].total_cmp(&scores[*a as usize]).then(a.cmp(b));
        if k < d_ff {
            order.select_nth_unstable_by(k, by_score);
            order.truncate(k);
        }
        order.sort_unstable();
        NeuronList::new(order, d_ff)
    }
}

pub(super) fn check_seen(statistic: &PromptStatistic) -> Result<()> {
    if statistic.tokens() == 0 {
        return Err(Error::Shape { what: "prompt", expected: "at least 1 token", got: 0 });
    }
    Ok(())
}
