//! Attention: check, fill in, launch.

use crate::attention::{AttentionShape, Limits};
use crate::device::cudarc::driver::{CudaSlice, DevicePtr, DevicePtrMut};
use crate::device::{Arguments, Device, DeviceElement};
use crate::error::{Error, Result};

use super::batch::Call;
use super::kv_cache::KvCache;
use super::raw;
use super::split::Split;
use super::variant::MAX_DECODE_TILES;

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
    let split = workspace.split;
    let mut arguments = Arguments::new(device);
    let mut attend = raw::Attend {
        shape: call.shape,
        kv: cache.hold(&mut arguments, call.layer)?,
        heads: call.heads.hold(&mut arguments)?,
        spans: call.spans.hold(&mut arguments)?,
        q: arguments.read("q", q)?,
        out: arguments.write("out", out)?.cast(),
        out_type: E::KIND,
        split,
        workspace: arguments.write("workspace", &mut workspace.memory)?,
        workspace_bytes: 0,
        arrived: Some(arguments.write("workspace", &mut workspace.arrived)?),
    };
    attend.workspace_bytes = attend.workspace_bytes();
    arguments.launch(&attend)
}
