//! The kernels by device pointers and a stream: for engines that own their memory.
//!
//! Everything else in [`super`] ends here. Shapes, formats and alignments are checked; that pointers point where they should
//! is the caller's promise.

use super::variant::{GEMM_ROWS, Variant};
use super::{GEMM, GEMV, QUANTIZE, ROWS};
use crate::device::{Device, ElementKind};
use crate::error::{Error, Result};
use crate::sparse_mlp::Activation;
use crate::w4a8::{Bits, Format, GroupScale, LAYOUT_VERSION, Offset, Sections};
use cudarc::driver::sys::CUstream;
use std::ffi::c_void;

/// A multiplication: [`super::linear`] by pointers.
#[derive(Debug, Clone, Copy)]
pub struct Linear {
    /// Of the weight.
    pub format: Format,
    /// Kernel to run, as from [`Variant::choose`].
    pub variant: Variant,
    /// Tokens.
    pub m: usize,
    /// Output features.
    pub n: usize,
    /// Input features.
    pub k: usize,
    /// Version of the packed layout that codes and scales are in; kernels read [`LAYOUT_VERSION`] alone.
    pub layout: u32,
    /// The sections of [`Format::section_bytes`]; 0 for those that the format does not have.
    pub weight: Sections<u64>,
    /// int8 \[M, K rounded up to 64\], zeros past K.
    pub x: u64,
    /// f32 \[M\].
    pub act_scale: u64,
    /// int32 \[groups, M\] for formats per group, \[M\] for the others: sums of x.
    pub sums: u64,
    /// f32 \[N\], or 0.
    pub bias: u64,
    /// \[M, N\], or 0.
    pub residual: u64,
    /// \[M, N\].
    pub y: u64,
    /// Of y and residual.
    pub element: ElementKind,
    /// u32 [`Variant::workspace_words`], the first; 0 where there are none.
    pub partial: u64,
    /// u32, the second: zeros before the first call, and left so.
    pub arrived: u64,
}

/// As `LinearParams` in kernels/w4a8/layout.cuh.
#[repr(C)]
struct LinearParams {
    pointers: [u64; 12],
    m: u32,
    n: u32,
    k: u32,
    group_size: u32,
    offset_kind: Offset,
    element: ElementKind,
    splits: u32,
    reserved: u32,
}

const _: () = assert!(size_of::<LinearParams>() == 128);

/// Multiplies.
///
/// # Errors
/// [`Error::Shape`] for sizes that the format or variant does not take, [`Error::Misaligned`] for a pointer that is not a
/// multiple of 16 or a needed one that is 0, [`Error::Unsupported`] for another packed layout, [`Error::Launch`] if the driver
/// refuses.
///
/// # Safety
/// Pointers are device memory of the device's context with the shapes and types of the fields' documentation, valid until
/// `stream` has passed the call; `y` and the workspace are not used by anything else meanwhile; `stream` is of that context.
pub unsafe fn linear(device: &Device, stream: CUstream, call: &Linear) -> Result<()> {
    check(call)?;
    let splits = match call.variant {
        Variant::Gemm { splits, .. } => splits,
        Variant::Gemv => 1,
    };
    let mut params = LinearParams {
        pointers: [
            call.weight.codes,
            call.weight.channel,
            call.weight.group,
            call.weight.offset,
            call.x,
            call.act_scale,
            call.sums,
            call.bias,
            call.residual,
            call.y,
            call.partial,
            call.arrived,
        ],
        m: call.m as u32,
        n: call.n as u32,
        k: call.k as u32,
        group_size: call.format.group_size().unwrap_or(call.k) as u32,
        offset_kind: call.format.offset(),
        element: call.element,
        splits,
        reserved: 0,
    };
    let (module, grid, block) = match call.variant {
        Variant::Gemv => (GEMV, [call.n.div_ceil(16) as u32, 1, 1], 256),
        Variant::Gemm { tokens, splits } => {
            (GEMM, [call.n.div_ceil(GEMM_ROWS) as u32, (call.m as u32).div_ceil(tokens), splits], 128)
        }
    };
    let symbol = call.variant.symbol(call.format);
    let shared = call.variant.shared_bytes(call.format);
    let args = &mut [std::ptr::from_mut(&mut params).cast::<c_void>()];
    // SAFETY: the one parameter is this structure; what its pointers promise is the caller's.
    unsafe { device.launch_on(stream, module, symbol, grid, [block, 1, 1], shared, args) }
}

/// The most blocks along a grid's second axis.
const MAX_GRID_Y: usize = 65_535;

