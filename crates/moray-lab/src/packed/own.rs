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
use moray::w4a8::{Bits, GroupOffset, QuantizedWeight, Scales};

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
    if weight.bits() != Bits::Four {
        return Err(unsupported("8 bits"));
    }
    let mut arrays = vec![StoredArray::u8(name("codes"), &[n, k / 2], pack_pairs(weight.codes()))];
    match weight.scales() {
        Scales::PerChannel { scale } => arrays.push(StoredArray::f32(name("scale"), &[n], scale)),
        Scales::PerGroup { group_size, scale, offset } => {
            arrays.push(StoredArray::f16(name("scale"), &[n, k / group_size], scale));
            match offset {
                GroupOffset::Symmetric => {}
                GroupOffset::F16(offset) => {
                    arrays.push(StoredArray::f16(name("offset"), &[n, k / group_size], offset));
                }
                GroupOffset::ZeroPoint(_) => return Err(unsupported("zero points")),
            }
        }
        Scales::TwoLevel { group_size, group_scale, scale } => {
            arrays.push(StoredArray::u8(name("group_scale"), &[n, k / group_size], group_scale.clone()));
            arrays.push(StoredArray::f32(name("scale"), &[n], scale));
        }
        Scales::Qqq { group_scale, scale } => {
            arrays.push(StoredArray::f16(name("group_scale"), &[n, k / 128], group_scale));
            arrays.push(StoredArray::f32(name("scale"), &[n], scale));
        }
    }
    Ok(arrays)
}

/// Reads what [`own_tensors`] wrote.
pub(super) fn read(source: &Projection<'_>, n: usize, k: usize) -> Result<QuantizedWeight> {
    let codes = unpack_pairs(&source.required("codes")?.shaped(&[n, k / 2])?.bytes()?);
    let scale = source.required("scale")?;
    let scales = match source.optional("group_scale") {
        Some(group_scale) if group_scale.dtype() == Dtype::U8 => {
            let group_size = group_size(&group_scale, n, k)?;
            let scale = scale.shaped(&[n])?.floats()?;
            Scales::TwoLevel { group_size, group_scale: group_scale.bytes()?, scale }
        }
        Some(group_scale) => {
            let group_scale = group_scale.shaped(&[n, k / 128])?.halves()?;
            Scales::Qqq { group_scale, scale: scale.shaped(&[n])?.floats()? }
        }
        None if scale.is_f32() => Scales::PerChannel { scale: scale.shaped(&[n])?.floats()? },
        None => {
            let group_size = group_size(&scale, n, k)?;
            let offset = match source.optional("offset") {
                Some(offset) => GroupOffset::F16(offset.shaped(&[n, k / group_size])?.halves()?),
                None => GroupOffset::Symmetric,
            };
            Scales::PerGroup { group_size, scale: scale.halves()?, offset }
        }
    };
    Ok(QuantizedWeight::new(n, k, Bits::Four, codes, scales)?)
}

/// K over the groups that an array of \[N, groups\] has.
fn group_size(array: &Array<'_>, n: usize, k: usize) -> Result<usize> {
    match array.shape() {
        [rows, groups] if *rows == n && *groups > 0 && k % groups == 0 => Ok(k / groups),
        _ => Err(array.malformed_shape(&format!("[{n}, a divisor of {k}]"))),
    }
}
