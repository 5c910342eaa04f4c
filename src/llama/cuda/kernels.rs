//! The kernels that only the forward pass needs, each behind a function with its checks.

mod embedding;
mod rows;
mod sampling;

use crate::device::{Device, ElementKind, ModuleKernels, input, output};
use crate::error::{Error, Result};
use crate::sparse_mlp::Activation;
use cudarc::driver::{CudaSlice, CudaView, CudaViewMut};
use std::ffi::c_void;

pub(super) use embedding::embed_dense;
pub(super) use rows::{Rows, narrow_rows, widen_rows};
pub(super) use sampling::sample;
pub use sampling::{NO_TOKEN, argmax};

const NORM: &str = "llama/norm";
const DENSE: &str = "llama/dense";
const EMBEDDING: &str = "llama/embedding";
const ACTIVATION: &str = "llama/activation";
const SAMPLING: &str = "llama/sampling";
const ROWS: &str = "llama/rows";

/// Every kernel of the operation.
pub(crate) const KERNELS: &[ModuleKernels] = &[
    (NORM, &["llama_rms_norm"]),
    (
        DENSE,
        &[
            "llama_dense_f32_1",
            "llama_dense_f32_8",
            "llama_dense_f16_1",
            "llama_dense_f16_8",
            "llama_dense_bf16_1",
            "llama_dense_bf16_8",
        ],
    ),
    (EMBEDDING, &["llama_embed_f32", "llama_embed_f16", "llama_embed_bf16"]),
    (ACTIVATION, &["llama_activate"]),
    (SAMPLING, &["llama_argmax", "llama_sample"]),
    (ROWS, &["llama_move_rows"]),
];

/// The most blocks along a grid's second axis.
const MAX_GRID_Y: usize = 65_535;

/// Starts a kernel whose one parameter is `params`.
///
/// # Safety
/// As [`Device::launch`]: `params` is that kernel's structure, and its pointers are what it says.
unsafe fn launch<P>(
    device: &Device,
    kernel: (&'static str, &'static str),
    grid: [u32; 3],
    block: u32,
    params: &mut P,
) -> Result<()> {
    let args = &mut [std::ptr::from_mut(params).cast::<c_void>()];
    // SAFETY: the caller's.
    unsafe { device.launch(kernel.0, kernel.1, grid, [block, 1, 1], 0, args) }
}

fn check_rows(what: &'static str, got: usize) -> Result<()> {
    match got {
        1..=MAX_GRID_Y => Ok(()),
        _ => Err(Error::Shape { what, expected: "1 to 65535", got }),
    }
}

#[repr(C)]
struct NormParams {
    x: u64,
    weight: u64,
    rows: u64,
    y: u64,
    k: u32,
    eps: f32,
}

const _: () = assert!(size_of::<NormParams>() == 40);

/// y\[i\] = RMSNorm of x\[rows\[i\]\], or of x\[i\] without rows, as [`crate::llama::rms_norm`]. `x` holds every row that is named.
///
/// # Errors
/// [`Error::Length`] for a buffer of another size, [`Error::Shape`] for a width that is no multiple of 4.
pub(super) fn rms_norm(
    device: &Device,
    x: &CudaView<'_, f32>,
    rows: Option<&CudaView<'_, u32>>,
    weight: &CudaSlice<f32>,
    eps: f32,
    y: &mut CudaViewMut<'_, f32>,
) -> Result<()> {
    let k = weight.len();
    if k % 4 != 0 {
        return Err(Error::Shape { what: "weight", expected: "a multiple of 4", got: k });
    }
    let m = rows.map_or(x.len() / k, |rows| rows.len());
    check_rows("rows", m)?;
    let (x, _x) = input(device, "x", x.len() / k * k, x)?;
    let (weight, _weight) = input(device, "weight", k, weight)?;
    let rows = rows.map(|rows| input(device, "rows", m, rows)).transpose()?;
    let (y, _y) = output(device, "y", m * k, y)?;
    let rows = rows.as_ref().map_or(0, |(rows, _)| *rows);
    let mut params = NormParams { x, weight, rows, y, k: k as u32, eps };
    // SAFETY: the buffers were checked above; that rows are below those of x is the caller's of this private function.
    unsafe { launch(device, (NORM, "llama_rms_norm"), [m as u32, 1, 1], 256, &mut params) }
}

#[repr(C)]
struct DenseParams {
    w: u64,
    x: u64,
    bias: u64,
    residual: u64,
    y: u64,
    m: u32,
    n: u32,
    k: u32,
    reserved: u32,
}

const _: () = assert!(size_of::<DenseParams>() == 56);

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
/// [`Error::Length`] for a buffer of another size, [`Error::Shape`] for too many tokens.
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
    check_rows("m", m)?;
    let (x, _x) = input(device, "x", m * k, x)?;
    let (w, _w) = input(device, "weight", weight.data.len(), &weight.data)?;
    let bias = bias.map(|bias| input(device, "bias", n, bias)).transpose()?;
    let residual = residual.map(|residual| input(device, "residual", m * n, residual)).transpose()?;
    let (y, _y) = output(device, "y", m * n, y)?;
    let mut params = DenseParams {
        w,
        x,
        bias: bias.as_ref().map_or(0, |(pointer, _)| *pointer),
        residual: residual.as_ref().map_or(0, |(pointer, _)| *pointer),
        y,
        m: m as u32,
        n: n as u32,
        k: k as u32,
        reserved: 0,
    };
    let (symbol, tokens) = match (element, m) {
        (ElementKind::F32, 1) => ("llama_dense_f32_1", 1),
        (ElementKind::F32, _) => ("llama_dense_f32_8", 8),
        (ElementKind::F16, 1) => ("llama_dense_f16_1", 1),
        (ElementKind::F16, _) => ("llama_dense_f16_8", 8),
        (ElementKind::Bf16, 1) => ("llama_dense_bf16_1", 1),
        (ElementKind::Bf16, _) => ("llama_dense_bf16_8", 8),
    };
    let grid = [n.div_ceil(16).div_ceil(8) as u32, m.div_ceil(tokens) as u32, 1];
    // SAFETY: the buffers were checked above, and the matrix is of n, k and its type.
    unsafe { launch(device, (DENSE, symbol), grid, 256, &mut params) }
}

#[repr(C)]
struct ActivateParams {
    gate_up: u64,
    hidden: u64,
    features: u32,
    activation: u32,
}

const _: () = assert!(size_of::<ActivateParams>() == 24);

/// hidden\[m\] = act(gate\[m\]) ⊙ up\[m\] for gate_up \[M, 2·F\] and hidden \[M, F\].
///
/// # Errors
/// [`Error::Length`] for a buffer of another size, [`Error::Shape`] for too many tokens.
pub(super) fn activate(
    device: &Device,
    activation: Activation,
    gate_up: &CudaView<'_, f32>,
    features: usize,
    hidden: &mut CudaViewMut<'_, f32>,
) -> Result<()> {
    let m = gate_up.len() / (2 * features);
    check_rows("m", m)?;
    let (gate_up, _gate_up) = input(device, "gate_up", m * 2 * features, gate_up)?;
    let (hidden, _hidden) = output(device, "hidden", m * features, hidden)?;
    let activation = match activation {
        Activation::Silu => 0,
        Activation::Relu => 1,
    };
    let mut params = ActivateParams { gate_up, hidden, features: features as u32, activation };
    let grid = [features.div_ceil(256) as u32, m as u32, 1];
    // SAFETY: the buffers were checked above.
    unsafe { launch(device, (ACTIVATION, "llama_activate"), grid, 256, &mut params) }
}
