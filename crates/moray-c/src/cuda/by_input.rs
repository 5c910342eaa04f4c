//! Products that read only the weights of large inputs, on a device.

#[cfg(feature = "cuda-input-sparse")]
use super::call::{launch, prepare};
#[cfg(feature = "cuda-input-sparse")]
pub(crate) use super::fill::by_input::{pack as input_rows_pack, sizes as input_rows_sizes};
#[cfg(not(feature = "cuda-input-sparse"))]
use super::no_operation::{launch, prepare};
#[cfg(not(feature = "cuda-input-sparse"))]
pub(crate) use super::no_operation::{pack as input_rows_pack, sizes as input_rows_sizes};
use super::{CUstream_st, MorayCuda};
use crate::arguments::{MorayBytes, MorayBytesMut, borrow, give, sized};
use crate::by_input::MorayInputWeight;
use crate::dtype::MorayDtype;
use crate::format::MorayOffset;
use crate::status::{MorayStatus, guard};

/// A product over the inputs above a threshold.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct MorayCudaByInput {
    /// `sizeof(MorayCudaByInput)`.
    pub struct_size: u32,
    /// Of w.
    pub dtype: MorayDtype,
    /// Finite, at least 0: inputs that are not larger count as zero, and their weights are not read.
    pub threshold: f32,
    /// Tokens M, up to 524280.
    pub m: usize,
    /// Output features.
    pub n: usize,
    /// Input features.
    pub k: usize,
    /// [K, N]: an input's weights are a row. At least `row_bytes` times K, but for what of the last row is past its elements, rounded up to 16.
    pub w: MorayBytes,
    /// Bytes from one row of w to the next, a multiple of 16.
    pub row_bytes: usize,
    /// f32 [M, K].
    pub x: MorayBytes,
    /// f32 [N], or left out.
    pub bias: MorayBytes,
    /// f32 [M, N], or left out; apart from `y`.
    pub residual: MorayBytes,
    /// f32 [M, N].
    pub y: MorayBytesMut,
}

/// Loads the kernel of a product, whose addresses are not looked at.
///
/// Fails as `moray_cuda_by_input`, and as `moray_cuda_load_kernels`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_cuda_by_input_prepare(
    cuda: *const MorayCuda,
    call: *const MorayCudaByInput,
) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        unsafe { prepare(borrow("cuda", cuda)?, sized("call", call)?).map(drop) }
    })
}

/// Computes y[m, n] = sum over k with |x[m, k]| > threshold of x[m, k] * w[k, n], + bias + residual, in f32. The bits depend neither on
/// M nor on the device.
///
/// Fails with `MORAY_STATUS_SHAPE` for sizes and `row_bytes`, `MORAY_STATUS_VALUE` for the threshold, `MORAY_STATUS_LENGTH`,
/// `MORAY_STATUS_NULL`, `MORAY_STATUS_MISALIGNED` and `MORAY_STATUS_OVERLAP` for memory, `MORAY_STATUS_LAUNCH` if the driver does not
/// start the kernel.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_cuda_by_input(
    cuda: *const MorayCuda,
    stream: *mut CUstream_st,
    call: *const MorayCudaByInput,
) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        unsafe { launch(borrow("cuda", cuda)?, stream, sized("call", call)?) }
    })
}

/// A weight w[N, K] of 4 bits that is held by input, in memory of the caller's, as devices read it.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct MorayCudaInputRows {
    /// Output features.
    pub n: usize,
    /// Input features.
    pub k: usize,
    /// [K, d / 2], d = N rounded up to 32: an input's codes, 16 bytes for each 32 outputs, byte i of them holding output i low and i + 16
    /// high; aligned to 16 bytes.
    pub rows: MorayBytesMut,
    /// f32 [d] where channels have the scales; else u16 [K / group_size, parts, d]: f16 scales, then f16 offsets or zero points if there are
    /// any. Aligned to 16 bytes.
    pub scales: MorayBytesMut,
    /// Inputs that share a scale of f16; 0 for scales of channels.
    pub group_size: u32,
    /// What a group has besides its scale.
    pub offset: MorayOffset,
}

