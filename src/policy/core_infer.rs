//! CoreInfer: the neurons that were most often among a prompt's most active ones.

use std::sync::Arc;

use super::statistic::check_seen;
use super::table::{Arguments, Policies};
use super::{
    ByPrompt, Griffin, LayerRule, ModelSizes, Policy, PolicyConfig, PromptRule, PromptStatistic, RefreshOptions, Sizes,
};
use crate::error::Result;

/// Share of a token's positive activations that are its core.
const CORE: f32 = 0.4;

/// Keeps the ⌈kept · d_ff⌉ neurons that were most often in the core of a prompt's tokens, the lower index first where equal, for a whole
/// generation. A token's core are the largest 0.4 of its positive activations act(g_j)·u_j; by size, the largest 0.4 of its |act(g_j)·u_j| above 0.
///
/// Where an activation never puts out a negative value and nothing gates it, both are the same. The products of a gated MLP are as often negative as
/// positive: a neuron whose products are large and negative is in no core, and the method leaves it out.
///
/// # Source
/// CoreInfer: sentence-wise activation of core neurons (arXiv 2410.18311), guided by the stability of the prompt's own tokens, without
/// its search for alike sentences.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CoreInfer {
    largest: Griffin,
    by_size: bool,
}

impl CoreInfer {
    /// Takes the kept fraction.
    ///
    /// # Errors
    /// [`crate::Error::Value`] outside (0, 1].
    pub fn new(kept: f32) -> Result<Self> {
        Ok(CoreInfer { largest: Griffin::new(kept)?, by_size: false })
    }

    /// Takes sizes in place of positive activations.
    pub fn by_size(self) -> Self {
        CoreInfer { by_size: true, ..self }
    }

    pub(super) fn make(arguments: &Arguments, _: &ModelSizes) -> Policies {
        Ok(vec![Arc::new(CoreInfer::new(arguments.fraction)?)])
    }

    pub(super) fn make_by_size(arguments: &Arguments, _: &ModelSizes) -> Policies {
        Ok(vec![Arc::new(CoreInfer::new(arguments.fraction)?.by_size())])
    }
}

impl PromptRule for CoreInfer {
    fn statistic(&self, d_ff: usize) -> Result<PromptStatistic> {
        let statistic = PromptStatistic::of_cores(d_ff, CORE)?;
        Ok(if self.by_size { statistic.by_size() } else { statistic })
    }

    fn settle(&self, prompt: &[PromptStatistic]) -> Result<Arc<dyn LayerRule>> {
        prompt.iter().try_for_each(check_seen)?;
        Ok(Arc::new(self.largest))
    }

    fn longest_list(&self, d_ff: usize) -> Option<usize> {
        LayerRule::longest_list(&self.largest, d_ff)
    }
}

impl PolicyConfig for CoreInfer {
    fn policy(&self, sizes: &Sizes) -> Result<Box<dyn Policy>> {
        Ok(Box::new(ByPrompt::new(Arc::new(*self), RefreshOptions::NEVER, sizes)?))
    }
}
