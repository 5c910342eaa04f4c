//! Attention on a device.

use std::thread::{self, ThreadId};

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::CudaStorage;
use candle_core::cuda_backend::cudarc::driver::CudaSlice;
use candle_core::{Device, Error, Result, Shape, bail};
use moray::attention::cuda::{
    Call, Heads, KvCache, KvFormat, KvLayout, OwnedHeads, Projections, Rope, Spans, Workspace, attend, write_kv,
};
use moray::attention::{self, AttentionShape, KvDtype, KvPolicy, KvShape, Limits, Span};

use super::{Element, PER_THREAD, Resident, device, result, storage};
use crate::rows::{Argument, with_float};

/// Keys and values in memory of a device, and what calls work in: one call at a time, on any stream.
#[derive(Debug)]
pub(crate) struct Cache {
    state: Resident<State>,
    /// The thread of the last call, where each thread has a stream of its own.
    thread: Option<ThreadId>,
}

#[derive(Debug)]
struct State {
    shape: AttentionShape,
    policy: KvPolicy,
    cache: KvCache,
    rope: Option<Rope>,
    spans: Spans,
    /// \[layer\]\[slot\], one past the last position written.
    lens: Vec<usize>,
    n_slots: usize,
    /// And the tokens that it has room for.
    workspace: Option<(usize, Workspace)>,
    /// f32, turned queries.
    q: CudaSlice<f32>,
}

/// The inputs of a call.
pub(crate) struct Inputs<'a> {
    pub(crate) q: Argument<'a, CudaStorage>,
    pub(crate) k: Argument<'a, CudaStorage>,
    pub(crate) v: Argument<'a, CudaStorage>,
}

impl Cache {
    /// Makes an empty one.
    pub(crate) fn new(
        shape: AttentionShape,
        kv: KvShape,
        dtype: KvDtype,
        policy: KvPolicy,
        rope: Option<&attention::Rope>,
        to: &Device,
    ) -> Result<Self> {
        let format = match dtype {
            KvDtype::F32 => KvFormat::F32,
            KvDtype::F16 => KvFormat::F16,
            KvDtype::Bf16 => KvFormat::Bf16,
            KvDtype::Int8 => KvFormat::Int8,
            other => bail!("dtype: expected f32, f16, bf16 or int8, got {other:?}"),
        };
        let holes = matches!(policy, KvPolicy::Hole | KvPolicy::Recompute { .. });
        let make = |device: &moray::Device| {
            Ok(State {
                shape,
                policy,
                cache: KvCache::new(device, kv, format, KvLayout::Contiguous, holes)?,
                rope: rope.map(|rope| Rope::upload(device, rope)).transpose()?,
                spans: Spans::new(device, kv.n_slots)?,
                lens: vec![0; kv.n_layers * kv.n_slots],
                n_slots: kv.n_slots,
                workspace: None,
                q: device.zeros(0)?,
            })
        };
        Ok(Cache { state: Resident::new(device(to)?, make)?, thread: None })
    }

    pub(crate) fn len(&self, slot: usize) -> usize {
        let state = self.state.held();
        state.lens.chunks(state.n_slots).filter_map(|layer| layer.get(slot)).max().copied().unwrap_or(0)
    }

    /// Positions from there on are written before they are read again.
    pub(crate) fn truncate(&mut self, slot: usize, len: usize) -> Result<()> {
        let state = self.state.held_mut();
        if slot >= state.n_slots {
            bail!("slot: expected less than {}, got {slot}", state.n_slots);
        }
        let lens = state.lens.chunks_mut(state.n_slots).map(|layer| &mut layer[slot]);
        lens.for_each(|written| *written = len.min(*written));
        Ok(())
    }

    pub(crate) fn run(
        &mut self,
        layer: usize,
        spans: &[Span],
        heads: attention::Heads<'_>,
        inputs: Inputs<'_>,
    ) -> Result<(CudaStorage, Shape)> {
        with_float!(inputs.q, E => self.step::<E>(layer, spans, heads, inputs))
    }

