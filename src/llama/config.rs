//! The sizes and constants of a LLaMA model.

use crate::attention::{AttentionShape, RopeScaling};
use crate::error::{Error, Result};
use crate::policy::ModelSizes;
use crate::sparse_mlp::Activation;

/// What the forward pass has to know of a model besides its weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Rows of the embedding and of the output layer.
    pub vocab: usize,
    /// Width of the hidden state, d.
    pub d_model: usize,
    /// Neurons of an MLP.
    pub d_ff: usize,
    /// Layers.
    pub n_layers: usize,
    /// Query heads, KV heads and their width.
    pub attention: AttentionShape,
    /// Added to the mean square in RMSNorm.
    pub rms_eps: f32,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// How they are scaled for longer contexts.
    pub rope_scaling: RopeScaling,
    /// The gate's nonlinearity: SiLU makes it SwiGLU.
    pub activation: Activation,
}

impl Config {
    /// Checks that the sizes go together.
    ///
    /// # Errors
    /// [`Error::Shape`] for a size of 0 or head sizes that do not go together, [`Error::Value`] for an epsilon that is
    /// not a positive number.
    pub fn check(&self) -> Result<()> {
        let sizes =
            [("vocab", self.vocab), ("d_model", self.d_model), ("d_ff", self.d_ff), ("n_layers", self.n_layers)];
        if let Some((what, got)) = sizes.into_iter().find(|(_, size)| *size == 0) {
            return Err(Error::Shape { what, expected: "at least 1", got });
        }
        let AttentionShape { n_q_heads, n_kv_heads, head_dim } = self.attention;
        AttentionShape::new(n_q_heads, n_kv_heads, head_dim)?;
        if !(self.rms_eps > 0.0 && self.rms_eps.is_finite()) {
            return Err(Error::Value { what: "rms_eps", expected: "a positive number", got: self.rms_eps });
        }
        Ok(())
    }

    /// What policies depend on.
    pub fn sizes(&self) -> ModelSizes {
        let Config { n_layers, d_model, d_ff, attention, .. } = *self;
        ModelSizes { n_layers, d_model, d_ff, attention }
    }

    /// Output features of the joint query, key and value projection.
    pub fn qkv_features(&self) -> usize {
        self.attention.q_elems() + 2 * self.attention.kv_elems()
    }
}
