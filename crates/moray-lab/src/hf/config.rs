//! Model configuration from `config.json`.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::config::{Activation, ModelConfig, RopeScaling};
use crate::error::{Error, Result};
use crate::packed::Quantization;
use crate::text_bounds::TextBounds;

/// Model types whose forward pass is exactly the one described by [`ModelConfig`].
const MODEL_TYPES: [&str; 4] = ["llama", "mistral", "qwen2", "qwen3"];

/// What is read of `config.json`; everything else is ignored.
#[derive(Debug, Deserialize)]
struct RawConfig {
    model_type: Option<String>,
    #[serde(rename = "_name_or_path")]
    name: Option<String>,
    hidden_size: Option<usize>,
    intermediate_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: Option<usize>,
    max_position_embeddings: Option<usize>,
    rms_norm_eps: Option<f64>,
    rope_theta: Option<f64>,
    rope_scaling: Option<RawRope>,
    rope_parameters: Option<RawRope>,
    hidden_act: Option<String>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    tie_word_embeddings: Option<bool>,
    bos_token_id: Option<Value>,
    eos_token_id: Option<Value>,
    sliding_window: Option<usize>,
    use_sliding_window: Option<bool>,
    partial_rotary_factor: Option<f64>,
    quantization_config: Option<Value>,
}

/// `rope_scaling`, or the newer `rope_parameters` that also holds the base. Both spell the kind in two ways.
#[derive(Debug, Deserialize)]
struct RawRope {
    rope_type: Option<String>,
    #[serde(rename = "type")]
    old_type: Option<String>,
    rope_theta: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<usize>,
    partial_rotary_factor: Option<f64>,
    factors: Option<Vec<f32>>,
}

/// Reads `config.json`; `path` only names it in messages.
///
/// Of BOS, EOS and the chat template only what `config.json` itself says is filled in.
///
/// # Errors
/// [`Error::Malformed`], [`Error::MissingKey`], or [`Error::Unsupported`] for model types, activations, rope scalings
/// and quantizations that the forward pass does not have.
pub fn parse_config(path: &Path, bytes: &[u8]) -> Result<ModelConfig> {
    let raw: RawConfig =
        serde_json::from_slice(bytes).map_err(|error| Error::malformed(path, "config", "a model's JSON", error))?;
    let model_type = raw.model_type.as_deref().ok_or_else(|| Error::missing_key(path, "model_type"))?;
    if !MODEL_TYPES.contains(&model_type) {
        return Err(Error::unsupported(path, "model type", MODEL_TYPES.join(", "), model_type));
    }
    check_unsupported(path, &raw)?;
    let required = |key: &str, value: Option<usize>| value.ok_or_else(|| Error::missing_key(path, key));
    let hidden = required("hidden_size", raw.hidden_size)?;
    let n_q_heads = required("num_attention_heads", raw.num_attention_heads)?;
    let head_dim = match raw.head_dim {
        Some(explicit) => explicit,
        None if n_q_heads > 0 && hidden.is_multiple_of(n_q_heads) => hidden / n_q_heads,
        None => {
            let expected = format!("a divisor of hidden_size {hidden}");
            return Err(Error::malformed(path, "num_attention_heads", expected, n_q_heads));
        }
    };
    let context_length = required("max_position_embeddings", raw.max_position_embeddings)?;
    // Within the window a sliding attention is a full one.
    let windowed = raw.use_sliding_window.unwrap_or(model_type == "mistral");
    let window = raw.sliding_window.filter(|_| windowed);
    let rope = raw.rope_parameters.as_ref().or(raw.rope_scaling.as_ref());
    let rope_theta = rope.and_then(|rope| rope.rope_theta).or(raw.rope_theta);
    let mut config = ModelConfig {
        name: raw.name.clone().filter(|name| !name.is_empty()).unwrap_or_else(|| model_type.to_owned()),
        hidden,
        d_ff: required("intermediate_size", raw.intermediate_size)?,
        n_layers: required("num_hidden_layers", raw.num_hidden_layers)?,
        n_q_heads,
        n_kv_heads: raw.num_key_value_heads.unwrap_or(n_q_heads),
        head_dim,
        vocab: required("vocab_size", raw.vocab_size)?,
        context_length: window.map_or(context_length, |window| window.min(context_length)),
        rms_eps: raw.rms_norm_eps.ok_or_else(|| Error::missing_key(path, "rms_norm_eps"))? as f32,
        rope_theta: rope_theta.unwrap_or(10_000.0) as f32,
        rope_scaling: rope_scaling(path, rope, context_length)?,
        activation: activation(path, raw.hidden_act.as_deref())?,
        attention_bias: raw.attention_bias.unwrap_or(model_type == "qwen2"),
        qk_norm: model_type == "qwen3",
        mlp_bias: raw.mlp_bias.unwrap_or(false),
        tied_embeddings: raw.tie_word_embeddings.unwrap_or(false),
        bos: token_ids(path, "bos_token_id", raw.bos_token_id.as_ref())?.first().copied(),
        add_bos: false,
        eos: token_ids(path, "eos_token_id", raw.eos_token_id.as_ref())?,
        bounds: TextBounds::default(),
        chat_template: None,
    };
    config.check(path)?;
    Ok(config)
}

