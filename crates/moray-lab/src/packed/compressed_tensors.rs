//! compressed-tensors' `pack-quantized` layout: `weight_packed` int32 \[N, K/8\], eight k in a word, each code + 8;
//! `weight_scale` \[N, K/group\] in a float type; `weight_zero_point` int32 \[N/8, K/group\], eight n in a word, each + 8.
//! w = scale · (code − zero).

use std::path::Path;

use moray::w4a8::{Format, QuantizedWeight, Scales};
use serde_json::Value;

use super::nibbles::nibble;
use super::tensors::Projection;
use super::{Fields, Quantization, scales_of};
use crate::error::Result;

/// Reads the one group of weights that a configuration may have here.
pub(super) fn parse(path: &Path, config: &Value) -> Result<Quantization> {
    let top = Fields { path, config };
    let format = config.get("format").and_then(Value::as_str).unwrap_or("none");
    if format != "pack-quantized" {
        return Err(top.unsupported("format", "pack-quantized", format));
    }
    let groups = config.get("config_groups").and_then(Value::as_object);
    let weights = match groups.map(|groups| groups.values().collect::<Vec<_>>()).as_deref() {
        Some([group]) => group.get("weights"),
        _ => None,
    };
    let Some(weights) = weights else {
        return Err(top.unsupported("config_groups", "one group with weights", "none or several"));
    };
    let fields = Fields { path, config: weights };
    fields.four_bits(&["num_bits"])?;
    let kind = weights.get("type").and_then(Value::as_str).unwrap_or("int");
    if kind != "int" {
        return Err(fields.unsupported("weights.type", "int", kind));
    }
    let symmetric = weights.get("symmetric").and_then(Value::as_bool).unwrap_or(true);
    let group_size = match weights.get("strategy").and_then(Value::as_str) {
        Some("channel") => None,
        _ => fields.group(&["group_size"], &[32, 64, 128])?,
    };
    Ok(Quantization::CompressedTensors { group_size, symmetric })
}

pub(super) fn read(
    source: &Projection<'_>,
    n: usize,
    k: usize,
    group_size: Option<usize>,
    symmetric: bool,
) -> Result<QuantizedWeight> {
    let size = group_size.unwrap_or(k);
    let groups = k / size;
    if let Some(order) = source.optional("weight_g_idx") {
        let order = order.shaped(&[k])?.words()?;
        // −1 says that there is no order
        if order.iter().enumerate().any(|(i, &group)| group != u32::MAX && group as usize != i / size) {
            return Err(source.unsupported("weight_g_idx", "groups of neighbouring inputs", "another order"));
        }
    }
    let words = source.required("weight_packed")?.shaped(&[n, k / 8])?.words()?;
    let codes = words.iter().flat_map(|&word| (0..8).map(move |i| nibble(word, i) as i8)).collect();
    let scale = source.required("weight_scale")?.shaped(&[n, groups])?;
    if symmetric && group_size.is_none() {
        let scales = Scales::per_channel(scale.floats()?);
        return Ok(QuantizedWeight::new(n, k, Format::per_channel(), codes, scales)?);
    }
    let zeros = if symmetric {
        vec![8; n * groups]
    } else {
        let words = source.required("weight_zero_point")?.shaped(&[n.div_ceil(8), groups])?.words()?;
        (0..n * groups).map(|at| nibble(words[at / groups / 8 * groups + at % groups], at / groups % 8)).collect()
    };
    let scales = scales_of(group_size, scale.halves()?, zeros);
    let (format, scales) =
        scales.ok_or_else(|| source.unsupported("zero points", "none where a channel has one scale", "some"))?;
    Ok(QuantizedWeight::new(n, k, format, codes, scales)?)
}
