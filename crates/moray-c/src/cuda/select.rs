//! Selections made on a device: masks from scores, a list from masks.

#[cfg(feature = "cuda-sparse-mlp")]
use super::call::{launch, prepare};
#[cfg(not(feature = "cuda-sparse-mlp"))]
use super::no_operation::{launch, prepare};
use super::{CUstream_st, MorayCuda};
use crate::arguments::{MorayBytes, MorayBytesMut, borrow, sized};
use crate::selection::MoraySelect;
use crate::status::{MorayStatus, guard};

/// Masks of what each token keeps of n values, such as a predictor's scores of neurons.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct MorayCudaSelect {
    /// `sizeof(MorayCudaSelect)`.
    pub struct_size: u32,
    /// `MORAY_SELECT_THRESHOLD` or `MORAY_SELECT_TOP_K`.
    pub kind: MoraySelect,
    /// Threshold: finite, at least 0.
    pub threshold: f32,
    /// Top-k: 1 to n; the lower index first where scores are equal.
    pub k: usize,
    /// Tokens.
    pub tokens: usize,
    /// Values of a token, 1 to 2^24.
    pub n: usize,
    /// f32 [tokens, n], rows `stride` apart, or more; their size is the score, and what is NaN is not kept.
    pub values: MorayBytes,
    /// Elements from one token's values to the next's.
    pub stride: usize,
    /// f32 [n] that scores are multiplied with, not negative; or left out.
    pub channel_scale: MorayBytes,
    /// u64 [tokens, ceil(n / 64)]: value i is bit i % 64 of word i / 64.
    pub masks: MorayBytesMut,
}

/// The list of what any mask keeps.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct MorayCudaUnion {
    /// `sizeof(MorayCudaUnion)`.
    pub struct_size: u32,
    /// Masks.
    pub tokens: usize,
    /// Bits of a mask, 1 to 2^24; those past n are 0.
    pub n: usize,
    /// u64 [tokens, ceil(n / 64)].
    pub masks: MorayBytes,
    /// u32 [n]: strictly increasing as far as the count goes.
    pub list: MorayBytesMut,
    /// u32 [1].
    pub count: MorayBytesMut,
}

/// Loads the kernel of a selection, whose addresses are not looked at.
///
/// Fails as `moray_cuda_select`, and as `moray_cuda_load_kernels`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_cuda_select_prepare(
    cuda: *const MorayCuda,
    call: *const MorayCudaSelect,
) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        unsafe { prepare(borrow("cuda", cuda)?, sized("call", call)?).map(drop) }
    })
}

/// Writes which values each token keeps: those above the threshold, or exactly k. The masks are those of `MORAY_SELECT_MASKS`.
///
/// Fails with `MORAY_STATUS_SHAPE` for sizes and k, `MORAY_STATUS_VALUE` for the threshold, `MORAY_STATUS_UNSUPPORTED` for other kinds,
/// `MORAY_STATUS_LENGTH`, `MORAY_STATUS_NULL`, `MORAY_STATUS_MISALIGNED` and `MORAY_STATUS_OVERLAP` for memory, `MORAY_STATUS_LAUNCH` if
/// the driver does not start the kernel.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_cuda_select(
    cuda: *const MorayCuda,
    stream: *mut CUstream_st,
    call: *const MorayCudaSelect,
) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        unsafe { launch(borrow("cuda", cuda)?, stream, sized("call", call)?) }
    })
}

/// Loads the kernel of a union, whose addresses are not looked at.
///
/// Fails as `moray_cuda_union`, and as `moray_cuda_load_kernels`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_cuda_union_prepare(cuda: *const MorayCuda, call: *const MorayCudaUnion) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        unsafe { prepare(borrow("cuda", cuda)?, sized("call", call)?).map(drop) }
    })
}

/// Lists what any of the masks keeps, for `MORAY_SELECT_LIST` and `MORAY_SELECT_UNION`.
///
/// Fails as `moray_cuda_select`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_cuda_union(
    cuda: *const MorayCuda,
    stream: *mut CUstream_st,
    call: *const MorayCudaUnion,
) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        unsafe { launch(borrow("cuda", cuda)?, stream, sized("call", call)?) }
    })
}
