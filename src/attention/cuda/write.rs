//! RoPE on q and k and the writing of K and V: check, launch.

use crate::attention::{self, AttentionShape, KvPolicy};
use crate::device::cudarc::driver::sys::CUstream;
use crate::device::cudarc::driver::{CudaSlice, CudaView, DevicePtr, DevicePtrMut, DeviceRepr};
use crate::device::{Device, check_context};
use crate::element::Element;
use crate::error::{Error, Result};
use std::ffi::c_void;

use super::batch::Call;
use super::check_room;
use super::kv_cache::{KvCache, KvFormat};
use super::params::{WriteParams, dtype_of};

/// A table of rotations on the device, with the bits of the host's.
#[derive(Debug)]
pub struct Rope {
    head_dim: usize,
    context: usize,
    table: CudaSlice<f32>,
}

impl Rope {
    /// Copies a table to the device.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if there is no room.
    pub fn upload(device: &Device, rope: &attention::Rope) -> Result<Rope> {
        Ok(Rope { head_dim: rope.head_dim(), context: rope.context(), table: device.upload(rope.table())? })
    }

    /// Positions in the table.
    pub fn context(&self) -> usize {
        self.context
    }

    pub(super) fn address(&self, device: &Device) -> u64 {
        self.table.device_ptr(device.stream()).0
    }
}

/// The projections of M tokens: q \[M, n_q_heads · head_dim\], k and v \[M, n_kv_heads · head_dim\], rows as far apart as the
/// strides say.
#[derive(Debug)]
pub struct Projections<'a, E> {
    /// None: K and V only.
    pub q: Option<CudaView<'a, E>>,
    /// As stored, before RoPE.
    pub k: CudaView<'a, E>,
    /// As stored.
    pub v: CudaView<'a, E>,
    /// Elements from one token's q to the next.
    pub q_stride: usize,
    /// Elements from one token's k, and v, to the next.
    pub kv_stride: usize,
}

impl<'a, E> Projections<'a, E> {
    /// The output of one projection with q, k and v side by side: \[M, (n_q_heads + 2 · n_kv_heads) · head_dim\]. A buffer that is
    /// too short for any token gives empty views, which [`write_kv`] refuses.
    pub fn fused(qkv: &'a CudaSlice<E>, shape: &AttentionShape) -> Projections<'a, E> {
        let (q, kv) = (shape.q_elems(), shape.kv_elems());
        let view = |start: usize| qkv.slice(start.min(qkv.len())..);
        Projections { q: Some(view(0)), k: view(q), v: view(q + kv), q_stride: q + 2 * kv, kv_stride: q + 2 * kv }
    }

    /// Three dense buffers.
    pub fn separate(
        q: &'a CudaSlice<E>,
        k: &'a CudaSlice<E>,
        v: &'a CudaSlice<E>,
        shape: &AttentionShape,
    ) -> Projections<'a, E> {
        let (q_stride, kv_stride) = (shape.q_elems(), shape.kv_elems());
        Projections { q: Some(q.as_view()), k: k.as_view(), v: v.as_view(), q_stride, kv_stride }
    }

    fn check(&self, device: &Device, shape: &AttentionShape, rows: usize) -> Result<()> {
        let mut buffers = vec![("k", &self.k, self.kv_stride, shape.kv_elems())];
        buffers.push(("v", &self.v, self.kv_stride, shape.kv_elems()));
        buffers.extend(self.q.iter().map(|q| ("q", q, self.q_stride, shape.q_elems())));
        for (what, view, stride, width) in buffers {
            check_context(what, device, view)?;
            if stride < width {
                return Err(Error::Shape { what: "stride", expected: "at least a row's elements", got: stride });
            }
            let needed = rows.checked_sub(1).map_or(0, |before| before.saturating_mul(stride).saturating_add(width));
            check_room(what, needed, view.len())?;
        }
        Ok(())
    }
}

