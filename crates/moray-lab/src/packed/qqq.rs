//! QQQ's layout, by the arrays of [`QqqArrays`]: `B` is int32 \[K/16, 2N\], `s_channel` f32 \[1, N\], `s_group` f16 \[K/128, N\].

use moray::w4a8::{Bits, QqqArrays, QuantizedWeight};

use super::Quantization;
use super::schemes::Scheme;
use super::tensors::{Projection, StoredArray};
use crate::error::Result;
use crate::fields::Fields;

/// What N and K of a matrix are multiples of.
pub(crate) const QQQ_BLOCK: usize = 64;

/// Inputs of a row of `B`, and of a group.
const BLOCK_K: usize = 16;
const GROUP: usize = 128;

/// The arrays of a matrix under `prefix`: `B`, `s_channel` and, with groups, `s_group`.
///
/// # Errors
/// [`crate::Error::Kernel`] unless the scales are per channel or in QQQ's group form and N and K are multiples of 64.
pub fn qqq_tensors(prefix: &str, weight: &QuantizedWeight) -> Result<Vec<StoredArray>> {
    let QqqArrays { n, k, codes, channel_scale, group_scale } = QqqArrays::of(weight)?;
    let name = |suffix: &str| format!("{prefix}.{suffix}");
    let mut arrays = vec![
        StoredArray::i32(name("B"), &[k / BLOCK_K, 2 * n], &codes),
        StoredArray::f32(name("s_channel"), &[1, n], &channel_scale),
    ];
    if let Some(groups) = group_scale {
        arrays.push(StoredArray::f16(name("s_group"), &[k / GROUP, n], &groups));
    }
    Ok(arrays)
}

/// Reads the keys that say what the layout holds.
pub(super) fn parse(fields: &Fields<'_>) -> Result<Quantization> {
    let scheme = Scheme::parse(fields, None, None)?;
    match (scheme.bits, scheme.group_size) {
        (Bits::Eight, _) => Err(fields.unsupported("bits", "4 in this layout", 8)),
        (Bits::Four, group_size @ (None | Some(128))) => Ok(Quantization::Qqq { group_size }),
        (Bits::Four, Some(got)) => Err(fields.unsupported("group_size", "-1 or 128 in this layout", got)),
    }
}

pub(super) fn read(source: &Projection<'_>, n: usize, k: usize, group_size: Option<usize>) -> Result<QuantizedWeight> {
    // a group as long as K means a scale for each channel
    let grouped = group_size.is_some_and(|size| size != k || source.optional("s_group").is_some());
    let codes = source.required("B")?.shaped(&[k / BLOCK_K, 2 * n])?.words()?;
    let channel_scale = source.required("s_channel")?.shaped(&[1, n])?.floats()?;
    let group_scale = match grouped {
        true => Some(source.required("s_group")?.shaped(&[k / GROUP, n])?.halves()?),
        false => None,
    };
    Ok(QqqArrays { n, k, codes, channel_scale, group_scale }.weight()?)
}
