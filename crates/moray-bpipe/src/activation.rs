//! Activation memory of one transformer layer, term by term.
//!
//! In 16-bit training a layer keeps these tensors for its backward pass, in bytes per s·b·h (s tokens, b samples, h
//! hidden size, a query heads, k key-value heads, f feed-forward size, t-way tensor parallelism):
//!
//! | kept for backward                     | bytes per s·b·h          | split over t          |
//! |---------------------------------------|--------------------------|-----------------------|
//! | inputs of the two norms               | 4                        | by sequence parallelism |
//! | inputs of the QKV and the MLP matmuls | 4                        | by sequence parallelism |
//! | two dropout masks (GPT)               | 2                        | by sequence parallelism |
//! | query; key and value                  | 2; 4·k/a                 | always                |
//! | input of the output projection        | 2                        | always                |
//! | attention core: softmax               | 2·a·s/h                  | always                |
//! | attention core: dropout mask, output (GPT) | 3·a·s/h             | always                |
//! | GELU MLP: input and output of GELU    | 4·f/h                    | always                |
//! | SwiGLU MLP: gate, up and their product | 6·f/h                   | always                |
//!
//! With f = 4·h the GPT layer sums to s·b·h·(10 + 24/t + 5·a·s/(h·t)), or s·b·h/t·(34 + 5·a·s/h) with sequence
//! parallelism. Recomputing the attention core (selective) drops its terms. Flash attention drops them too and keeps a
//! 4-byte log-sum-exp per head and token, 4·a/h. Full recomputation keeps the layer's input only, 2 bytes.
//! SwiGLU's activation is taken as fused: it recomputes the gate's SiLU instead of keeping it.

use serde::{Deserialize, Serialize};

/// How attention is computed, which decides whether the score matrix is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Attention {
    /// Scores are written to memory and kept for backward.
    Naive,
    /// Scores stay on the chip; backward recomputes them from the log-sum-exp.
    Flash,
}

/// What the backward pass computes again instead of reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Recompute {
    /// Nothing.
    None,
    /// The attention core: scores, softmax and its dropout.
    Selective,
    /// The whole layer from its input.
    Full,
}

/// The feed-forward block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mlp {
    /// Two matmuls with a GELU between them.
    Gelu,
    /// Three matmuls, down(silu(gate(x))·up(x)).
    SwiGlu,
}

/// What decides a layer's activation memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Layer {
    /// Hidden size, h.
    pub hidden: u64,
    /// Query heads, a.
    pub n_q_heads: u64,
    /// Key-value heads, k.
    pub n_kv_heads: u64,
    /// Feed-forward size, f.
    pub ffn: u64,
    /// The feed-forward block.
    pub mlp: Mlp,
    /// Whether dropout masks are kept.
    pub dropout: bool,
}

/// How a layer is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Training {
    /// Tokens per sample, s.
    pub seq_len: u64,
    /// Devices a layer is split over, t.
    pub tensor_parallel: u64,
    /// Whether what tensor parallelism leaves whole is split over the sequence.
    pub sequence_parallel: bool,
    /// The attention kernel.
    pub attention: Attention,
    /// What is computed again.
    pub recompute: Recompute,
}

impl Layer {
    /// Computes the bytes one layer keeps on one device for one micro-batch of `micro_batch` samples.
    ///
    /// ```
    /// use moray_bpipe::activation::{Attention, Layer, Mlp, Recompute, Training};
    /// let layer = Layer { hidden: 64, n_q_heads: 4, n_kv_heads: 4, ffn: 256, mlp: Mlp::Gelu, dropout: true };
    /// let training = Training {
    ///     seq_len: 32, tensor_parallel: 1, sequence_parallel: false,
    ///     attention: Attention::Naive, recompute: Recompute::None,
    /// };
    /// // s·b·h·(34 + 5·a·s/h)
    /// assert_eq!(layer.activation_bytes(&training, 1), 32 * 64 * (34 + 5 * 4 * 32 / 64));
    /// ```
    ///
    /// # Source
    /// The table of this module, which agrees with the accounting of Korthikanti et al., arXiv 2205.05198.
    pub fn activation_bytes(&self, training: &Training, micro_batch: u32) -> u64 {
        let (s, t) = (training.seq_len as f64, training.tensor_parallel as f64);
        let (h, a) = (self.hidden as f64, self.n_q_heads as f64);
        let whole_split = if training.sequence_parallel { t } else { 1.0 };
        let per_sbh = if training.recompute == Recompute::Full {
            2.0 / whole_split
        } else {
            self.whole_per_sbh() / whole_split + (self.split_per_sbh() + self.core_per_sbh(training, a * s / h)) / t
        };
        (s * f64::from(micro_batch) * h * per_sbh).round() as u64
    }

    /// What tensor parallelism alone leaves whole on every device.
    fn whole_per_sbh(&self) -> f64 {
        if self.dropout { 10.0 } else { 8.0 }
    }

    /// What tensor parallelism splits, without the attention core.
    fn split_per_sbh(&self) -> f64 {
        let kv = 4.0 * self.n_kv_heads as f64 / self.n_q_heads as f64;
        let ffn = self.ffn as f64 / self.hidden as f64;
        let mlp = match self.mlp {
            Mlp::Gelu => 4.0 * ffn,
            Mlp::SwiGlu => 6.0 * ffn,
        };
        2.0 + kv + 2.0 + mlp
    }

    fn core_per_sbh(&self, training: &Training, scores_per_sbh: f64) -> f64 {
        match (training.attention, training.recompute) {
            (Attention::Flash, _) => 4.0 * self.n_q_heads as f64 / self.hidden as f64,
            (Attention::Naive, Recompute::None) if self.dropout => 5.0 * scores_per_sbh,
            (Attention::Naive, Recompute::None) => 2.0 * scores_per_sbh,
            (Attention::Naive, _) => 0.0,
        }
    }
}
