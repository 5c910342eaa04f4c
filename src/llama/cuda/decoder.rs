//! Decoding as one captured graph.

use super::sampling::Samplers;
use crate::attention::Span;
use crate::device::{Device, call};
use crate::error::{Error, Result};
use crate::llama::forward::Watch;
use crate::llama::{Backend, Model, Sampler, Sampling, Session};
use cudarc::driver::CudaGraph;
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use std::marker::PhantomData;

/// A step of decoding for a fixed set of slots, captured once: embedding, layers, logits, the choice of a token, and the
/// positions moved on. Tokens, positions and the samplers' random numbers stay in device memory, so a replay is one launch.
///
/// A graph holds one choice of heads and neurons. Policies that choose anew while they decode are for [`Model::forward`], and with
/// them [`crate::attention::KvPolicy::Recompute`]: under a choice that stays, a head that was skipped is never asked for again, so
/// that the graph leaves holes and keeps no inputs.
///
/// It works in the session that it was captured in, whose other calls would change what it reads: while a decoder is used,
/// the session is lent to it. The graph has the addresses of the model's weights, so the model stays:
///
/// ```compile_fail,E0505
/// use moray::Device;
/// use moray::llama::cuda::Decoder;
/// use moray::llama::{Model, Session};
///
/// fn decode(device: &Device, model: Model<Device>, session: &mut Session<Device>) -> moray::Result<()> {
///     let mut decoder = Decoder::capture(device, &model, session, &[0], &[1])?;
///     drop(model);
///     decoder.step().map(drop)
/// }
/// ```
#[derive(Debug)]
pub struct Decoder<'a> {
    device: &'a Device,
    _model: PhantomData<&'a Model<Device>>,
    session: &'a mut Session<Device>,
    slots: Vec<usize>,
    graph: Graph,
    /// What the graph draws with; it has their addresses.
    _samplers: Samplers,
}

/// A captured graph.
struct Graph(CudaGraph);

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Graph")
    }
}

impl<'a> Decoder<'a> {
    /// Captures a step of greedy decoding for `slots`, whose next tokens are `tokens`; nothing runs yet.
    ///
    /// # Errors
    /// [`Error::Index`] for a slot or token out of range, [`Error::Length`] unless there is a token for each slot,
    /// [`Error::Shape`] for more slots than the session has room for or one that is empty, [`Error::Unsupported`] for a policy
    /// that chooses anew while it decodes and for a model or session on another stream than the device's (see
    /// [`Device::with_stream`]), [`Error::Driver`] if the driver refuses the capture.
    pub fn capture(
        device: &'a Device,
        model: &'a Model<Device>,
        session: &'a mut Session<Device>,
        slots: &[usize],
        tokens: &[u32],
    ) -> Result<Self> {
        let samplers = vec![Sampler::new(Sampling::GREEDY, 0)?; slots.len()];
        Self::capture_sampling(device, model, session, slots, tokens, &samplers)
    }

    /// Captures a step as [`Decoder::capture`] that draws each slot's token with a sampler of its own, from the state that it is
    /// in: the tokens that the sampler would draw from [`Model::forward`]'s logits.
    ///
    /// # Errors
    /// As [`Decoder::capture`]; [`Error::Length`] unless there is a sampler for each slot.
    pub fn capture_sampling(
        device: &'a Device,
        model: &'a Model<Device>,
        session: &'a mut Session<Device>,
        slots: &[usize],
        tokens: &[u32],
        samplers: &[Sampler],
    ) -> Result<Self> {
        crate::error::check_len("samplers", slots.len(), samplers.len())?;
        crate::error::check_len("tokens", slots.len(), tokens.len())?;
        let spans = session.decode_spans(slots)?;
        let vocab = model.config().vocab;
        if let Some(&got) = tokens.iter().find(|&&token| token as usize >= vocab) {
            return Err(Error::Index { what: "token", limit: vocab, got: got as usize });
        }
        if let Some(site) = session.policies().unsettled(&spans) {
            let got = "one that is still to be made or is renewed".into();
            return Err(Error::Unsupported { what: site.name(), expected: "a choice that the prompt fixed", got });
        }
        let mut samplers = device.samplers(samplers, vocab)?;
        prepare(device, session, spans, tokens, model.config().n_layers)?;
        let graph = Graph(capture(device, model, session, &mut samplers)?);
        Ok(Decoder { device, _model: PhantomData, session, slots: slots.to_vec(), graph, _samplers: samplers })
    }

    /// Runs a step and returns each slot's next token.
    ///
    /// # Errors
    /// [`Error::Index`] at the end of the session's context, [`Error::Value`] if logits are not finite, [`Error::Driver`] if a
    /// kernel fails.
    pub fn step(&mut self) -> Result<&[u32]> {
        let context = self.session.settings().context;
        let spans = self.session.decode_spans(&self.slots)?;
        if let Some(span) = spans.iter().find(|span| span.start >= context) {
            return Err(Error::Index { what: "position", limit: context, got: span.start });
        }
        self.graph.0.launch().map_err(call("launch the graph"))?;
        let Session { work, chosen, slots, policies, .. } = &mut *self.session;
        work.spans.advanced(usize::MAX)?;
        slots.end_call(&spans, policies)?;
        self.device.sampled(work, chosen)
    }
}

/// Puts everything in device memory that the first step reads and no kernel writes.
fn prepare(
    device: &Device,
    session: &mut Session<Device>,
    spans: Vec<Span>,
    tokens: &[u32],
    n_layers: usize,
) -> Result<()> {
    let (m, max_logits) = (tokens.len(), session.settings().max_logits);
    if m > max_logits {
        return Err(Error::Shape { what: "slots", expected: "no more than the session's max_logits", got: m });
    }
    session.spans = spans;
    session.rows.clear();
    session.rows.extend(0..m);
    let Session { work, policies, spans, rows, .. } = session;
    device.begin(work, tokens, spans, rows)?;
    for layer in 0..n_layers {
        work.prepare_heads(device, layer, &policies.select_heads(layer, spans)?)?;
        work.prepare_neurons(device, layer, &policies.select_mlp(layer, spans)?[0])?;
    }
    // the residual stream is what a pass touches last: in order with it, the graph comes after passes on other streams
    device.clear(&mut session.buffers.x)?;
    device.synchronize()
}

fn capture(
    device: &Device,
    model: &Model<Device>,
    session: &mut Session<Device>,
    samplers: &mut Samplers,
) -> Result<CudaGraph> {
    let stream = device.stream();
    let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    stream.begin_capture(mode).map_err(call("begin a capture"))?;
    let recorded = record(device, model, session, samplers);
    // a capture that was begun is ended, whatever went wrong in it
    let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = stream.end_capture(flags).map_err(call("end a capture"));
    recorded?;
    graph?.ok_or_else(|| Error::Driver { call: "end a capture", message: "no graph".into() })
}

/// The pass, and the choice of the next step's tokens.
fn record(
    device: &Device,
    model: &Model<Device>,
    session: &mut Session<Device>,
    samplers: &mut Samplers,
) -> Result<()> {
    model.run(device, session, Watch::Nothing)?;
    let Session { work, logits, .. } = session;
    device.sample(work, samplers, logits)?;
    work.spans.record_advance(device)
}
