//! RoPE on k, fused with writing K and V into the cache.

use std::ops::Range;

use super::element::{KvElement, scale_of};
use super::kv_cache::{KvCache, KvRow, KvShape};
use super::storage::with_element;
use super::{BLOCK, Call, KvPolicy, MAX_HEAD_DIM, Rope, Span};
use crate::cpu::Cpu;
use crate::error::{Error, Result, check_len, product};
use crate::simd::{Kernel, Simd};

/// Writes the K and V of a call's tokens, K turned by `rope` (`None`: k is already turned, or the model has no RoPE).
///
/// k and v are f32, [M, n_kv_heads · head_dim]. Heads that `policy` does not project ([`KvPolicy::projects`]) are not read
/// and become holes or zeros. Positions written before are replaced.
///
/// # Errors
/// [`Error::Index`] for a layer, slot or position out of range (of the cache, or of the rope table), [`Error::Length`] if k
/// or v does not fit, [`Error::Shape`] if the call, the cache and the rope disagree, and the errors of
/// [`super::Heads::check`]. Nothing has been written then.
///
/// # Example
/// ```
/// use moray::attention::*;
/// let cpu = moray::Cpu::detect();
/// let shape = AttentionShape::new(2, 1, 8)?;
/// let mut cache =
///     KvCache::new(KvShape { n_layers: 1, n_slots: 1, n_kv_heads: 1, head_dim: 8, capacity: 16 }, KvDtype::F32)?;
/// let spans = [Span { slot: 0, start: 0, len: 3 }];
/// let call = Call { shape, layer: 0, spans: &spans, heads: Heads::All };
/// write_kv(&cpu, &call, KvPolicy::WriteAll, None, &[0.5; 24], &[0.25; 24], &mut cache)?;
/// assert_eq!(cache.len(0), 3);
/// # Ok::<(), moray::Error>(())
/// ```
pub fn write_kv(
    cpu: &Cpu,
    call: &Call<'_>,
    policy: KvPolicy,
    rope: Option<&Rope>,
    k: &[f32],
    v: &[f32],
    cache: &mut KvCache,
) -> Result<()> {
    let rows = call.check(cache.shape())?;
    check_rows(call, rows, rope, [k, v])?;
    let mut first_row = 0;
    for (index, span) in call.spans.iter().enumerate() {
        for kv_head in 0..call.shape.n_kv_heads {
            let at = KvRow { slot: span.slot, kv_head, position: span.start };
            let source = Source::new(policy, call, (index, kv_head, first_row), rope, [k, v]);
            if let Some(source) = &source {
                with_element!(cache.dtype(), E => store_span::<E>(cpu, call.layer, at, span, source, cache));
            }
            cache.mark(call.layer, at, span.end(), source.is_some());
        }
        first_row += span.len;
    }
    Ok(())
}

/// Writes one K and V row, \[head_dim\] each, f32, K turned by `rope` at the row's own position: for rows that are
/// recomputed after their head was skipped.
///
/// # Errors
/// As [`write_kv`].
pub fn write_row(
    cpu: &Cpu,
    layer: usize,
    row: KvRow,
    rope: Option<&Rope>,
    k: &[f32],
    v: &[f32],
    cache: &mut KvCache,
) -> Result<()> {
    let head_dim = cache.shape().head_dim;
    cache.check_row(layer, row)?;
    check_len("k", head_dim, k.len())?;
    check_len("v", head_dim, v.len())?;
    let span = Span { slot: row.slot, start: row.position, len: 1 };
    if let Some(rope) = rope {
        check_rope(rope, head_dim)?;
        rope.check_span(&span)?;
    }
    // The row is its own matrix of one head, so its head index inside k and v is 0.
    let block = row.position / BLOCK;
    let shape = *cache.shape();
    with_element!(cache.dtype(), E => {
        let region = cache.region_mut::<E>(layer, row.slot, row.kv_head);
        let block_elems = shape.block_elems::<E>();
        let store = StoreBlock {
            source: &Source { k, v, rope, first_row: 0, stride: head_dim },
            column: 0,
            start: row.position,
            positions: row.position..row.position + 1,
            shape: &shape,
            block: &mut region[block * block_elems..(block + 1) * block_elems],
        };
        cpu.simd().run(store);
    });
    cache.mark(layer, row, row.position + 1, true);
    Ok(())
}

fn check_rope(rope: &Rope, head_dim: usize) -> Result<()> {
    if rope.head_dim() == head_dim {
        return Ok(());
    }
    Err(Error::Shape { what: "rope head_dim", expected: "the cache's head_dim", got: rope.head_dim() })
}

/// Where the rows come from; empty k and v stand for zeros.
pub(super) struct Source<'a> {
    k: &'a [f32],
    v: &'a [f32],
    rope: Option<&'a Rope>,
    /// Row of the span's first token.
    first_row: usize,
    /// Elements from one token to the next.
    stride: usize,
}

