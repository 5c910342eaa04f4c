//! Checkpoints whose matrices are 4-bit integers already: moray's own layout, QQQ, GPTQ, AWQ and compressed-tensors.
//!
//! `config.json` names the layout in `quantization_config`; each has its tensors under a projection's prefix
//! (`model.layers.0.self_attn.q_proj`) instead of `.weight`. All are read into [`QuantizedWeight`] without requantizing, so
//! that they run with int8 activations; projections are stored one by one and joined when they are loaded.

mod awq;
mod compressed_tensors;
mod gptq;
mod nibbles;
mod own;
mod qqq;
mod tensors;

use std::path::Path;

use moray::w4a8::{Format, Offset, QuantizedWeight, Scales};
use serde_json::Value;

use crate::error::{Error, Result};
pub use own::{LAYOUT_VERSION, own_tensors};
pub(crate) use qqq::QQQ_BLOCK;
pub use qqq::qqq_tensors;
pub(crate) use tensors::PackedTensors;
pub use tensors::{StoredArray, serialize_arrays};

/// How the matrices of a checkpoint's layers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Quantization {
    /// moray's own layout.
    Own,
    /// QQQ's: per-channel, or groups of 128.
    Qqq {
        /// None for a scale for each channel.
        group_size: Option<usize>,
    },
    /// GPTQ's, four bits along K.
    Gptq {
        /// None for a scale for each channel.
        group_size: Option<usize>,
        /// Whether zero points are stored as they are; the older form stores them less one.
        second_form: bool,
    },
    /// AWQ's, four bits along N in its interleaved order.
    Awq {
        /// Values that share a scale.
        group_size: usize,
    },
    /// compressed-tensors' `pack-quantized`.
    CompressedTensors {
        /// None for a scale for each channel.
        group_size: Option<usize>,
        /// Whether there are no zero points.
        symmetric: bool,
    },
}

impl Quantization {
    /// Reads `quantization_config`; `path` only names the file in messages.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for methods, bits and group sizes that are not read here, [`Error::MissingKey`].
    pub fn parse(path: &Path, config: &Value) -> Result<Self> {
        let fields = Fields { path, config };
        let method = config.get("quant_method").and_then(Value::as_str).unwrap_or("an unnamed method");
        match method {
            "moray" => {
                let version = fields.integer(&["version"])?;
                if version != i64::from(LAYOUT_VERSION) {
                    return Err(fields.unsupported("version of the layout", &LAYOUT_VERSION.to_string(), version));
                }
                Ok(Quantization::Own)
            }
            "qqq" => {
                fields.four_bits(&["wbits", "bits"])?;
                let group_size = fields.group(&["group_size"], &[128])?;
                if config.get("rotation").is_some_and(|rotation| !rotation.is_null()) {
                    let got = "one whose down projection needs a rotation at run time";
                    return Err(fields.unsupported("rotation", "none", got));
                }
                Ok(Quantization::Qqq { group_size })
            }
            "gptq" => {
                fields.four_bits(&["bits"])?;
                let form = config.get("checkpoint_format").and_then(Value::as_str).unwrap_or("gptq");
                if !["gptq", "gptq_v2"].contains(&form) {
                    return Err(fields.unsupported("checkpoint_format", "gptq or gptq_v2", form));
                }
                let group_size = fields.group(&["group_size"], &[32, 64, 128])?;
                Ok(Quantization::Gptq { group_size, second_form: form == "gptq_v2" })
            }
            "awq" => {
                fields.four_bits(&["bits", "w_bit"])?;
                let version = config.get("version").and_then(Value::as_str).unwrap_or("gemm").to_lowercase();
                if version != "gemm" {
                    return Err(fields.unsupported("awq version", "gemm", version));
                }
                let group_size = fields.group(&["group_size", "q_group_size"], &[32, 64, 128])?;
                let group_size = group_size.ok_or_else(|| fields.unsupported("group_size", "32, 64 or 128", -1))?;
                Ok(Quantization::Awq { group_size })
            }
            "compressed-tensors" => compressed_tensors::parse(path, config),
            _ => {
                let expected = "F32, F16 or BF16 weights, or moray, qqq, gptq, awq or compressed-tensors";
                Err(Error::unsupported(path, "quantization_config", expected, method))
            }
        }
    }

