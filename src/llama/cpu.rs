//! The CPU as a device for the forward pass.

use super::backend::{Backend, Layer, SessionState};
use super::config::Config;
use super::linear::Linear;
use super::mlp::{Mlp, MlpBuffers};
use super::norm::rms_norm;
use super::settings::Settings;
use super::shared::{LayerSizes, policies};
use crate::attention::{
    Call, Heads, InputCache, KvCache, KvPolicy, KvRow, KvShape, Limits, Rope, Span, Workspace, attend, write_kv,
    write_row,
};
use crate::cpu::Cpu;
use crate::error::{Error, Result};
use crate::policy::{Observed, PolicySet, Site, Wanted};
use crate::w4a8::Activations;
use std::ops::Range;

/// What a session keeps on the CPU.
#[derive(Debug)]
pub struct CpuState {
    config: Config,
    kv: KvPolicy,
    cache: KvCache,
    inputs: Option<InputCache>,
    missing: Vec<KvRow>,
    rope: Rope,
    policies: PolicySet,
    /// \[spans, ⌈n_q_heads/32⌉\].
    head_words: Vec<u32>,
    /// Rows of the joint projection that a call needs.
    rows: Vec<Range<usize>>,
    attention: Workspace,
    mlp: MlpBuffers,
    int8: Activations,
    /// Tokens of the current call.
    m: usize,
    /// \[M, d\]: the residual stream, and where its next value is written.
    x: Vec<f32>,
    next: Vec<f32>,
    /// \[M, d\].
    normed: Vec<f32>,
    /// \[M, q + 2·kv\].
    qkv: Vec<f32>,
    /// \[M, q\], \[M, kv\], \[M, kv\], \[M, q\].
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    out: Vec<f32>,
    logits: Vec<f32>,
}

impl CpuState {
    fn new(cpu: &Cpu, config: &Config, layers: &[Layer<Cpu>], settings: &Settings) -> Result<Self> {
        check_layers(config, layers)?;
        let Settings { slots, context, max_tokens, max_logits, .. } = *settings;
        let (shape, d) = (config.attention, config.d_model);
        let kv_shape = KvShape {
            n_layers: config.n_layers,
            n_slots: slots,
            n_kv_heads: shape.n_kv_heads,
            capacity: context,
            head_dim: shape.head_dim,
        };
        let lag = settings.kv.lag();
        let inputs = match lag {
            0 => None,
            lag => Some(InputCache::new(config.n_layers, slots, lag, d, settings.kv_dtype)?),
        };
        let limits = Limits { max_rows: max_tokens, max_spans: slots, capacity: context };
        let rows = |width: usize| vec![0.0f32; max_tokens * width];
        Ok(CpuState {
            config: config.clone(),
            kv: settings.kv,
            cache: KvCache::new(kv_shape, settings.kv_dtype)?,
            missing: Vec::with_capacity(inputs.as_ref().map_or(0, |i| i.max_missing(slots, shape.n_kv_heads))),
            inputs,
            rope: Rope::new(shape.head_dim, config.rope_theta, &config.rope_scaling, context)?,
            policies: policies(config, settings)?,
            head_words: vec![0; slots * shape.n_q_heads.div_ceil(32)],
            rows: Vec::with_capacity(shape.n_q_heads + 2 * shape.n_kv_heads),
            attention: Workspace::new(cpu, shape, limits)?,
            mlp: MlpBuffers::new(&layers[0].mlp, max_tokens)?,
            int8: Activations::with_capacity(max_tokens, d.max(shape.q_elems())),
            m: 0,
            x: rows(d),
            next: rows(d),
            normed: rows(d),
            qkv: rows(config.qkv_features()),
            q: rows(shape.q_elems()),
            k: rows(shape.kv_elems()),
            v: rows(shape.kv_elems()),
            out: rows(shape.q_elems()),
            logits: vec![0.0; max_logits * config.vocab],
        })
    }

    fn norm(&mut self, cpu: &Cpu, weight: &[f32]) -> Result<()> {
        let used = self.m * self.config.d_model;
        rms_norm(cpu, &self.x[..used], weight, self.config.rms_eps, &mut self.normed[..used])
    }

    /// Asks the policy which heads run in this layer.
    fn select_heads(&mut self, index: usize, spans: &[Span]) -> Result<bool> {
        let n_q_heads = self.config.attention.n_q_heads;
        let words = &mut self.head_words[..spans.len() * n_q_heads.div_ceil(32)];
        self.policies.select_heads(index, spans, n_q_heads, words)
    }

