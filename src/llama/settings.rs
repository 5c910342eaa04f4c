//! What a session is made for.

use std::sync::Arc;

use super::config::Config;
use crate::attention::{KvDtype, KvPolicy, KvShape, Limits};
use crate::error::{Error, Result};
use crate::policy::PolicyConfig;

/// Sizes and policies of a session. All memory is taken when it is made, but for copies by [`Settings::gather_lists`] of
/// lists whose length only the prompt decides, or of several slots.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Sequences that are held at a time.
    pub slots: usize,
    /// Positions of a sequence.
    pub context: usize,
    /// Tokens of a call, M at most; longer prompts go in several calls, with the same result.
    pub max_tokens: usize,
    /// Rows of logits of a call.
    pub max_logits: usize,
    /// Element type of the KV cache.
    pub kv_dtype: KvDtype,
    /// What is computed, one policy at most for each [`crate::policy::Site`]; all of a site that has none.
    pub policies: Vec<Arc<dyn PolicyConfig>>,
    /// What is stored for heads that do not run.
    pub kv: KvPolicy,
    /// Whether the CPU copies the neurons of a list out of the weights, for each slot and layer when the list is first computed, so that
    /// decoding reads them one after another. A copy takes as much memory as its neurons; results are the same bits.
    pub gather_lists: bool,
}

impl Settings {
    /// One sequence of `context` positions, nothing skipped.
    pub fn dense(context: usize) -> Self {
        Settings {
            slots: 1,
            context,
            max_tokens: context.clamp(1, 256),
            max_logits: 1,
            kv_dtype: KvDtype::F16,
            policies: Vec::new(),
            kv: KvPolicy::WriteAll,
            gather_lists: true,
        }
    }

    /// Adds a policy.
    pub fn with(mut self, policy: impl PolicyConfig + 'static) -> Self {
        self.policies.push(Arc::new(policy));
        self
    }

    /// The sizes of the session's KV cache.
    pub(super) fn kv_shape(&self, config: &Config) -> KvShape {
        KvShape {
            n_layers: config.n_layers,
            n_slots: self.slots,
            n_kv_heads: config.attention.n_kv_heads,
            capacity: self.context,
            head_dim: config.attention.head_dim,
        }
    }

    /// The most that a call's attention works on.
    pub(super) fn attention_limits(&self) -> Limits {
        Limits { max_rows: self.max_tokens, max_spans: self.slots, capacity: self.context }
    }

    /// Checks the sizes.
    ///
    /// # Errors
    /// [`Error::Shape`] for a size of 0.
    pub fn check(&self) -> Result<()> {
        let sizes = [
            ("slots", self.slots),
            ("context", self.context),
            ("max_tokens", self.max_tokens),
            ("max_logits", self.max_logits),
        ];
        match sizes.into_iter().find(|(_, size)| *size == 0) {
            Some((what, got)) => Err(Error::Shape { what, expected: "at least 1", got }),
            None => Ok(()),
        }
    }
}