/// Turns q and k by RoPE, writes q to `q_out` and K and V of a call's tokens into the cache.
///
/// Rows of q of heads that do not run are not written. A group none of whose heads runs gets what `policy` says: its K and V
/// all the same, a hole, or zeros ([`KvPolicy::Recompute`] leaves a hole, which [`super::write_rows`] fills).
///
/// | argument | dtype | shape | layout |
/// |---|---|---|---|
/// | `rope` | f32 | \[context, head_dim\] | None: q and k are turned already, or the model has no RoPE |
/// | `projections` | f32, f16, bf16 | see [`Projections`] | |
/// | `q_out` | f32 | \[M, n_q_heads, head_dim\] | row-major; needed where the projections have q |
///
/// # Errors
/// [`Error::Index`] for a layer, slot or position out of range (of the cache or the rope table), [`Error::Length`] for a buffer
/// that is too short, [`Error::Shape`] if the call, the cache and the rope disagree, [`Error::Unsupported`] for a policy that
/// needs a cache with holes, [`Error::Launch`] if the kernel cannot be started. Nothing has been launched then.
///
/// # Example
/// See [`crate::attention::cuda`].
pub fn write_kv<E: Element + DeviceRepr>(
    device: &Device,
    call: &Call<'_>,
    policy: KvPolicy,
    rope: Option<&Rope>,
    projections: &Projections<'_, E>,
    q_out: Option<&mut CudaSlice<f32>>,
    cache: &mut KvCache,
) -> Result<()> {
    let rows = call.check(device, cache.shape())?;
    projections.check(device, &call.shape, rows)?;
    let policy = policy_code(policy, cache)?;
    if let Some(rope) = rope {
        check_context("rope", device, &rope.table)?;
        let end = call.spans.host().iter().map(|span| span.end()).max().unwrap_or(0);
        check_rope(rope, call.shape.head_dim, end)?;
    }
    let stream = device.stream();
    let q_out = match (&projections.q, q_out) {
        (None, _) => 0,
        (Some(_), Some(out)) => {
            check_context("q_out", device, out)?;
            check_room("q_out", rows * call.shape.q_elems(), out.len())?;
            out.device_ptr_mut(stream).0
        }
        (Some(_), None) => {
            return Err(Error::Length { what: "q_out", expected: rows * call.shape.q_elems(), got: 0 });
        }
    };
    let n_spans = call.spans.host().len();
    let params = WriteParams {
        kv: cache.layer(device, call.layer)?,
        heads: call.heads.view(device, &call.shape, n_spans)?,
        spans: call.spans.address(device),
        q: projections.q.as_ref().map_or(0, |q| q.device_ptr(stream).0),
        k: projections.k.device_ptr(stream).0,
        v: projections.v.device_ptr(stream).0,
        q_out,
        rope: rope.map_or(0, |rope| rope.address(device)),
        q_stride: projections.q_stride as u64,
        k_stride: projections.kv_stride as u64,
        v_stride: projections.kv_stride as u64,
        n_q_heads: call.shape.n_q_heads as u32,
        head_dim: call.shape.head_dim as u32,
        dtype: dtype_of::<E>(),
        policy,
    };
    // SAFETY: the checks above are those that `write_kv_raw` asks for.
    unsafe { write_kv_raw(device, stream.cu_stream(), cache.format(), n_spans, call.spans.longest(), params) }
}

/// [`write_kv`] on addresses, for engines with memory of their own, without its checks.
///
/// # Errors
/// [`Error::Shape`] for a `head_dim` that the kernels do not take, [`Error::Launch`] if the kernel cannot be started.
///
/// # Safety
/// Every address is valid for what [`WriteParams`] says of it and of the context of `device`, to which `stream` belongs,
/// until the stream has passed the call; the spans on the device are `n_spans` with at most `longest` tokens each; slots and
/// pages are inside the cache.
pub unsafe fn write_kv_raw(
    device: &Device,
    stream: CUstream,
    format: KvFormat,
    n_spans: usize,
    longest: usize,
    mut params: WriteParams,
) -> Result<()> {
    let d = params.head_dim as usize;
    if d > super::MAX_HEAD_DIM || d % 8 != 0 {
        return Err(Error::Shape { what: "head_dim", expected: "a positive multiple of 8, at most 256", got: d });
    }
    if n_spans == 0 || longest == 0 {
        return Ok(());
    }
    let symbol = match format {
        KvFormat::F32 => "attention_write_f32",
        KvFormat::F16 => "attention_write_f16",
        KvFormat::Bf16 => "attention_write_bf16",
        KvFormat::Int8 => "attention_write_int8",
    };
    let grid = [longest as u32, n_spans as u32, 1];
    let mut args = [(&raw mut params).cast::<c_void>()];
    // SAFETY: the one parameter of these kernels is a `WriteParams`; its addresses are the caller's care.
    unsafe { device.launch_on(stream, "attention/write", symbol, grid, [128, 1, 1], 0, &mut args) }
}

fn policy_code(policy: KvPolicy, cache: &KvCache) -> Result<u32> {
    match policy {
        KvPolicy::WriteAll => Ok(0),
        KvPolicy::Zero => Ok(2),
        KvPolicy::Hole | KvPolicy::Recompute { .. } if cache.has_holes() => Ok(1),
        _ => {
            let (expected, got) = ("write-all or zero, or a cache with holes", format!("{policy:?}"));
            Err(Error::Unsupported { what: "kv policy", expected, got })
        }
    }
}

/// Checks that a table has the rotations of positions below `end`.
pub(super) fn check_rope(rope: &Rope, head_dim: usize, end: usize) -> Result<()> {
    if rope.head_dim != head_dim {
        let expected = "the cache's head_dim";
        return Err(Error::Shape { what: "rope head_dim", expected, got: rope.head_dim });
    }
    if end > rope.context {
        return Err(Error::Index { what: "rope position", limit: rope.context, got: end - 1 });
    }
    Ok(())
}