    fn step<E: Element>(
        &mut self,
        layer: usize,
        spans: &[Span],
        heads: attention::Heads<'_>,
        Inputs { q, k, v }: Inputs<'_>,
    ) -> Result<(CudaStorage, Shape)> {
        let (device, on) = (self.state.with_stream_of(&q)?, q.storage.device());
        self.follow(&device)?;
        let (state, elems) = (self.state.held_mut(), q.layout.shape().elem_count());
        let (q_rows, k_rows, v_rows) = (q.in_rows::<E>()?, k.in_rows::<E>()?, v.in_rows::<E>()?);
        let projections = Projections {
            q: Some(q_rows.view()?),
            k: k_rows.view()?,
            v: v_rows.view()?,
            q_stride: state.shape.q_elems(),
            kv_stride: state.shape.kv_elems(),
        };
        // SAFETY: the heads that run are written, and zeros for the others.
        let mut out = unsafe { result::<E>(on, elems)? };
        state.check(layer, spans)?;
        state.compute(&device, layer, spans, heads, &projections, &mut out).map_err(Error::wrap)?;
        Ok((storage(out, on), q.layout.shape().clone()))
    }

    /// Waits for what another thread has put on its stream, where the two have one name.
    fn follow(&mut self, device: &moray::Device) -> Result<()> {
        let thread = (device.raw_stream() as usize == PER_THREAD).then(|| thread::current().id());
        if self.thread.is_some() && self.thread != thread {
            device.context().synchronize().map_err(Error::wrap)?;
        }
        self.thread = thread;
        Ok(())
    }
}

impl State {
    /// Checks that all positions before a span's have been written.
    fn check(&self, layer: usize, spans: &[Span]) -> Result<()> {
        // slots and layers out of range are refused by name later
        let of_layer = self.lens.chunks(self.n_slots).nth(layer).unwrap_or_default();
        let written = |span: &Span| of_layer.get(span.slot).copied().unwrap_or(usize::MAX);
        match spans.iter().find(|span| span.start > written(span)) {
            None => Ok(()),
            Some(span) => {
                let Span { slot, start, .. } = span;
                bail!("spans: expected slot {slot} to go on at position {} at most, got {start}", written(span))
            }
        }
    }

    fn compute<E: Element>(
        &mut self,
        device: &moray::Device,
        layer: usize,
        spans: &[Span],
        heads: attention::Heads<'_>,
        projections: &Projections<'_, E>,
        out: &mut CudaSlice<E>,
    ) -> moray::Result<()> {
        if self.spans.host() != spans {
            self.spans.set(device, spans)?;
        }
        let rows = self.spans.rows();
        if rows == 0 {
            return Ok(());
        }
        if self.q.len() < rows * self.shape.q_elems() {
            self.q = device.zeros(rows * self.shape.q_elems())?;
        }
        let listed = match heads {
            attention::Heads::All => None,
            some => Some(OwnedHeads::upload(device, &some, &self.shape, spans.len())?),
        };
        let heads = listed.as_ref().map_or(Heads::All, OwnedHeads::view);
        let call = Call { shape: self.shape, layer, spans: &self.spans, heads };
        let workspace = match self.workspace.take() {
            Some((room, kept)) if room >= rows => (room, kept),
            _ => {
                // the most spans that a call can have: results depend on it
                let limits = Limits { max_rows: rows, max_spans: self.n_slots, capacity: self.cache.shape().capacity };
                (rows, Workspace::new(device, self.shape, limits)?)
            }
        };
        let (_, workspace) = self.workspace.insert(workspace);
        write_kv(device, &call, self.policy, self.rope.as_ref(), projections, Some(&mut self.q), &mut self.cache)?;
        for span in spans {
            let written = &mut self.lens[layer * self.n_slots + span.slot];
            *written = span.end().max(*written);
        }
        attend(device, &call, &self.q, &self.cache, out, workspace)
    }
}
