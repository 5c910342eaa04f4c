//! What a calibration is of.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::checkpoint::{Checkpoint, hex};
use crate::error::{Error, Result};

/// A model, by its shape and its weights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelIdentity {
    /// Its name, for people.
    pub name: String,
    /// Layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Neurons of a layer.
    pub d_ff: usize,
    /// Query heads, KV heads, elements of a head.
    pub heads: [usize; 3],
    /// Tokens.
    pub vocabulary: usize,
    /// The MLPs' activation.
    pub activation: String,
    /// [`Checkpoint::sampled_hash`].
    pub hash: String,
}

impl ModelIdentity {
    /// Of an open model.
    pub fn of(checkpoint: &Checkpoint) -> Self {
        let config = checkpoint.config();
        ModelIdentity {
            name: config.name.clone(),
            layers: config.n_layers,
            d_model: config.hidden,
            d_ff: config.d_ff,
            heads: [config.n_q_heads, config.n_kv_heads, config.head_dim],
            vocabulary: config.vocab,
            activation: config.activation.name().to_owned(),
            hash: checkpoint.sampled_hash(),
        }
    }

    /// Checks that a model is this one; `path` names the calibration.
    ///
    /// # Errors
    /// [`Error::Malformed`] with what differs: the shape, the activation, or the weights.
    pub fn check(&self, path: &std::path::Path, checkpoint: &Checkpoint) -> Result<()> {
        let model = ModelIdentity::of(checkpoint);
        let shape = |of: &ModelIdentity| {
            let ModelIdentity { layers, d_model, d_ff, heads: [q, kv, dim], vocabulary, .. } = of;
            format!(
                "{layers} layers of {d_model} with {d_ff} neurons, {q} heads on {kv} of {dim} and {vocabulary} tokens"
            )
        };
        let pairs = [
            ("shape of the model", shape(self), shape(&model)),
            ("activation of the model", self.activation.clone(), model.activation.clone()),
            ("weights of the model", self.hash.clone(), model.hash.clone()),
        ];
        match pairs.into_iter().find(|(_, own, other)| own != other) {
            None => Ok(()),
            Some((what, own, other)) => {
                let (expected, got) = (format!("{own}, as the calibration of {} has it", self.name), other);
                Err(Error::malformed(path, what, expected, format!("{got} in {}", checkpoint.path().display())))
            }
        }
    }
}

/// A text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextIdentity {
    /// The file, or that it is the command's own.
    pub name: String,
    /// SHA-256 of its bytes.
    pub hash: String,
    /// Its tokens, those that were looked at at most.
    pub tokens: usize,
}

impl TextIdentity {
    /// Of a text with this many tokens.
    pub fn new(name: &str, text: &str, tokens: usize) -> Self {
        TextIdentity { name: name.to_owned(), hash: hex(&Sha256::digest(text)), tokens }
    }
}
