//! A call on the device: check, fill in, launch.

use super::raw;
use super::weight::Weight;
use crate::device::{Arguments, Device};
use crate::error::{Result, check_len, product};
use cudarc::driver::{CudaView, CudaViewMut};

/// Multiplies over the kept inputs: y\[m, n\] = Σ x\[m, k\] · w\[n, k\] over the k with |x\[m, k\]| above `threshold`, + bias +
/// residual, with the bits of [`crate::input_sparse::linear`].
///
/// | argument | shape | type |
/// |---|---|---|
/// | `weight` | \[N, K\] | f32, f16 or bf16 by input |
/// | `x` | \[M, K\] row-major | f32 |
/// | `threshold` | one | f32, finite, at least 0 |
/// | `bias` | \[N\] | f32 |
/// | `residual` | \[M, N\] | f32 |
/// | `y` | \[M, N\] row-major | f32 |
///
/// # Errors
/// [`crate::Error::Length`] for a buffer of another size, [`crate::Error::Value`] for another threshold, [`crate::Error::Shape`] for
/// more than 524280 tokens, [`crate::Error::Launch`] if the kernel cannot be started.
///
/// # Example
/// See [`crate::input_sparse::cuda`].
pub fn linear(
    device: &Device,
    weight: &Weight,
    x: &CudaView<'_, f32>,
    threshold: f32,
    bias: Option<&CudaView<'_, f32>>,
    residual: Option<&CudaView<'_, f32>>,
    y: &mut CudaViewMut<'_, f32>,
) -> Result<()> {
    let Weight { n, k, element, row_bytes, .. } = *weight;
    let m = x.len() / k;
    let outputs = product("m", &[m, n])?;
    check_len("x", m * k, x.len())?;
    check_len("y", outputs, y.len())?;
    bias.map_or(Ok(()), |bias| check_len("bias", n, bias.len()))?;
    residual.map_or(Ok(()), |residual| check_len("residual", outputs, residual.len()))?;
    let mut arguments = Arguments::new(device);
    let linear = raw::Linear {
        w: arguments.read("weight", &weight.data)?.cast(),
        element,
        row_bytes,
        x: arguments.read("x", x)?,
        threshold,
        bias: bias.map(|bias| arguments.read("bias", bias)).transpose()?,
        residual: residual.map(|residual| arguments.read("residual", residual)).transpose()?,
        y: arguments.write("y", y)?,
        m,
        n,
        k,
    };
    arguments.launch(&linear)
}
