//! The kernels that only the forward pass needs, each behind a function with its checks.

use crate::device::{Device, ElementKind, ModuleKernels, input, output};
use crate::error::{Error, Result};
use crate::sparse_mlp::Activation;
use crate::w4a8::Bits;
use crate::w4a8::cuda::{Format, Offset, Weight};
use cudarc::driver::{CudaSlice, CudaView, CudaViewMut};
use std::ffi::c_void;

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
    (EMBEDDING, &["llama_embed_f32", "llama_embed_f16", "llama_embed_bf16", "llama_embed_packed"]),
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
struct EmbedParams {
    tokens: u64,
    table: u64,
    x: u64,
    k: u32,
    reserved: u32,
}

const _: () = assert!(size_of::<EmbedParams>() == 32);

/// x\[m\] = row tokens\[m\] of a dense table. Tokens are rows of it.
///
/// # Errors
/// [`Error::Length`] for a buffer of another size, [`Error::Shape`] for too many tokens.
pub(super) fn embed_dense(
    device: &Device,
    table: &DenseWeight,
    tokens: &CudaView<'_, u32>,
    x: &mut CudaViewMut<'_, f32>,
) -> Result<()> {
    let (m, k) = (tokens.len(), table.k);
    check_rows("tokens", m)?;
    let (tokens, _tokens) = input(device, "tokens", m, tokens)?;
    let (x, _x) = output(device, "x", m * k, x)?;
    let (data, _data) = input(device, "table", table.data.len(), &table.data)?;
    let mut params = EmbedParams { tokens, table: data, x, k: k as u32, reserved: 0 };
    let symbol = match table.element {
        ElementKind::F32 => "llama_embed_f32",
        ElementKind::F16 => "llama_embed_f16",
        ElementKind::Bf16 => "llama_embed_bf16",
    };
    let grid = [k.div_ceil(256) as u32, m as u32, 1];
    // SAFETY: the buffers were checked above; that tokens are below N is the caller's of this private function.
    unsafe { launch(device, (EMBEDDING, symbol), grid, 256, &mut params) }
}

#[repr(C)]
struct EmbedPackedParams {
    tokens: u64,
    codes: u64,
    scale: u64,
    group_scale: u64,
    offset: u64,
    x: u64,
    k: u32,
    bits: u32,
    mode: u32,
    group_size: u32,
    offset_kind: Offset,
    reserved: u32,
}

const _: () = assert!(size_of::<EmbedPackedParams>() == 72);

