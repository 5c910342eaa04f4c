//! The writing of keys and values and the attention after it, together.

#[cfg(feature = "cuda-attention")]
use super::call::{launch, prepare};
#[cfg(not(feature = "cuda-attention"))]
use super::no_operation::{launch, prepare};
use super::{CUstream_st, MorayCuda, MorayCudaSpans};
use crate::arguments::{MorayBytes, MorayBytesMut, borrow, give, sized};
use crate::attention::MorayKvPolicy;
use crate::dtype::MorayDtype;
use crate::kv_pages::MorayKvPages;
use crate::status::{MorayStatus, guard};

/// The writing of a call's keys and values and the attention of its tokens. It is one launch where (tokens of the longest span) * (query heads of
/// a KV head) is at most 16, as in a decode step, else two.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct MorayCudaWriteAttend {
    /// `sizeof(MorayCudaWriteAttend)`.
    pub struct_size: u32,
    /// Of q, k and v.
    pub dtype: MorayDtype,
    /// Of `out`.
    pub out_dtype: MorayDtype,
    /// What is stored for a KV head that no query head reads; holes need `kv.present`.
    pub policy: MorayKvPolicy,
    /// The cache.
    pub kv: MorayKvPages,
    /// The tokens and heads.
    pub spans: MorayCudaSpans,
    /// Most spans of the engine's calls: by it contexts are cut into parts, on which results of few tokens depend.
    pub max_spans: usize,
    /// [M, n_q_heads, head_dim], rows `q_stride` apart, or more: queries as they are projected.
    pub q: MorayBytes,
    /// Elements from one token's q to the next.
    pub q_stride: usize,
    /// [M, n_kv_heads, head_dim], rows `kv_stride` apart, or more.
    pub k: MorayBytes,
    /// As `k`.
    pub v: MorayBytes,
    /// Elements from one token's k, and v, to the next.
    pub kv_stride: usize,
    /// f32 [context, head_dim]: head_dim / 2 cosines, then as many sines, of each position; left out where q and k are turned already.
    pub rope: MorayBytes,
    /// Positions in the table.
    pub context: usize,
    /// [M, n_q_heads, head_dim]; all of it is written.
    pub out: MorayBytesMut,
    /// As many bytes as `moray_cuda_write_attend_prepare` says, or more. Calls that may run at once have one each.
    pub workspace: MorayBytesMut,
    /// u32 [n_spans, n_kv_heads], or more: zeros before the first call with them, and left so by every call that runs to its end. Parts of a context
    /// are merged by the block that comes last then; left out, or where it is two launches, by a launch of its own, to the same numbers.
    pub counters: MorayBytesMut,
}

/// Loads the kernels of a call, whose addresses are not looked at, and says how many bytes `workspace` needs.
///
/// Fails as `moray_cuda_write_attend`, and as `moray_cuda_load_kernels`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_cuda_write_attend_prepare(
    cuda: *const MorayCuda,
    call: *const MorayCudaWriteAttend,
    bytes: *mut usize,
) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        unsafe { give("bytes", bytes, prepare(borrow("cuda", cuda)?, sized("call", call)?)?) }
    })
}

/// Turns q and k, writes k and v and attends, as `moray_cuda_write_kv` and `moray_cuda_attend` do one after the other, with the same bits.
///
/// Fails as these two.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_cuda_write_attend(
    cuda: *const MorayCuda,
    stream: *mut CUstream_st,
    call: *const MorayCudaWriteAttend,
) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        unsafe { launch(borrow("cuda", cuda)?, stream, sized("call", call)?) }
    })
}