/// Reads a token id that may be one number, a list or null.
pub(super) fn token_ids(path: &Path, key: &str, value: Option<&Value>) -> Result<Vec<u32>> {
    let wrong = |got: &Value| Error::malformed(path, key, "a token id, a list of them or null", got);
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| wrong(value));
    match value {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(list)) => list.iter().map(id).collect(),
        Some(single) => Ok(vec![id(single)?]),
    }
}

fn check_unsupported(path: &Path, raw: &RawConfig) -> Result<()> {
    if let Some(quantization) = &raw.quantization_config {
        Quantization::parse(path, quantization)?;
    }
    let nested = raw.rope_parameters.as_ref().and_then(|rope| rope.partial_rotary_factor);
    match raw.partial_rotary_factor.or(nested) {
        Some(got) if got != 1.0 => Err(Error::unsupported(path, "partial_rotary_factor", "1", got)),
        _ => Ok(()),
    }
}

fn activation(path: &Path, name: Option<&str>) -> Result<Activation> {
    match name {
        None | Some("silu" | "swish") => Ok(Activation::Silu),
        Some("relu") => Ok(Activation::Relu),
        Some(other) => Err(Error::unsupported(path, "hidden_act", "silu or relu", other)),
    }
}

fn rope_scaling(path: &Path, rope: Option<&RawRope>, context_length: usize) -> Result<RopeScaling> {
    let Some(rope) = rope else { return Ok(RopeScaling::None) };
    let required = |key: &str, value: Option<f64>| {
        value.map(|value| value as f32).ok_or_else(|| Error::missing_key(path, format!("rope_scaling.{key}")))
    };
    match rope.rope_type.as_deref().or(rope.old_type.as_deref()) {
        None | Some("default") => Ok(RopeScaling::None),
        Some("linear") => Ok(RopeScaling::Linear { factor: required("factor", rope.factor)? }),
        // not a name of others: what a GGUF file's table of factors becomes when its model is written as a directory
        Some("factors") => {
            let factors = rope.factors.clone().ok_or_else(|| Error::missing_key(path, "rope_scaling.factors"))?;
            Ok(RopeScaling::Factors(factors))
        }
        Some("llama3") => Ok(RopeScaling::Llama3 {
            factor: required("factor", rope.factor)?,
            low_freq_factor: required("low_freq_factor", rope.low_freq_factor)?,
            high_freq_factor: required("high_freq_factor", rope.high_freq_factor)?,
            original_context: rope.original_max_position_embeddings.unwrap_or(context_length),
        }),
        Some(other) => Err(Error::unsupported(path, "rope scaling", "default, linear or llama3", other)),
    }
}
