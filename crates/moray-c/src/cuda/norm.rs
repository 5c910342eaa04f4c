//! RMSNorm on a device.

#[cfg(feature = "cuda")]
use super::call::{launch, prepare};
#[cfg(not(feature = "cuda"))]
use super::no_operation::{launch, prepare};
use super::{CUstream_st, MorayCuda};
use crate::arguments::{MorayBytes, MorayBytesMut, borrow, sized};
use crate::status::{MorayStatus, guard};

/// A normalisation of rows, or of each head of a row.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct MorayCudaRmsNorm {
    /// `sizeof(MorayCudaRmsNorm)`.
    pub struct_size: u32,
    /// Added to the mean square.
    pub eps: f32,
    /// Rows M, 1 to 65535.
    pub m: usize,
    /// Heads of a row, 1 to 65535; 1 where rows are whole.
    pub heads: usize,
    /// Features of a head, a multiple of 4.
    pub k: usize,
    /// f32 [M, heads, k], rows `x_stride` apart.
    pub x: MorayBytes,
    /// Elements from one row of x to the next, a multiple of 4.
    pub x_stride: usize,
    /// f32 [k].
    pub weight: MorayBytes,
    /// f32 [M, heads, k], rows `y_stride` apart; x itself, or apart from it.
    pub y: MorayBytesMut,
    /// Elements from one row of y to the next, a multiple of 4.
    pub y_stride: usize,
}

/// Loads the kernel of a normalisation, whose addresses are not looked at.
///
/// Fails as `moray_cuda_rms_norm`, and as `moray_cuda_load_kernels`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_cuda_rms_norm_prepare(
    cuda: *const MorayCuda,
    call: *const MorayCudaRmsNorm,
) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        unsafe { prepare(borrow("cuda", cuda)?, sized("call", call)?).map(drop) }
    })
}

/// Computes y[m, h] = x[m, h] / sqrt(mean(x[m, h]^2) + eps) * weight.
///
/// Fails with `MORAY_STATUS_SHAPE` for sizes and strides, `MORAY_STATUS_LENGTH`, `MORAY_STATUS_NULL`, `MORAY_STATUS_MISALIGNED`
/// and `MORAY_STATUS_OVERLAP` for memory, `MORAY_STATUS_LAUNCH` if the driver does not start the kernel.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_cuda_rms_norm(
    cuda: *const MorayCuda,
    stream: *mut CUstream_st,
    call: *const MorayCudaRmsNorm,
) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        unsafe { launch(borrow("cuda", cuda)?, stream, sized("call", call)?) }
    })
}
