//! RoPE on q and k and the writing of K and V: check, fill in, launch.

use crate::attention::{self, AttentionShape, KvPolicy};
use crate::device::cudarc::driver::{CudaSlice, CudaView};
use crate::device::{Arguments, Device, DeviceElement};
use crate::error::{Error, Result};

use super::batch::Call;
use super::kv_cache::KvCache;
use super::raw;

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

    pub(super) fn hold<'a>(&'a self, arguments: &mut Arguments<'a>) -> Result<raw::RopeTable> {
        Ok(raw::RopeTable { table: arguments.read("rope", &self.table)?, context: self.context })
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
pub fn write_kv<E: DeviceElement>(
    device: &Device,
    call: &Call<'_>,
    policy: KvPolicy,
    rope: Option<&Rope>,
    projections: &Projections<'_, E>,
    q_out: Option<&mut CudaSlice<f32>>,
    cache: &mut KvCache,
) -> Result<()> {
    let mut arguments = Arguments::new(device);
    let write = fill(&mut arguments, call, policy, rope, projections, q_out, cache)?;
    arguments.launch(&write)
}

/// Holds what a write works on.
pub(super) fn fill<'a, E: DeviceElement>(
    arguments: &mut Arguments<'a>,
    call: &Call<'a>,
    policy: KvPolicy,
    rope: Option<&'a Rope>,
    projections: &'a Projections<'_, E>,
    q_out: Option<&'a mut CudaSlice<f32>>,
    cache: &'a mut KvCache,
) -> Result<raw::WriteKv> {
    let rows = call.check(cache.shape())?;
    let skipped = skipped(policy, cache)?;
    if let Some(rope) = rope {
        let end = call.spans.host().iter().map(|span| span.end()).max().unwrap_or(0);
        check_rope(rope, call.shape.head_dim, end)?;
    }
    let Projections { q, k, v, q_stride, kv_stride } = projections;
    let queries = match (q, q_out) {
        (None, _) => None,
        (Some(q), Some(out)) => Some(raw::Queries {
            q: arguments.read("q", q)?.cast(),
            stride: *q_stride,
            out: arguments.write("q_out", out)?,
        }),
        (Some(_), None) => {
            return Err(Error::Length { what: "q_out", expected: rows * call.shape.q_elems(), got: 0 });
        }
    };
    Ok(raw::WriteKv {
        shape: call.shape,
        kv: cache.hold_mut(arguments, call.layer)?,
        heads: call.heads.hold(arguments)?,
        spans: call.spans.hold(arguments)?,
        skipped,
        rope: rope.map(|rope| rope.hold(arguments)).transpose()?,
        queries,
        k: arguments.read("k", k)?.cast(),
        v: arguments.read("v", v)?.cast(),
        kv_stride: *kv_stride,
        element: E::KIND,
    })
}

/// What a policy asks of the kernel: the rows of [`KvPolicy::Recompute`] are holes until they are computed.
fn skipped(policy: KvPolicy, cache: &KvCache) -> Result<raw::Skipped> {
    match policy {
        KvPolicy::WriteAll => Ok(raw::Skipped::Write),
        KvPolicy::Zero => Ok(raw::Skipped::Zero),
        KvPolicy::Hole | KvPolicy::Recompute { .. } if cache.has_holes() => Ok(raw::Skipped::Hole),
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
