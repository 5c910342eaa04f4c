//! A call on the device: its checks and its phases.

use super::call::Call;
use super::selection::Selection;
use super::weights::Weights;
use super::workspace::Workspace;
use super::{check_context, check_room};
use crate::device::cudarc::driver::{CudaView, DevicePtr, DevicePtrMut, DeviceRepr};
use crate::device::{Device, check_aligned};
use crate::element::Element;
use crate::error::Result;
use crate::sparse_mlp::Shape;

/// Computes y = down(act(gate·x) ⊙ (up·x)) over the selected neurons of each token (+ residual).
///
/// | argument | dtype | shape | meaning |
/// |---|---|---|---|
/// | `x` | f32 | \[tokens, d_model\] | inputs, already normalised, aligned to 16 bytes |
/// | `selection` | | | which neurons; scores are per token |
/// | `residual` | f32, f16, bf16 | \[tokens, d_model\] | added to y |
/// | `y` | f32, f16, bf16 | \[tokens, d_model\] | overwritten |
///
/// Only selected rows of the weights are read, once for up to 8 tokens, and once for up to 64 on the matrix units. Selections, lists and counts stay on the device; nothing
/// is allocated or waited for. With 4-bit weights x and the product are quantized to int8 per token (scale max|·|/127), sums
/// are exact integers within a group. An activation that is not finite makes its token's y NaN or infinite.
///
/// # Errors
/// [`crate::Error::Length`] for a buffer or selection that is too short, [`crate::Error::Shape`] for more tokens than the
/// workspace has room for, [`crate::Error::Value`] for a threshold that makes no sense, [`crate::Error::Unsupported`] for memory of another
/// device, [`crate::Error::Misaligned`] for an `x` that does not start at a multiple of 16 bytes, [`crate::Error::Launch`] if a
/// kernel cannot be started. Checks come before any launch.
///
/// # Example
/// See [`crate::sparse_mlp::cuda`].
pub fn forward<E: Element + DeviceRepr>(
    device: &Device,
    weights: &Weights,
    x: &impl DevicePtr<f32>,
    tokens: usize,
    selection: &Selection<'_>,
    residual: Option<&CudaView<'_, E>>,
    y: &mut impl DevicePtrMut<E>,
    workspace: &mut Workspace,
) -> Result<()> {
    let Shape { d_model, d_ff, .. } = weights.shape();
    weights.check_context(device)?;
    workspace.check(device, weights, tokens)?;
    check_context("x", device, x)?;
    check_context("y", device, y)?;
    check_room("x", tokens * d_model, x.len())?;
    check_room("y", tokens * d_model, y.len())?;
    if let Some(residual) = residual {
        check_context("residual", device, residual)?;
        check_room("residual", tokens * d_model, residual.len())?;
    }
    selection.check(device, tokens, d_model, d_ff)?;
    let stream = device.stream();
    let (x, _read) = x.device_ptr(stream);
    check_aligned("x", x)?;
    if tokens == 0 {
        return Ok(());
    }
    let residual = residual.map_or(0, |residual| residual.device_ptr(stream).0);
    let (y, _write) = y.device_ptr_mut(stream);
    let call = Call { device, weights, tokens, ws: &*workspace };
    // SAFETY: every address below is of a buffer whose length has been checked, or of the workspace, which was made for
    // this shape and has room for these tokens; all of them live until this stream has passed the call.
    unsafe {
        let x = call.prepare_inputs(x, selection)?;
        let neurons = call.compute_hidden(x, selection)?;
        call.down(neurons)?;
        call.combine(residual, y, dtype_of::<E>())
    }
}

/// The number by which kernels know an element type.
fn dtype_of<E: Element>() -> u32 {
    match E::NAME {
        "f16" => 1,
        "bf16" => 2,
        _ => 0,
    }
}
