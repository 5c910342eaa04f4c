//! Attention: check, fill in, launch.

use crate::attention::{AttentionShape, KvPolicy, Limits};
use crate::device::cudarc::driver::{CudaSlice, CudaView, DevicePtr, DevicePtrMut};
use crate::device::{Address, Arguments, Device, DeviceElement};
use crate::error::{Error, Result};

use super::batch::Call;
use super::kv_cache::KvCache;
use super::raw;
use super::split::Split;
use super::variant::MAX_DECODE_TILES;
use super::write::{self, Projections, Rope};

/// What decode kernels leave for the merge, made once for a shape and [`Limits`].
#[derive(Debug)]
pub struct Workspace {
    shape: AttentionShape,
    limits: Limits,
    split: Split,
    /// As [`raw::Attend::workspace`].
    memory: CudaSlice<f32>,
    /// As [`raw::Attend::arrived`].
    arrived: CudaSlice<u32>,
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
        let split =
            Split::choose(shape.n_kv_heads, limits.max_spans, limits.capacity, device.multiprocessors() as usize);
        let states = if split.n_splits == 1 { 0 } else { limits.max_rows * shape.n_q_heads * split.n_splits };
        let memory = device.zeros(states * (shape.head_dim + 2))?;
        let arrived = device.zeros(limits.max_spans * shape.n_kv_heads * MAX_DECODE_TILES)?;
        Ok(Workspace { shape, limits, split, memory, arrived })
    }

    /// Bytes allocated on the device.
    pub fn memory_bytes(&self) -> usize {
        4 * (self.memory.len() + self.arrived.len())
    }

    /// What the blocks of a split context count in, u32 \[spans, blocks of a span\]: zeros between calls, for whoever keeps a copy of the memory.
    pub fn counters(&self) -> CudaView<'_, u32> {
        self.arrived.as_view()
    }

    fn check(&self, call: &Call<'_>, rows: usize, capacity: usize) -> Result<()> {
        let shape = |what, expected, got| Err(Error::Shape { what, expected, got });
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
pub fn attend<E: DeviceElement>(
    device: &Device,
    call: &Call<'_>,
    q: &impl DevicePtr<f32>,
    cache: &KvCache,
    out: &mut impl DevicePtrMut<E>,
    workspace: &mut Workspace,
) -> Result<()> {
    let rows = call.check(cache.shape())?;
    workspace.check(call, rows, cache.shape().capacity)?;
    let mut arguments = Arguments::new(device);
    let kv = cache.hold(&mut arguments, call.layer)?;
    let (heads, spans) = (call.heads.hold(&mut arguments)?, call.spans.hold(&mut arguments)?);
    let q = arguments.read("q", q)?;
    let attend = fill(&mut arguments, call.shape, (kv, heads, spans, q), out, workspace)?;
    arguments.launch(&attend)
}

/// Turns q and k by RoPE, writes K and V of a call's tokens into the cache and computes attention: [`super::write_kv`] and [`attend`], bit for
/// bit, in one launch where spans are of few tokens, (tokens · query heads of a KV head) ≤ 16.
///
/// `q` f32 \[M, n_q_heads, head_dim\] is where queries are turned if it takes two launches; of one launch it holds nothing afterwards. The
/// other arguments are those of the two.
///
/// # Errors
/// As the two calls; [`Error::Length`] for projections without q. Nothing has been launched then.
///
/// # Example
/// See [`crate::attention::cuda`].
pub fn write_attend<X: DeviceElement, E: DeviceElement>(
    device: &Device,
    call: &Call<'_>,
    tokens: NewTokens<'_, X>,
    q: &mut CudaSlice<f32>,
    cache: &mut KvCache,
    out: &mut impl DevicePtrMut<E>,
    workspace: &mut Workspace,
) -> Result<()> {
    let rows = call.check(cache.shape())?;
    workspace.check(call, rows, cache.shape().capacity)?;
    let NewTokens { policy, rope, projections } = tokens;
    let mut arguments = Arguments::new(device);
    let write = write::fill(&mut arguments, call, policy, rope, projections, Some(q), cache)?;
    let Some(queries) = write.queries else {
        return Err(Error::Length { what: "q", expected: rows * call.shape.q_elems(), got: 0 });
    };
    let input = (write.kv, write.heads, write.spans, queries.out);
    let attend = fill(&mut arguments, call.shape, input, out, workspace)?;
    arguments.launch(&raw::WriteAttend { write, attend })
}

/// Tokens that are not in the cache yet, as [`super::write_kv`] takes them.
#[derive(Debug, Clone, Copy)]
pub struct NewTokens<'a, E> {
    /// What is stored for KV heads none of whose query heads runs.
    pub policy: KvPolicy,
    /// None: q and k are turned already, or the model has no RoPE.
    pub rope: Option<&'a Rope>,
    /// q, k and v.
    pub projections: &'a Projections<'a, E>,
}

/// Holds where attention of what has been held goes and what it works in.
fn fill<'a, E: DeviceElement>(
    arguments: &mut Arguments<'a>,
    shape: AttentionShape,
    (kv, heads, spans, q): (raw::Kv, raw::Heads, raw::Spans, Address<f32>),
    out: &'a mut impl DevicePtrMut<E>,
    workspace: &'a mut Workspace,
) -> Result<raw::Attend> {
    let mut attend = raw::Attend {
        shape,
        kv,
        heads,
        spans,
        q,
        out: arguments.write("out", out)?.cast(),
        out_type: E::KIND,
        split: workspace.split,
        workspace: arguments.write("workspace", &mut workspace.memory)?,
        workspace_bytes: 0,
        arrived: Some(arguments.write("workspace", &mut workspace.arrived)?),
    };
    attend.workspace_bytes = attend.workspace_bytes();
    Ok(attend)
}
