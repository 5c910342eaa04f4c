//! Attention over heads that run, on a device.

#[cfg(feature = "cuda-attention")]
use super::call::{launch, prepare};
#[cfg(not(feature = "cuda-attention"))]
use super::no_operation::{launch, prepare};
use super::{CUstream_st, MorayCuda};
use crate::arguments::{MorayBytes, MorayBytesMut, borrow, give, sized};
use crate::attention::{MorayHeads, MorayKvPolicy};
use crate::dtype::MorayDtype;
use crate::kv_pages::MorayKvPages;
use crate::status::{MorayStatus, guard};

/// As `MORAY_KV_HOLE`, and whether the cache holds the positions stays as it is: to write single rows later. On devices alone.
pub const MORAY_KV_KEEP: MorayKvPolicy = 3;

/// A run of consecutive tokens of one sequence, as kernels read it.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct MorayCudaSpan {
    /// The sequence's place in the cache, each at most once in a call.
    pub slot: u32,
    /// Position of the first token.
    pub start: u32,
    /// Tokens.
    pub len: u32,
    /// Row of the first token in q, k, v and out: the tokens of the spans before it.
    pub first_row: u32,
}

/// The tokens of a call and the heads that run for them. Kernels read spans, lists and masks, so that a graph replays with others as
/// long as the numbers here hold.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct MorayCudaSpans {
    /// `MorayCudaSpan` [n_spans].
    pub records: MorayBytes,
    /// Spans, at most 65535.
    pub n_spans: usize,
    /// Tokens of the longest at most.
    pub longest: usize,
    /// M, the tokens of all at most.
    pub rows: usize,
    /// Which heads run.
    pub heads: MorayHeads,
    /// u32: the lists [n_spans, width] or masks [n_spans, ceil(n_q_heads / 32)]; left out for all heads.
    pub list: MorayBytes,
    /// u32 [n_spans]: the lengths of lists; left out for all heads and masks.
    pub counts: MorayBytes,
    /// Entries of a span's list.
    pub width: usize,
    /// Query heads: a multiple of `n_kv_heads`.
    pub n_q_heads: usize,
    /// Key and value heads.
    pub n_kv_heads: usize,
    /// Elements of a head: a multiple of 8, at most 256.
    pub head_dim: usize,
}

/// The writing of a call's keys and values.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct MorayCudaWriteKv {
    /// `sizeof(MorayCudaWriteKv)`.
    pub struct_size: u32,
    /// Of q, k and v.
    pub dtype: MorayDtype,
    /// What is stored for a KV head that no query head reads; holes need `kv.present`.
    pub policy: MorayKvPolicy,
    /// The cache.
    pub kv: MorayKvPages,
    /// The tokens and heads.
    pub spans: MorayCudaSpans,
    /// [M, n_kv_heads, head_dim], rows `kv_stride` apart, or more.
    pub k: MorayBytes,
    /// As `k`.
    pub v: MorayBytes,
    /// Elements from one token's k, and v, to the next.
    pub kv_stride: usize,
    /// [M, n_q_heads, head_dim], rows `q_stride` apart, or more: queries to be turned; or left out.
    pub q: MorayBytes,
    /// Elements from one token's q to the next.
    pub q_stride: usize,
    /// f32 [M, n_q_heads, head_dim]: where they go; left out where `q` is. Rows of heads that do not run stay as they are.
    pub q_out: MorayBytesMut,
    /// f32 [context, head_dim]: head_dim / 2 cosines, then as many sines, of each position; left out where q and k are turned already.
    pub rope: MorayBytes,
    /// Positions in the table.
    pub context: usize,
}

/// Loads the kernel of a call, whose addresses are not looked at.
///
/// Fails as `moray_cuda_write_kv`, and as `moray_cuda_load_kernels`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_cuda_write_kv_prepare(
    cuda: *const MorayCuda,
    call: *const MorayCudaWriteKv,
) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        unsafe { prepare(borrow("cuda", cuda)?, sized("call", call)?).map(drop) }
    })
}

/// Turns q and k by the rotary embedding and writes the keys and values of a call's tokens into the cache.
///
/// Fails with `MORAY_STATUS_SHAPE` for sizes and strides, `MORAY_STATUS_UNSUPPORTED` for constants and holes without `kv.present`,
/// `MORAY_STATUS_LENGTH`, `MORAY_STATUS_NULL`, `MORAY_STATUS_MISALIGNED` and `MORAY_STATUS_OVERLAP` for memory, `MORAY_STATUS_LAUNCH` if the
/// driver does not start the kernel.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_cuda_write_kv(
    cuda: *const MorayCuda,
    stream: *mut CUstream_st,
    call: *const MorayCudaWriteKv,
) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        unsafe { launch(borrow("cuda", cuda)?, stream, sized("call", call)?) }
    })
}

/// Attention of a call's tokens.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct MorayCudaAttend {
    /// `sizeof(MorayCudaAttend)`.
    pub struct_size: u32,
    /// Of `out`.
    pub out_dtype: MorayDtype,
    /// The cache, with the call's own tokens written.
    pub kv: MorayKvPages,
    /// The tokens and heads.
    pub spans: MorayCudaSpans,
    /// Most spans of the engine's calls: by it contexts are cut into parts, on which results of few tokens depend.
    pub max_spans: usize,
    /// f32 [M, n_q_heads, head_dim], turned by the rotary embedding.
    pub q: MorayBytes,
    /// [M, n_q_heads, head_dim]; all of it is written.
    pub out: MorayBytesMut,
    /// As many bytes as `moray_cuda_attend_prepare` says, or more; left out where it says 0. Calls that may run at once have one each.
    pub workspace: MorayBytesMut,
}

/// Loads the kernels of a call, whose addresses are not looked at, and says how many bytes `workspace` needs.
///
/// Fails as `moray_cuda_attend`, and as `moray_cuda_load_kernels`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_cuda_attend_prepare(
    cuda: *const MorayCuda,
    call: *const MorayCudaAttend,
    bytes: *mut usize,
) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        unsafe { give("bytes", bytes, prepare(borrow("cuda", cuda)?, sized("call", call)?)?) }
    })
}

/// Computes out[t, h] = sum over j of softmax_j(q[t, h] * k[j] / sqrt(head_dim)) * v[j] over the positions j up to t's own that the
/// cache holds, for the heads that run; others give zeros.
///
/// Fails as `moray_cuda_write_kv`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_cuda_attend(
    cuda: *const MorayCuda,
    stream: *mut CUstream_st,
    call: *const MorayCudaAttend,
) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        unsafe { launch(borrow("cuda", cuda)?, stream, sized("call", call)?) }
    })
}