/// Says how a 4-bit weight by input is stored for devices: everything of `MorayCudaInputRows` but addresses, which are null.
///
/// Fails with `MORAY_STATUS_UNSUPPORTED` for weights in floating point, `MORAY_STATUS_KERNELS_NOT_BUILT` in a library without the
/// operation's CUDA kernels.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_cuda_input_rows_sizes(
    weight: *const MorayInputWeight,
    out: *mut MorayCudaInputRows,
) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        unsafe { give("out", out, input_rows_sizes(borrow("weight", weight)?)?) }
    })
}

/// Writes a 4-bit weight by input as devices read it into memory of the process, whose sizes `moray_cuda_input_rows_sizes` says: to be
/// copied to a device.
///
/// Fails as `moray_cuda_input_rows_sizes`, with `MORAY_STATUS_LENGTH` for memory of another size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_cuda_input_rows_pack(
    weight: *const MorayInputWeight,
    memory: *const MorayCudaInputRows,
) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        unsafe { input_rows_pack(borrow("weight", weight)?, borrow("memory", memory)?) }
    })
}

/// A product over the inputs above a threshold with a weight of 4 bits.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct MorayCudaByInputFourBit {
    /// `sizeof(MorayCudaByInputFourBit)`.
    pub struct_size: u32,
    /// Finite, at least 0: inputs that are not larger count as zero, and their weights are not read.
    pub threshold: f32,
    /// Tokens M, up to 524280.
    pub m: usize,
    /// w[N, K].
    pub weight: MorayCudaInputRows,
    /// f32 [M, K], aligned to 16 bytes.
    pub x: MorayBytes,
    /// f32 [N], or left out.
    pub bias: MorayBytes,
    /// f32 [M, N], or left out; apart from `y`.
    pub residual: MorayBytes,
    /// f32 [M, N].
    pub y: MorayBytesMut,
    /// As many bytes as `moray_cuda_by_input_four_bit_prepare` says, or more, of anything; calls that may run at once have one each.
    pub workspace: MorayBytesMut,
    /// u32 [(N + 127) / 128], or more: zeros before the first call with it, and left so by every call that runs to its end; calls that may
    /// run at once have one each.
    pub counters: MorayBytesMut,
}

/// Loads the kernels of a product, whose addresses are not looked at, and says how many bytes `workspace` needs; 0 where it may be left
/// out. Another M may need another kernel and more.
///
/// Fails as `moray_cuda_by_input_four_bit`, and as `moray_cuda_load_kernels`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_cuda_by_input_four_bit_prepare(
    cuda: *const MorayCuda,
    call: *const MorayCudaByInputFourBit,
    bytes: *mut usize,
) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        unsafe { give("bytes", bytes, prepare(borrow("cuda", cuda)?, sized("call", call)?)?) }
    })
}

/// Computes what `moray_by_input` does with a weight of 4 bits, with the same bits. Up to 8 tokens read the weights of the inputs that any
/// of them keeps; more go by eights.
///
/// Fails with `MORAY_STATUS_SHAPE` for sizes, `MORAY_STATUS_VALUE` for the threshold, `MORAY_STATUS_UNSUPPORTED` for an offset that is
/// none of the constants, `MORAY_STATUS_LENGTH`, `MORAY_STATUS_NULL`, `MORAY_STATUS_MISALIGNED` and `MORAY_STATUS_OVERLAP` for memory,
/// `MORAY_STATUS_LAUNCH` if the driver does not start a kernel.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_cuda_by_input_four_bit(
    cuda: *const MorayCuda,
    stream: *mut CUstream_st,
    call: *const MorayCudaByInputFourBit,
) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        unsafe { launch(borrow("cuda", cuda)?, stream, sized("call", call)?) }
    })
}
