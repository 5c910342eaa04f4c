//! Public model shapes: parameters, FLOPs and activations of each stage.

use crate::activation::{Layer, Mlp, Recompute, Training};
use crate::error::{Error, depth};
use crate::memory::StageMemory;
use serde::Serialize;

/// A decoder-only transformer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Model {
    /// The preset's name.
    pub name: &'static str,
    /// Where the shape is from.
    pub source: &'static str,
    /// Whether the shape is recalled and unverified.
    pub recalled: bool,
    /// Layers, l.
    pub layers: u64,
    /// The shape of a layer.
    pub layer: Layer,
    /// Vocabulary size, V.
    pub vocab: u64,
    /// Tokens per sample the model was trained with, s.
    pub seq_len: u64,
    /// Learned positions and biases (GPT), or neither (LLaMA).
    pub positions_and_biases: bool,
}

const LLAMA: &str = "published configuration";
const GPT3_96B: &str = "recalled, unverified; 12·l·h² = 95.7e9 agrees with the name";

const fn llama(name: &'static str, layers: u64, hidden: u64, heads: u64, ffn: u64) -> Model {
    let layer = Layer { hidden, n_q_heads: heads, n_kv_heads: heads, ffn, mlp: Mlp::SwiGlu, dropout: false };
    Model {
        name,
        source: LLAMA,
        recalled: false,
        layers,
        layer,
        vocab: 32_000,
        seq_len: 2048,
        positions_and_biases: false,
    }
}

/// Every preset, smallest first.
pub const PRESETS: [Model; 5] = [
    llama("llama-7b", 32, 4096, 32, 11_008),
    llama("llama-13b", 40, 5120, 40, 13_824),
    llama("llama-33b", 60, 6656, 52, 17_920),
    llama("llama-65b", 80, 8192, 64, 22_016),
    Model {
        name: "gpt3-96b",
        source: GPT3_96B,
        recalled: true,
        layers: 80,
        layer: Layer { hidden: 9984, n_q_heads: 104, n_kv_heads: 104, ffn: 4 * 9984, mlp: Mlp::Gelu, dropout: true },
        vocab: 51_200,
        seq_len: 2048,
        positions_and_biases: true,
    },
];

/// Finds a preset by name.
///
/// # Errors
/// [`Error::UnknownPreset`].
pub fn preset(name: &str) -> Result<&'static Model, Error> {
    PRESETS
        .iter()
        .find(|model| model.name == name)
        .ok_or_else(|| Error::UnknownPreset { expected: PRESETS.map(|model| model.name).join(", "), got: name.into() })
}

/// Matmul FLOPs of one sample's forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ForwardFlops {
    /// One layer.
    pub layer: f64,
    /// The head, logits included.
    pub head: f64,
}

impl Model {
    /// Counts the weights of a layer's matmuls: h·h for query and output, h·h·k/a for key and value, 2 or 3 of h·f.
    fn matmul_parameters(&self) -> u64 {
        let layer = &self.layer;
        let attention =
            2 * layer.hidden * layer.hidden + 2 * layer.hidden * layer.hidden / layer.n_q_heads * layer.n_kv_heads;
        let mlp = match layer.mlp {
            Mlp::Gelu => 2,
            Mlp::SwiGlu => 3,
        };
        attention + mlp * layer.hidden * layer.ffn
    }

    /// Counts a layer's parameters.
    pub fn layer_parameters(&self) -> u64 {
        let h = self.layer.hidden;
        // LayerNorm has a gain and a bias, RMSNorm a gain; biases: QKV 3h, projection h, MLP f + h.
        let rest = if self.positions_and_biases { 4 * h + 5 * h + self.layer.ffn } else { 2 * h };
        self.matmul_parameters() + rest
    }

    /// Counts the parameters of the embedding: tokens, and positions if learned.
    pub fn embedding_parameters(&self) -> u64 {
        let positions = if self.positions_and_biases { self.seq_len } else { 0 };
        (self.vocab + positions) * self.layer.hidden
    }

    /// Counts the parameters the last stage adds: the final norm and the head's weight. GPT ties the head to the
    /// embedding, but in a pipeline its last stage holds a copy.
    pub fn head_parameters(&self) -> u64 {
        self.vocab * self.layer.hidden + self.final_norm_parameters()
    }

    fn final_norm_parameters(&self) -> u64 {
        if self.positions_and_biases { 2 * self.layer.hidden } else { self.layer.hidden }
    }

