//! Products that read only the weights of large inputs, on a device.

#[cfg(feature = "cuda-input-sparse")]
use super::call::{launch, prepare};
#[cfg(not(feature = "cuda-input-sparse"))]
use super::no_operation::{launch, prepare};
use super::{CUstream_st, MorayCuda};
use crate::arguments::{MorayBytes, MorayBytesMut, borrow, sized};
use crate::dtype::MorayDtype;
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
