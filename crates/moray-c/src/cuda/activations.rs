//! Tokens quantized on a device.

#[cfg(feature = "cuda-w4a8")]
use super::call::{launch, prepare};
#[cfg(not(feature = "cuda-w4a8"))]
use super::no_operation::{launch, prepare};
use super::{CUstream_st, MorayCuda};
use crate::activations::MorayActScales;
use crate::arguments::{MorayBytes, MorayBytesMut, borrow, give, sized};
use crate::dtype::MorayDtype;
use crate::mlp::MorayActivation;
use crate::status::{MorayStatus, guard};

/// What is quantized: one of the `MORAY_SOURCE_..` constants.
pub type MoraySource = u32;

/// x as it is.
pub const MORAY_SOURCE_PLAIN: MoraySource = 0;
/// x / sqrt(mean(x^2) + eps) * norm_weight.
pub const MORAY_SOURCE_RMS_NORM: MoraySource = 1;
/// act(gate) * up, of x [M, 2 * K] with each token's gate before its up.
pub const MORAY_SOURCE_GATED: MoraySource = 2;

/// Quantized tokens in device memory: written by `moray_cuda_quantize`, read by any number of products.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct MorayCudaActivations {
    /// Tokens M.
    pub m: usize,
    /// Features K, a multiple of 32.
    pub k: usize,
    /// How finely they are scaled.
    pub scales: MorayActScales,
    /// As many bytes as `moray_cuda_quantize_prepare` says, or more.
    pub memory: MorayBytesMut,
}

/// A quantization.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct MorayCudaQuantize {
    /// `sizeof(MorayCudaQuantize)`.
    pub struct_size: u32,
    /// What is quantized.
    pub source: MoraySource,
    /// Of x.
    pub dtype: MorayDtype,
    /// Of the gate, for `MORAY_SOURCE_GATED`; else 0.
    pub activation: MorayActivation,
    /// For `MORAY_SOURCE_RMS_NORM`; else not looked at.
    pub eps: f32,
    /// [M, K], or [M, 2 * K]; row-major.
    pub x: MorayBytes,
    /// f32 [K] for `MORAY_SOURCE_RMS_NORM`; else left out.
    pub norm_weight: MorayBytes,
    /// Where the tokens go.
    pub out: MorayCudaActivations,
}

/// Loads the kernels of a quantization, whose addresses are not looked at, and says how many bytes `out.memory` needs; as many serve
/// fewer tokens.
///
/// Fails as `moray_cuda_quantize`, and as `moray_cuda_load_kernels`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_cuda_quantize_prepare(
    cuda: *const MorayCuda,
    call: *const MorayCudaQuantize,
    bytes: *mut usize,
) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        unsafe { give("bytes", bytes, prepare(borrow("cuda", cuda)?, sized("call", call)?)?) }
    })
}

/// Quantizes tokens as `moray_activations_quantize` does, with the same bits.
///
/// Fails with `MORAY_STATUS_SHAPE` unless M is at least 1 and K a multiple of 32, `MORAY_STATUS_LENGTH`, `MORAY_STATUS_NULL`,
/// `MORAY_STATUS_MISALIGNED` and `MORAY_STATUS_OVERLAP` for memory, `MORAY_STATUS_LAUNCH` if the driver does not start the kernel.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_cuda_quantize(
    cuda: *const MorayCuda,
    stream: *mut CUstream_st,
    call: *const MorayCudaQuantize,
) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        unsafe { launch(borrow("cuda", cuda)?, stream, sized("call", call)?) }
    })
}
