//! Model configuration from GGUF metadata.

use super::header::Header;
use super::metadata::Value;
use super::text_bounds::text_bounds;
use super::vocabulary::Vocabulary;
use crate::config::{Activation, ModelConfig, RopeScaling};
use crate::dequantize::dequantize;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::mapped_file::MappedFile;
use crate::text_bounds::TextBounds;

/// Architectures whose forward pass is exactly the one described by [`ModelConfig`].
const ARCHITECTURES: [&str; 3] = ["llama", "qwen2", "qwen3"];

/// Keys under the architecture's prefix that are read below, or have no part in the numbers of these architectures.
const READ: [&str; 24] = [
    "context_length",
    "embedding_length",
    "block_count",
    "feed_forward_length",
    "vocab_size",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "attention.layer_norm_epsilon",
    "attention.sliding_window",
    // layers that see more than the window see the same within it
    "attention.sliding_window_pattern",
    "attention.causal",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
    "rope.scaling.attn_factor",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
];

/// Keys whose neutral value is 1: what they multiply stays.
const FACTORS: [&str; 6] = [
    "logit_scale",
    "embedding_scale",
    "residual_scale",
    "attention.output_scale",
    "attention.value_scale",
    "rope.scaling.yarn_attn_factor",
];

/// Typed access to the pairs of one file, under the architecture's prefix where a key starts with a dot.
pub(super) struct Pairs<'a> {
    file: &'a MappedFile,
    header: &'a Header,
    architecture: String,
}

impl<'a> Pairs<'a> {
    fn key(&self, key: &str) -> String {
        if key.starts_with('.') { format!("{}{key}", self.architecture) } else { key.to_owned() }
    }

    fn get(&self, key: &str) -> Result<Option<Value<'a>>> {
        self.header.metadata.get(self.file.path(), self.file.bytes(), &self.key(key))
    }

    fn wrong<T>(&self, key: &str, expected: &str, got: &Value<'_>) -> Result<T> {
        Err(Error::malformed(self.file.path(), self.key(key), expected, brief(got)))
    }

    fn size(&self, key: &str) -> Result<Option<usize>> {
        match self.get(key)? {
            None => Ok(None),
            Some(Value::Unsigned(value)) if usize::try_from(value).is_ok() => Ok(Some(value as usize)),
            Some(Value::Signed(value)) if usize::try_from(value).is_ok() => Ok(Some(value as usize)),
            Some(got) => self.wrong(key, "an integer of at least 0", &got),
        }
    }

    fn required_size(&self, key: &str) -> Result<usize> {
        self.size(key)?.ok_or_else(|| Error::missing_key(self.file.path(), self.key(key)))
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        match self.get(key)? {
            None => Ok(None),
            Some(Value::Float(value)) => Ok(Some(value)),
            Some(Value::Unsigned(value)) => Ok(Some(value as f64)),
            Some(Value::Signed(value)) => Ok(Some(value as f64)),
            Some(got) => self.wrong(key, "a number", &got),
        }
    }

    pub(super) fn bool(&self, key: &str) -> Result<Option<bool>> {
        match self.get(key)? {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(got) => self.wrong(key, "a truth value", &got),
        }
    }

    fn text(&self, key: &str) -> Result<Option<&'a str>> {
        match self.get(key)? {
            None => Ok(None),
            Some(Value::String(value)) => Ok(Some(value)),
            Some(got) => self.wrong(key, "text", &got),
        }
    }

    pub(super) fn token(&self, key: &str) -> Result<Option<u32>> {
        let Some(id) = self.size(key)? else { return Ok(None) };
        match u32::try_from(id) {
            Ok(id) => Ok(Some(id)),
            Err(_) => Err(Error::malformed(self.file.path(), key, "a 32-bit token id", id)),
        }
    }

    fn has_tensor(&self, name: &str) -> bool {
        self.header.tensors.iter().any(|tensor| tensor.name == name)
    }
}

/// Describes a value in a message without printing a vocabulary.
fn brief(value: &Value<'_>) -> String {
    match value {
        Value::Array(array) => format!("an array of {} values", array.len()),
        Value::Unsigned(value) => value.to_string(),
        Value::Signed(value) => value.to_string(),
        Value::Float(value) => value.to_string(),
        Value::Bool(value) => value.to_string(),
        Value::String(value) => format!("{value:?}"),
    }
}

