//! The kernels that only the forward pass needs, each behind a function that holds its memory and fills in the raw call.

mod embedding;
mod rows;
mod sampling;

use super::raw;
use crate::device::{Arguments, Device, ElementKind};
use crate::error::{Result, check_len};
use crate::sparse_mlp::Activation;
use cudarc::driver::{CudaSlice, CudaView, CudaViewMut};

pub(super) use embedding::embed_dense;
pub(super) use rows::{Rows, narrow_rows, widen_rows};
pub(super) use sampling::sample;
pub use sampling::{NO_TOKEN, Rooms, argmax};

/// y\[i\] = RMSNorm of x\[rows\[i\]\], or of x\[i\] without rows, as [`crate::llama::rms_norm`]. `x` holds every row that is named.
///
/// # Errors
/// [`crate::Error::Length`] for a buffer of another size, [`crate::Error::Shape`] for a width that is no multiple of 4.
pub(super) fn rms_norm(
    device: &Device,
    x: &CudaView<'_, f32>,
    rows: Option<&CudaView<'_, u32>>,
    weight: &CudaSlice<f32>,
    eps: f32,
    y: &mut CudaViewMut<'_, f32>,
) -> Result<()> {
    let k = weight.len();
    let x_rows = x.len().checked_div(k).unwrap_or(0);
    let m = rows.map_or(x_rows, |rows| rows.len());
    check_len("y", m.saturating_mul(k), y.len())?;
    let mut arguments = Arguments::new(device);
    let norm = raw::RmsNorm {
        x: arguments.read("x", x)?,
        x_rows,
        x_stride: k,
        rows: rows.map(|rows| arguments.read("rows", rows)).transpose()?,
        weight: arguments.read("weight", weight)?,
        eps,
        m,
        heads: 1,
        k,
        y: arguments.write("y", y)?,
        y_stride: k,
    };
    arguments.launch(&norm)
}

/// A floating-point matrix \[N, K\] in device memory, in blocks of 16 rows as on the CPU.
#[derive(Debug, Clone)]
pub struct DenseWeight {
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) element: ElementKind,
    /// \[N/16\]\[K\]\[16\].
    pub(super) data: CudaSlice<u8>,
}

/// y = x · wᵀ + bias + residual with the bits of [`crate::llama::DenseWeight::linear`].
///
/// # Errors
/// [`crate::Error::Length`] for a buffer of another size, [`crate::Error::Shape`] for too many tokens.
pub(super) fn dense(
    device: &Device,
    weight: &DenseWeight,
    x: &CudaView<'_, f32>,
    bias: Option<&CudaSlice<f32>>,
    residual: Option<&CudaView<'_, f32>>,
    y: &mut CudaViewMut<'_, f32>,
) -> Result<()> {
    let DenseWeight { n, k, element, .. } = *weight;
    let m = x.len() / k;
    check_len("x", m * k, x.len())?;
    check_len("y", m.saturating_mul(n), y.len())?;
    let mut arguments = Arguments::new(device);
    let dense = raw::Dense {
        w: arguments.read("weight", &weight.data)?,
        element,
        x: arguments.read("x", x)?,
        bias: bias.map(|bias| arguments.read("bias", bias)).transpose()?,
        residual: residual.map(|residual| arguments.read("residual", residual)).transpose()?,
        y: arguments.write("y", y)?,
        m,
        n,
        k,
    };
    arguments.launch(&dense)
}

/// hidden\[m\] = act(gate\[m\]) ⊙ up\[m\] for gate_up \[M, 2·F\] and hidden \[M, F\].
///
/// # Errors
/// [`crate::Error::Length`] for a buffer of another size, [`crate::Error::Shape`] for too many tokens.
pub(super) fn activate(
    device: &Device,
    activation: Activation,
    gate_up: &CudaView<'_, f32>,
    features: usize,
    hidden: &mut CudaViewMut<'_, f32>,
) -> Result<()> {
    let m = gate_up.len() / (2 * features);
    check_len("hidden", m * features, hidden.len())?;
    let mut arguments = Arguments::new(device);
    let activate = raw::Activate {
        gate_up: arguments.read("gate_up", gate_up)?,
        activation,
        hidden: arguments.write("hidden", hidden)?,
        m,
        features,
    };
    arguments.launch(&activate)
}
