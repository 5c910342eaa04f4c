//! What the states of all devices have in common.

use super::config::Config;
use crate::attention::{HeadNormState, Span};
use crate::error::{Result, check_len};

/// Sizes of one layer's weights besides its MLP; matrices are \[rows, columns\].
pub(super) struct LayerSizes {
    pub(super) attn_norm: usize,
    pub(super) qkv: [usize; 2],
    pub(super) o: [usize; 2],
    pub(super) mlp_norm: usize,
}

impl LayerSizes {
    /// Checks them against the model's.
    ///
    /// # Errors
    /// [`crate::Error::Length`] naming the first that differs.
    pub(super) fn check(&self, config: &Config) -> Result<()> {
        let (d, q) = (config.d_model, config.attention.q_elems());
        let sizes = [
            ("attention norm", d, self.attn_norm),
            ("qkv rows", config.qkv_features(), self.qkv[0]),
            ("qkv columns", d, self.qkv[1]),
            ("o rows", d, self.o[0]),
            ("o columns", q, self.o[1]),
            ("mlp norm", d, self.mlp_norm),
        ];
        sizes.into_iter().try_for_each(|(what, expected, got)| check_len(what, expected, got))
    }
}

/// Query heads that ran for tokens under the policy's choice, and heads that there were.
#[derive(Debug, Default)]
pub(super) struct HeadsRun {
    run: u64,
    all: u64,
}

impl HeadsRun {
    /// Counts the heads in the masks u32 \[spans, ⌈n_q_heads/32⌉\] of one layer, where the policy chose them.
    pub(super) fn count(&mut self, heads: &HeadNormState, spans: &[Span], masks: &[u32], n_q_heads: usize) {
        for (span, words) in spans.iter().zip(masks.chunks_exact(n_q_heads.div_ceil(32))) {
            if !heads.runs_all(span.slot) {
                let run = (0..n_q_heads).filter(|head| words[head / 32] >> (head % 32) & 1 == 1).count();
                self.run += (span.len * run) as u64;
                self.all += (span.len * n_q_heads) as u64;
            }
        }
    }

    /// The mean fraction that ran; None if there was no such token.
    pub(super) fn fraction(&self) -> Option<f64> {
        (self.all > 0).then(|| self.run as f64 / self.all as f64)
    }
}
