//! Attention: check, select, launch.

use super::{Heads, Kv, Spans, check_shape};
use crate::attention::AttentionShape;
use crate::attention::cuda::mirror::{AttendParams, MERGE, ProjectedView};
use crate::attention::cuda::split::Split;
use crate::attention::cuda::variant::{Variant, has_one_tile, select};
use crate::device::{Access, Address, Buffer, Device, ElementKind, Enqueue, Queue, or_null, product};
use crate::error::{Error, Result};

/// Attention of a call's tokens over what the cache holds: [`crate::attention::cuda::attend`] by addresses.
///
/// out\[t, h\] = Σ_j softmax_j(q\[t, h\] · k\[j\] / √head_dim) · v\[j\] over the positions j ≤ t's own that the KV head of h holds.
#[derive(Debug, Clone, Copy)]
pub struct Attend {
    /// The head layout; head_dim at most [`crate::attention::cuda::MAX_HEAD_DIM`].
    pub shape: AttentionShape,
    /// The cache, with this call's own tokens already written.
    pub kv: Kv,
    /// The heads that run.
    pub heads: Heads,
    /// The tokens.
    pub spans: Spans,
    /// f32 \[M, n_q_heads, head_dim\], turned by RoPE, aligned to 16 bytes.
    pub q: Address<f32>,
    /// \[M, n_q_heads, head_dim\], aligned to 16 bytes; all of it is written.
    pub out: Address,
    /// Of `out`.
    pub out_type: ElementKind,
    /// How spans of few tokens cut their context; covers the cache's capacity.
    pub split: Split,
    /// [`Attend::workspace_bytes`] of scratch, aligned to 16 bytes; null where there are none. f32 \[M, n_q_heads, n_splits,
    /// head_dim\] weighted sums, then (f32, f32) \[M, n_q_heads, n_splits\] maxima and sums of weights.
    pub workspace: Address<f32>,
    /// Bytes at `workspace`.
    pub workspace_bytes: usize,
    /// u32, [`Attend::counters`] of them: zeros before the first call, and left so. Parts of a context are merged by the block that comes last
    /// then; None: by a launch of its own. The numbers are the same. A launch that does not run to its end ends the device's context and this
    /// memory with it, so no later launch finds what it left; whoever copies the memory to another context clears it there.
    pub arrived: Option<Address<u32>>,
}

impl Attend {
    /// Bytes of scratch that the call needs: a softmax state and its sums for each (token, head, split), where the context is
    /// split; 0 for spans of many tokens.
    pub fn workspace_bytes(&self) -> usize {
        product([self.states(), self.shape.head_dim.saturating_add(2), size_of::<f32>()])
    }

    /// Counters that the call needs at `arrived`; 0 where nothing is merged.
    pub fn counters(&self) -> usize {
        let Variant { grid, split, .. } = self.variant();
        if split.n_splits == 1 { 0 } else { product([grid[1] as usize, grid[2] as usize]) }
    }

    fn states(&self) -> usize {
        match self.variant().split.n_splits {
            1 => 0,
            n_splits => product([self.spans.rows, self.shape.n_q_heads, n_splits]),
        }
    }

    fn variant(&self) -> Variant {
        select(&self.shape, self.kv.format, self.spans.n_spans, self.spans.longest, self.split)
    }

    /// Whether the launch can write the cache too: one tile of rows for each span.
    pub(super) fn takes_projections(&self) -> bool {
        has_one_tile(&self.shape, self.spans.longest)
    }

    /// Launches; with projections, of tokens that are not in the cache yet.
    pub(super) fn enqueue_with(&self, queue: &Queue<'_>, projected: ProjectedView) -> Result<()> {
        if self.spans.is_empty() {
            return Ok(());
        }
        let Variant { kernel, grid, split } = self.variant();
        let params = AttendParams { projected, ..self.params(split) };
        queue.launch(kernel, grid, params)?;
        if split.n_splits == 1 || self.arrived.is_some() {
            return Ok(());
        }
        let grid = [params.n_q_heads.div_ceil(4), self.spans.longest as u32, self.spans.n_spans as u32];
        queue.launch(MERGE, grid, params)
    }

    fn params(&self, split: Split) -> AttendParams {
        let sums = product([self.states(), self.shape.head_dim]);
        AttendParams {
            kv: self.kv.params(),
            heads: self.heads.params(&self.shape),
            projected: ProjectedView::default(),
            spans: self.spans.records.get(),
            q: self.q.get(),
            out: self.out.get(),
            partial_out: self.workspace.get(),
            partial_state: self.workspace.offset(sums).get(),
            arrived: or_null(self.arrived),
            n_q_heads: self.shape.n_q_heads as u32,
            head_dim: self.shape.head_dim as u32,
            out_dtype: self.out_type as u32,
            split_len: split.len as u32,
            n_splits: split.n_splits as u32,
            score_factor: (std::f64::consts::LOG2_E / (self.shape.head_dim as f64).sqrt()) as f32,
        }
    }
}

impl Enqueue for Attend {
    fn check_sizes(&self, device: &Device) -> Result<()> {
        check_shape(&self.shape, &self.kv)?;
        self.heads.check()?;
        self.spans.check()?;
        self.split.check(self.kv.layout.capacity)?;
        if self.spans.is_empty() {
            return Ok(());
        }
        self.variant().check(device)?;
        let needed = self.workspace_bytes();
        match self.workspace_bytes < needed {
            true => Err(Error::Length { what: "workspace", expected: needed / 4, got: self.workspace_bytes / 4 }),
            false => Ok(()),
        }
    }

    fn name_buffers(&self, _: &Device, show: &mut dyn FnMut(Buffer)) {
        if self.spans.is_empty() {
            return;
        }
        let elems = product([self.spans.rows, self.shape.q_elems()]);
        show(Buffer::read("q", self.q, elems).aligned(16));
        show(Buffer::write("out", self.out, elems).of_bytes(self.out_type.bytes()).aligned(16));
        self.spans.name_buffers(show);
        self.heads.name_buffers(&self.shape, self.spans.n_spans, show);
        self.kv.name_buffers(Access::Read, show);
        show(Buffer::write("workspace", self.workspace, self.workspace_bytes() / 4).aligned(16));
        if let Some(arrived) = self.arrived {
            show(Buffer::write("arrived", arrived, self.counters()));
        }
    }

    fn enqueue(&self, queue: &Queue<'_>) -> Result<()> {
        self.enqueue_with(queue, ProjectedView::default())
    }
}
