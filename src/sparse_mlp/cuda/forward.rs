//! A call on the device: check, fill in, launch.

use super::raw;
use super::selection::{Selection, check_room};
use super::weights::Weights;
use super::workspace::Workspace;
use crate::device::cudarc::driver::{CudaView, DevicePtr, DevicePtrMut};
use crate::device::{Arguments, Device, DeviceElement};
use crate::error::{Result, product};
use crate::sparse_mlp::Shape;

/// Computes y = down(act(gate·x) ⊙ (up·x)) over the selected neurons of each token (+ residual).
///
/// | argument | dtype | shape | meaning |
/// |---|---|---|---|
/// | `x` | f32, f16, bf16 | \[tokens, d_model\] | inputs, already normalised, aligned to 16 bytes |
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
pub fn forward<X: DeviceElement, E: DeviceElement>(
    device: &Device,
    weights: &Weights,
    x: &impl DevicePtr<X>,
    tokens: usize,
    selection: &Selection<'_>,
    residual: Option<&CudaView<'_, E>>,
    y: &mut impl DevicePtrMut<E>,
    workspace: &mut Workspace,
) -> Result<()> {
    let Shape { d_model, d_ff, .. } = weights.shape();
    workspace.check(weights, tokens)?;
    let elements = product("tokens", &[tokens, d_model])?;
    check_room("x", elements, x.len())?;
    check_room("y", elements, y.len())?;
    selection.check(tokens, d_model, d_ff)?;
    let plan = *workspace.plan();
    let mut arguments = Arguments::new(device);
    let (memory, kept, together) = workspace.hold(&mut arguments)?;
    let mlp = raw::Mlp {
        plan,
        weights: weights.hold(&mut arguments)?,
        tokens,
        x: arguments.read("x", x)?.cast(),
        x_type: X::KIND,
        selection: selection.hold(&mut arguments)?,
        residual: residual.map(|residual| arguments.read("residual", residual)).transpose()?.map(|r| r.cast()),
        y: arguments.write("y", y)?.cast(),
        y_type: E::KIND,
        kept,
        together: Some(together),
        workspace: memory,
        workspace_bytes: plan.workspace_bytes(),
    };
    arguments.launch(&mlp)
}