/// x\[m\] = row tokens\[m\] of a packed table. Tokens are rows of it.
///
/// # Errors
/// As [`embed_dense`].
pub(super) fn embed_packed(
    device: &Device,
    table: &Weight,
    tokens: &CudaView<'_, u32>,
    x: &mut CudaViewMut<'_, f32>,
) -> Result<()> {
    let (m, k) = (tokens.len(), table.k());
    check_rows("tokens", m)?;
    let (tokens, _tokens) = input(device, "tokens", m, tokens)?;
    let (x, _x) = output(device, "x", m * k, x)?;
    let [codes, scale, group_scale, offset] = table.pointers(device);
    let (mode, bits, offset_kind) = match table.format() {
        Format::PerChannel => (0, 4, Offset::None),
        Format::W8 => (0, 8, Offset::None),
        Format::PerGroup { bits, offset, .. } => (1, if bits == Bits::Four { 4 } else { 8 }, offset),
        Format::TwoLevel { .. } => (2, 4, Offset::None),
        Format::Qqq => (3, 4, Offset::None),
    };
    let group_size = table.format().group_size().unwrap_or(k) as u32;
    let k32 = k as u32;
    let mut params = EmbedPackedParams {
        tokens,
        codes,
        scale,
        group_scale,
        offset,
        x,
        k: k32,
        bits,
        mode,
        group_size,
        offset_kind,
        reserved: 0,
    };
    let grid = [k.div_ceil(256) as u32, m as u32, 1];
    // SAFETY: as in `embed_dense`; the table's buffers go with its format.
    unsafe { launch(device, (EMBEDDING, "llama_embed_packed"), grid, 256, &mut params) }
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

/// What [`argmax`] writes for logits without a largest one.
pub const NO_TOKEN: u32 = u32::MAX;

#[repr(C)]
struct ArgmaxParams {
    logits: u64,
    token: u64,
    vocab: u32,
    reserved: u32,
}

const _: () = assert!(size_of::<ArgmaxParams>() == 24);

/// token\[r\] = the largest logit of row r, the first of equals, as greedy [`crate::llama::Sampler`]; [`NO_TOKEN`] if one is
/// NaN or +∞, or all are −∞.
///
/// # Errors
/// [`Error::Length`] unless logits are \[R, vocab\] for R tokens.
pub fn argmax(
    device: &Device,
    logits: &CudaView<'_, f32>,
    vocab: usize,
    token: &mut CudaViewMut<'_, u32>,
) -> Result<()> {
    let rows = token.len();
    check_rows("rows", rows)?;
    let (logits, _logits) = input(device, "logits", rows * vocab, logits)?;
    let (token, _token) = output(device, "token", rows, token)?;
    let mut params = ArgmaxParams { logits, token, vocab: vocab as u32, reserved: 0 };
    // SAFETY: the buffers were checked above.
    unsafe { launch(device, (SAMPLING, "llama_argmax"), [rows as u32, 1, 1], 512, &mut params) }
}

#[repr(C)]
struct SampleParams {
    logits: u64,
    probability: u64,
    samplers: u64,
    token: u64,
    vocab: u32,
    reserved: u32,
}

const _: () = assert!(size_of::<SampleParams>() == 40);

/// Words of a sampler in device memory.
const SAMPLER_WORDS: usize = 3;

/// token\[r\] = what sampler r chooses of row r; see [`super::Samplers`].
///
/// # Errors
/// [`Error::Length`] unless logits are \[R, vocab\] for R tokens.
pub(super) fn sample(
    device: &Device,
    (rows, vocab): (usize, usize),
    logits: &CudaView<'_, f32>,
    probability: &mut CudaSlice<f32>,
    samplers: &mut CudaSlice<u64>,
    token: &mut CudaViewMut<'_, u32>,
) -> Result<()> {
    check_rows("rows", rows)?;
    let (logits, _logits) = input(device, "logits", rows * vocab, logits)?;
    let (probability, _probability) = output(device, "probability", rows * vocab, probability)?;
    let (samplers, _samplers) = output(device, "samplers", rows * SAMPLER_WORDS, samplers)?;
    let (token, _token) = output(device, "token", rows, token)?;
    let mut params = SampleParams { logits, probability, samplers, token, vocab: vocab as u32, reserved: 0 };
    // SAFETY: the buffers were checked above.
    unsafe { launch(device, (SAMPLING, "llama_sample"), [rows as u32, 1, 1], 512, &mut params) }
}

#[repr(C)]
struct MoveParams {
    x: u64,
    y: u64,
    from: u64,
    to: u64,
    k: u32,
    x_type: ElementKind,
    y_type: ElementKind,
    reserved: u32,
}

const _: () = assert!(size_of::<MoveParams>() == 48);

/// Rows of k elements to be moved: row `from[i]` to row `to[i]`. Both are rows of their buffers, and those of `to` differ.
pub(super) struct Rows<'a> {
    pub(super) k: usize,
    pub(super) from: &'a CudaView<'a, u32>,
    pub(super) to: &'a CudaView<'a, u32>,
}

impl Rows<'_> {
    fn launch(&self, device: &Device, (x, x_type): (u64, ElementKind), (y, y_type): (u64, ElementKind)) -> Result<()> {
        let rows = self.to.len();
        check_rows("rows", rows)?;
        let (from, _from) = input(device, "from", rows, self.from)?;
        let (to, _to) = input(device, "to", rows, self.to)?;
        let mut params = MoveParams { x, y, from, to, k: self.k as u32, x_type, y_type, reserved: 0 };
        let grid = [self.k.div_ceil(256) as u32, rows as u32, 1];
        // SAFETY: that the rows are those of the buffers is the callers', private functions that have checked the buffers.
        unsafe { launch(device, (ROWS, "llama_move_rows"), grid, 256, &mut params) }
    }
}

/// y\[to\] = x\[from\] in f32, for x of any type.
///
/// # Errors
/// [`Error::Shape`] for no rows or too many.
pub(super) fn widen_rows(
    device: &Device,
    rows: Rows<'_>,
    (x, kind): (&CudaSlice<u8>, ElementKind),
    y: &mut CudaSlice<f32>,
) -> Result<()> {
    let (x, _x) = input(device, "x", x.len(), x)?;
    let (y, _y) = output(device, "y", y.len(), y)?;
    rows.launch(device, (x, kind), (y, ElementKind::F32))
}

/// y\[to\] = x\[from\], rounded to y's type.
///
/// # Errors
/// As [`widen_rows`].
pub(super) fn narrow_rows(
    device: &Device,
    rows: Rows<'_>,
    x: &CudaSlice<f32>,
    (y, kind): (&mut CudaSlice<u8>, ElementKind),
) -> Result<()> {
    let (x, _x) = input(device, "x", x.len(), x)?;
    let (y, _y) = output(device, "y", y.len(), y)?;
    rows.launch(device, (x, ElementKind::F32), (y, kind))
}
