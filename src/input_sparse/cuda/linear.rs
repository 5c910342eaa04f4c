//! A call on the device: check, fill in, launch.

use super::raw;
use super::weight::{Numbers, Weight};
use super::workspace::Workspace;
use crate::device::{Arguments, Device};
use crate::error::{Result, check_len, product};
use cudarc::driver::{CudaView, CudaViewMut};

/// Multiplies over the kept inputs: y\[m, n\] = Σ x\[m, k\] · w\[n, k\] over the k with |x\[m, k\]| above `threshold`, + bias +
/// residual, with the bits of [`crate::input_sparse::linear`].
///
/// | argument | shape | type |
/// |---|---|---|
/// | `weight` | \[N, K\] | f32, f16, bf16 or 4 bits by input |
/// | `x` | \[M, K\] row-major | f32 |
/// | `threshold` | one | f32, finite, at least 0 |
/// | `bias` | \[N\] | f32 |
/// | `residual` | \[M, N\] | f32 |
/// | `y` | \[M, N\] row-major | f32 |
///
/// # Errors
/// [`crate::Error::Length`] for a buffer of another size and for too small a workspace, [`crate::Error::Value`] for another threshold,
/// [`crate::Error::Shape`] for more than 524280 tokens, [`crate::Error::Misaligned`] for an x of 4-bit weights that does not start at a
/// multiple of 16 bytes, [`crate::Error::Launch`] if a kernel cannot be started.
///
/// # Example
/// See [`crate::input_sparse::cuda`].
#[allow(clippy::too_many_arguments)]
pub fn linear(
    device: &Device,
    weight: &Weight,
    x: &CudaView<'_, f32>,
    threshold: f32,
    bias: Option<&CudaView<'_, f32>>,
    residual: Option<&CudaView<'_, f32>>,
    y: &mut CudaViewMut<'_, f32>,
    workspace: &mut Workspace,
) -> Result<()> {
    let Weight { n, k, .. } = *weight;
    let m = x.len() / k;
    let outputs = product("m", &[m, n])?;
    check_len("x", m * k, x.len())?;
    check_len("y", outputs, y.len())?;
    bias.map_or(Ok(()), |bias| check_len("bias", n, bias.len()))?;
    residual.map_or(Ok(()), |residual| check_len("residual", outputs, residual.len()))?;
    let mut arguments = Arguments::new(device);
    let w = arguments.read("weight", &weight.rows)?.cast();
    let x = arguments.read("x", x)?;
    let bias = bias.map(|bias| arguments.read("bias", bias)).transpose()?;
    let residual = residual.map(|residual| arguments.read("residual", residual)).transpose()?;
    let y = arguments.write("y", y)?;
    match &weight.numbers {
        Numbers::Floats { element, row_bytes } => {
            let (element, row_bytes) = (*element, *row_bytes);
            arguments.launch(&raw::Linear { w, element, row_bytes, x, threshold, bias, residual, y, m, n, k })
        }
        Numbers::FourBit { scales, group } => {
            let scales = arguments.read("weight", scales)?.cast();
            let counters = arguments.write("workspace", &mut workspace.counters)?;
            let workspace = arguments.write("workspace", &mut workspace.words)?;
            let group = *group;
            let call =
                raw::FourBit { rows: w, scales, group, x, threshold, bias, residual, y, m, n, k, workspace, counters };
            arguments.launch(&call)
        }
    }
}