fn check(call: &Linear) -> Result<()> {
    check_layout(call.layout)?;
    call.format.check(call.n, call.k)?;
    if call.m == 0 || call.m > MAX_GRID_Y * 16 {
        return Err(Error::Shape { what: "m", expected: "1 to 1048560 tokens", got: call.m });
    }
    if call.n > 1 << 30 {
        return Err(Error::Shape { what: "n", expected: "at most 2³⁰", got: call.n });
    }
    call.variant.check(call.m, call.k)?;
    let grouped = !call.format.stays_integer();
    let splits = call.variant.workspace_words(call.m, call.n).0 > 0;
    let sums = grouped || call.format == Format::per_channel();
    let pointers = [
        ("x", call.x, true),
        ("act_scale", call.act_scale, true),
        ("sums", call.sums, sums),
        ("bias", call.bias, false),
        ("residual", call.residual, false),
        ("y", call.y, true),
        ("partial", call.partial, splits),
        ("arrived", call.arrived, splits),
    ];
    check_sections(call.format, call.n, call.k, call.weight)?;
    pointers.into_iter().try_for_each(|(what, pointer, needed)| check_pointer(what, pointer, needed))
}

/// Checks the addresses of a weight's sections, of which those with bytes are needed.
fn check_sections(format: Format, n: usize, k: usize, weight: Sections<u64>) -> Result<()> {
    let bytes = format.section_bytes(n, k)?;
    let all = Sections::<()>::NAMES.zip(weight).zip(bytes).into_array();
    all.into_iter().try_for_each(|((what, pointer), bytes)| check_pointer(what, pointer, bytes > 0))
}

fn check_layout(layout: u32) -> Result<()> {
    if layout == LAYOUT_VERSION {
        return Ok(());
    }
    let got = format!("version {layout}");
    Err(Error::Unsupported { what: "packed layout", expected: "the version that this build packs", got })
}

fn check_pointer(what: &'static str, pointer: u64, needed: bool) -> Result<()> {
    match pointer % 16 != 0 || (needed && pointer == 0) {
        true => Err(Error::Misaligned { what, expected: 16, got: pointer }),
        false => Ok(()),
    }
}

/// What is quantized.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Source {
    /// x \[M, K\] as it is.
    Plain,
    /// x / √(mean(x²) + eps) ⊙ weight, x \[M, K\].
    RmsNorm {
        /// f32 \[K\].
        weight: u64,
        /// Added to the mean square.
        eps: f32,
    },
    /// act(gate) ⊙ up, x \[M, 2·K\] gate before up.
    SwiGlu {
        /// The gate's nonlinearity.
        activation: Activation,
    },
}

/// A quantization: [`super::Activations`] by pointers.
#[derive(Debug, Clone, Copy)]
pub struct Quantize {
    /// What is quantized.
    pub source: Source,
    /// Tokens.
    pub m: usize,
    /// Features of a token's codes.
    pub k: usize,
    /// \[M, K\] or \[M, 2·K\].
    pub x: u64,
    /// Of x.
    pub element: ElementKind,
    /// int8 \[M, K rounded up to 64\].
    pub codes: u64,
    /// f32 \[M\].
    pub scale: u64,
    /// int32 \[groups, M\] for groups of 32, 64 and 128 of K rounded up to 64.
    pub sums: [u64; 3],
    /// int32 \[M\].
    pub totals: u64,
}

/// As `QuantizeParams` in kernels/w4a8/quantize.cu.
#[repr(C)]
struct QuantizeParams {
    pointers: [u64; 8],
    m: u32,
    k: u32,
    eps: f32,
    activation: u32,
}

const _: () = assert!(size_of::<QuantizeParams>() == 80);

/// Quantizes tokens to int8. A token with a value that is not finite gets a NaN scale, and so NaN results.
///
/// # Errors
/// As [`linear`].
///
/// # Safety
/// As [`linear`].
pub unsafe fn quantize(device: &Device, stream: CUstream, call: &Quantize) -> Result<()> {
    crate::w4a8::weight::check_shape(1, call.k)?;
    if call.m == 0 || call.m > i32::MAX as usize {
        return Err(Error::Shape { what: "m", expected: "1 to 2³¹ − 1 tokens", got: call.m });
    }
    let (weight, eps, activation) = match call.source {
        Source::Plain => (0, 0.0, Activation::Silu),
        Source::RmsNorm { weight, eps } => {
            check_pointer("weight", weight, true)?;
            (weight, eps, Activation::Silu)
        }
        Source::SwiGlu { activation } => (0, 0.0, activation),
    };
    let [s32, s64, s128] = call.sums;
    let pointers = [call.x, weight, call.codes, call.scale, s32, s64, s128, call.totals];
    let names = ["x", "weight", "codes", "scale", "sums", "sums", "sums", "totals"];
    for (what, pointer) in names.into_iter().zip(pointers) {
        check_pointer(what, pointer, what != "weight")?;
    }
    let activation = match activation {
        Activation::Silu => 0,
        Activation::Relu => 1,
    };
    let mut params = QuantizeParams { pointers, m: call.m as u32, k: call.k as u32, eps, activation };
    let args = &mut [std::ptr::from_mut(&mut params).cast::<c_void>()];
    let symbol = quantize_symbol(call.source, call.element);
    // SAFETY: the one parameter is this structure; what its pointers promise is the caller's.
    unsafe { device.launch_on(stream, QUANTIZE, symbol, [call.m as u32, 1, 1], [256, 1, 1], 0, args) }
}

