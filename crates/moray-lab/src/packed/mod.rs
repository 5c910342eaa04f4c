//! Checkpoints whose matrices are integers already: moray's own layout, QQQ, GPTQ, AWQ, AutoRound and compressed-tensors.
//!
//! `config.json` names the layout in `quantization_config`; each has its tensors under a projection's prefix
//! (`model.layers.0.self_attn.q_proj`) instead of `.weight`. All are read into [`PackedMatrix`] without requantizing, so
//! that they run with int8 activations; projections are stored one by one and joined when they are loaded. Every key of the
//! configuration is in a table of `keys.rs`, or the file is refused.

mod auto_round;
mod awq;
mod compressed_tensors;
mod gptq;
mod keys;
mod matrix;
mod nibbles;
mod overrides;
mod own;
mod qqq;
mod schemes;
mod tensors;

use std::path::Path;

use serde_json::Value;

use self::keys::{AWQ, COMPRESSED, GPTQ, OWN, PROVENANCE, QQQ};
use crate::error::{Error, Result};
use crate::fields::Fields;
pub use gptq::Gptq;
pub use matrix::PackedMatrix;
pub use own::{LAYOUT_VERSION, own_tensors};
pub(crate) use qqq::QQQ_BLOCK;
pub use qqq::qqq_tensors;
pub use schemes::{Scheme, Schemes};
pub(crate) use tensors::PackedTensors;
pub use tensors::{StoredArray, serialize_arrays};

/// How the matrices of a checkpoint's layers are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Quantization {
    /// moray's own layout.
    Own,
    /// QQQ's: per-channel, or groups of 128.
    Qqq {
        /// None for a scale for each channel.
        group_size: Option<usize>,
    },
    /// GPTQ's, codes along K.
    Gptq(Gptq),
    /// AWQ's, four bits along N in its interleaved order.
    Awq(Schemes),
    /// compressed-tensors' `pack-quantized`.
    CompressedTensors(Schemes),
}

impl Quantization {
    /// Reads a configuration; `path` and `prefix` only name its keys in messages, and `method` is what the arrays look like, for
    /// files that do not name one.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for methods, bits and group sizes that are not read here and for keys that are not known,
    /// [`Error::Malformed`] for keys that contradict each other, [`Error::MissingKey`].
    pub fn parse(path: &Path, prefix: &str, config: &Value, method: Option<&str>) -> Result<Self> {
        let fields = Fields::new(path, prefix, config)?;
        let stated = fields.text(&["quant_method", "method"])?.map(str::to_lowercase);
        match stated.as_deref().or(method).unwrap_or("an unnamed method") {
            "moray" => {
                fields.check(&[PROVENANCE, OWN])?;
                let version = fields.integer(&["version"])?.ok_or_else(|| fields.missing("version"))?;
                if version != i64::from(LAYOUT_VERSION) {
                    return Err(fields.unsupported("version", LAYOUT_VERSION.to_string(), version));
                }
                Ok(Quantization::Own)
            }
            "qqq" => {
                fields.check(&[PROVENANCE, QQQ])?;
                qqq::parse(&fields)
            }
            "gptq" | "gptqmodel" => {
                fields.check(&[PROVENANCE, GPTQ, keys::AUTO_ROUND])?;
                Ok(Quantization::Gptq(Gptq::parse(&fields, None)?))
            }
            "awq" => {
                fields.check(&[PROVENANCE, AWQ, keys::AUTO_ROUND])?;
                Ok(Quantization::Awq(awq::parse(&fields)?))
            }
            "auto-round" | "intel/auto-round" => auto_round::parse(&fields),
            "compressed-tensors" => {
                fields.check(&[PROVENANCE, COMPRESSED])?;
                Ok(Quantization::CompressedTensors(compressed_tensors::parse(&fields)?))
            }
            other => {
                let expected = "F32, F16 or BF16 weights, or moray, qqq, gptq, awq, auto-round or compressed-tensors";
                Err(Error::unsupported(path, fields.name("quant_method"), expected, other))
            }
        }
    }