/// Where texts begin and end by a file that has a vocabulary and no model.
pub(crate) fn vocabulary_bounds(file: &MappedFile) -> Result<TextBounds> {
    let header = Header::parse(file.path(), file.bytes())?;
    let pairs = Pairs { file, header: &header, architecture: String::new() };
    text_bounds(&pairs, &Vocabulary::open(file, &header)?)
}

/// Whether query and key rows are stored for interleaved rotary pairs.
pub(crate) fn interleaved(architecture: &str) -> bool {
    architecture == "llama"
}

/// Reads the configuration.
pub(crate) fn model_config(file: &MappedFile, header: &Header, vocabulary: &Vocabulary<'_>) -> Result<ModelConfig> {
    let mut pairs = Pairs { file, header, architecture: String::new() };
    let path = file.path();
    let architecture =
        pairs.text("general.architecture")?.ok_or_else(|| Error::missing_key(path, "general.architecture"))?;
    if !ARCHITECTURES.contains(&architecture) {
        return Err(Error::unsupported(path, "architecture", ARCHITECTURES.join(" or "), architecture));
    }
    pairs.architecture = architecture.to_owned();
    check_neutral(&pairs)?;
    let hidden = pairs.required_size(".embedding_length")?;
    let n_q_heads = pairs.required_size(".attention.head_count")?;
    let head_dim = head_dim(&pairs, hidden, n_q_heads)?;
    let context_length = pairs.required_size(".context_length")?;
    let window = pairs.size(".attention.sliding_window")?.filter(|&window| window > 0);
    let embedding = header.tensors.iter().find(|tensor| tensor.name == "token_embd.weight");
    let embedding =
        embedding.ok_or_else(|| Error::MissingTensor { path: path.into(), name: "token_embd.weight".into() })?;
    let rms_eps = pairs.number(".attention.layer_norm_rms_epsilon")?;
    let mut config = ModelConfig {
        name: pairs.text("general.name")?.unwrap_or(architecture).to_owned(),
        architecture: architecture.to_owned(),
        hidden,
        d_ff: pairs.required_size(".feed_forward_length")?,
        n_layers: pairs.required_size(".block_count")?,
        n_q_heads,
        n_kv_heads: pairs.size(".attention.head_count_kv")?.unwrap_or(n_q_heads),
        head_dim,
        vocab: embedding.shape[0],
        context_length: window.map_or(context_length, |window| window.min(context_length)),
        rms_eps: rms_eps.ok_or_else(|| Error::missing_key(path, pairs.key(".attention.layer_norm_rms_epsilon")))?
            as f32,
        rope_theta: pairs.number(".rope.freq_base")?.unwrap_or(10_000.0) as f32,
        rope_scaling: rope_scaling(&pairs, context_length)?,
        activation: Activation::Silu,
        attention_bias: ["q", "k", "v", "output"].iter().any(|p| pairs.has_tensor(&format!("blk.0.attn_{p}.bias"))),
        mlp_bias: ["gate", "up", "down"].iter().any(|p| pairs.has_tensor(&format!("blk.0.ffn_{p}.bias"))),
        tied_embeddings: !pairs.has_tensor("output.weight"),
        bos: None,
        add_bos: false,
        eos: Vec::new(),
        bounds: TextBounds::default(),
        chat_template: pairs.text("tokenizer.chat_template")?.map(str::to_owned),
    };
    config.set_bounds(text_bounds(&pairs, vocabulary)?);
    let stated = pairs.size(".vocab_size")?.unwrap_or(config.vocab);
    if stated != config.vocab {
        let expected = format!("{} as the embedding has rows", config.vocab);
        return Err(Error::malformed(path, pairs.key(".vocab_size"), expected, stated));
    }
    config.check(path)?;
    Ok(config)
}

/// Refuses keys under the architecture's prefix that could change the numbers: all that are not read, unless they say 0 or no (or
/// 1, where they multiply).
fn check_neutral(pairs: &Pairs<'_>) -> Result<()> {
    let prefix = format!("{}.", pairs.architecture);
    for key in pairs.header.metadata.keys() {
        let Some(name) = key.strip_prefix(&prefix).filter(|name| !READ.contains(name)) else { continue };
        let neutral = if FACTORS.contains(&name) { 1.0 } else { 0.0 };
        let says_nothing = match pairs.get(key)? {
            None | Some(Value::Bool(false)) => true,
            Some(Value::Unsigned(got)) => got as f64 == neutral,
            Some(Value::Signed(got)) => got as f64 == neutral,
            Some(Value::Float(got)) => got == neutral,
            Some(Value::Bool(true) | Value::String(_) | Value::Array(_)) => false,
        };
        if let (false, Some(got)) = (says_nothing, pairs.get(key)?) {
            return Err(Error::unsupported(pairs.file.path(), key, neutral.to_string(), brief(&got)));
        }
    }
    match pairs.size("split.count")? {
        Some(got) if got > 1 => {
            return Err(Error::unsupported(pairs.file.path(), "split.count", "a model in one file", got));
        }
        _ => {}
    }
    match pairs.bool(".attention.causal")? {
        Some(false) => Err(Error::unsupported(pairs.file.path(), "attention", "causal", "bidirectional")),
        _ => Ok(()),
    }
}

