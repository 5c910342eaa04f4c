//! Decoding as one captured graph.

use super::kernels::{NO_TOKEN, argmax};
use super::sampling::Samplers;
use super::{backend, state::State};
use crate::attention::Span;
use crate::device::{Device, call};
use crate::error::{Error, Result};
use crate::llama::{Model, Sampler, Session};
use crate::policy::Site;
use cudarc::driver::CudaGraph;
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};

/// A step of decoding for a fixed set of slots, captured once: embedding, layers, logits, the choice of a token, and the
/// positions moved on. Tokens, positions and the samplers' random numbers stay in device memory, so a replay is one launch.
///
/// A graph holds one choice of heads and neurons. Policies that choose anew while they decode are for [`Model::forward`], and with
/// them [`crate::attention::KvPolicy::Recompute`]: under a choice that stays, a head that was skipped is never asked for again, so
/// that the graph leaves holes and keeps no inputs.
///
/// It works in the session that it was captured in, whose other calls would change what it reads: while a decoder is used,
/// the session is lent to it.
#[derive(Debug)]
pub struct Decoder<'a> {
    device: &'a Device,
    session: &'a mut Session<Device>,
    slots: Vec<usize>,
    graph: Graph,
    /// What the graph draws with; it has their addresses.
    _samplers: Option<Samplers>,
    /// The tokens of the last step.
    tokens: Vec<u32>,
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
    /// that chooses anew while it decodes, [`Error::Driver`] if the driver refuses the capture.
    pub fn capture(
        device: &'a Device,
        model: &Model<Device>,
        session: &'a mut Session<Device>,
        slots: &[usize],
        tokens: &[u32],
    ) -> Result<Self> {
        Self::new(device, model, session, slots, tokens, None)
    }

    /// Captures a step as [`Decoder::capture`] that draws each slot's token with a sampler of its own, from the state that it is
    /// in: the tokens that the sampler would draw from [`Model::forward`]'s logits.
    ///
    /// # Errors
    /// As [`Decoder::capture`]; [`Error::Length`] unless there is a sampler for each slot.
    pub fn capture_sampling(
        device: &'a Device,
        model: &Model<Device>,
        session: &'a mut Session<Device>,
        slots: &[usize],
        tokens: &[u32],
        samplers: &[Sampler],
    ) -> Result<Self> {
        crate::error::check_len("samplers", slots.len(), samplers.len())?;
        let samplers = Samplers::new(device, samplers, model.config().vocab)?;
        Self::new(device, model, session, slots, tokens, Some(samplers))
    }

    fn new(
        device: &'a Device,
        model: &Model<Device>,
        session: &'a mut Session<Device>,
        slots: &[usize],
        tokens: &[u32],
        mut samplers: Option<Samplers>,
    ) -> Result<Self> {
        crate::error::check_len("tokens", slots.len(), tokens.len())?;
        let spans = session.decode_spans(slots)?;
        let vocab = model.config().vocab;
        if let Some(&got) = tokens.iter().find(|&&token| token as usize >= vocab) {
            return Err(Error::Index { what: "token", limit: vocab, got: got as usize });
        }
        let state = session.state_mut();
        check_policies(state, &spans)?;
        prepare(device, state, &spans, tokens)?;
        let graph = Graph(capture(device, model, state, &spans, samplers.as_mut())?);
        let (slots, tokens) = (slots.to_vec(), tokens.to_vec());
        Ok(Decoder { device, session, slots, graph, _samplers: samplers, tokens })
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
        let state = self.session.state_mut();
        state.spans.advanced(usize::MAX)?;
        let m = state.m;
        self.device.download_into(&state.tokens.slice(..m), &mut self.tokens[..])?;
        self.session.advance_slots(self.device, &self.slots)?;
        match self.tokens.contains(&NO_TOKEN) {
            true => Err(Error::Value { what: "logits", expected: "finite logits", got: f32::NAN }),
            false => Ok(&self.tokens),
        }
    }
}

/// A graph holds one selection; policies that make another for every token, or now and then, do not fit it.
fn check_policies(state: &State, spans: &[Span]) -> Result<()> {
    match state.policies.unsettled(spans) {
        None => Ok(()),
        Some(site) => {
            let got = "one that is still to be made or is renewed".into();
            Err(Error::Unsupported { what: site.name(), expected: "a choice that the prompt fixed", got })
        }
    }
}

/// Puts everything in device memory that the first step reads and no kernel writes.
fn prepare(device: &Device, state: &mut State, spans: &[Span], tokens: &[u32]) -> Result<()> {
    let m = tokens.len();
    if m > state.tokens.len() || m > state.rows.len() {
        return Err(Error::Shape { what: "slots", expected: "no more than the session's max_logits", got: m });
    }
    state.m = m;
    state.spans.set(device, spans)?;
    let stream = device.stream();
    stream.memcpy_htod(tokens, &mut state.tokens.slice_mut(..m)).map_err(call("copy to the device"))?;
    let rows: Vec<u32> = (0..m as u32).collect();
    stream.memcpy_htod(&rows, &mut state.rows.slice_mut(..m)).map_err(call("copy to the device"))?;
    for layer in 0..state.config.n_layers {
        state.select_heads(device, layer, spans)?;
        let State { mlp, policies, .. } = &mut *state;
        mlp.prepare(device, layer, &policies.select(Site::Neurons, layer, spans)?)?;
    }
    device.synchronize()
}

fn capture(
    device: &Device,
    model: &Model<Device>,
    state: &mut State,
    spans: &[Span],
    samplers: Option<&mut Samplers>,
) -> Result<CudaGraph> {
    let stream = device.stream();
    let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    stream.begin_capture(mode).map_err(call("begin a capture"))?;
    let recorded = record(device, model, state, spans, samplers);
    // a capture that was begun is ended, whatever went wrong in it
    let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = stream.end_capture(flags).map_err(call("end a capture"));
    recorded?;
    graph?.ok_or_else(|| Error::Driver { call: "end a capture", message: "no graph".into() })
}

fn record(
    device: &Device,
    model: &Model<Device>,
    state: &mut State,
    spans: &[Span],
    samplers: Option<&mut Samplers>,
) -> Result<()> {
    backend::embed(device, state, model.embedding())?;
    let masked = state.policies.has(Site::Heads);
    for (index, layer) in model.layers().iter().enumerate() {
        backend::attention(device, state, index, layer, masked)?;
        backend::mlp(device, state, index, layer, spans)?;
    }
    let (m, vocab) = (state.m, model.config().vocab);
    backend::logits(device, state, model.final_norm(), model.lm_head(), m)?;
    let logits = state.logits.slice(..m * vocab);
    let mut tokens = state.tokens.slice_mut(..m);
    match samplers {
        Some(samplers) => samplers.sample(device, &logits, &mut tokens)?,
        None => argmax(device, &logits, vocab, &mut tokens)?,
    }
    state.spans.record_advance(device)
}
