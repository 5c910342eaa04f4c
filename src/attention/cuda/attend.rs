//! Attention: check, select, launch.

use crate::attention::{AttentionShape, Limits};
use crate::device::cudarc::driver::sys::CUstream;
use crate::device::cudarc::driver::{CudaSlice, DevicePtr, DevicePtrMut, DeviceRepr};
use crate::device::{Device, check_aligned, check_context};
use crate::element::Element;
use crate::error::{Error, Result};
use std::ffi::c_void;

use super::batch::Call;
use super::check_room;
use super::kv_cache::{KvCache, KvFormat};
use super::params::{AttendParams, dtype_of};
use super::variant::{Split, Variant, select, split};

/// What decode kernels leave for the merge, made once for a shape and [`Limits`].
#[derive(Debug)]
pub struct Workspace {
    shape: AttentionShape,
    limits: Limits,
    split: Split,
    /// f32 \[rows, n_q_heads, n_splits, head_dim\].
    partial_out: CudaSlice<f32>,
    /// (f32, f32) \[rows, n_q_heads, n_splits\].
    partial_state: CudaSlice<f32>,
}

impl Workspace {
    /// Allocates for calls of up to `limits.max_rows` tokens in `limits.max_spans` spans with contexts up to `limits.capacity`.
    ///
    /// # Errors
    /// [`Error::Shape`] for a shape that [`AttentionShape::new`] refuses or limits of 0, [`Error::OutOfMemory`] if there is no
    /// room.
    pub fn new(device: &Device, shape: AttentionShape, limits: Limits) -> Result<Workspace> {
        shape.check()?;
        for (what, got) in [
            ("workspace max_rows", limits.max_rows),
            ("workspace max_spans", limits.max_spans),
            ("workspace capacity", limits.capacity),
        ] {
            if got == 0 || got > 1 << 24 {
                return Err(Error::Shape { what, expected: "1 to 2^24", got });
            }
        }
        let split = split(shape.n_kv_heads, limits.max_spans, limits.capacity, device.multiprocessors() as usize);
        let states = states(&shape, &limits, split);
        Ok(Workspace {
            shape,
            limits,
            split,
            partial_out: device.zeros(states * shape.head_dim)?,
            partial_state: device.zeros(states * 2)?,
        })
    }

    /// Bytes allocated on the device.
    pub fn memory_bytes(&self) -> usize {
        4 * (self.partial_out.len() + self.partial_state.len())
    }

    fn check(&self, device: &Device, call: &Call<'_>, rows: usize, capacity: usize) -> Result<()> {
        let shape = |what, expected, got| Err(Error::Shape { what, expected, got });
        check_context("workspace", device, &self.partial_out)?;
        if self.shape != call.shape {
            return shape("workspace", "one made for the call's shape", self.shape.n_q_heads);
        }
        if rows > self.limits.max_rows {
            return shape("tokens", "at most the workspace's max_rows", rows);
        }
        if call.spans.host().len() > self.limits.max_spans {
            return shape("spans", "at most the workspace's max_spans", call.spans.host().len());
        }
        if capacity > self.limits.capacity {
            return shape("cache capacity", "at most the workspace's capacity", capacity);
        }
        Ok(())
    }
}

/// Softmax states that a decode call can leave: of as many rows as spans can have and still be decoded.
fn states(shape: &AttentionShape, limits: &Limits, split: Split) -> usize {
    if split.n_splits == 1 { 0 } else { limits.max_rows * shape.n_q_heads * split.n_splits }
}

