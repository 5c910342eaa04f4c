//! GRIFFIN: a fixed top-k by the prompt statistic.

use std::sync::Arc;

use super::statistic::check_seen;
use super::table::{Arguments, Policies};
use super::{
    ByPrompt, LayerRule, ModelSizes, Policy, PolicyConfig, PromptStatistic, RefreshOptions, Sizes, kept_count,
};
use crate::error::Result;
use crate::sparse_mlp::NeuronList;

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
    /// [`crate::Error::Value`] outside (0, 1].
    pub fn new(kept: f32) -> Result<Self> {
        super::check_fraction("kept fraction", kept)?;
        Ok(Griffin { kept })
    }

    pub(super) fn make(arguments: &Arguments, _: &ModelSizes) -> Policies {
        Ok(vec![Arc::new(Griffin::new(arguments.fraction)?)])
    }
}

impl LayerRule for Griffin {
    fn list(&self, _: usize, statistic: &PromptStatistic) -> Result<NeuronList> {
        check_seen(statistic)?;
        Ok(NeuronList::of_largest(&statistic.all_normalised(), kept_count(self.kept, statistic.d_ff())?))
    }

    fn longest_list(&self, d_ff: usize) -> Option<usize> {
        kept_count(self.kept, d_ff).ok()
    }
}

impl PolicyConfig for Griffin {
    fn policy(&self, sizes: &Sizes) -> Result<Box<dyn Policy>> {
        Ok(Box::new(ByPrompt::new(Arc::new(*self), RefreshOptions::NEVER, sizes)?))
    }
}
