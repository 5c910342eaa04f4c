//! The memory that attention works in, and the division of a call into units of work.

use super::{AttentionShape, BLOCK, Call, SEGMENT};
use crate::cpu::Cpu;
use crate::error::{Error, Result};
use crate::threads::{Area, Areas};
use std::ops::Range;

/// Query rows (positions × heads of a group) that share a pass over K and V: eight tiles of six rows.
const TILE_ROWS: usize = 48;
/// Tokens whose segments can be computed apart at full context; more tokens fill the threads anyway.
const SPLIT_TOKENS: usize = 4;
/// Floats before a state's output: a maximum in sixteen, then sixteen partial sums.
pub(super) const STATE_HEADER: usize = 32;

/// What a [`Workspace`] has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Largest M.
    pub max_rows: usize,
    /// Most spans per call.
    pub max_spans: usize,
    /// Longest context for which a decode step may be divided between threads along the context; the cache's capacity.
    pub capacity: usize,
}

/// The memory of [`super::attend`], made once for a shape, a number of threads and [`Limits`].
#[derive(Debug)]
pub struct Workspace {
    pub(super) shape: AttentionShape,
    limits: Limits,
    threads: usize,
    /// [threads][scratch_elems]
    pub(super) scratch: Vec<f32>,
    /// [segment][row][n_q_heads][state_elems]
    pub(super) partials: Vec<f32>,
    /// In strips of KV heads. Rows are those of M where a unit runs over the whole context, else of `partials`.
    pub(super) units: Areas<Unit>,
}

/// One piece of work: some tokens of one span, the heads of one group, one segment or all.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unit {
    pub(super) span: usize,
    /// First row in M, and its position.
    pub(super) row: usize,
    pub(super) position: usize,
    pub(super) tokens: usize,
    pub(super) kv_head: usize,
    /// The segment, where segments are computed apart.
    pub(super) segment: usize,
}

/// How a call is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Division {
    /// A unit runs over the whole context and writes its output.
    Tiles,
    /// A unit leaves the state of one segment in `partials`, `segments` per (row, head); a second phase merges them.
    Segments { segments: usize },
}

impl Workspace {
    /// Allocates for `cpu`'s threads.
    ///
    /// # Errors
    /// [`Error::Shape`] for a shape that [`AttentionShape::new`] refuses, or if the memory cannot be had.
    pub fn new(cpu: &Cpu, shape: AttentionShape, limits: Limits) -> Result<Workspace> {
        shape.check()?;
        let sizes = sizes(&shape, &limits, cpu.threads());
        let expected = "limits whose workspace can be allocated";
        let refused = || Error::Shape { what: "workspace max_rows", expected, got: limits.max_rows };
        let (scratch, partials, n_units) = sizes.ok_or_else(refused)?;
        let zeroed = |elems| bytemuck::allocation::try_zeroed_vec::<f32>(elems).map_err(|()| refused());
        let mut units = Areas::new();
        units.try_reserve(n_units).map_err(|_| refused())?;
        let (scratch, partials) = (zeroed(scratch)?, zeroed(partials)?);
        Ok(Workspace { shape, limits, threads: cpu.threads(), scratch, partials, units })
    }

    /// Bytes that [`Workspace::new`] allocates; `None` if they cannot be counted.
    pub fn bytes_for(cpu: &Cpu, shape: &AttentionShape, limits: &Limits) -> Option<usize> {
        let (scratch, partials, units) = sizes(shape, limits, cpu.threads())?;
        let floats = scratch.checked_add(partials)?.checked_mul(size_of::<f32>())?;
        floats.checked_add(units.checked_mul(size_of::<Area<Unit>>())?)
    }

    /// Bytes allocated.
    pub fn memory_bytes(&self) -> usize {
        size_of_val(&self.scratch[..])
            + size_of_val(&self.partials[..])
            + self.units.capacity() * size_of::<Area<Unit>>()
    }

    /// Checks that a checked call of `rows` tokens fits.
    pub(super) fn check(&self, cpu: &Cpu, call: &Call<'_>, rows: usize) -> Result<()> {
        let shape = |what, expected, got| Err(Error::Shape { what, expected, got });
        if self.shape != call.shape {
            return shape("workspace", "one made for the call's shape", self.shape.n_q_heads);
        }
        if rows > self.limits.max_rows {
            return shape("tokens", "at most the workspace's max_rows", rows);
        }
        if call.spans.len() > self.limits.max_spans {
            return shape("spans", "at most the workspace's max_spans", call.spans.len());
        }
        if cpu.threads() > self.threads {
            return shape("threads", "at most as many as the workspace was made for", cpu.threads());
        }
        Ok(())
    }