    /// Counts the model's parameters; a tied head is counted once.
    pub fn parameters(&self) -> u64 {
        let head = if self.positions_and_biases { self.final_norm_parameters() } else { self.head_parameters() };
        self.embedding_parameters() + self.layers * self.layer_parameters() + head
    }

    /// Counts the matmul FLOPs of one sample's forward pass: 2 per weight and token, 4·s²·h per layer for scores and
    /// values (not halved for causality), 2·s·h·V for the logits.
    pub fn forward_flops(&self, seq_len: u64) -> ForwardFlops {
        let (s, h) = (seq_len as f64, self.layer.hidden as f64);
        ForwardFlops {
            layer: 2.0 * s * self.matmul_parameters() as f64 + 4.0 * s * s * h,
            head: 2.0 * s * h * self.vocab as f64,
        }
    }

    /// Counts F, the model FLOPs of one sample, forward and backward: three times the forward's.
    pub fn flops_per_sample(&self, seq_len: u64) -> f64 {
        let forward = self.forward_flops(seq_len);
        3.0 * (self.layers as f64 * forward.layer + forward.head)
    }

    /// Splits the layers over the stages; a remainder goes to the last stages before the head's, which hold the
    /// fewest activations under 1F1B.
    ///
    /// # Errors
    /// [`Error::TooFewStages`] for one stage, [`Error::OutOfRange`] for more stages than layers.
    pub fn layers_per_stage(&self, stages: u32) -> Result<Vec<u64>, Error> {
        let p = u64::from(depth(stages)?);
        if p > self.layers {
            let what = format!("stages of {} ({} layers)", self.name, self.layers);
            return Err(Error::OutOfRange { what, expected: "at most one per layer", got: f64::from(stages) });
        }
        let (each, extra) = (self.layers / p, self.layers % p);
        Ok((0..p).map(|stage| each + u64::from(stage + 1 < p && stage + 1 + extra >= p)).collect())
    }

    /// Computes what each stage keeps on one device: weights, gradients and optimizer state at
    /// `bytes_per_parameter`, and the activations of one micro-batch, with the logits (16-bit and a 32-bit softmax)
    /// on the last stage.
    ///
    /// # Errors
    /// Those of [`Model::layers_per_stage`], and [`Error::OutOfRange`] unless t divides the query heads.
    pub fn stage_memory(
        &self,
        training: &Training,
        stages: u32,
        micro_batch: u32,
        bytes_per_parameter: f64,
    ) -> Result<Vec<StageMemory>, Error> {
        let t = training.tensor_parallel;
        if t == 0 || !self.layer.n_q_heads.is_multiple_of(t) {
            let what = format!("tensor parallelism of {} ({} heads)", self.name, self.layer.n_q_heads);
            return Err(Error::OutOfRange { what, expected: "a divisor of the heads", got: t as f64 });
        }
        let per_layer = self.layer.activation_bytes(training, micro_batch);
        let layers = self.layers_per_stage(stages)?;
        let bytes = |parameters: u64| (parameters as f64 * bytes_per_parameter / t as f64).round() as u64;
        let mut memory: Vec<StageMemory> = layers
            .iter()
            .map(|&layers| StageMemory {
                static_bytes: bytes(layers * self.layer_parameters()),
                activation_bytes: layers * per_layer,
            })
            .collect();
        memory[0].static_bytes += bytes(self.embedding_parameters());
        let last = &mut memory[stages as usize - 1];
        last.static_bytes += bytes(self.head_parameters());
        last.activation_bytes += 6 * training.seq_len * u64::from(micro_batch) * self.vocab / t;
        Ok(memory)
    }

    /// Computes the bytes that cross from one stage to the next per micro-batch: s·b·h in 16 bits, split over the
    /// sequence if that is.
    pub fn boundary_bytes(&self, training: &Training, micro_batch: u32) -> u64 {
        let split = if training.sequence_parallel { training.tensor_parallel.max(1) } else { 1 };
        2 * training.seq_len * u64::from(micro_batch) * self.layer.hidden / split
    }

    /// Computes the FLOPs a stage's backward pass does per FLOP of its forward: 2, and 1 more when the layer is
    /// computed again.
    pub fn backward_ratio(recompute: Recompute) -> f64 {
        if recompute == Recompute::Full { 3.0 } else { 2.0 }
    }
}
