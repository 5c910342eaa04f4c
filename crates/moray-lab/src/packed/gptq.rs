//! GPTQ's layout: `qweight` int32 \[K/8, N\], eight k in a word (four of 8 bits); `qzeros` int32 \[K/group, N/8\], eight n in a word;
//! `scales` f16 \[K/group, N\]; `g_idx` int32 \[K\], the group of each input. w = scale · (code − zero).
//!
//! The older form stores zero points less one. AutoGPTQ wraps each in its own bits, so that 0 becomes 15; GPTQModel and AutoRound
//! subtract from whole words, with borrows, and their words give the zero points back when as much is added.

use moray::w4a8::{ExportedArrays, ExportedLayout, StoredZeros};
use serde_json::Value;

use super::matrix::{PackedMatrix, matrix, unpack};
use super::overrides::overrides;
use super::schemes::{Schemes, width};
use super::tensors::Projection;
use crate::error::Result;
use crate::fields::Fields;

/// GPTQ's layout with what a configuration says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gptq {
    /// Bits and groups.
    pub schemes: Schemes,
    /// How zero points are stored.
    pub zeros: StoredZeros,
    /// Whether inputs are in groups of their own choice, so that a matrix has to say which.
    pub act_order: bool,
}

impl Gptq {
    /// Reads the keys that say what the layout holds; `zeros` is for a form that other keys name.
    ///
    /// # Errors
    /// [`crate::Error::Unsupported`], [`crate::Error::Malformed`], [`crate::Error::MissingKey`].
    pub(super) fn parse(fields: &Fields<'_>, zeros: Option<StoredZeros>) -> Result<Self> {
        let zeros = match (zeros, fields.text(&["format", "checkpoint_format"])?.map(str::to_lowercase).as_deref()) {
            (Some(zeros), _) => zeros,
            (None, None | Some("gptq")) if by_word(fields) => StoredZeros::LessOneByWord,
            (None, None | Some("gptq")) => StoredZeros::LessOne,
            (None, Some("gptq_v2")) => StoredZeros::Plain,
            (None, Some(other)) => return Err(fields.unsupported("format", "gptq or gptq_v2", other)),
        };
        let act_order = fields.flag("desc_act")?.unwrap_or(false) && !fields.flag("static_groups")?.unwrap_or(false);
        Ok(Gptq { schemes: overrides(fields, fields.flag("sym")?)?, zeros, act_order })
    }

    pub(super) fn read(&self, source: &Projection<'_>, n: usize, k: usize) -> Result<PackedMatrix> {
        let qweight = source.required("qweight")?;
        let bits = source.bits(&qweight, n * k)?;
        let per_word = 32 / width(bits);
        let words = qweight.shaped(&[k / per_word, n])?.words()?;
        let scales = source.required("scales")?;
        let groups = scales.elems() / n;
        let scale = scales.shaped(&[groups, n])?.floats()?;
        let symmetric = self.schemes.symmetric(source, bits, k, groups)?;
        let zeros = match source.optional("qzeros") {
            Some(array) => Some(array.shaped(&[groups, n.div_ceil(per_word)])?.words()?),
            None if symmetric == Some(false) => return Err(source.missing("qzeros")),
            None => None,
        };
        let group_of = source.optional("g_idx").map(|array| array.shaped(&[k])?.words()).transpose()?;
        if self.act_order && group_of.is_none() && groups > 1 {
            return Err(source.missing("g_idx"));
        }
        let layout = ExportedLayout::Gptq(self.zeros);
        let arrays = ExportedArrays { layout, n, k, bits, codes: &words, scales: &scale, zeros: zeros.as_deref() };
        matrix(source, unpack(source, &arrays)?, symmetric, group_of.as_deref())
    }
}

/// Whether a program wrote the file that subtracts from whole words.
fn by_word(fields: &Fields<'_>) -> bool {
    let quantizer = fields.get("meta").and_then(|meta| meta.get("quantizer"));
    let names: Vec<&str> = match quantizer {
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
        Some(Value::String(name)) => vec![name],
        _ => Vec::new(),
    };
    let auto_round = fields.get("autoround_version").is_some()
        || fields.get("provider").and_then(Value::as_str) == Some("auto-round");
    auto_round || names.iter().any(|name| name.starts_with("gptqmodel"))
}
