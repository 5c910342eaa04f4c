//! [`KvPolicy::Recompute`](crate::attention::KvPolicy::Recompute): K and V of skipped heads, computed from kept inputs when they
//! are needed after all.

use super::backend::{Backend, Input, LinearCall, Norm};
use super::config::Config;
use super::settings::Settings;
use crate::attention::{Call, InputRing, KvRow};
use crate::error::Result;
use crate::sparse_mlp::Selection;
use std::ops::Range;

/// The normed inputs of every layer's attention for the last tokens of each slot, and which KV heads' rows the cache has of
/// them. The inputs themselves are the device's.
#[derive(Debug)]
pub struct Recompute<B: Backend> {
    ring: InputRing,
    max_tokens: usize,
    /// \[max_tokens, d\].
    normed: B::Buffer,
    missing: Vec<KvRow>,
    /// Rows that are moved.
    from: Vec<u32>,
    to: Vec<u32>,
    /// Rows of the joint projection.
    features: Vec<Range<usize>>,
}

impl<B: Backend> Recompute<B> {
    /// What a session needs, if its policy recomputes.
    pub(super) fn new(backend: &B, config: &Config, settings: &Settings) -> Result<Option<Self>> {
        let (slots, lag, n_kv_heads) = (settings.slots, settings.kv.lag(), config.attention.n_kv_heads);
        if lag == 0 {
            return Ok(None);
        }
        let ring = InputRing::new(config.n_layers, slots, lag, n_kv_heads)?;
        Ok(Some(Recompute {
            missing: Vec::with_capacity(ring.max_missing(slots)),
            ring,
            max_tokens: settings.max_tokens,
            normed: backend.zeros(settings.max_tokens * config.d_model)?,
            from: Vec::with_capacity(settings.max_tokens),
            to: Vec::with_capacity(settings.max_tokens),
            features: Vec::with_capacity(2 * n_kv_heads),
        }))
    }

    /// Computes and writes the rows that the policy left out and the heads of this call could use. `qkv` is worked in.
    pub(super) fn fill(
        &mut self,
        backend: &B,
        work: &mut B::Work,
        (weight, inputs): (&B::Linear, Selection<'_>),
        call: &Call<'_>,
        qkv: &mut B::Buffer,
    ) -> Result<()> {
        self.missing.clear();
        self.ring.missing(call, &mut self.missing)?;
        let mut rest = &self.missing[..];
        while !rest.is_empty() {
            self.from.clear();
            let mut end = 0;
            for token in rest.chunk_by(|a, b| (a.slot, a.position) == (b.slot, b.position)).take(self.max_tokens) {
                self.from.push(self.ring.place(call.layer, token[0].slot, token[0].position) as u32);
                end += token.len();
            }
            let (rows, later) = rest.split_at(end);
            features(call, rows, &mut self.features);
            backend.kept_inputs(work, &self.from, &mut self.normed)?;
            let (input, m) = (Input::Plain(&self.normed), self.from.len());
            let projection = LinearCall { weight, input, m, rows: Some(&self.features), inputs };
            backend.linear(work, projection, None, qkv)?;
            backend.write_rows(work, call.layer, rows, qkv)?;
            rows.iter().for_each(|&row| self.ring.mark(call.layer, row));
            rest = later;
        }
        Ok(())
    }

    /// Keeps RMSNorm of x \[M, d\] and returns it; of a span longer than the lag the last tokens are kept, in the oldest ones'
    /// places.
    pub(super) fn keep(
        &mut self,
        backend: &B,
        work: &mut B::Work,
        call: &Call<'_>,
        norm: Norm<'_, B>,
    ) -> Result<&B::Buffer> {
        backend.rms_norm(norm, call.rows(), &mut self.normed)?;
        self.from.clear();
        self.to.clear();
        self.ring.keep(call, &mut self.from, &mut self.to)?;
        backend.keep_inputs(work, &self.normed, &self.from, &self.to)?;
        Ok(&self.normed)
    }

    /// The inputs that were kept last \[M, d\].
    pub(super) fn normed(&self) -> &B::Buffer {
        &self.normed
    }

    /// Forgets positions `len` and later of a slot, in every layer.
    pub(super) fn truncate(&mut self, slot: usize, len: usize) -> Result<()> {
        self.ring.truncate(slot, len)
    }
}

/// The output features of the joint projection that make up the K and V of these rows' heads.
fn features(call: &Call<'_>, rows: &[KvRow], features: &mut Vec<Range<usize>>) {
    let shape = call.shape;
    features.clear();
    for first in [shape.q_elems(), shape.q_elems() + shape.kv_elems()] {
        let needed = (0..shape.n_kv_heads).filter(|&head| rows.iter().any(|row| row.kv_head == head));
        features.extend(needed.map(|h| first + h * shape.head_dim..first + (h + 1) * shape.head_dim));
    }
}
