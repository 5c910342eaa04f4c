//! Rows of a packed weight as numbers, for an embedding that shares its matrix with the output layer.

use super::{Weight, raw};
use crate::device::{Arguments, Device};
use crate::error::{Result, check_len, product};
use crate::w4a8::LAYOUT_VERSION;
use cudarc::driver::{CudaView, CudaViewMut};

/// y\[i\] = row rows\[i\] of the weight, with the bits of [`crate::w4a8::PackedWeight::dequantize_row`]; NaN for a row that
/// the weight does not have.
///
/// | argument | shape | type |
/// |---|---|---|
/// | `weight` | \[N, K\] | packed |
/// | `rows` | \[M\] | u32 |
/// | `y` | \[M, K\] row-major | f32 |
///
/// # Errors
/// [`crate::Error::Shape`] unless M is 1 to 65535, [`crate::Error::Length`] for a buffer of another size,
/// [`crate::Error::Misaligned`] for one that does not start at a multiple of 16 bytes, [`crate::Error::Unsupported`] for memory
/// of another context, [`crate::Error::Launch`] if the driver refuses.
pub fn dequantize_rows(
    device: &Device,
    weight: &Weight,
    rows: &CudaView<'_, u32>,
    y: &mut CudaViewMut<'_, f32>,
) -> Result<()> {
    let (m, n, k) = (rows.len(), weight.n(), weight.k());
    check_len("y", product("rows", &[m, k])?, y.len())?;
    let mut arguments = Arguments::new(device);
    let call = raw::Rows {
        format: weight.format(),
        n,
        k,
        layout: LAYOUT_VERSION,
        weight: weight.arguments(&mut arguments)?,
        m,
        rows: arguments.read("rows", rows)?,
        y: arguments.write("y", y)?,
    };
    arguments.launch(&call)
}
