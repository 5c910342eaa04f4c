//! moray's own layout, version 1: plain codes and scales, independent of any packing.
//!
//! | array | type | shape | when |
//! |---|---|---|---|
//! | `codes` | U8 | \[N, K/2\], the even k in the low half | always |
//! | `scale` | F32 | \[N\] | a scale for each channel, two-level, QQQ's group form |
//! | `scale` | F16 | \[N, K/group\] | groups |
//! | `offset` | F16 | \[N, K/group\] | groups with offsets |
//! | `group_scale` | U8 | \[N, K/group\] | two-level |
//! | `group_scale` | F16 | \[N, K/128\] | QQQ's group form |
//!
//! The meaning is that of [`Scales`]; the group size follows from the shapes.

use ::safetensors::Dtype;
use moray::w4a8::{Bits, Format, Offset, QuantizedWeight, Scales, Values};

use super::nibbles::{pack_pairs, unpack_pairs};
use super::tensors::{Array, Projection, StoredArray};
use crate::error::{Error, Result};

/// The version that is written and read.
pub const LAYOUT_VERSION: u32 = 1;

/// The arrays of a 4-bit matrix under `prefix`.
///
/// # Errors
/// [`Error::Kernel`] for 8-bit codes and zero points, which quantization here does not make.
pub fn own_tensors(prefix: &str, weight: &QuantizedWeight) -> Result<Vec<StoredArray>> {
    let (n, k) = (weight.n(), weight.k());
    let name = |suffix: &str| format!("{prefix}.{suffix}");
    let unsupported = |got: &str| {
        let expected = "4-bit codes without zero points";
        Error::Kernel(moray::Error::Unsupported { what: "weight", expected, got: got.into() })
    };
    if weight.format().bits != Bits::Four {
        return Err(unsupported("8 bits"));
    }
    let mut arrays = vec![StoredArray::u8(name("codes"), &[n, k / 2], pack_pairs(weight.codes()))];
    let Scales { channel, group, offset } = weight.scales();
    if weight.format().offset() == Offset::ZeroPoint {
        return Err(unsupported("zero points"));
    }
    let groups = [n, weight.format().groups(k)];
    // the only scales there are go by one name, those over the channel's by another
    let group_name = if channel.is_some() { "group_scale" } else { "scale" };
    for (suffix, values) in [(group_name, group), ("offset", offset)] {
        match values {
            None => {}
            Some(Values::F16(values)) => arrays.push(StoredArray::f16(name(suffix), &groups, values)),
            Some(Values::U8(values)) => arrays.push(StoredArray::u8(name(suffix), &groups, values.clone())),
        }
    }
    if let Some(channel) = channel {
        arrays.push(StoredArray::f32(name("scale"), &[n], channel));
    }
    Ok(arrays)
}

/// Reads what [`own_tensors`] wrote.
pub(super) fn read(source: &Projection<'_>, n: usize, k: usize) -> Result<QuantizedWeight> {
    let codes = unpack_pairs(&source.required("codes")?.shaped(&[n, k / 2])?.bytes()?);
    let scale = source.required("scale")?;
    let (format, scales) = match source.optional("group_scale") {
        Some(group) => {
            let channel = scale.shaped(&[n])?.floats()?;
            if group.dtype() == Dtype::U8 {
                let format = Format::two_level(group_size(&group, n, k)?);
                (format, Scales::over_channel(group.bytes()?, channel))
            } else {
                (Format::qqq(), Scales::over_channel(group.shaped(&[n, k / 128])?.halves()?, channel))
            }
        }
        None if scale.is_f32() => (Format::per_channel(), Scales::per_channel(scale.shaped(&[n])?.floats()?)),
        None => {
            let size = group_size(&scale, n, k)?;
            let offset = source.optional("offset").map(|offset| offset.shaped(&[n, k / size])?.halves()).transpose()?;
            let kind = if offset.is_some() { Offset::F16 } else { Offset::None };
            (Format::per_group(size, kind), Scales::per_group(scale.halves()?, offset.map(Values::F16)))
        }
    };
    Ok(QuantizedWeight::new(n, k, format, codes, scales)?)
}

/// K over the groups that an array of \[N, groups\] has.
fn group_size(array: &Array<'_>, n: usize, k: usize) -> Result<usize> {
    match array.shape() {
        [rows, groups] if *rows == n && *groups > 0 && k % groups == 0 => Ok(k / groups),
        _ => Err(array.malformed_shape(&format!("[{n}, a divisor of {k}]"))),
    }
}
