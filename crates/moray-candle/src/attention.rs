//! Attention over a KV cache, of the heads that run.

use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp3, Error, Layout, Result, Shape, Tensor, bail};
use moray::attention::{
    AttentionShape, Call, Heads, KvCache, KvDtype, KvPolicy, KvShape, Limits, Rope, Span, Workspace, attend, write_kv,
};

use crate::Runtime;
use crate::rows::{Argument, Float, narrowed, with_float};

/// Writes k and v into a KV cache of its own and attends to what it holds, for the query heads that run.
///
/// out\[t, h\] = Σ_j softmax_j(q\[t, h\] · k\[j\] / √head_dim) · v\[j\] over the positions j up to t's own; heads that do not run give
/// zeros, and neither their K and V are read nor anything computed. Sums are those of [`moray::attention`]. No gradient passes through.
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
    policy: KvPolicy,
    rope: Option<Rope>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    cache: KvCache,
    /// And what it has room for.
    workspace: Option<(Limits, Workspace)>,
}

impl Attention {
    /// Makes an empty cache for so many query heads over its KV heads.
    ///
    /// # Errors
    /// For sizes that do not go together or are 0.
    pub fn new(runtime: &Runtime, n_q_heads: usize, kv: KvShape, dtype: KvDtype) -> Result<Self> {
        let shape = AttentionShape::new(n_q_heads, kv.n_kv_heads, kv.head_dim).map_err(Error::wrap)?;
        let cache = KvCache::new(kv, dtype).map_err(Error::wrap)?;
        let state = Mutex::new(State { cache, workspace: None });
        Ok(Attention { runtime: runtime.clone(), shape, policy: KvPolicy::WriteAll, rope: None, state })
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
        self.state.lock().unwrap_or_else(PoisonError::into_inner).cache.len(slot)
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
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.cache.truncate(slot, len).map_err(Error::wrap)
    }

    /// Writes k and v of one layer and attends: q \[.., n_q_heads, head_dim\], k and v \[.., n_kv_heads, head_dim\], the tokens of the
    /// spans one after another before these; the result has the shape and type of q.
    ///
    /// # Errors
    /// For a layer, slot, position or head out of range and for shapes that do not go together. Nothing has been written then.
    pub fn forward(
        &self,
        layer: usize,
        spans: &[Span],
        heads: Heads<'_>,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
    ) -> Result<Tensor> {
        let call = Call { shape: self.shape, layer, spans, heads };
        q.apply_op3_no_bwd(k, v, &Step { attention: self, call })
    }
}

/// One layer of one step.
struct Step<'a> {
    attention: &'a Attention,
    call: Call<'a>,
}

impl Step<'_> {
    fn compute<E: Float>(&self, q: Argument<'_>, k: Argument<'_>, v: Argument<'_>) -> Result<(CpuStorage, Shape)> {
        let Step { attention, call } = self;
        let (cpu, rope) = (attention.runtime.cpu(), attention.rope.as_ref());
        q.heads(call.shape.n_q_heads, call.shape.head_dim)?;
        for kv in [&k, &v] {
            kv.heads(call.shape.n_kv_heads, call.shape.head_dim)?;
        }
        let tokens = call.rows();
        if q.layout.shape().elem_count() != tokens * call.shape.q_elems() {
            bail!("q: expected the {tokens} tokens of the spans, got the shape {:?}", q.layout.dims());
        }
        let (mut q_rows, k, v) = (q.widened::<E>()?, k.widened::<E>()?, v.widened::<E>()?);
        let mut out = vec![0.0; q_rows.len()];
        let mut run = || -> moray::Result<()> {
            let state = &mut *attention.state.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(rope) = rope {
                rope.apply(cpu, call.spans, call.shape.n_q_heads, q_rows.to_mut())?;
            }
            write_kv(cpu, call, attention.policy, rope, &k, &v, &mut state.cache)?;
            let workspace = workspace(&mut state.workspace, cpu, call, state.cache.shape().capacity)?;
            attend(cpu, call, &q_rows, &state.cache, &mut out, workspace)
        };
        run().map_err(Error::wrap)?;
        Ok((narrowed::<E>(out), q.layout.shape().clone()))
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
        let (k, v) = (Argument::new("k", (s2, l2)), Argument::new("v", (s3, l3)));
        let q = Argument::new("q", (s1, l1));
        with_float!(q, E => self.compute::<E>(q, k, v))
    }
}
