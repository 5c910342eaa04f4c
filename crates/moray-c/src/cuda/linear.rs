//! The multiplication on a device.

#[cfg(feature = "cuda-w4a8")]
use super::call::{launch, prepare};
#[cfg(not(feature = "cuda-w4a8"))]
use super::no_operation::{launch, prepare};
use super::{CUstream_st, MorayCuda, MorayCudaActivations};
use crate::arguments::{MorayBytes, MorayBytesMut, borrow, give, sized};
use crate::dtype::MorayDtype;
use crate::format::MorayFormat;
use crate::sections::MoraySections;
use crate::status::{MorayStatus, guard};

/// A packed weight w[N, K] in device memory: the sections that `moray_pack` writes, or `moray_weight_describe` names, copied as they are.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct MorayCudaWeight {
    /// Output features, at most 2^30.
    pub n: usize,
    /// Input features.
    pub k: usize,
    /// The format.
    pub format: MorayFormat,
    /// `MORAY_LAYOUT_VERSION` as it was when the weight was packed.
    pub layout_version: u32,
    /// The sections, of `moray_section_bytes`; left out where the format has none.
    pub sections: MoraySections,
}

/// A multiplication y = x * w^T + bias + residual.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct MorayCudaLinear {
    /// `sizeof(MorayCudaLinear)`.
    pub struct_size: u32,
    /// Of `y` and `residual`.
    pub dtype: MorayDtype,
    /// w[N, K].
    pub weight: MorayCudaWeight,
    /// x[M, K].
    pub x: MorayCudaActivations,
    /// f32 [N], or left out.
    pub bias: MorayBytes,
    /// [M, N], or left out; apart from `y`.
    pub residual: MorayBytes,
    /// [M, N], row-major.
    pub y: MorayBytesMut,
    /// As many bytes as `moray_cuda_linear_prepare` says, or more: zeros before the first call with it, and left so by every call that
    /// runs to its end. Calls that may run at once have one each.
    pub workspace: MorayBytesMut,
}

/// Loads the kernels of a multiplication, whose addresses are not looked at, and says how many bytes `workspace` needs; 0 where it
/// may be left out. Another M may need another kernel and more.
///
/// Fails as `moray_cuda_linear`, and as `moray_cuda_load_kernels`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_cuda_linear_prepare(
    cuda: *const MorayCuda,
    call: *const MorayCudaLinear,
    bytes: *mut usize,
) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        unsafe { give("bytes", bytes, prepare(borrow("cuda", cuda)?, sized("call", call)?)?) }
    })
}

/// Multiplies as `moray_linear` does, with the same bits.
///
/// Fails with `MORAY_STATUS_SHAPE` for sizes that go together with nothing (M above 1048560, x and weight that differ in K),
/// `MORAY_STATUS_UNSUPPORTED` for a format of parts that do not go together or another layout, `MORAY_STATUS_LENGTH`,
/// `MORAY_STATUS_NULL`, `MORAY_STATUS_MISALIGNED` and `MORAY_STATUS_OVERLAP` for memory, `MORAY_STATUS_LAUNCH` if the driver does not start
/// the kernel.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_cuda_linear(
    cuda: *const MorayCuda,
    stream: *mut CUstream_st,
    call: *const MorayCudaLinear,
) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        unsafe { launch(borrow("cuda", cuda)?, stream, sized("call", call)?) }
    })
}