/// Keys, values and the rotated part must have one size.
fn head_dim(pairs: &Pairs<'_>, hidden: usize, n_q_heads: usize) -> Result<usize> {
    let head_dim = match pairs.size(".attention.key_length")? {
        Some(explicit) => explicit,
        None if n_q_heads > 0 && hidden.is_multiple_of(n_q_heads) => hidden / n_q_heads,
        None => {
            let expected = format!("a divisor of the hidden size {hidden}");
            return Err(Error::malformed(pairs.file.path(), pairs.key(".attention.head_count"), expected, n_q_heads));
        }
    };
    for key in [".attention.value_length", ".rope.dimension_count"] {
        let got = pairs.size(key)?.unwrap_or(head_dim);
        if got != head_dim {
            return Err(Error::unsupported(
                pairs.file.path(),
                pairs.key(key),
                format!("the head size {head_dim}"),
                got,
            ));
        }
    }
    Ok(head_dim)
}

fn rope_scaling(pairs: &Pairs<'_>, context_length: usize) -> Result<RopeScaling> {
    // Before there was a type, a factor alone meant linear scaling.
    let kind = pairs.text(".rope.scaling.type")?.unwrap_or("linear");
    let factor = match pairs.number(".rope.scaling.factor")? {
        Some(factor) => factor,
        None => pairs.number(".rope.scale_linear")?.unwrap_or(0.0),
    };
    let growth = pairs.number(".rope.scaling.attn_factor")?.unwrap_or(1.0);
    let scaling = match kind {
        "none" => RopeScaling::None,
        "linear" if factor == 0.0 || factor == 1.0 => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: factor as f32 },
        "yarn" => {
            let original = pairs.size(".rope.scaling.original_context_length")?.filter(|&original| original > 0);
            let factor = if factor == 0.0 { 1.0 } else { factor };
            RopeScaling::Yarn {
                factor: factor as f32,
                beta_fast: pairs.number(".rope.scaling.yarn_beta_fast")?.unwrap_or(32.0) as f32,
                beta_slow: pairs.number(".rope.scaling.yarn_beta_slow")?.unwrap_or(1.0) as f32,
                original_context: original.unwrap_or(context_length),
                attention_factor: (growth * (1.0 + 0.1 * factor.max(1.0).ln())) as f32,
                truncate: true,
            }
        }
        got => return Err(Error::unsupported(pairs.file.path(), "rope scaling", "none, linear or yarn", got)),
    };
    if growth != 1.0 && kind != "yarn" {
        return Err(Error::unsupported(pairs.file.path(), pairs.key(".rope.scaling.attn_factor"), "1", growth));
    }
    match (rope_factors(pairs)?, scaling) {
        (None, scaling) => Ok(scaling),
        (Some(factors), RopeScaling::None) => Ok(RopeScaling::Factors(factors)),
        (Some(_), _) => {
            let got = format!("both that and {kind}");
            Err(Error::unsupported(pairs.file.path(), "rope scaling", "rope_freqs.weight or a type", got))
        }
    }
}

/// A table of divisors, which stands for llama3 scaling.
fn rope_factors(pairs: &Pairs<'_>) -> Result<Option<Vec<f32>>> {
    let stored = pairs.header.tensors.iter().find(|tensor| tensor.name == "rope_freqs.weight");
    let Some(tensor) = stored else { return Ok(None) };
    if tensor.dtype != DType::F32 || tensor.shape[0] != 1 {
        let got = format!("{} {:?}", tensor.dtype, tensor.shape);
        return Err(Error::malformed(pairs.file.path(), "rope_freqs.weight", "a vector of F32", got));
    }
    let mut factors = vec![0.0; tensor.shape[1]];
    dequantize(DType::F32, &pairs.file.bytes()[tensor.range.clone()], &mut factors);
    Ok(Some(factors))
}
