//! Attention on the CPU: check, divide, compute.

use super::kernel::{Rows, Segment};
use super::kv_cache::{KvCache, causal_mask};
use super::softmax::{Finish, Merge};
use super::source::{At, Cached, Source};
use super::storage::with_element;
use super::workspace::{Division, Scratch, Unit, Workspace, cut_scratch, scratch_elems, state_elems};
use super::{AttentionShape, BLOCK, Call, SEGMENT, heads};
use crate::cpu::Cpu;
use crate::error::{Error, Result, check_len, product};
use crate::threads::{AreaWindows, Pieces, SharedSlice, Tiles, Window};
use std::ops::Range;

/// Computes attention of a call's tokens over what the cache holds for their slots, positions ≤ their own.
///
/// out\[t, h\] = Σ_j softmax_j(q\[t, h\] · k\[j\] / √head_dim) · v\[j\] over the positions j that the KV head of h holds. Heads that
/// do not run give zeros and cost nothing else: neither their K and V are read nor anything computed. A head that holds
/// no position gives zeros.
///
/// | argument | dtype | shape | layout |
/// |---|---|---|---|
/// | `q` | f32 | [M, n_q_heads, head_dim] | row-major, turned by RoPE |
/// | `cache` | f32, f16, bf16, int8 | see [`KvCache`] | K turned by RoPE; this call's own tokens already written |
/// | `out` | f32 | [M, n_q_heads, head_dim] | row-major, all of it written |
///
/// # Errors
/// [`crate::Error::Index`] for a layer, slot, position or head out of range, [`crate::Error::NotIncreasing`] for a list
/// with duplicates, [`crate::Error::Length`] for a buffer that does not fit, [`crate::Error::Shape`] if the call, the
/// cache and the workspace disagree. Nothing has been written then.
///
/// # Source
/// Online softmax: Milakov and Gimelshein (arXiv 1805.02867); blocks and segments: FlashAttention (arXiv 2205.14135) and
/// Flash-Decoding; a list of heads per sequence: Polar Sparsity (arXiv 2505.14884).
///
/// # Example
/// ```
/// use moray::attention::*;
/// let cpu = moray::Cpu::detect();
/// let shape = AttentionShape::new(2, 1, 8)?;
/// let kv = KvShape { n_layers: 1, n_slots: 1, n_kv_heads: 1, head_dim: 8, capacity: 64 };
/// let mut cache = KvCache::new(kv, KvDtype::F16)?;
/// let limits = Limits { max_rows: 4, max_spans: 1, capacity: 64 };
/// let mut workspace = Workspace::new(&cpu, shape, limits)?;
///
/// let spans = [Span { slot: 0, start: 0, len: 4 }]; // a prompt of four tokens
/// let call = Call { shape, layer: 0, spans: &spans, heads: Heads::Mask { words: &[0b01] } }; // head 0 runs
/// write_kv(&cpu, &call, KvPolicy::WriteAll, None, &[0.5; 32], &[0.25; 32], &mut cache)?;
/// let mut out = [f32::NAN; 64];
/// attend(&cpu, &call, &[1.0; 64], &cache, &mut out, &mut workspace)?;
/// assert_eq!(out[..8], [0.25; 8]);
/// assert_eq!(out[8..16], [0.0; 8]);
/// # Ok::<(), moray::Error>(())
/// ```
pub fn attend(
    cpu: &Cpu,
    call: &Call<'_>,
    q: &[f32],
    cache: &KvCache,
    out: &mut [f32],
    workspace: &mut Workspace,
) -> Result<()> {
    let all = (0..call.spans.len(), 0..call.shape.n_kv_heads);
    attend_range(cpu, call, all.0, all.1, q, cache, out, workspace)
}

/// Computes as [`attend`], only for some spans and the query heads of some KV heads; the rest of `out` is neither read nor written. Threads of
/// an engine's own can share one call by ranges that do not overlap: each with the same `out` as a [`SharedSlice`] and a workspace of its
/// own, on a [`Cpu`] of one thread, which any number of them can use. A range is not divided along the context.
///
/// # Errors
/// As [`attend`]; [`crate::Error::Index`] for spans or KV heads past the last.
#[allow(clippy::too_many_arguments)]
pub fn attend_range<'o>(
    cpu: &Cpu,
    call: &Call<'_>,
    spans: Range<usize>,
    kv_heads: Range<usize>,
    q: &[f32],
    cache: &KvCache,
    out: impl Into<SharedSlice<'o, f32>>,
    workspace: &mut Workspace,
) -> Result<()> {
    let rows = call.check(cache.shape())?;
    with_element!(cache.dtype(), E => {
        let job = Job { cpu, call, q, source: &Cached::<E>::new(cache, call.layer) };
        job.compute(rows, (spans, kv_heads), out.into(), workspace)
    })
}

