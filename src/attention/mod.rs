//! Attention that skips heads: KV cache, RoPE, grouped-query attention over ragged batches, and the policies for what
//! is skipped.
//!
//! For query head h of the token at position t, with κ(h) its KV head and P the positions ≤ t that the cache holds for
//! κ(h):
//!
//! ```text
//! out[t, h] = Σ_{j ∈ P} softmax_j(q[t, h] · k[j, κ(h)] / √head_dim) · v[j, κ(h)]
//! ```
//!
//! A layer of a forward pass projects q, k and v, then calls [`Rope::apply`] on q, [`write_kv`] and [`attend`] with the
//! same [`Call`]: the layer, the spans of tokens and the heads that run. Heads come from a policy ([`crate::policy`], a trained
//! predictor, a file); the operation only consumes them. Nothing here allocates after the cache and the [`Workspace`] are
//! made.
//!
//! # Determinism
//! A result depends only on q and on what the cache holds for positions ≤ t: any split of a prompt, any batch, any
//! number of threads and any instruction set give the same bits. Each score is one chain of fused multiply-adds over
//! head_dim, times the key's scale if it has one, each output one chain over positions; the softmax runs online over blocks of [`BLOCK`] positions counted from
//! 0, restarts every [`SEGMENT`] positions, and segments are merged in order.

mod cpu;
#[cfg(feature = "cuda-attention")]
pub mod cuda;
mod element;
mod heads;
mod kernel;
mod kv_cache;
mod kv_policy;
mod paged;
mod recompute;
mod rope;
mod softmax;
mod source;
mod storage;
mod workspace;
mod write;

pub use cpu::{attend, attend_range, bytes_read};
pub use heads::Heads;
pub use kv_cache::{KvCache, KvRow, KvShape};
pub use kv_policy::KvPolicy;
pub use paged::{KvRowsMut, PageLayout, PagedKv, PagedKvMut, attend_paged, attend_paged_range, write_kv_paged};
pub use recompute::{InputRing, InputRows};
pub use rope::{Rope, RopeScaling};
pub use storage::KvDtype;
pub use workspace::{Limits, Workspace};
pub use write::{write_kv, write_row};

use crate::error::{Error, Result};

/// Positions per block of the cache and per step of the online softmax: the bits of one presence word.
pub const BLOCK: usize = 64;
/// Positions whose softmax is computed apart and merged in order, so that one long sequence can occupy every thread.
pub const SEGMENT: usize = 256;
/// Largest `head_dim`.
pub const MAX_HEAD_DIM: usize = 512;

/// The head layout of a layer: grouped-query attention, `n_q_heads / n_kv_heads` query heads share one KV head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AttentionShape {
    /// Query heads.
    pub n_q_heads: usize,
    /// Key and value heads; divides `n_q_heads`. Query head h reads KV head `h / (n_q_heads / n_kv_heads)`.
    pub n_kv_heads: usize,
    /// Elements per head: a multiple of 8, at most [`MAX_HEAD_DIM`].
    pub head_dim: usize,
}

impl AttentionShape {
    /// Checks the three numbers.
    ///
    /// # Errors
    /// [`Error::Shape`] if a number is 0, `n_kv_heads` does not divide `n_q_heads`, or `head_dim` is not a multiple of 8
    /// up to [`MAX_HEAD_DIM`].
    pub fn new(n_q_heads: usize, n_kv_heads: usize, head_dim: usize) -> Result<AttentionShape> {
        let shape = AttentionShape { n_q_heads, n_kv_heads, head_dim };
        shape.check()?;
        Ok(shape)
    }

    pub(crate) fn check(&self) -> Result<()> {
        let shape = |what, expected, got| Err(Error::Shape { what, expected, got });
        if self.n_kv_heads == 0 {
            return shape("n_kv_heads", "at least 1", 0);
        }
        if self.n_q_heads == 0 || !self.n_q_heads.is_multiple_of(self.n_kv_heads) {
            return shape("n_q_heads", "a positive multiple of n_kv_heads", self.n_q_heads);
        }
        check_head_dim(self.head_dim)
    }

