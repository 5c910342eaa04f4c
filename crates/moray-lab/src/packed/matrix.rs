//! A matrix as integer codes, in the form that operations take.

use moray::w4a8::{Bits, ExportedArrays, ExportedMatrix, QuantizedWeight};

use super::tensors::Projection;
use crate::error::Result;

/// A matrix w\[N, K\] as integer codes, perhaps for inputs in another order.
#[derive(Debug, Clone, PartialEq)]
pub struct PackedMatrix {
    /// Codes and scales.
    pub weight: QuantizedWeight,
    /// u32 \[K\]: column j of the codes goes with input `order[j]`; none where every column goes with its own.
    pub order: Option<Vec<u32>>,
}

impl From<QuantizedWeight> for PackedMatrix {
    fn from(weight: QuantizedWeight) -> Self {
        PackedMatrix { weight, order: None }
    }
}

impl PackedMatrix {
    /// The whole matrix as f32 \[N, K\], columns in the order of the inputs.
    pub fn dequantize(&self) -> Vec<f32> {
        let values = self.weight.dequantize();
        let Some(order) = &self.order else { return values };
        let mut out = vec![0.0; values.len()];
        for (out, row) in out.chunks_exact_mut(order.len()).zip(values.chunks_exact(order.len())) {
            order.iter().zip(row).for_each(|(&input, &value)| out[input as usize] = value);
        }
        out
    }
}

/// Takes codes out of a checkpoint's words.
///
/// # Errors
/// [`crate::Error::Unsupported`] for what the layout does not hold, [`crate::Error::Kernel`] for sizes of no weight.
pub(super) fn unpack(source: &Projection<'_>, arrays: &ExportedArrays<'_>) -> Result<ExportedMatrix> {
    arrays.unpack().map_err(|error| named(source, error))
}

/// Makes a weight of codes with a scale and a zero point for each group; `symmetric` is what the file says of zero points, `group_of`
/// the group of each input where neighbours do not share one.
///
/// # Errors
/// [`crate::Error::Unsupported`] for zero points that contradict what the file says of them or that 8-bit codes cannot have, for
/// orders with groups of unlike sizes, and for groups of no multiple of 32; [`crate::Error::Kernel`] for scales out of range.
pub(super) fn matrix(
    source: &Projection<'_>,
    codes: ExportedMatrix,
    symmetric: Option<bool>,
    group_of: Option<&[u32]>,
) -> Result<PackedMatrix> {
    if let (Some(true), Some(got)) = (symmetric, codes.off_centre()) {
        let centre = if codes.bits == Bits::Four { 8 } else { 128 };
        let expected = format!("{centre} everywhere, as the configuration says that codes are symmetric");
        return Err(source.unsupported("zero points", &expected, got));
    }
    let (weight, order) = codes.into_weight(group_of).map_err(|error| named(source, error))?;
    Ok(PackedMatrix { weight, order })
}

/// Says of which matrix something is not supported.
fn named(source: &Projection<'_>, error: moray::Error) -> crate::Error {
    match error {
        moray::Error::Unsupported { what, expected, got } => source.unsupported(what, expected, got),
        moray::Error::Index { what, limit, got } => {
            source.unsupported(what, &format!("a group below {limit}"), got as i32)
        }
        other => other.into(),
    }
}
