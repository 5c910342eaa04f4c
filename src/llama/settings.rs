//! What a session is made for.

use super::mlp_policy::MlpPolicy;
use crate::attention::{HeadNorm, KvDtype, KvPolicy};
use crate::error::{Error, Result};

/// Sizes and policies of a session. All memory is taken when it is made.
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
    /// Which neurons are computed.
    pub mlp: MlpPolicy,
    /// Which heads run; all if none.
    pub heads: Option<HeadNorm>,
    /// What is stored for heads that do not run.
    pub kv: KvPolicy,
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
            mlp: MlpPolicy::Dense,
            heads: None,
            kv: KvPolicy::WriteAll,
        }
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