    /// Query heads per KV head.
    pub fn group_size(&self) -> usize {
        self.n_q_heads.checked_div(self.n_kv_heads).unwrap_or(0)
    }

    /// Elements of one token's q and of its attention output: `n_q_heads · head_dim`.
    pub fn q_elems(&self) -> usize {
        self.n_q_heads.saturating_mul(self.head_dim)
    }

    /// Elements of one token's k and of its v: `n_kv_heads · head_dim`.
    pub fn kv_elems(&self) -> usize {
        self.n_kv_heads.saturating_mul(self.head_dim)
    }
}

pub(crate) fn check_head_dim(head_dim: usize) -> Result<()> {
    if head_dim == 0 || !head_dim.is_multiple_of(8) || head_dim > MAX_HEAD_DIM {
        let expected = "a positive multiple of 8, at most 512";
        return Err(Error::Shape { what: "head_dim", expected, got: head_dim });
    }
    Ok(())
}

/// A run of consecutive tokens of one sequence.
///
/// The tokens of a call's spans stand one after another in the M rows of q, k, v and out: `len` 1 is a decode step,
/// more is a chunk of a prompt, several spans are a ragged batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Span {
    /// The sequence's place in the cache.
    pub slot: usize,
    /// Position of the first token, counted from the sequence's beginning.
    pub start: usize,
    /// Number of tokens; may be 0.
    pub len: usize,
}

impl Span {
    /// One past the last position.
    pub fn end(&self) -> usize {
        self.start.saturating_add(self.len)
    }
}

/// What one layer of one step works on.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// The head layout.
    pub shape: AttentionShape,
    /// The layer, an index into the cache.
    pub layer: usize,
    /// The tokens; each slot appears at most once.
    pub spans: &'a [Span],
    /// The query heads that run, per span.
    pub heads: Heads<'a>,
}

impl Call<'_> {
    /// M, the number of tokens.
    pub fn rows(&self) -> usize {
        self.spans.iter().map(|span| span.len).sum()
    }

    /// Checks everything but the buffers, and returns M.
    pub(crate) fn check(&self, cache: &KvShape) -> Result<usize> {
        self.shape.check()?;
        if self.shape.n_kv_heads != cache.n_kv_heads {
            let expected = "the cache's n_kv_heads";
            return Err(Error::Shape { what: "n_kv_heads", expected, got: self.shape.n_kv_heads });
        }
        if self.shape.head_dim != cache.head_dim {
            return Err(Error::Shape { what: "head_dim", expected: "the cache's head_dim", got: self.shape.head_dim });
        }
        check_index("layer", self.layer, cache.n_layers)?;
        let rows = check_spans(self.spans, cache.n_slots, cache.capacity)?;
        self.heads.check(&self.shape, self.spans.len())?;
        Ok(rows)
    }
}

pub(crate) fn check_index(what: &'static str, got: usize, limit: usize) -> Result<()> {
    if got < limit { Ok(()) } else { Err(Error::Index { what, limit, got }) }
}

/// Checks slots (in range, none twice) and positions, and returns M.
pub(crate) fn check_spans(spans: &[Span], n_slots: usize, capacity: usize) -> Result<usize> {
    let mut rows = 0usize;
    for (i, span) in spans.iter().enumerate() {
        check_index("span slot", span.slot, n_slots)?;
        let end = span.end();
        if end > capacity {
            return Err(Error::Index { what: "span position", limit: capacity, got: end - 1 });
        }
        let increasing = i == 0 || spans[i - 1].slot < span.slot;
        if !increasing && spans[..i].iter().any(|other| other.slot == span.slot) {
            let got = format!("slot {} twice", span.slot);
            return Err(Error::Unsupported { what: "spans", expected: "each slot at most once", got });
        }
        rows = rows.saturating_add(span.len);
    }
    Ok(rows)
}
