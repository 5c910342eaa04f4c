//! How a quantized model is written: the arrays of a matrix, and `config.json`.

use moray::w4a8::{Format, QuantizedWeight};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::config::{Activation, ModelConfig, RopeScaling};
use crate::error::Result;
use crate::packed::{LAYOUT_VERSION, Quantization, StoredArray, own_tensors, qqq_tensors};
use crate::quantize::options::Options;

/// The layout of the matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// moray's own.
    Moray,
    /// QQQ's, which its repository and others read: a scale for each channel, or QQQ's groups of 128.
    Qqq,
}

impl Layout {
    /// How the arrays are read back.
    pub(super) fn quantization(self, options: &Options) -> Quantization {
        match self {
            Layout::Moray => Quantization::Own,
            Layout::Qqq => Quantization::Qqq { group_size: self.qqq_group(options) },
        }
    }

    /// Columns that share a scale, in QQQ's layout with groups.
    fn qqq_group(self, options: &Options) -> Option<usize> {
        (options.format == Format::qqq()).then_some(128)
    }

    /// What `config.json` says of it.
    pub(super) fn config(self, options: &Options) -> Value {
        match self {
            Layout::Moray => json!({"quant_method": "moray", "version": LAYOUT_VERSION, "options": options}),
            Layout::Qqq => {
                let group_size = self.qqq_group(options).map_or(-1, |size| size as i64);
                json!({"quant_method": "qqq", "wbits": 4, "bits": 4, "group_size": group_size})
            }
        }
    }

    /// The arrays of one matrix.
    ///
    /// # Errors
    /// [`crate::error::Error::Kernel`] for scales that the layout does not have.
    pub(super) fn arrays(self, prefix: &str, weight: &QuantizedWeight) -> Result<Vec<StoredArray>> {
        match self {
            Layout::Moray => own_tensors(prefix, weight),
            Layout::Qqq => qqq_tensors(prefix, weight),
        }
    }
}

/// A model's `config.json`.
pub(super) fn config_json(config: &ModelConfig, tied: bool, [attention_bias, mlp_bias]: [bool; 2]) -> Value {
    let mut out = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "_name_or_path": config.name,
        "hidden_size": config.hidden,
        "intermediate_size": config.d_ff,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_q_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab,
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.rms_eps,
        "rope_theta": config.rope_theta,
        "hidden_act": match config.activation { Activation::Silu => "silu", Activation::Relu => "relu" },
        "attention_bias": attention_bias,
        "mlp_bias": mlp_bias,
        "tie_word_embeddings": tied,
        "bos_token_id": config.bos,
        "eos_token_id": config.eos,
    });
    match &config.rope_scaling {
        RopeScaling::None => {}
        RopeScaling::Linear { factor } => out["rope_scaling"] = json!({"rope_type": "linear", "factor": factor}),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            out["rope_scaling"] = json!({"rope_type": "llama3", "factor": factor, "low_freq_factor": low_freq_factor,
                "high_freq_factor": high_freq_factor, "original_max_position_embeddings": original_context});
        }
        RopeScaling::Factors(factors) => out["rope_scaling"] = json!({"rope_type": "factors", "factors": factors}),
    }
    out
}
