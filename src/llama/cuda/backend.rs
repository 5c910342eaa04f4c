//! The forward pass's operations on the device.

use super::kernels;
use super::linear::{Input, Linear};
use super::mlp::{Mlp, MlpCall};
use super::recompute::Around;
use super::state::State;
use crate::attention::cuda::{Call, Heads, Projections, attend, write_kv};
use crate::attention::{self, Span};
use crate::device::{Device, call};
use crate::error::{Error, Result};
use crate::llama::{Backend, Config, Layer, Settings};
use crate::policy::{Observed, Site, Wanted};
use cudarc::driver::CudaSlice;

impl Backend for Device {
    type Linear = Linear;
    type Norm = CudaSlice<f32>;
    type Mlp = Mlp;
    type State = State;

    fn new_state(&self, config: &Config, layers: &[Layer<Device>], settings: &Settings) -> Result<State> {
        State::new(self, config, layers, settings)
    }

    fn embed(&self, state: &mut State, table: &Linear, tokens: &[u32]) -> Result<()> {
        if let Some(&got) = tokens.iter().find(|&&token| token as usize >= table.n()) {
            return Err(Error::Index { what: "token", limit: table.n(), got: got as usize });
        }
        state.m = tokens.len();
        let mut held = state.tokens.slice_mut(..tokens.len());
        self.stream().memcpy_htod(tokens, &mut held).map_err(call("copy to the device"))?;
        embed(self, state, table)
    }

    fn attention(&self, state: &mut State, index: usize, layer: &Layer<Device>, spans: &[Span]) -> Result<()> {
        if state.spans.host() != spans {
            state.spans.set(self, spans)?;
        }
        let masked = state.select_heads(self, index, spans)?;
        recompute(self, state, index, layer, spans, masked)?;
        attention(self, state, index, layer, masked)?;
        observe_heads(self, state, index, spans)
    }

    fn mlp(&self, state: &mut State, index: usize, layer: &Layer<Device>, spans: &[Span]) -> Result<()> {
        mlp(self, state, index, layer, spans)?;
        let State { mlp, policies, .. } = state;
        match policies.wants(Site::Neurons, spans) {
            Wanted::Nothing | Wanted::AtHand(_) => Ok(()),
            Wanted::Lengths | Wanted::Copied(_) => policies.observe(Site::Neurons, index, spans, &mlp.seen()),
        }
    }

    fn logits<'a>(
        &self,
        state: &'a mut State,
        norm: &CudaSlice<f32>,
        head: &Linear,
        rows: &[usize],
    ) -> Result<&'a [f32]> {
        let vocab = head.n();
        if rows.len() * vocab > state.host_logits.len() {
            let expected = "no more than the session's max_logits";
            return Err(Error::Shape { what: "logits", expected, got: rows.len() });
        }
        if let Some(&got) = rows.iter().find(|&&row| row >= state.m) {
            return Err(Error::Index { what: "rows", limit: state.m, got });
        }
        let words: Vec<u32> = rows.iter().map(|&row| row as u32).collect();
        let mut held = state.rows.slice_mut(..rows.len());
        self.stream().memcpy_htod(&words, &mut held).map_err(call("copy to the device"))?;
        logits(self, state, norm, head, rows.len())?;
        let host = &mut state.host_logits[..rows.len() * vocab];
        self.download_into(&state.logits.slice(..rows.len() * vocab), host)?;
        // a token that was not finite anywhere has NaN logits: see `quantize`
        match host.iter().find(|logit| logit.is_nan()) {
            Some(&got) => Err(Error::Value { what: "logits", expected: "finite activations", got }),
            None => Ok(host),
        }
    }

    fn start_generation(&self, state: &mut State, slot: usize) -> Result<()> {
        state.policies.begin_generation(slot)
    }

    fn advance(&self, state: &mut State, slot: usize) -> Result<()> {
        state.policies.end_token(slot)
    }

    fn truncate(&self, state: &mut State, slot: usize, len: usize) -> Result<()> {
        // what the cache holds past `len` is written again before it is read
        if let Some(recompute) = &mut state.recompute {
            recompute.truncate(slot, len);
        }
        if len == 0 {
            state.policies.reset(slot)?;
        }
        Ok(())
    }
}

/// x ← rows of the table for the tokens in device memory.
pub(super) fn embed(device: &Device, state: &mut State, table: &Linear) -> Result<()> {
    let (m, d) = (state.m, state.config.d_model);
    table.embed(device, &state.tokens.slice(..m), &mut state.x.slice_mut(..m * d))
}

