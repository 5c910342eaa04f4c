//! Attention over a KV cache, of the heads that run.

use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp3, Device, DeviceLocation, Error, Layout, Result, Shape, Tensor, bail,
};
use moray::attention::{
    AttentionShape, Call, Heads, KvCache, KvDtype, KvPolicy, KvShape, Limits, Rope, Span, Workspace, attend, write_kv,
};

use crate::rows::{Argument, Float, check_location, location, narrowed, with_float};
use crate::{Runtime, cuda};

/// Writes k and v into a KV cache of its own and attends to what it holds, for the query heads that run.
///
/// out\[t, h\] = Σ_j softmax_j(q\[t, h\] · k\[j\] / √head_dim) · v\[j\] over the positions j up to t's own; heads that do not run give
/// zeros, and neither their K and V are read nor anything computed. Sums are those of [`moray::attention`], or of its `cuda` on a device.
/// No gradient passes through.
///
/// # Example
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use moray_candle::moray::attention::{AttentionShape, Heads, KvDtype, KvShape, Span};
/// use moray_candle::{Attention, Runtime};
///
/// let kv = KvShape { n_layers: 1, n_slots: 1, n_kv_heads: 1, head_dim: 8, capacity: 64 };
/// let attention = Attention::new(&Runtime::detect(), 2, kv, KvDtype::F16)?;
/// let q = Tensor::ones((3, 2, 8), DType::F32, &Device::Cpu)?; // three tokens, two heads
/// let kv = Tensor::ones((3, 1, 8), DType::F32, &Device::Cpu)?;
/// let prompt = [Span { slot: 0, start: 0, len: 3 }];
/// let heads = Heads::List { list: &[1], counts: &[1] }; // head 1 runs
/// let out = attention.forward(0, &prompt, heads, &q, &kv, &kv)?;
/// assert_eq!(out.sum((0, 2))?.to_vec1::<f32>()?, [0.0, 24.0]);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Debug)]
pub struct Attention {
    runtime: Runtime,
    shape: AttentionShape,
    kv: KvShape,
    dtype: KvDtype,
    policy: KvPolicy,
    rope: Option<Rope>,
    device: Device,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Cpu {
        cache: KvCache,
        /// And what it has room for.
        workspace: Option<(Limits, Workspace)>,
    },
    /// Made by the first call.
    Cuda(Option<cuda::Cache>),
}

impl Attention {
    /// Makes an empty cache for so many query heads over its KV heads.
    ///
    /// # Errors
    /// For sizes that do not go together or are 0.
    pub fn new(runtime: &Runtime, n_q_heads: usize, kv: KvShape, dtype: KvDtype) -> Result<Self> {
        let shape = AttentionShape::new(n_q_heads, kv.n_kv_heads, kv.head_dim).map_err(Error::wrap)?;
        let cache = KvCache::new(kv, dtype).map_err(Error::wrap)?;
        let state = Mutex::new(State::Cpu { cache, workspace: None });
        let (runtime, policy, device) = (runtime.clone(), KvPolicy::WriteAll, Device::Cpu);
        Ok(Attention { runtime, shape, kv, dtype, policy, rope: None, device, state })
    }

    /// Has the cache on a CUDA device, where q, k and v are then; the first call allocates it. There, positions are written one after
    /// another: a span begins where its slot ends, or before.
    ///
    /// # Errors
    /// For another device, and without the feature `cuda`; once something has been written.
    pub fn to_device(self, device: &Device) -> Result<Self> {
        let written = (0..self.kv.n_slots).find(|slot| !self.is_empty(*slot));
        let (from, to) = (self.device.location(), device.location());
        match written {
            _ if from == to => return Ok(self),
            Some(slot) => bail!("device: expected {}, where slot {slot} is, got {}", location(&from), location(&to)),
            None if device.is_cpu() => bail!("device: expected a CUDA device, got the CPU"),
            None => cuda::device(device)?,
        };
        Ok(Attention { device: device.clone(), state: Mutex::new(State::Cuda(None)), ..self })
    }

    /// Turns q and k by their positions; without, both are taken as they are.
    pub fn with_rope(self, rope: Rope) -> Self {
        Attention { rope: Some(rope), ..self }
    }

    /// Says what is stored of a KV head of which no query head runs.
    pub fn with_policy(self, policy: KvPolicy) -> Self {
        Attention { policy, ..self }
    }

    /// Positions of a slot that the cache holds.
    pub fn len(&self, slot: usize) -> usize {
        match &*self.lock() {
            State::Cpu { cache, .. } => cache.len(slot),
            State::Cuda(cache) => cache.as_ref().map_or(0, |cache| cache.len(slot)),
        }
    }

    /// Whether a slot is empty.
    pub fn is_empty(&self, slot: usize) -> bool {
        self.len(slot) == 0
    }

