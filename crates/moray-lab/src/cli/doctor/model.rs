//! What one model is, and how it would run.

use std::io::Write;
use std::path::{Path, PathBuf};

use moray::w4a8::{Bits, Format, Offset};
use serde::Serialize;

use crate::checkpoint::{Checkpoint, LayerTensor};
use crate::config::{ModelConfig, RopeScaling};
use crate::error::Result;
use crate::notes::{Note, NoteKind};
use crate::weights::WeightScheme;

/// What `moray doctor --model` reports of a model.
#[derive(Debug, Clone, Serialize)]
pub struct ModelReport {
    /// The file or directory.
    #[serde(serialize_with = "crate::lossy_path::serialize")]
    pub path: PathBuf,
    /// The name that the model gives itself.
    pub name: String,
    /// Of the file or directory.
    pub format: String,
    /// Sizes of the forward pass.
    pub architecture: String,
    /// Rotary positions.
    pub positions: String,
    /// How weights are stored: element types, and how many tensors of each.
    pub stored: Vec<String>,
    /// How the integer matrices of the first layer are meant, if there are any.
    pub integers: Vec<String>,
    /// What `--weights auto` would do.
    pub arithmetic: String,
    /// Where texts begin and end, and what says so.
    pub text: Vec<String>,
    /// What is there and has no part in the numbers.
    pub ignored: Vec<String>,
    /// What contradicts itself, or is not taken alike by every reader.
    pub unusual: Vec<String>,
}

impl ModelReport {
    /// Opens a model, and reads the matrices of its first layer if they are integers.
    ///
    /// # Errors
    /// What is wrong with the model.
    pub fn of(path: &Path) -> Result<Self> {
        let checkpoint = Checkpoint::open(path)?;
        let config = checkpoint.config();
        let notes = |kind| checkpoint.notes().iter().filter(move |note| note.kind == kind).map(Note::to_string);
        let (integers, tokenizer) = (integers(&checkpoint)?, checkpoint.tokenizer()?);
        Ok(ModelReport {
            path: path.into(),
            name: config.name.clone(),
            format: checkpoint.format_name(),
            architecture: architecture(config),
            positions: positions(config),
            stored: checkpoint.element_types(),
            arithmetic: arithmetic(&checkpoint, &integers),
            integers,
            text: config.bounds.describe(|id| tokenizer.token(id)),
            ignored: notes(NoteKind::Ignored).collect(),
            unusual: notes(NoteKind::Unusual).chain(more_tokens(config, tokenizer.vocab_size())).collect(),
        })
    }

    /// Writes it for people.
    pub(super) fn write(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let one = |what: &str, value: &str, out: &mut dyn Write| writeln!(out, "{what:17} {value}");
        one("model", &format!("{} ({})", self.path.display(), self.name), out)?;
        one("format", &self.format, out)?;
        one("architecture", &self.architecture, out)?;
        one("positions", &self.positions, out)?;
        for (what, values) in [("stored", &self.stored), ("integers", &self.integers)] {
            values.iter().try_for_each(|value| one(what, value, out))?;
        }
        one("arithmetic", &self.arithmetic, out)?;
        self.text.iter().try_for_each(|line| one("text", line, out))?;
        for (what, values) in [("ignored", &self.ignored), ("unusual", &self.unusual)] {
            values.iter().try_for_each(|value| one(what, value, out))?;
        }
        Ok(())
    }
}

/// Tokens that no row of the embedding is for.
fn more_tokens(config: &ModelConfig, tokens: usize) -> Option<String> {
    let text =
        format!("the tokenizer has {tokens} tokens for {} rows: texts that use the others are refused", config.vocab);
    (tokens > config.vocab).then_some(text)
}

fn architecture(config: &ModelConfig) -> String {
    let head = if config.tied_embeddings { "the embedding" } else { "its own" };
    let parts = [
        (config.attention_bias, ", biases in attention"),
        (config.mlp_bias, ", biases in the MLP"),
        (config.qk_norm(), ", norms of query and key heads"),
    ];
    let parts: String = parts.into_iter().filter(|(there, _)| *there).map(|(_, text)| text).collect();
    format!(
        "{} layers of width {}, {} query heads on {} of {}, MLP {} ({:?}), {} tokens, output layer {head}{parts}",
        config.n_layers,
        config.hidden,
        config.n_q_heads,
        config.n_kv_heads,
        config.head_dim,
        config.d_ff,
        config.activation,
        config.vocab
    )
}

fn positions(config: &ModelConfig) -> String {
    let scaling = match &config.rope_scaling {
        RopeScaling::None => "not scaled".to_owned(),
        RopeScaling::Linear { factor } => format!("linear, divided by {factor}"),
        RopeScaling::Llama3 { factor, .. } => format!("llama3, low frequencies divided by {factor}"),
        RopeScaling::Factors(_) => "divided by a table".to_owned(),
        RopeScaling::Yarn { factor, attention_factor, .. } => {
            format!("YaRN, low frequencies divided by {factor}, queries and keys times {attention_factor}")
        }
        RopeScaling::LongRope { attention_factor, .. } => {
            format!("LongRoPE, divided by a table, queries and keys times {attention_factor}")
        }
    };
    format!("{}, rotary base {}, {scaling}", config.context_length, config.rope_theta)
}

/// How the integer matrices of the first layer are meant, each way once with the matrices that have it.
fn integers(checkpoint: &Checkpoint) -> Result<Vec<String>> {
    let mut ways: Vec<(String, Vec<String>)> = Vec::new();
    for tensor in LayerTensor::ALL.into_iter().filter(|tensor| !tensor.is_vector()) {
        let Some(matrix) = checkpoint.layer_quantized(0, tensor)? else { continue };
        let order = if matrix.order.is_some() { ", groups of inputs that are no neighbours" } else { "" };
        let way = format!("{}{order}", codes(matrix.weight.format()));
        let name = format!("{tensor:?}");
        match ways.iter_mut().find(|(other, _)| *other == way) {
            Some((_, names)) => names.push(name),
            None => ways.push((way, vec![name])),
        }
    }
    Ok(ways.into_iter().map(|(way, names)| format!("{}: {way}", names.join(", "))).collect())
}

fn codes(format: Format) -> String {
    let bits = if format.bits == Bits::Four { 4 } else { 8 };
    let scale = match format.group_size() {
        Some(size) if format.stays_integer() => format!("a scale for each {size} inputs within one for each output"),
        Some(size) => format!("a scale for each {size} inputs"),
        None => "a scale for each output".to_owned(),
    };
    let offset = match format.offset() {
        Offset::None => "",
        Offset::F16 => " and an offset",
        Offset::ZeroPoint => " and a zero point",
    };
    format!("{bits} bits, {scale}{offset}")
}

/// What `--weights auto` would do.
fn arithmetic(checkpoint: &Checkpoint, integers: &[String]) -> String {
    match WeightScheme::Auto.resolved(checkpoint) {
        WeightScheme::AsFile if !integers.is_empty() => {
            "the file's integers times int8 activations, one scale a token (--weights dense: 16-bit floats)".into()
        }
        _ => "16-bit floats (--weights as-file: blocks of 4 to 8 bits times int8 activations)".into(),
    }
}