/// Counts the bytes of K and V that a call has to read, each row of each running group once per span: holes and groups
/// without a running head cost none.
///
/// # Errors
/// As [`attend`] for the call.
pub fn bytes_read(call: &Call<'_>, cache: &KvCache) -> Result<usize> {
    call.check(cache.shape())?;
    let row_bytes = 2 * cache.dtype().row_bytes(call.shape.head_dim);
    let mut rows = 0;
    for (index, span) in call.spans.iter().enumerate().filter(|(_, span)| span.len > 0) {
        for kv_head in (0..call.shape.n_kv_heads).filter(|&h| call.heads.uses_group(&call.shape, index, h)) {
            let presence = cache.presence(call.layer, span.slot, kv_head).iter().enumerate();
            rows += presence.map(|(b, word)| (word & causal_mask(span.end(), b)).count_ones() as usize).sum::<usize>();
        }
    }
    Ok(rows * row_bytes)
}

/// States that one thread merges in about the time of a barrier.
const STATES_PER_RANGE: usize = 64;

/// A call that fits its source.
pub(super) struct Job<'a, S> {
    pub(super) cpu: &'a Cpu,
    pub(super) call: &'a Call<'a>,
    pub(super) q: &'a [f32],
    pub(super) source: &'a S,
}

impl<S: Source> Job<'_, S> {
    /// Computes ranges of spans and KV heads of a call of `rows` tokens.
    pub(super) fn compute(
        &self,
        rows: usize,
        (spans, kv_heads): (Range<usize>, Range<usize>),
        out: SharedSlice<'_, f32>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        let Job { cpu, call, q, .. } = *self;
        check_len("q", product("q", &[rows, call.shape.q_elems()])?, q.len())?;
        check_len("out", q.len(), out.len())?;
        for (what, range, count) in
            [("spans", &spans, call.spans.len()), ("kv_heads", &kv_heads, call.shape.n_kv_heads)]
        {
            if range.start > range.end || range.end > count {
                return Err(Error::Index { what, limit: count + 1, got: range.start.max(range.end) });
            }
        }
        workspace.check(cpu, call, rows)?;
        let division = workspace.divide(cpu, call, rows, (spans, kv_heads));
        self.run(division, out, workspace);
        Ok(())
    }

    fn run(&self, division: Division, out: SharedSlice<'_, f32>, workspace: &mut Workspace) {
        let Workspace { scratch, partials, units, .. } = workspace;
        let (shape, team) = (&self.call.shape, self.cpu.team());
        let (strip, q_elems) = (shape.group_size() * shape.head_dim, shape.q_elems());
        let Division::Segments { segments } = division else {
            let units = AreaWindows::new(out, q_elems, strip, units);
            let scratch = Pieces::new(scratch, scratch_elems(shape));
            team.for_parts_with(units, 1, scratch, |scratch, _, (unit, out)| {
                self.tile(unit, &mut cut_scratch(shape, scratch), out);
            });
            return;
        };
        let rows = out.len() / q_elems;
        let row_elems = shape.n_q_heads * state_elems(shape.head_dim);
        let partials = &mut partials[..segments * rows * row_elems];
        let units = AreaWindows::new(&mut *partials, row_elems, row_elems / shape.n_kv_heads, units);
        let own = Pieces::new(scratch, scratch_elems(shape));
        team.for_parts_with(units, 1, own, |scratch, _, (unit, states)| {
            self.segment(unit, &mut cut_scratch(shape, scratch), states);
        });
        // a token's heads of one group, one after another
        let groups = Tiles::new(out, q_elems, 0..q_elems, 1, strip);
        let own = Pieces::new(scratch, scratch_elems(shape));
        team.for_parts_with(groups, STATES_PER_RANGE.div_ceil(shape.group_size()), own, |scratch, index, mut out| {
            let (token, kv_head) = (index / shape.n_kv_heads, index % shape.n_kv_heads);
            self.merge(token, kv_head, partials, cut_scratch(shape, scratch).total, out.row(0));
        });
    }

    fn runs(&self, span: usize, head: usize) -> bool {
        self.call.heads.contains(&self.call.shape, span, head)
    }

    /// The (token, query head) pairs of a unit in the order of its rows.
    fn rows_of(&self, unit: &Unit) -> impl Iterator<Item = (usize, usize)> {
        let (span, group) = (unit.span, heads::group(&self.call.shape, unit.kv_head));
        let heads = move |token| group.clone().map(move |head| (token, head));
        (unit.row..unit.row + unit.tokens).flat_map(heads).filter(move |&(_, head)| self.runs(span, head))
    }

    fn head_of(&self, token: usize, head: usize) -> std::ops::Range<usize> {
        let start = token * self.call.shape.q_elems() + head * self.call.shape.head_dim;
        start..start + self.call.shape.head_dim
    }

    /// Copies a unit's queries, times log₂ e / √head_dim, into the scratch.
    fn load_queries(&self, unit: &Unit, scratch: &mut Scratch<'_>) -> Rows {
        let d = self.call.shape.head_dim;
        let factor = (std::f64::consts::LOG2_E / (d as f64).sqrt()) as f32;
        let mut count = 0;
        for ((token, head), scaled) in self.rows_of(unit).zip(scratch.q.chunks_exact_mut(d)) {
            for (scaled, q) in scaled.iter_mut().zip(&self.q[self.head_of(token, head)]) {
                *scaled = q * factor;
            }
            count += 1;
        }
        Rows { count, per_token: count / unit.tokens, position: unit.position }
    }

    fn compute_segment(&self, unit: &Unit, segment: usize, rows: Rows, scratch: &mut Scratch<'_>) {
        const BLOCKS: usize = SEGMENT / BLOCK;
        let at = At { slot: self.call.spans[unit.span].slot, kv_head: unit.kv_head };
        let end = (unit.position + unit.tokens).div_ceil(BLOCK);
        let blocks = segment * BLOCKS..end.min((segment + 1) * BLOCKS);
        let segment = Segment { blocks, head_dim: self.call.shape.head_dim, rows, scratch };
        segment.compute(self.cpu.simd(), self.source, at);
    }

    /// Computes a unit over its whole context.
    fn tile(&self, unit: &Unit, scratch: &mut Scratch<'_>, mut out: Window<'_, f32>) {
        let head_dim = self.call.shape.head_dim;
        let stride = state_elems(head_dim);
        let rows = self.load_queries(unit, scratch);
        if rows.count > 0 {
            let states = rows.count * stride;
            for segment in 0..(unit.position + unit.tokens).div_ceil(SEGMENT) {
                self.compute_segment(unit, segment, rows, scratch);
                let (total, segment_states) = (&mut scratch.total[..states], &scratch.segment[..states]);
                if segment == 0 {
                    total.copy_from_slice(segment_states);
                } else {
                    self.cpu.simd().run(Merge { head_dim, total, segment: segment_states });
                }
            }
        }
        let mut states = scratch.total.chunks_exact_mut(stride);
        for token in 0..unit.tokens {
            let heads = heads::group(&self.call.shape, unit.kv_head);
            for (head, out) in heads.zip(out.row(token).chunks_exact_mut(head_dim)) {
                match if self.runs(unit.span, head) { states.next() } else { None } {
                    Some(state) => self.finish(state, out),
                    None => out.fill(0.0),
                }
            }
        }
    }

    /// Computes one segment of a unit, and writes the states of its heads that run.
    fn segment(&self, unit: &Unit, scratch: &mut Scratch<'_>, mut states: Window<'_, f32>) {
        let stride = state_elems(self.call.shape.head_dim);
        let rows = self.load_queries(unit, scratch);
        if rows.count == 0 {
            return;
        }
        self.compute_segment(unit, unit.segment, rows, scratch);
        let first_head = heads::group(&self.call.shape, unit.kv_head).start;
        for ((token, head), state) in self.rows_of(unit).zip(scratch.segment.chunks_exact(stride)) {
            let at = (head - first_head) * stride;
            states.row(token - unit.row)[at..at + stride].copy_from_slice(state);
        }
    }

    /// Merges the segments of one token's heads of a group in order; `partials` are as in [`Workspace`].
    fn merge(&self, token: usize, kv_head: usize, partials: &[f32], total: &mut [f32], out: &mut [f32]) {
        let AttentionShape { n_q_heads, head_dim, .. } = self.call.shape;
        let stride = state_elems(head_dim);
        let segment_elems = self.q.len() / head_dim * stride;
        let (span, position) = self.span_of(token);
        let total = &mut total[..stride];
        for (head, out) in heads::group(&self.call.shape, kv_head).zip(out.chunks_exact_mut(head_dim)) {
            if !self.runs(span, head) {
                out.fill(0.0);
                continue;
            }
            let row = &partials[(token * n_q_heads + head) * stride..];
            total.copy_from_slice(&row[..stride]);
            for segment in 1..=position / SEGMENT {
                let segment = &row[segment * segment_elems..][..stride];
                self.cpu.simd().run(Merge { head_dim, total, segment });
            }
            self.finish(total, out);
        }
    }

    /// The span that row `token` of M belongs to, and its position there.
    fn span_of(&self, mut token: usize) -> (usize, usize) {
        let mut index = 0;
        while token >= self.call.spans[index].len {
            token -= self.call.spans[index].len;
            index += 1;
        }
        (index, self.call.spans[index].start + token)
    }

    fn finish(&self, state: &mut [f32], out: &mut [f32]) {
        self.cpu.simd().run(Finish { state });
        let values = &state[state_elems(out.len()) - out.len().next_multiple_of(16)..];
        out.copy_from_slice(&values[..out.len()]);
    }
}
