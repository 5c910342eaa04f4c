//! The multiplication of activations in floating point on a device.

#[cfg(feature = "cuda-w4a8")]
use super::call::{launch, prepare};
#[cfg(not(feature = "cuda-w4a8"))]
use super::no_operation::{launch, prepare};
use super::{CUstream_st, MorayCuda, MorayCudaWeight, MoraySource};
use crate::activations::MorayActScales;
use crate::arguments::{MorayBytes, MorayBytesMut, borrow, give, sized};
use crate::dtype::MorayDtype;
use crate::mlp::MorayActivation;
use crate::status::{MorayStatus, guard};

/// A quantization and a multiplication: y = x' * w^T + bias + residual, x' being x, its RMSNorm or act(gate) * up of it in int8. Of few tokens
/// it is one launch, where that is faster. Gated, y = act(g) * u, where g and u are the first and the second half of these outputs.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct MorayCudaProduct {
    /// `sizeof(MorayCudaProduct)`.
    pub struct_size: u32,
    /// Of `y` and `residual`.
    pub dtype: MorayDtype,
    /// Of `x`.
    pub x_dtype: MorayDtype,
    /// What is quantized; of gated outputs not `MORAY_SOURCE_GATED`.
    pub source: MoraySource,
    /// How finely tokens are scaled.
    pub scales: MorayActScales,
    /// Whether outputs are gated: 0 or 1.
    pub gated: u32,
    /// act, of gated outputs and of `MORAY_SOURCE_GATED`; else not looked at.
    pub activation: MorayActivation,
    /// For `MORAY_SOURCE_RMS_NORM`; else not looked at.
    pub eps: f32,
    /// Tokens M, at most 1048560; of gated outputs 1 to 4, times K rounded up to 64 at most 16384.
    pub m: usize,
    /// w[N, K]; of gated outputs N is a multiple of 32.
    pub weight: MorayCudaWeight,
    /// [M, K], or [M, 2 * K] gate before up for `MORAY_SOURCE_GATED`, row-major.
    pub x: MorayBytes,
    /// f32 [K] for `MORAY_SOURCE_RMS_NORM`; else left out.
    pub norm_weight: MorayBytes,
    /// f32 [N], or left out.
    pub bias: MorayBytes,
    /// [M, N], or left out, as it is of gated outputs; apart from `y`.
    pub residual: MorayBytes,
    /// [M, N], gated [M, N / 2], row-major.
    pub y: MorayBytesMut,
    /// As many bytes as `moray_cuda_product_prepare` says, or more: zeros before the first call with it, and good for the next call of any weight
    /// and no more tokens after every one that runs to its end. Calls that may run at once have one each.
    pub workspace: MorayBytesMut,
}

/// Loads the kernels of a product, whose addresses are not looked at, and says how many bytes `workspace` needs, which serve every smaller M and
/// depend on N not at all; 0 where it may be left out.
///
/// Fails as `moray_cuda_product`, and as `moray_cuda_load_kernels`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_cuda_product_prepare(
    cuda: *const MorayCuda,
    call: *const MorayCudaProduct,
    bytes: *mut usize,
) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        unsafe { give("bytes", bytes, prepare(borrow("cuda", cuda)?, sized("call", call)?)?) }
    })
}

/// Quantizes and multiplies as `moray_cuda_quantize` and `moray_cuda_linear` do, with the same bits.
///
/// Fails as these two; with `MORAY_STATUS_SHAPE` for gated outputs of more tokens or another N, `MORAY_STATUS_UNSUPPORTED` for
/// `MORAY_SOURCE_GATED` and a residual of gated outputs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_cuda_product(
    cuda: *const MorayCuda,
    stream: *mut CUstream_st,
    call: *const MorayCudaProduct,
) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        unsafe { launch(borrow("cuda", cuda)?, stream, sized("call", call)?) }
    })
}