impl<'a> Source<'a> {
    /// What a policy stores of a KV head of span `index`, whose first token is `first_row` of k and v; None: a hole.
    pub(super) fn new(
        policy: KvPolicy,
        call: &Call<'_>,
        (index, kv_head, first_row): (usize, usize, usize),
        rope: Option<&'a Rope>,
        [k, v]: [&'a [f32]; 2],
    ) -> Option<Source<'a>> {
        match (policy.projects(call, index, kv_head), policy) {
            (true, _) => Some(Source { k, v, rope, first_row, stride: call.shape.kv_elems() }),
            (false, KvPolicy::Zero) => Some(Source { k: &[], v: &[], rope: None, first_row, stride: 0 }),
            (false, _) => None,
        }
    }

    /// Reads the row of the span's token `token`, which stands at `position`, from column `column` on.
    #[inline(always)]
    pub(super) fn read(&self, token: usize, column: usize, position: usize, [k_row, v_row]: [&mut [f32]; 2]) {
        if self.k.is_empty() {
            k_row.fill(0.0);
            v_row.fill(0.0);
            return;
        }
        let from = (self.first_row + token) * self.stride + column;
        let (k, v) = (&self.k[from..from + k_row.len()], &self.v[from..from + v_row.len()]);
        match self.rope {
            Some(rope) => rope.rotate_into(position, k, k_row),
            None => k_row.copy_from_slice(k),
        }
        v_row.copy_from_slice(v);
    }
}

/// Checks the buffers of a call of `rows` tokens, and the rope that turns its keys.
pub(super) fn check_rows(call: &Call<'_>, rows: usize, rope: Option<&Rope>, [k, v]: [&[f32]; 2]) -> Result<()> {
    check_len("k", product("k", &[rows, call.shape.kv_elems()])?, k.len())?;
    check_len("v", product("v", &[rows, call.shape.kv_elems()])?, v.len())?;
    let Some(rope) = rope else { return Ok(()) };
    check_rope(rope, call.shape.head_dim)?;
    call.spans.iter().try_for_each(|span| rope.check_span(span))
}

fn store_span<E: KvElement>(cpu: &Cpu, layer: usize, at: KvRow, span: &Span, source: &Source<'_>, cache: &mut KvCache) {
    let shape = *cache.shape();
    let elems = shape.block_elems::<E>();
    let blocks = span.start / BLOCK..span.end().div_ceil(BLOCK).max(span.start / BLOCK);
    let region = cache.region_mut::<E>(layer, at.slot, at.kv_head);
    cpu.team().for_pieces_mut(&mut region[blocks.start * elems..blocks.end * elems], elems, |piece, block| {
        let first = (blocks.start + piece) * BLOCK;
        let store = StoreBlock {
            source,
            column: at.kv_head * shape.head_dim,
            start: span.start,
            positions: span.start.max(first)..span.end().min(first + BLOCK),
            shape: &shape,
            block,
        };
        cpu.simd().run(store);
    });
}

/// Stores some positions of one block.
struct StoreBlock<'a, E> {
    source: &'a Source<'a>,
    /// Column of the head in k and v.
    column: usize,
    /// Position of the source's first row.
    start: usize,
    positions: Range<usize>,
    shape: &'a KvShape,
    block: &'a mut [E],
}

impl<E: KvElement> Kernel for StoreBlock<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (d, v_stride) = (self.shape.head_dim, self.shape.v_stride());
        let (elements, scales) = self.block.split_at_mut(BLOCK * (d + v_stride));
        let (k_block, v_block) = elements.split_at_mut(BLOCK * d);
        let scales: &mut [[f32; BLOCK]] = bytemuck::cast_slice_mut::<E, f32>(scales).as_chunks_mut().0;
        // Sixteen-lane stores run to the padded end.
        let mut k_row = [0f32; MAX_HEAD_DIM];
        let mut v_row = [0f32; MAX_HEAD_DIM];
        let mut narrow = [E::zeroed(); 16];
        for position in self.positions {
            let j = position % BLOCK;
            self.source.read(position - self.start, self.column, position, [&mut k_row[..d], &mut v_row[..d]]);
            let mut inverses = [1.0; 2];
            for ((scales, inverse), row) in scales.iter_mut().zip(&mut inverses).zip([&k_row[..d], &v_row[..d]]) {
                (scales[j], *inverse) = scale_of(row);
            }
            let v_out = v_block[j * v_stride..(j + 1) * v_stride].as_chunks_mut().0;
            let rows = k_row.as_chunks().0.iter().zip(v_row.as_chunks().0);
            for (i, (v_out, (k, v))) in v_out.iter_mut().zip(rows).enumerate() {
                E::store(simd, v_out, simd.load(v), inverses[1]);
                E::store(simd, &mut narrow, simd.load(k), inverses[0]);
                for (lane, &x) in narrow.iter().take(d - 16 * i).enumerate() {
                    k_block[(j / 16 * d + 16 * i + lane) * 16 + j % 16] = x;
                }
            }
        }
    }
}