/// Computes attention of a call's tokens over what the cache holds for their slots, positions ≤ their own.
///
/// out\[t, h\] = Σ_j softmax_j(q\[t, h\] · k\[j\] / √head_dim) · v\[j\] over the positions j that the KV head of h holds. Heads that
/// do not run give zeros and cost nothing else; a head that holds no position gives zeros.
///
/// | argument | dtype | shape | layout |
/// |---|---|---|---|
/// | `q` | f32 | \[M, n_q_heads, head_dim\] | row-major, turned by RoPE; rows of skipped heads are not read |
/// | `cache` | f32, f16, bf16, int8 | see [`KvCache`] | this call's own tokens already written |
/// | `out` | f32, f16, bf16 | \[M, n_q_heads, head_dim\] | row-major, all of it written |
///
/// Spans of few tokens take the decode kernel, which splits the context between blocks, longer ones the prefill kernel;
/// for a batch with both kinds two calls are faster than one.
///
/// # Errors
/// [`Error::Index`] for a layer, slot or position out of range, [`Error::Length`] for a buffer that is too short,
/// [`Error::Shape`] if the call, the cache and the workspace disagree, [`Error::Misaligned`] for a `q` or `out` that does not
/// start at a multiple of 16 bytes, [`Error::Unsupported`] for memory of another device or a device with too little shared memory, [`Error::Launch`] if a kernel cannot be started. Nothing has been launched then.
///
/// # Source
/// FlashAttention-2 (arXiv 2307.08691); Flash-Decoding; a list of heads per sequence: Polar Sparsity (arXiv 2505.14884).
///
/// # Example
/// See [`crate::attention::cuda`].
pub fn attend<E: Element + DeviceRepr>(
    device: &Device,
    call: &Call<'_>,
    q: &impl DevicePtr<f32>,
    cache: &KvCache,
    out: &mut impl DevicePtrMut<E>,
    workspace: &mut Workspace,
) -> Result<()> {
    let rows = call.check(device, cache.shape())?;
    let heads = call.heads.view(device, &call.shape, call.spans.host().len())?;
    check_context("q", device, q)?;
    check_context("out", device, out)?;
    check_room("q", rows * call.shape.q_elems(), q.len())?;
    check_room("out", rows * call.shape.q_elems(), out.len())?;
    workspace.check(device, call, rows, cache.shape().capacity)?;
    if rows == 0 {
        return Ok(());
    }
    let (n_spans, longest) = (call.spans.host().len(), call.spans.longest());
    let variant = select(&call.shape, cache.format(), n_spans, longest, workspace.split);
    variant.check(device)?;
    let stream = device.stream();
    let (q, _read) = q.device_ptr(stream);
    let (out, _write) = out.device_ptr_mut(stream);
    check_aligned("q", q)?;
    check_aligned("out", out)?;
    let params = AttendParams {
        kv: cache.layer(device, call.layer)?,
        heads,
        spans: call.spans.address(device),
        q,
        out,
        partial_out: workspace.partial_out.device_ptr(stream).0,
        partial_state: workspace.partial_state.device_ptr(stream).0,
        n_q_heads: call.shape.n_q_heads as u32,
        head_dim: call.shape.head_dim as u32,
        out_dtype: dtype_of::<E>(),
        split_len: variant.split.len as u32,
        n_splits: variant.split.n_splits as u32,
        score_factor: (std::f64::consts::LOG2_E / (call.shape.head_dim as f64).sqrt()) as f32,
    };
    // SAFETY: the checks above are those that `launch` asks for.
    unsafe { launch(device, stream.cu_stream(), &variant, n_spans, longest, params) }
}

/// Attention on addresses, for engines with memory of their own: as [`attend`], without its checks.
///
/// `split_len` and `n_splits` are used for spans of up to 64 (token, head) pairs a group; `split_len · n_splits` covers the
/// capacity.
///
/// # Errors
/// [`Error::Shape`] and [`Error::Unsupported`] for what no kernel takes, [`Error::Launch`] if one cannot be started.
///
/// # Safety
/// Every address is valid for what [`AttendParams`] says of it, aligned to 16 bytes, and of the context of `device`, to which
/// `stream` belongs, until the stream has passed the call; the spans on the device are `n_spans` with at most
/// `longest` tokens each; slots, positions and pages are inside the cache.
pub unsafe fn attend_raw(
    device: &Device,
    stream: CUstream,
    format: KvFormat,
    n_spans: usize,
    longest: usize,
    mut params: AttendParams,
) -> Result<()> {
    let (heads, d) = (params.n_q_heads as usize, params.head_dim as usize);
    let shape = AttentionShape::new(heads, params.kv.n_kv_heads as usize, d)?;
    if d > super::MAX_HEAD_DIM || shape.group_size() > super::MAX_GROUP {
        let expected = "head_dim at most 256 and at most 256 query heads per KV head";
        return Err(Error::Shape { what: "head_dim", expected, got: d });
    }
    if params.split_len % 64 != 0 || params.split_len == 0 || params.n_splits == 0 {
        let expected = "a positive multiple of 64";
        return Err(Error::Shape { what: "split_len", expected, got: params.split_len as usize });
    }
    if n_spans == 0 || longest == 0 {
        return Ok(());
    }
    let split = Split { n_splits: params.n_splits as usize, len: params.split_len as usize };
    let variant = select(&shape, format, n_spans, longest, split);
    variant.check(device)?;
    params.n_splits = variant.split.n_splits as u32;
    // SAFETY: the caller's.
    unsafe { launch(device, stream, &variant, n_spans, longest, params) }
}

/// # Safety
/// As [`attend_raw`]; the variant is that of the parameters.
unsafe fn launch(
    device: &Device,
    stream: CUstream,
    variant: &Variant,
    n_spans: usize,
    longest: usize,
    mut params: AttendParams,
) -> Result<()> {
    const BLOCK: [u32; 3] = [128, 1, 1];
    let mut args = [(&raw mut params).cast::<c_void>()];
    let Variant { module, symbol, grid, shared_bytes, split } = *variant;
    // SAFETY: the one parameter of these kernels is an `AttendParams`; its addresses are the caller's care.
    unsafe {
        device.launch_on(stream, module, symbol, grid, BLOCK, shared_bytes, &mut args)?;
        if split.n_splits == 1 {
            return Ok(());
        }
        let grid = [params.n_q_heads.div_ceil(4), longest as u32, n_spans as u32];
        device.launch_on(stream, "attention/decode", "attention_merge", grid, BLOCK, 0, &mut args)
    }
}