    /// What people call the layout.
    pub fn name(&self) -> &'static str {
        match self {
            Quantization::Own => "moray's own layout",
            Quantization::Qqq { .. } => "QQQ's layout",
            Quantization::Gptq(_) => "GPTQ's layout",
            Quantization::Awq(_) => "AWQ's layout",
            Quantization::CompressedTensors(_) => "compressed-tensors' pack-quantized layout",
        }
    }

    /// The method whose layout arrays of these names and shapes are in, if they are in one.
    pub(crate) fn method_of<'a>(arrays: impl Iterator<Item = (&'a str, &'a [usize])> + Clone) -> Option<&'static str> {
        let shape = |name: &str| arrays.clone().find(|(other, _)| *other == name).map(|(_, shape)| shape);
        arrays.clone().find_map(|(name, words)| {
            let (prefix, suffix) = name.rsplit_once('.')?;
            match suffix {
                "qweight" => match (words.last()?, shape(&format!("{prefix}.scales"))?.last()?) {
                    (words, channels) if words == channels => Some("gptq"),
                    (words, channels) if words.checked_mul(8) == Some(*channels) => Some("awq"),
                    _ => None,
                },
                "weight_packed" => Some("compressed-tensors"),
                "B" => shape(&format!("{prefix}.s_channel")).map(|_| "qqq"),
                _ => None,
            }
        })
    }

    /// The suffixes of the tensors that a projection of K inputs must have.
    pub(crate) fn required(&self, k: usize) -> &'static [&'static str] {
        match self {
            Quantization::Own => &["codes", "scale"],
            // a group as long as K means a scale for each channel
            Quantization::Qqq { group_size } if group_size.is_some_and(|size| size != k) => {
                &["B", "s_channel", "s_group"]
            }
            Quantization::Qqq { .. } => &["B", "s_channel"],
            Quantization::Gptq(_) | Quantization::Awq(_) => &["qweight", "scales"],
            Quantization::CompressedTensors(_) => &["weight_packed", "weight_scale"],
        }
    }

    /// The suffixes that a projection may have besides.
    pub(crate) fn optional(&self) -> &'static [&'static str] {
        match self {
            Quantization::Own => &["offset", "group_scale"],
            Quantization::Qqq { .. } => &["s_group"],
            Quantization::Gptq(_) => &["qzeros", "g_idx"],
            Quantization::Awq(_) => &["qzeros"],
            Quantization::CompressedTensors(_) => &["weight_shape", "weight_g_idx", "weight_zero_point"],
        }
    }

    /// Whether a tensor of this name belongs to the layout and not to the floats.
    pub(crate) fn owns(&self, name: &str) -> bool {
        let suffix = name.rsplit('.').next().unwrap_or(name);
        self.required(0).contains(&suffix) || self.optional().contains(&suffix)
    }

    /// Reads the projection under `prefix`, \[N, K\].
    ///
    /// # Errors
    /// [`Error::MissingTensor`], [`Error::Malformed`] for arrays of another shape or type, [`Error::Unsupported`] for
    /// what contradicts the configuration, [`Error::Kernel`] for scales and codes out of range.
    pub(crate) fn read(&self, tensors: &PackedTensors<'_>, prefix: &str, n: usize, k: usize) -> Result<PackedMatrix> {
        let source = tensors.under(prefix);
        match self {
            Quantization::Own => own::read(&source, n, k).map(Into::into),
            Quantization::Qqq { group_size } => qqq::read(&source, n, k, *group_size).map(Into::into),
            Quantization::Gptq(gptq) => gptq.read(&source, n, k),
            Quantization::Awq(schemes) => awq::read(schemes, &source, n, k),
            Quantization::CompressedTensors(schemes) => compressed_tensors::read(schemes, &source, n, k),
        }
    }
}
