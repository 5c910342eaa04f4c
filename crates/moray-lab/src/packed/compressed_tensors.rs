//! compressed-tensors' `pack-quantized` layout: `weight_packed` int32 \[N, K/8\], eight k in a word (four of 8 bits), each code + 8 (128);
//! `weight_scale` \[N, K/group\] in a float type; `weight_zero_point` int32 \[N/8, K/group\], eight n in a word, each + 8, or one a byte
//! as it is; `weight_g_idx` int32 \[K\], the group of each input, −1 where there is no order. w = scale · (code − zero).

use ::safetensors::Dtype;
use moray::w4a8::{ExportedArrays, ExportedLayout};
use serde_json::{Value, json};

use super::keys::{COMPRESSED_GROUP, COMPRESSED_INPUTS, COMPRESSED_WEIGHTS, SPARSITY};
use super::matrix::{PackedMatrix, matrix, unpack};
use super::schemes::{Scheme, Schemes, width};
use super::tensors::Projection;
use crate::error::Result;
use crate::fields::Fields;

/// Reads what the groups of matrices are.
pub(super) fn parse(top: &Fields<'_>) -> Result<Schemes> {
    if let Some(sparsity) = top.get("sparsity_config") {
        Fields::new(top.path, &top.name("sparsity_config."), sparsity)?.check(&[SPARSITY])?;
    }
    if top.get("format").is_none() {
        return Err(top.missing("format"));
    }
    let stated = top.get("config_groups").ok_or_else(|| top.missing("config_groups"))?;
    let prefix = top.name("config_groups.");
    let mut schemes: Option<Schemes> = None;
    for (name, group) in Fields::new(top.path, &prefix, stated)?.iter() {
        // a list of targets stands for a scheme that its key names
        let preset = group.is_array().then(|| preset(name)).flatten();
        let Some(scheme) = scheme(top, &format!("{prefix}{name}."), preset.as_ref().unwrap_or(group))? else {
            continue;
        };
        match &mut schemes {
            Some(schemes) => schemes.add(scheme),
            None => schemes = Some(scheme.into()),
        }
    }
    schemes.ok_or_else(|| top.unsupported("config_groups", "a group with weights", "none"))
}

/// What one group says of its weights, if it has any.
fn scheme(top: &Fields<'_>, prefix: &str, group: &Value) -> Result<Option<Scheme>> {
    let group = Fields::new(top.path, prefix, group)?;
    group.check(&[COMPRESSED_GROUP])?;
    if let Some(inputs) = group.get("input_activations") {
        Fields::new(top.path, &group.name("input_activations."), inputs)?.check(&[COMPRESSED_INPUTS])?;
    }
    let Some(weights) = group.get("weights") else { return Ok(None) };
    let prefix = group.name("weights.");
    let weights = Fields::new(top.path, &prefix, weights)?;
    weights.check(&[COMPRESSED_WEIGHTS])?;
    let symmetric = Some(weights.flag("symmetric")?.unwrap_or(true));
    let channel = match (weights.text(&["strategy"])?, weights.integer(&["group_size"])?) {
        (Some(strategy), _) => strategy.eq_ignore_ascii_case("channel"),
        (None, Some(size)) => size == -1,
        (None, None) => return Err(weights.missing("strategy")),
    };
    let base = Scheme { bits: moray::w4a8::Bits::Eight, group_size: None, symmetric };
    let scheme = Scheme::parse(&weights, Some(base), symmetric)?;
    match scheme.group_size {
        Some(got) if channel => Err(weights.unsupported("group_size", "none beside whole channels", got)),
        None if !channel => Err(weights.missing("group_size")),
        _ => Ok(Some(scheme)),
    }
}

/// The schemes that have a name, as far as they are read here.
fn preset(name: &str) -> Option<Value> {
    let weights = |bits: u8, symmetric: bool, group: Option<u8>| {
        let strategy = if group.is_some() { "group" } else { "channel" };
        json!({"num_bits": bits, "symmetric": symmetric, "strategy": strategy, "group_size": group})
    };
    let inputs = json!({"num_bits": 8, "strategy": "token", "dynamic": true, "symmetric": true});
    match name.to_uppercase().as_str() {
        "W4A16" => Some(json!({"weights": weights(4, true, Some(128))})),
        "W4A16_ASYM" => Some(json!({"weights": weights(4, false, Some(128))})),
        "W8A16" => Some(json!({"weights": weights(8, true, None)})),
        "W4A8" => Some(json!({"weights": weights(4, true, Some(128)), "input_activations": inputs})),
        _ => None,
    }
}

pub(super) fn read(schemes: &Schemes, source: &Projection<'_>, n: usize, k: usize) -> Result<PackedMatrix> {
    let packed = source.required("weight_packed")?;
    let bits = source.bits(&packed, n * k)?;
    let per_word = 32 / width(bits);
    let words = packed.shaped(&[n, k / per_word])?.words()?;
    let scale = source.required("weight_scale")?;
    let groups = scale.elems() / n;
    let scale = scale.shaped(&[n, groups])?.floats()?;
    let symmetric = schemes.symmetric(source, bits, k, groups)?;
    let (mut zeros, mut zero) = (None, None);
    match source.optional("weight_zero_point") {
        Some(array) if array.dtype() == Dtype::I8 => {
            let middle = 1u8 << (width(bits) - 1);
            let centred = |zero: u8| zero.wrapping_add(middle);
            zero = Some(array.shaped(&[n, groups])?.bytes()?.into_iter().map(centred).collect());
        }
        Some(array) => zeros = Some(array.shaped(&[n.div_ceil(per_word), groups])?.words()?),
        None if symmetric == Some(false) => return Err(source.missing("weight_zero_point")),
        None => {}
    }
    let group_of = source.optional("weight_g_idx").map(|array| array.shaped(&[k])?.words()).transpose()?;
    let group_of = group_of.filter(|groups| groups.iter().any(|&group| group != u32::MAX));
    let layout = ExportedLayout::CompressedTensors;
    let arrays = ExportedArrays { layout, n, k, bits, codes: &words, scales: &scale, zeros: zeros.as_deref() };
    let mut codes = unpack(source, &arrays)?;
    codes.zero = zero.or(codes.zero);
    matrix(source, codes, symmetric, group_of.as_deref())
}