    /// The rows of the joint projection that the call's heads and the KV policy need.
    fn needed_rows(&mut self, index: usize, spans: &[Span], masked: bool) {
        let shape = self.config.attention;
        let words = &self.head_words[..spans.len() * shape.n_q_heads.div_ceil(32)];
        let heads = if masked { Heads::Mask { words } } else { Heads::All };
        let call = Call { shape, layer: index, spans, heads };
        let head = |first: usize, h: usize| first + h * shape.head_dim..first + (h + 1) * shape.head_dim;
        let runs = |h: usize| (0..spans.len()).any(|span| heads.contains(&shape, span, h));
        self.rows.clear();
        self.rows.extend((0..shape.n_q_heads).filter(|&h| runs(h)).map(|h| head(0, h)));
        for first in [shape.q_elems(), shape.q_elems() + shape.kv_elems()] {
            let projected = (0..shape.n_kv_heads).filter(|&h| self.kv.projects_any(&call, h));
            self.rows.extend(projected.map(|h| head(first, h)));
        }
    }

    fn split_qkv(&mut self) {
        let (q, kv) = (self.config.attention.q_elems(), self.config.attention.kv_elems());
        let rows = self.qkv.chunks_exact(q + 2 * kv).take(self.m);
        let outs = self.q.chunks_exact_mut(q).zip(self.k.chunks_exact_mut(kv)).zip(self.v.chunks_exact_mut(kv));
        for (row, ((out_q, out_k), out_v)) in rows.zip(outs) {
            out_q.copy_from_slice(&row[..q]);
            out_k.copy_from_slice(&row[q..q + kv]);
            out_v.copy_from_slice(&row[q + kv..]);
        }
    }

    /// Computes what the policy left out and the heads of this call could use, one token after another.
    fn recompute(&mut self, cpu: &Cpu, index: usize, layer: &Layer<Cpu>, spans: &[Span], masked: bool) -> Result<()> {
        let Some(inputs) = &self.inputs else { return Ok(()) };
        let shape = self.config.attention;
        let words = &self.head_words[..spans.len() * shape.n_q_heads.div_ceil(32)];
        let heads = if masked { Heads::Mask { words } } else { Heads::All };
        self.missing.clear();
        inputs.missing(&Call { shape, layer: index, spans, heads }, &self.cache, &mut self.missing)?;
        let (d, width) = (self.config.d_model, self.config.qkv_features());
        for &row in &self.missing {
            let x = &mut self.next[..d];
            if !inputs.read(index, row.slot, row.position, x)? {
                continue;
            }
            let at = |first: usize| {
                let start = first + row.kv_head * shape.head_dim;
                start..start + shape.head_dim
            };
            let (k, v) = (at(shape.q_elems()), at(shape.q_elems() + shape.kv_elems()));
            let qkv = &mut self.qkv[..width];
            layer.qkv.forward_rows(cpu, &[k.clone(), v.clone()], x, None, qkv, &mut self.int8)?;
            write_row(cpu, index, row, Some(&self.rope), &qkv[k], &qkv[v], &mut self.cache)?;
        }
        Ok(())
    }
}

fn check_layers(config: &Config, layers: &[Layer<Cpu>]) -> Result<()> {
    for layer in layers {
        let sizes = LayerSizes {
            attn_norm: layer.attn_norm.len(),
            qkv: [layer.qkv.n(), layer.qkv.k()],
            o: [layer.o.n(), layer.o.k()],
            mlp_norm: layer.mlp_norm.len(),
        };
        sizes.check(config)?;
        layer.mlp.check(config.d_model, config.d_ff)?;
    }
    Ok(())
}

impl SessionState for CpuState {
    fn kv_bytes(&self) -> usize {
        self.cache.memory_bytes()
    }

    fn policies(&self) -> &PolicySet {
        &self.policies
    }
}

impl Backend for Cpu {
    type Linear = Linear;
    type Norm = Vec<f32>;
    type Mlp = Mlp;
    type State = CpuState;

    fn new_state(&self, config: &Config, layers: &[Layer<Cpu>], settings: &Settings) -> Result<CpuState> {
        CpuState::new(self, config, layers, settings)
    }

    fn embed(&self, state: &mut CpuState, table: &Linear, tokens: &[u32]) -> Result<()> {
        let d = state.config.d_model;
        state.m = tokens.len();
        for (&token, x) in tokens.iter().zip(state.x.chunks_exact_mut(d)) {
            table.row(token as usize, x)?;
        }
        Ok(())
    }