/// Computes what the KV policy left out and the heads of this call could use, then keeps this call's inputs.
fn recompute(
    device: &Device,
    state: &mut State,
    index: usize,
    layer: &Layer<Device>,
    spans: &[Span],
    masked: bool,
) -> Result<()> {
    let State { config, recompute, x, qkv, cache, rope, scratch, head_masks, m, .. } = state;
    let Some(recompute) = recompute else { return Ok(()) };
    let words = spans.len() * config.attention.n_q_heads.div_ceil(32);
    let heads = match masked {
        true => attention::Heads::Mask { words: &head_masks.host(index)[..words] },
        false => attention::Heads::All,
    };
    // before the new inputs take the oldest ones' places
    let around = Around { qkv, cache, rope, scratch };
    recompute.fill(device, index, &layer.qkv, spans, &heads, around)?;
    let x = x.slice(..*m * config.d_model);
    recompute.store(device, index, spans, &heads, (&x, &layer.attn_norm, config.rms_eps))
}

/// x ← x + o(attend(rope(qkv(norm(x))))) for the spans and masks in device memory.
pub(super) fn attention(
    device: &Device,
    state: &mut State,
    index: usize,
    layer: &Layer<Device>,
    masked: bool,
) -> Result<()> {
    let State { config, x, next, qkv, q, out, scratch, .. } = state;
    let (shape, eps, m) = (config.attention, config.rms_eps, state.m);
    let used = m * config.d_model;
    let x_view = x.slice(..used);
    let input = Input::RmsNorm { x: &x_view, weight: &layer.attn_norm, eps };
    layer.qkv.forward(device, input, m, None, &mut qkv.slice_mut(..m * config.qkv_features()), scratch)?;

    let heads = if masked { Heads::Mask { words: state.head_masks.get(index) } } else { Heads::All };
    let call = Call { shape, layer: index, spans: &state.spans, heads };
    let projections = Projections::fused(qkv, &shape);
    write_kv(device, &call, state.kv, Some(&state.rope), &projections, Some(q), &mut state.cache)?;
    attend(device, &call, q, &state.cache, out, &mut state.attention)?;
    let out = out.slice(..m * shape.q_elems());
    let mut y = next.slice_mut(..used);
    layer.o.forward(device, Input::Plain(&out), m, Some(&x_view), &mut y, scratch)?;
    std::mem::swap(x, next);
    Ok(())
}

/// Shows a layer's attention outputs to the policy, where it wants them: of prompts, and where the choice is renewed.
fn observe_heads(device: &Device, state: &mut State, index: usize, spans: &[Span]) -> Result<()> {
    let width = state.config.attention.q_elems();
    let observed = match state.policies.wants(Site::Heads, spans) {
        Wanted::Nothing | Wanted::AtHand(_) => return Ok(()),
        Wanted::Lengths => Observed::LENGTHS,
        Wanted::Copied(_) => {
            let host = &mut state.host_out[..state.m * width];
            device.download_into(&state.out.slice(..state.m * width), host)?;
            Observed::new(host, width, width)
        }
    };
    state.policies.observe(Site::Heads, index, spans, &observed)
}

/// x ← x + mlp(norm(x)) over the neurons that the policy keeps.
pub(super) fn mlp(
    device: &Device,
    state: &mut State,
    index: usize,
    layer: &Layer<Device>,
    spans: &[Span],
) -> Result<()> {
    let State { config, x, next, scratch, policies, mlp, .. } = state;
    let (m, used) = (state.m, state.m * config.d_model);
    let view = x.slice(..used);
    let call = MlpCall {
        index,
        activation: config.activation,
        m,
        x: &view,
        norm: &layer.mlp_norm,
        eps: config.rms_eps,
        wanted: policies.wants(Site::Neurons, spans),
    };
    let selection = policies.select(Site::Neurons, index, spans)?;
    mlp.forward(device, &layer.mlp, &call, &selection, &mut next.slice_mut(..used), scratch)?;
    std::mem::swap(x, next);
    Ok(())
}

/// Logits of the rows in device memory, left there.
pub(super) fn logits(
    device: &Device,
    state: &mut State,
    norm: &CudaSlice<f32>,
    head: &Linear,
    rows: usize,
) -> Result<()> {
    let State { config, x, normed, logits, scratch, .. } = state;
    let used = rows * config.d_model;
    let x = x.slice(..state.m * config.d_model);
    let mut normed_out = normed.slice_mut(..used);
    kernels::rms_norm(device, &x, Some(&state.rows.slice(..rows)), norm, config.rms_eps, &mut normed_out)?;
    let normed = normed.slice(..used);
    head.forward(device, Input::Plain(&normed), rows, None, &mut logits.slice_mut(..rows * head.n()), scratch)
}