    /// The suffixes of the tensors that a projection of K inputs must have.
    pub(crate) fn required(self, k: usize) -> &'static [&'static str] {
        match self {
            Quantization::Own => &["codes", "scale"],
            // a group as long as K means a scale for each channel
            Quantization::Qqq { group_size } if group_size.is_some_and(|size| size != k) => {
                &["B", "s_channel", "s_group"]
            }
            Quantization::Qqq { .. } => &["B", "s_channel"],
            Quantization::Gptq { .. } | Quantization::Awq { .. } => &["qweight", "qzeros", "scales"],
            Quantization::CompressedTensors { symmetric: true, .. } => &["weight_packed", "weight_scale"],
            Quantization::CompressedTensors { symmetric: false, .. } => {
                &["weight_packed", "weight_scale", "weight_zero_point"]
            }
        }
    }

    /// The suffixes that a projection may have besides.
    pub(crate) fn optional(self) -> &'static [&'static str] {
        match self {
            Quantization::Own => &["offset", "group_scale"],
            Quantization::Qqq { .. } => &["s_group"],
            Quantization::Gptq { .. } => &["g_idx"],
            Quantization::Awq { .. } => &[],
            Quantization::CompressedTensors { .. } => &["weight_shape", "weight_g_idx", "weight_zero_point"],
        }
    }

    /// Whether a tensor of this name belongs to the layout and not to the floats.
    pub(crate) fn owns(self, name: &str) -> bool {
        let suffix = name.rsplit('.').next().unwrap_or(name);
        self.required(0).contains(&suffix) || self.optional().contains(&suffix)
    }

    /// Reads the projection under `prefix`, \[N, K\].
    ///
    /// # Errors
    /// [`Error::MissingTensor`], [`Error::Malformed`] for arrays of another shape or type, [`Error::Unsupported`] for
    /// group orders that need the inputs reordered, [`Error::Kernel`] for scales and codes out of range.
    pub(crate) fn read(self, tensors: &PackedTensors<'_>, prefix: &str, n: usize, k: usize) -> Result<QuantizedWeight> {
        let source = tensors.under(prefix);
        match self {
            Quantization::Own => own::read(&source, n, k),
            Quantization::Qqq { group_size } => qqq::read(&source, n, k, group_size),
            Quantization::Gptq { group_size, second_form } => gptq::read(&source, n, k, group_size, second_form),
            Quantization::Awq { group_size } => awq::read(&source, n, k, group_size),
            Quantization::CompressedTensors { group_size, symmetric } => {
                compressed_tensors::read(&source, n, k, group_size, symmetric)
            }
        }
    }
}

/// Format and scales of codes 0..=15 with a zero point for each group: without one where all are 8.
fn scales_of(group_size: Option<usize>, scale: Vec<half::f16>, zero: Vec<u8>) -> Option<(Format, Scales)> {
    let symmetric = zero.iter().all(|&zero| zero == 8);
    match group_size {
        None if symmetric => {
            Some((Format::per_channel(), Scales::per_channel(scale.iter().map(|s| s.to_f32()).collect())))
        }
        None => None,
        Some(size) if symmetric => Some((Format::per_group(size, Offset::None), Scales::per_group(scale, None))),
        Some(size) => Some((Format::per_group(size, Offset::ZeroPoint), Scales::per_group(scale, Some(zero.into())))),
    }
}

/// `quantization_config` and where it stands.
struct Fields<'a> {
    path: &'a Path,
    config: &'a Value,
}

impl Fields<'_> {
    fn unsupported(&self, what: &str, expected: &str, got: impl ToString) -> Error {
        Error::unsupported(self.path, format!("quantization_config.{what}"), expected, got)
    }

    /// The first of several spellings that is there.
    fn integer(&self, keys: &[&str]) -> Result<i64> {
        let found = keys.iter().find_map(|key| self.config.get(*key));
        let missing = || Error::missing_key(self.path, format!("quantization_config.{}", keys[0]));
        found.and_then(Value::as_i64).ok_or_else(missing)
    }

    fn four_bits(&self, keys: &[&str]) -> Result<()> {
        match self.integer(keys)? {
            4 => Ok(()),
            got => Err(self.unsupported("bits", "4", got)),
        }
    }

    fn group(&self, keys: &[&str], allowed: &[i64]) -> Result<Option<usize>> {
        match self.integer(keys)? {
            -1 => Ok(None),
            size if allowed.contains(&size) => Ok(Some(size as usize)),
            got => Err(self.unsupported("group_size", &format!("-1 or one of {allowed:?}"), got)),
        }
    }
}
