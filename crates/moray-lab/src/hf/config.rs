//! Model configuration from `config.json`.

use std::path::Path;

use serde_json::Value;

use super::keys::MODEL;
use super::rope::Rope;
use crate::config::{Activation, ModelConfig};
use crate::error::{Error, Result};
use crate::fields::{Fields, brief};
use crate::json;
use crate::notes::Notes;
use crate::text_bounds::TextBounds;

/// Model types whose forward pass is exactly the one described by [`ModelConfig`].
const MODEL_TYPES: [&str; 4] = ["llama", "mistral", "qwen2", "qwen3"];

/// Reads `config.json`; `path` only names it in messages.
///
/// Of BOS, EOS and the chat template only what `config.json` itself says is filled in.
///
/// # Errors
/// [`Error::Malformed`], [`Error::MissingKey`], or [`Error::Unsupported`] for model types, activations and rope scalings
/// that the forward pass does not have, and for keys that sound as if it depended on them.
pub fn parse_config(path: &Path, bytes: &[u8]) -> Result<ModelConfig> {
    read_config(path, &json::parse(path, bytes)?, &mut Notes::default())
}

/// As [`parse_config`], with what was noticed.
pub(super) fn read_config(path: &Path, stated: &Value, notes: &mut Notes) -> Result<ModelConfig> {
    let fields = Fields::new(path, "", stated)?;
    let model_type = fields.text(&["model_type"])?.ok_or_else(|| fields.missing("model_type"))?;
    if !MODEL_TYPES.contains(&model_type) {
        return Err(Error::unsupported(path, "model type", MODEL_TYPES.join(", "), model_type));
    }
    let unread = fields.check_open(&[MODEL])?;
    if !unread.is_empty() {
        notes.ignored(format!("config.json: {} say nothing about the numbers", unread.join(", ")));
    }
    let required = |key: &str| fields.size(key)?.ok_or_else(|| fields.missing(key));
    let hidden = required("hidden_size")?;
    let n_q_heads = required("num_attention_heads")?;
    let head_dim = match fields.size("head_dim")? {
        Some(explicit) => explicit,
        None if n_q_heads > 0 && hidden.is_multiple_of(n_q_heads) => hidden / n_q_heads,
        None => {
            let expected = format!("a divisor of hidden_size {hidden}");
            return Err(Error::malformed(path, "num_attention_heads", expected, n_q_heads));
        }
    };
    let rope = Rope::parse(&fields, required("max_position_embeddings")?, notes)?;
    // Within the window a sliding attention is a full one.
    let window = window(&fields, model_type, notes)?;
    let flag = |key: &str, default: bool| fields.flag(key).map(|stated| stated.unwrap_or(default));
    let mut config = ModelConfig {
        name: fields.text(&["_name_or_path"])?.filter(|name| !name.is_empty()).unwrap_or(model_type).to_owned(),
        architecture: model_type.to_owned(),
        hidden,
        d_ff: required("intermediate_size")?,
        n_layers: required("num_hidden_layers")?,
        n_q_heads,
        n_kv_heads: fields.size("num_key_value_heads")?.unwrap_or(n_q_heads),
        head_dim,
        vocab: required("vocab_size")?,
        context_length: window.map_or(rope.context_length, |window| window.min(rope.context_length)),
        rms_eps: fields.number("rms_norm_eps")?.ok_or_else(|| fields.missing("rms_norm_eps"))? as f32,
        rope_theta: rope.theta as f32,
        rope_scaling: rope.scaling,
        activation: activation(path, fields.text(&["hidden_act"])?)?,
        attention_bias: flag("attention_bias", model_type == "qwen2")?,
        mlp_bias: flag("mlp_bias", false)?,
        tied_embeddings: flag("tie_word_embeddings", false)?,
        bos: token_ids(path, "bos_token_id", fields.get("bos_token_id"))?.first().copied(),
        add_bos: false,
        eos: token_ids(path, "eos_token_id", fields.get("eos_token_id"))?,
        bounds: TextBounds::default(),
        chat_template: None,
    };
    config.check(path)?;
    Ok(config)
}

/// The width of the narrowest attention that any layer has, if not all of them see everything.
fn window(fields: &Fields<'_>, model_type: &str, notes: &mut Notes) -> Result<Option<usize>> {
    let window = fields.size("sliding_window")?.filter(|&window| window > 0);
    let slides = match fields.get("layer_types") {
        None => None,
        Some(types) => {
            let names =
                types.as_array().into_iter().flatten().map(|name| name.as_str().unwrap_or("a value that is no text"));
            let mut slides = false;
            for name in names {
                match name {
                    "full_attention" => {}
                    "sliding_attention" => slides = true,
                    other => {
                        return Err(fields.unsupported("layer_types", "full_attention or sliding_attention", other));
                    }
                }
            }
            Some(slides)
        }
    };
    let windowed = slides.unwrap_or(fields.flag("use_sliding_window")?.unwrap_or(model_type == "mistral"));
    match (windowed, window) {
        (true, None) if slides == Some(true) => Err(fields.missing("sliding_window")),
        (false, Some(window)) if model_type == "llama" => {
            notes.ignored(format!("sliding_window {window}: a llama has none"));
            Ok(None)
        }
        (true, window) => Ok(window),
        (false, _) => Ok(None),
    }
}

/// Reads a token id that may be one number, a list or null.
pub(super) fn token_ids(path: &Path, key: &str, value: Option<&Value>) -> Result<Vec<u32>> {
    let wrong = |got: &Value| Error::malformed(path, key, "a token id, a list of them or null", brief(got));
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| wrong(value));
    match value {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(list)) => list.iter().map(id).collect(),
        Some(single) => Ok(vec![id(single)?]),
    }
}

fn activation(path: &Path, name: Option<&str>) -> Result<Activation> {
    match name {
        None | Some("silu" | "swish") => Ok(Activation::Silu),
        Some("relu") => Ok(Activation::Relu),
        Some(other) => Err(Error::unsupported(path, "hidden_act", "silu or relu", other)),
    }
}