    /// Fills `units` for some spans and KV heads; threads take the last first, since late tokens have the longest contexts.
    pub(super) fn divide(
        &mut self,
        cpu: &Cpu,
        call: &Call<'_>,
        rows: usize,
        (spans, kv_heads): (Range<usize>, Range<usize>),
    ) -> Division {
        let whole = spans.len() == call.spans.len() && kv_heads.len() == self.shape.n_kv_heads;
        let longest = call.spans.iter().map(|span| span.end()).max().unwrap_or(0);
        let segments = longest.div_ceil(SEGMENT);
        let tiles: usize = (0..call.spans.len())
            .flat_map(|span| (0..self.shape.n_kv_heads).map(move |kv_head| (span, kv_head)))
            .filter(|&(span, kv_head)| call.heads.uses_group(&call.shape, span, kv_head))
            .map(|(span, kv_head)| call.spans[span].len.div_ceil(tile_tokens(call, span, kv_head)))
            .sum();
        let room = self.partials.len() / state_elems(self.shape.head_dim);
        let fits = rows.saturating_mul(self.shape.n_q_heads).saturating_mul(segments) <= room;
        let division = if whole && cpu.threads() > 1 && segments > 1 && tiles < 4 * cpu.threads() && fits {
            Division::Segments { segments }
        } else {
            Division::Tiles
        };
        self.units.clear();
        let segments = if division == Division::Tiles { 1 } else { segments };
        let before: usize = call.spans[..spans.start].iter().map(|span| span.len).sum();
        for kv_head in kv_heads {
            for segment in 0..segments {
                let mut first_row = before;
                for span in spans.clone() {
                    let at =
                        Unit { span, row: first_row, position: call.spans[span].start, tokens: 0, kv_head, segment };
                    self.divide_span(call, division, at, segment * rows);
                    first_row += call.spans[span].len;
                }
            }
        }
        division
    }

    /// Adds the units of one span, group and segment, of which `at` names the first token; their rows come after `above`.
    fn divide_span(&mut self, call: &Call<'_>, division: Division, at: Unit, above: usize) {
        let (span, step) = (call.spans[at.span], tile_tokens(call, at.span, at.kv_head));
        // A group without a running head has outputs of zeros, which its unit of segment 0 stands for.
        let runs = call.heads.uses_group(&call.shape, at.span, at.kv_head);
        for start in (0..span.len).step_by(step) {
            let tokens = step.min(span.len - start);
            let unit = Unit { row: at.row + start, position: at.position + start, tokens, ..at };
            let last = if division == Division::Tiles || !runs { 0 } else { (unit.position + tokens - 1) / SEGMENT };
            if unit.segment <= last {
                self.units.push(unit.kv_head, above + unit.row..above + unit.row + tokens, unit);
            }
        }
    }
}

/// Tokens of a tile, for a group of which some heads run.
fn tile_tokens(call: &Call<'_>, span: usize, kv_head: usize) -> usize {
    let running =
        super::heads::group(&call.shape, kv_head).filter(|&head| call.heads.contains(&call.shape, span, head));
    (TILE_ROWS / running.count().max(1)).max(1)
}

/// Query rows of the largest tile.
fn tile_rows(shape: &AttentionShape) -> usize {
    TILE_ROWS.max(shape.group_size())
}

/// Floats of a softmax state: maximum, sums, output.
pub(super) fn state_elems(head_dim: usize) -> usize {
    STATE_HEADER + head_dim.next_multiple_of(16)
}

/// One thread's scratch, cut into its parts.
pub(super) struct Scratch<'a> {
    /// [rows][head_dim], scaled queries.
    pub(super) q: &'a mut [f32],
    /// [rows][BLOCK], scores, then weights.
    pub(super) weights: &'a mut [f32],
    /// [rows][state_elems], the current segment.
    pub(super) segment: &'a mut [f32],
    /// [rows][state_elems], the segments so far.
    pub(super) total: &'a mut [f32],
    /// [BLOCK · (head_dim + v_stride)], one block of the cache in f32.
    pub(super) block: &'a mut [f32],
}

/// Floats of one thread's scratch, a whole number of cache lines.
pub(super) fn scratch_elems(shape: &AttentionShape) -> usize {
    parts(shape).iter().sum::<usize>().next_multiple_of(32)
}

fn parts(shape: &AttentionShape) -> [usize; 5] {
    let (rows, d) = (tile_rows(shape), shape.head_dim);
    let state = rows * state_elems(d);
    [rows * d, rows * BLOCK, state, state, BLOCK * (d + d.next_multiple_of(16))]
}

pub(super) fn cut_scratch<'a>(shape: &AttentionShape, scratch: &'a mut [f32]) -> Scratch<'a> {
    let [q, weights, segment, total, block] = parts(shape);
    let (q, scratch) = scratch.split_at_mut(q);
    let (weights, scratch) = scratch.split_at_mut(weights);
    let (segment, scratch) = scratch.split_at_mut(segment);
    let (total, scratch) = scratch.split_at_mut(total);
    Scratch { q, weights, segment, total, block: &mut scratch[..block] }
}

/// Floats of all scratch, floats of the partial states, and units.
fn sizes(shape: &AttentionShape, limits: &Limits, threads: usize) -> Option<(usize, usize, usize)> {
    let scratch = scratch_elems(shape).checked_mul(threads)?;
    let segments = limits.capacity.div_ceil(SEGMENT);
    let states = limits.max_rows.min(SPLIT_TOKENS).checked_mul(shape.n_q_heads)?.checked_mul(segments)?;
    let tile_tokens = (TILE_ROWS / shape.group_size()).max(1);
    let tiles = limits.max_rows.div_ceil(tile_tokens).checked_add(limits.max_spans)?;
    let units = tiles.checked_mul(shape.n_kv_heads)?.max(states);
    Some((scratch, states.checked_mul(state_elems(shape.head_dim))?, units))
}