fn quantize_symbol(source: Source, element: ElementKind) -> &'static str {
    match (source, element) {
        (Source::Plain, ElementKind::F32) => "w4a8_quantize_f32",
        (Source::Plain, ElementKind::F16) => "w4a8_quantize_f16",
        (Source::Plain, ElementKind::Bf16) => "w4a8_quantize_bf16",
        (Source::RmsNorm { .. }, ElementKind::F32) => "w4a8_quantize_rms_norm_f32",
        (Source::RmsNorm { .. }, ElementKind::F16) => "w4a8_quantize_rms_norm_f16",
        (Source::RmsNorm { .. }, ElementKind::Bf16) => "w4a8_quantize_rms_norm_bf16",
        (Source::SwiGlu { .. }, ElementKind::F32) => "w4a8_quantize_swiglu_f32",
        (Source::SwiGlu { .. }, ElementKind::F16) => "w4a8_quantize_swiglu_f16",
        (Source::SwiGlu { .. }, ElementKind::Bf16) => "w4a8_quantize_swiglu_bf16",
    }
}

/// Rows of a packed weight as numbers: [`super::dequantize_rows`] by pointers.
#[derive(Debug, Clone, Copy)]
pub struct Rows {
    /// Of the weight.
    pub format: Format,
    /// Rows of the weight.
    pub n: usize,
    /// Their width.
    pub k: usize,
    /// Version of the packed layout that the weight is in.
    pub layout: u32,
    /// The sections of [`Format::section_bytes`]; 0 for those that the format does not have.
    pub weight: Sections<u64>,
    /// Rows that are asked for.
    pub m: usize,
    /// u32 \[M\].
    pub rows: u64,
    /// f32 \[M, K\].
    pub y: u64,
}

/// As `RowsParams` in kernels/w4a8/rows.cu.
#[repr(C)]
struct RowsParams {
    pointers: [u64; 6],
    n: u32,
    k: u32,
    bits: u32,
    group_scale: u32,
    group_size: u32,
    offset_kind: Offset,
}

const _: () = assert!(size_of::<RowsParams>() == 72);

/// Writes rows of a packed weight as numbers.
///
/// # Errors
/// As [`linear`].
///
/// # Safety
/// As [`linear`].
pub unsafe fn dequantize_rows(device: &Device, stream: CUstream, call: &Rows) -> Result<()> {
    check_layout(call.layout)?;
    check_sections(call.format, call.n, call.k, call.weight)?;
    if call.m == 0 || call.m > MAX_GRID_Y {
        return Err(Error::Shape { what: "rows", expected: "1 to 65535", got: call.m });
    }
    if call.n > 1 << 30 {
        return Err(Error::Shape { what: "n", expected: "at most 2³⁰", got: call.n });
    }
    check_pointer("rows", call.rows, true)?;
    check_pointer("y", call.y, true)?;
    let Sections { codes, channel, group, offset } = call.weight;
    let mut params = RowsParams {
        pointers: [call.rows, codes, channel, group, offset, call.y],
        n: call.n as u32,
        k: call.k as u32,
        bits: if call.format.bits == Bits::Four { 4 } else { 8 },
        group_scale: call.format.group_scale().map_or(0, |scale: GroupScale| scale as u32),
        group_size: call.format.group_size().unwrap_or(call.k) as u32,
        offset_kind: call.format.offset(),
    };
    let args = &mut [std::ptr::from_mut(&mut params).cast::<c_void>()];
    let grid = [call.k.div_ceil(256) as u32, call.m as u32, 1];
    // SAFETY: the one parameter is this structure; what its pointers promise is the caller's.
    unsafe { device.launch_on(stream, ROWS, "w4a8_rows", grid, [256, 1, 1], 0, args) }
}