    /// Forgets the positions of a slot from one on.
    ///
    /// # Errors
    /// For a slot out of range.
    pub fn truncate(&self, slot: usize, len: usize) -> Result<()> {
        match &mut *self.lock() {
            State::Cpu { cache, .. } => cache.truncate(slot, len).map_err(Error::wrap),
            State::Cuda(Some(cache)) => cache.truncate(slot, len),
            State::Cuda(None) if slot < self.kv.n_slots => Ok(()),
            State::Cuda(None) => bail!("slot: expected less than {}, got {slot}", self.kv.n_slots),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes k and v of one layer and attends: q \[.., n_q_heads, head_dim\], k and v \[.., n_kv_heads, head_dim\], the tokens of the
    /// spans one after another before these; the result has the shape and type of q.
    ///
    /// # Errors
    /// For a layer, slot, position or head out of range, for shapes that do not go together and tensors elsewhere. Nothing has been
    /// written then.
    pub fn forward(
        &self,
        layer: usize,
        spans: &[Span],
        heads: Heads<'_>,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
    ) -> Result<Tensor> {
        let (call, place) = (Call { shape: self.shape, layer, spans, heads }, self.device.location());
        for (what, tensor) in [("q", q), ("k", k), ("v", v)] {
            check_location(what, place, tensor)?;
        }
        q.apply_op3_no_bwd(k, v, &Step { attention: self, call })
    }
}

/// One layer of one step.
struct Step<'a> {
    attention: &'a Attention,
    call: Call<'a>,
}

impl Step<'_> {
    fn check<S: BackendStorage>(&self, q: &Argument<'_, S>, k: &Argument<'_, S>, v: &Argument<'_, S>) -> Result<()> {
        let call = &self.call;
        q.heads(call.shape.n_q_heads, call.shape.head_dim)?;
        for kv in [k, v] {
            kv.heads(call.shape.n_kv_heads, call.shape.head_dim)?;
        }
        let tokens = call.rows();
        for (argument, elems) in [(q, call.shape.q_elems()), (k, call.shape.kv_elems()), (v, call.shape.kv_elems())] {
            if argument.layout.shape().elem_count() != tokens * elems {
                let (what, dims) = (argument.what, argument.layout.dims());
                bail!("{what}: expected the {tokens} tokens of the spans, got the shape {dims:?}");
            }
        }
        Ok(())
    }

    fn compute<E: Float>(&self, q: Argument<'_>, k: Argument<'_>, v: Argument<'_>) -> Result<(CpuStorage, Shape)> {
        let Step { attention, call } = self;
        let (cpu, rope) = (attention.runtime.cpu(), attention.rope.as_ref());
        let (mut q_rows, k, v) = (q.widened::<E>()?, k.widened::<E>()?, v.widened::<E>()?);
        let mut out = vec![0.0; q_rows.len()];
        let mut state = attention.lock();
        let State::Cpu { cache, workspace: kept } = &mut *state else {
            return Err(q.elsewhere(&attention.device.location()));
        };
        let mut run = || -> moray::Result<()> {
            if let Some(rope) = rope {
                rope.apply(cpu, call.spans, call.shape.n_q_heads, q_rows.to_mut())?;
            }
            write_kv(cpu, call, attention.policy, rope, &k, &v, cache)?;
            let workspace = workspace(kept, cpu, call, cache.shape().capacity)?;
            attend(cpu, call, &q_rows, cache, &mut out, workspace)
        };
        run().map_err(Error::wrap)?;
        Ok((narrowed::<E>(out), q.layout.shape().clone()))
    }

    fn compute_on_cuda(
        &self,
        q: Argument<'_, CudaStorage>,
        k: Argument<'_, CudaStorage>,
        v: Argument<'_, CudaStorage>,
    ) -> Result<(CudaStorage, Shape)> {
        let Step { attention, call } = self;
        let mut state = attention.lock();
        let State::Cuda(kept) = &mut *state else { return Err(q.elsewhere(&DeviceLocation::Cpu)) };
        let cache = match kept {
            Some(cache) => cache,
            None => {
                let Attention { shape, kv, dtype, policy, rope, device, .. } = attention;
                kept.insert(cuda::Cache::new(*shape, *kv, *dtype, *policy, rope.as_ref(), device)?)
            }
        };
        cache.run(call.layer, call.spans, call.heads, cuda::Inputs { q, k, v })
    }
}

/// The workspace that is there, or one with room for the call.
fn workspace<'a>(
    kept: &'a mut Option<(Limits, Workspace)>,
    cpu: &moray::Cpu,
    call: &Call<'_>,
    capacity: usize,
) -> moray::Result<&'a mut Workspace> {
    let (rows, spans) = (call.rows(), call.spans.len());
    let before = kept.take().filter(|(limits, _)| limits.max_rows >= rows && limits.max_spans >= spans);
    let made = match before {
        Some(before) => before,
        None => {
            let limits = Limits { max_rows: rows.max(1), max_spans: spans.max(1), capacity };
            (limits, Workspace::new(cpu, call.shape, limits)?)
        }
    };
    Ok(&mut kept.insert(made).1)
}

impl CustomOp3 for Step<'_> {
    fn name(&self) -> &'static str {
        "moray_attention"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (q, k, v) = (Argument::new("q", (s1, l1)), Argument::new("k", (s2, l2)), Argument::new("v", (s3, l3)));
        self.check(&q, &k, &v)?;
        with_float!(q, E => self.compute::<E>(q, k, v))
    }

    fn cuda_fwd(
        &self,
        s1: &CudaStorage,
        l1: &Layout,
        s2: &CudaStorage,
        l2: &Layout,
        s3: &CudaStorage,
        l3: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (q, k, v) = (Argument::new("q", (s1, l1)), Argument::new("k", (s2, l2)), Argument::new("v", (s3, l3)));
        self.check(&q, &k, &v)?;
        self.compute_on_cuda(q, k, v)
    }
}
