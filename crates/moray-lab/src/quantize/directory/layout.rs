//! How a quantized model is written: the arrays of a matrix, and `config.json`.

use moray::w4a8::{Format, QuantizedWeight};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::checkpoint::LayerTensor;
use crate::config::{ModelConfig, RopeScaling};
use crate::error::{Error, Result};
use crate::packed::{LAYOUT_VERSION, QQQ_BLOCK, Quantization, StoredArray, own_tensors, qqq_tensors};
use crate::quantize::options::{FormatName, Options};
use crate::roles::{Format as Names, Role};

/// Multiples of K and N of which QQQ's own reader and GPTQModel want one pair in every matrix: the tiles of QQQ's kernel.
const QQQ_TILES: [(usize, usize); 4] = [(64, 256), (128, 128), (128, 64), (64, 128)];

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
                json!({
                    "quant_method": "qqq", "format": "qqq", "checkpoint_format": "qqq", "wbits": 4, "bits": 4,
                    "group_size": group_size, "sym": true, "desc_act": false, "lm_head": false, "pack_dtype": "int32",
                })
            }
        }
    }

    /// Says whether the layout can hold a model's matrices in the format asked for.
    ///
    /// # Errors
    /// [`Error::Kernel`] that names the switch, for scales and sizes that it does not have.
    pub(in crate::quantize) fn check(self, config: &ModelConfig, format: Format) -> Result<()> {
        let refused =
            |expected, got| Err(Error::Kernel(moray::Error::Unsupported { what: "--layout qqq", expected, got }));
        if self == Layout::Moray {
            return Ok(());
        }
        if ![Format::per_channel(), Format::qqq()].contains(&format) {
            return refused("--weights per-channel or qqq", FormatName(format).to_string());
        }
        match matrices(config).find(|(_, [n, k])| n % QQQ_BLOCK != 0 || k % QQQ_BLOCK != 0) {
            Some((name, shape)) => refused("matrices of N and K in multiples of 64", format!("{name} of {shape:?}")),
            None => Ok(()),
        }
    }

    /// What other programs will not read, or read as something else, in a model of this configuration: sentences.
    pub(in crate::quantize) fn warnings(self, config: &ModelConfig, format: Format) -> Vec<String> {
        if self == Layout::Moray {
            return Vec::new();
        }
        let named = |wrong: &dyn Fn(usize, usize) -> bool| {
            let found = matrices(config).filter(|(_, [n, k])| wrong(*n, *k));
            found.map(|(name, shape)| format!("{name} {shape:?}")).collect::<Vec<_>>().join(", ")
        };
        let untiled = named(&|n, k| !QQQ_TILES.iter().any(|(tile_k, tile_n)| k % tile_k == 0 && n % tile_n == 0));
        let single = named(&|_, k| format == Format::qqq() && k == 128);
        let tiles = QQQ_TILES.map(|(k, n)| format!("({k}, {n})")).join(", ");
        let sentences = [
            (
                untiled,
                format!("only moray will read this: QQQ and GPTQModel want (K, N) in multiples of one of {tiles}"),
            ),
            (
                single,
                "only moray will read this right: for QQQ and GPTQModel one group of 128 is a scale for each channel"
                    .into(),
            ),
        ];
        let found = sentences.into_iter().filter(|(matrices, _)| !matrices.is_empty());
        found.map(|(matrices, sentence)| format!("--layout qqq: {sentence}, got [N, K] of {matrices}")).collect()
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

/// The matrices of a layer by their names in it, and their sizes \[N, K\].
fn matrices(config: &ModelConfig) -> impl Iterator<Item = (String, [usize; 2])> {
    let matrices = LayerTensor::ALL.into_iter().filter(|tensor| !tensor.is_vector());
    matrices.map(|tensor| {
        let name = Names::HuggingFace.name(Role::Layer(0, tensor));
        let short = name.trim_start_matches("model.layers.0.").trim_end_matches(".weight");
        (short.to_owned(), tensor.shape(config))
    })
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
        "hidden_act": config.activation.name(),
        "attention_bias": attention_bias,
        "mlp_bias": mlp_bias,
        "tie_word_embeddings": tied,
        "bos_token_id": config.bos,
        "eos_token_id": config.eos,
        "torch_dtype": "float16",
    });
    match &config.rope_scaling {
        RopeScaling::None => {}
        RopeScaling::Linear { factor } => out["rope_scaling"] = json!({"rope_type": "linear", "factor": factor}),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            out["rope_scaling"] = json!({"rope_type": "llama3", "factor": factor, "low_freq_factor": low_freq_factor,
                "high_freq_factor": high_freq_factor, "original_max_position_embeddings": original_context});
        }
        RopeScaling::Factors(factors) => out["rope_scaling"] = json!({"rope_type": "factors", "factors": factors}),
        RopeScaling::Yarn { factor, beta_fast, beta_slow, original_context, attention_factor, truncate } => {
            out["rope_scaling"] = json!({"rope_type": "yarn", "factor": factor, "beta_fast": beta_fast,
                "beta_slow": beta_slow, "attention_factor": attention_factor, "truncate": truncate,
                "original_max_position_embeddings": original_context});
        }
        RopeScaling::LongRope { factors, attention_factor } => {
            out["rope_scaling"] = json!({"rope_type": "longrope", "short_factor": factors, "long_factor": factors,
                "attention_factor": attention_factor, "original_max_position_embeddings": config.context_length});
        }
    }
    out
}