    fn attention(&self, state: &mut CpuState, index: usize, layer: &Layer<Cpu>, spans: &[Span]) -> Result<()> {
        let (shape, d, m) = (state.config.attention, state.config.d_model, state.m);
        state.norm(self, &layer.attn_norm)?;
        let masked = state.select_heads(index, spans)?;
        state.needed_rows(index, spans, masked);
        let qkv = &mut state.qkv[..m * (shape.q_elems() + 2 * shape.kv_elems())];
        let normed = &state.normed[..m * d];
        layer.qkv.forward_rows(self, &state.rows, normed, None, qkv, &mut state.int8)?;
        state.split_qkv();
        // before the new inputs take the oldest ones' places
        state.recompute(self, index, layer, spans, masked)?;
        if let Some(inputs) = &mut state.inputs {
            inputs.store(index, spans, &state.normed[..m * d])?;
        }

        let words = &state.head_words[..spans.len() * shape.n_q_heads.div_ceil(32)];
        let heads = if masked { Heads::Mask { words } } else { Heads::All };
        let call = Call { shape, layer: index, spans, heads };
        let (q, kv) = (m * shape.q_elems(), m * shape.kv_elems());
        state.rope.apply(self, spans, shape.n_q_heads, &mut state.q[..q])?;
        write_kv(self, &call, state.kv, Some(&state.rope), &state.k[..kv], &state.v[..kv], &mut state.cache)?;
        let out = &mut state.out[..q];
        attend(self, &call, &state.q[..q], &state.cache, out, &mut state.attention)?;
        if state.policies.wants(Site::Heads, spans) != Wanted::Nothing {
            let width = shape.q_elems();
            state.policies.observe(Site::Heads, index, spans, &Observed::new(out, width, width))?;
        }
        layer.o.forward(self, out, Some(&state.x[..m * d]), &mut state.next[..m * d], &mut state.int8)?;
        std::mem::swap(&mut state.x, &mut state.next);
        Ok(())
    }

    fn mlp(&self, state: &mut CpuState, index: usize, layer: &Layer<Cpu>, spans: &[Span]) -> Result<()> {
        let used = state.m * state.config.d_model;
        state.norm(self, &layer.mlp_norm)?;
        let (normed, x, next) = (&state.normed[..used], &state.x[..used], &mut state.next[..used]);
        let selection = state.policies.select(Site::Neurons, index, spans)?;
        state.mlp.forward(self, &layer.mlp, state.config.activation, normed, &selection, x, next)?;
        if let Some(observed) = state.mlp.seen(state.policies.wants(Site::Neurons, spans)) {
            state.policies.observe(Site::Neurons, index, spans, &observed)?;
        }
        std::mem::swap(&mut state.x, &mut state.next);
        Ok(())
    }

    fn logits<'a>(&self, state: &'a mut CpuState, norm: &Vec<f32>, head: &Linear, rows: &[usize]) -> Result<&'a [f32]> {
        let (d, vocab) = (state.config.d_model, head.n());
        if rows.len() * vocab > state.logits.len() {
            let expected = "no more than the session's max_logits";
            return Err(Error::Shape { what: "logits", expected, got: rows.len() });
        }
        for (&row, out) in rows.iter().zip(state.next.chunks_exact_mut(d)) {
            if row >= state.m {
                return Err(Error::Index { what: "rows", limit: state.m, got: row });
            }
            out.copy_from_slice(&state.x[row * d..(row + 1) * d]);
        }
        let used = rows.len() * d;
        rms_norm(self, &state.next[..used], norm, state.config.rms_eps, &mut state.normed[..used])?;
        let logits = &mut state.logits[..rows.len() * vocab];
        head.forward(self, &state.normed[..used], None, logits, &mut state.int8)?;
        Ok(logits)
    }

    fn start_generation(&self, state: &mut CpuState, slot: usize) -> Result<()> {
        state.policies.begin_generation(slot)
    }

    fn advance(&self, state: &mut CpuState, slot: usize) -> Result<()> {
        state.policies.end_token(slot)
    }

    fn truncate(&self, state: &mut CpuState, slot: usize, len: usize) -> Result<()> {
        state.cache.truncate(slot, len)?;
        if let Some(inputs) = &mut state.inputs {
            inputs.truncate(slot, len)?;
        }
        if len == 0 {
            state.policies.reset(slot)?;
        }
        Ok(())
    }
}
