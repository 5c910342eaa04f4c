//! RoPE on q and k and the writing of K and V: check, launch.

use super::{Heads, Kv, Spans, check_shape};
use crate::attention::AttentionShape;
use crate::attention::cuda::kv_format::KvFormat;
use crate::attention::cuda::mirror::{self, ProjectedView, WriteParams};
use crate::device::{Access, Address, Buffer, Device, ElementKind, Enqueue, Queue, or_null, product, strided};
use crate::error::{Error, Result};

/// What is stored for a KV head none of whose query heads runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Skipped {
    /// Its K and V all the same.
    Write = 0,
    /// Nothing, and the positions count as missing; needs [`Kv::present`].
    Hole = 1,
    /// Zeros.
    Zero = 2,
    /// Nothing, and the presence bits stay as they are: to write single rows later.
    Keep = 3,
}

/// A table of rotations, as [`crate::attention::Rope::table`] lays it out.
#[derive(Debug, Clone, Copy)]
pub struct RopeTable {
    /// f32 \[context, head_dim\]: head_dim / 2 cosines, then as many sines. Every position of the call is below `context`.
    pub table: Address<f32>,
    /// Positions in the table.
    pub context: usize,
}

/// Queries to be turned.
#[derive(Debug, Clone, Copy)]
pub struct Queries {
    /// \[M, n_q_heads, head_dim\], rows `stride` apart.
    pub q: Address,
    /// Elements from one token's q to the next.
    pub stride: usize,
    /// f32 \[M, n_q_heads, head_dim\], row-major; rows of heads that do not run stay as they are.
    pub out: Address<f32>,
}

/// Turns q and k by RoPE and writes K and V of a call's tokens into the cache: [`crate::attention::cuda::write_kv`] by addresses.
#[derive(Debug, Clone, Copy)]
pub struct WriteKv {
    /// The head layout.
    pub shape: AttentionShape,
    /// The cache.
    pub kv: Kv,
    /// The heads that run.
    pub heads: Heads,
    /// The tokens.
    pub spans: Spans,
    /// What happens to KV heads none of whose query heads runs.
    pub skipped: Skipped,
    /// None: q and k are turned already, or the model has no RoPE.
    pub rope: Option<RopeTable>,
    /// None: K and V only.
    pub queries: Option<Queries>,
    /// \[M, n_kv_heads, head_dim\] before RoPE, rows `kv_stride` apart.
    pub k: Address,
    /// \[M, n_kv_heads, head_dim\], rows `kv_stride` apart.
    pub v: Address,
    /// Elements from one token's k, and v, to the next.
    pub kv_stride: usize,
    /// Of q, k and v.
    pub element: ElementKind,
}

impl WriteKv {
    fn check_strides(&self) -> Result<()> {
        let q = self.queries.map(|queries| (queries.stride, self.shape.q_elems()));
        for (stride, width) in [Some((self.kv_stride, self.shape.kv_elems())), q].into_iter().flatten() {
            if stride < width {
                return Err(Error::Shape { what: "stride", expected: "at least a row's elements", got: stride });
            }
        }
        Ok(())
    }

    /// What kernels take of the projections.
    pub(super) fn projected(&self) -> ProjectedView {
        ProjectedView {
            q: or_null(self.queries.map(|queries| queries.q)),
            k: self.k.get(),
            v: self.v.get(),
            rope: or_null(self.rope.map(|rope| rope.table)),
            q_stride: self.queries.map_or(0, |queries| queries.stride as u64),
            k_stride: self.kv_stride as u64,
            v_stride: self.kv_stride as u64,
            dtype: self.element as u32,
            policy: self.skipped as u32,
        }
    }
}

/// Blocks that share a token's heads of q, k and v: of few tokens each warp has one, so that none waits for the loads of another.
fn parts_of_heads(tokens: u32, heads: u32) -> u32 {
    const WARPS: u32 = 4; // of a block
    const BLOCKS: u32 = 512; // two or more for each multiprocessor
    (BLOCKS / tokens.max(1)).clamp(1, heads.div_ceil(WARPS))
}

impl Enqueue for WriteKv {
    fn check_sizes(&self, _: &Device) -> Result<()> {
        check_shape(&self.shape, &self.kv)?;
        self.kv.layout.check_apart()?;
        self.heads.check()?;
        self.spans.check()?;
        self.check_strides()?;
        match self.skipped == Skipped::Hole && self.kv.present.is_none() {
            true => Err(Error::Unsupported {
                what: "kv policy",
                expected: "write-all or zero, or a cache with holes",
                got: "hole".into(),
            }),
            false => Ok(()),
        }
    }

    fn check_addresses(&self) -> Result<()> {
        match self.spans.is_empty() {
            true => Ok(()),
            false => self.kv.check_pair_apart(),
        }
    }

    fn name_buffers(&self, _: &Device, show: &mut dyn FnMut(Buffer)) {
        if self.spans.is_empty() {
            return;
        }
        let (rows, bytes) = (self.spans.rows, self.element.bytes());
        let projected =
            |what, address, stride, width| Buffer::read(what, address, strided(rows, stride, width)).of_bytes(bytes);
        show(projected("k", self.k, self.kv_stride, self.shape.kv_elems()));
        show(projected("v", self.v, self.kv_stride, self.shape.kv_elems()));
        if let Some(Queries { q, stride, out }) = self.queries {
            show(projected("q", q, stride, self.shape.q_elems()));
            show(Buffer::write("q_out", out, product([rows, self.shape.q_elems()])));
        }
        if let Some(RopeTable { table, context }) = self.rope {
            show(Buffer::read("rope", table, product([context, self.shape.head_dim])));
        }
        self.spans.name_buffers(show);
        self.heads.name_buffers(&self.shape, self.spans.n_spans, show);
        self.kv.name_buffers(Access::Write, show);
    }

    fn enqueue(&self, queue: &Queue<'_>) -> Result<()> {
        if self.spans.is_empty() {
            return Ok(());
        }
        let params = WriteParams {
            kv: self.kv.params(),
            heads: self.heads.params(&self.shape),
            projected: self.projected(),
            spans: self.spans.records.get(),
            q_out: or_null(self.queries.map(|queries| queries.out)),
            n_q_heads: self.shape.n_q_heads as u32,
            head_dim: self.shape.head_dim as u32,
        };
        let kernel = match self.kv.format {
            KvFormat::F32 => mirror::WRITE_F32,
            KvFormat::F16 => mirror::WRITE_F16,
            KvFormat::Bf16 => mirror::WRITE_BF16,
            KvFormat::Int8 => mirror::WRITE_INT8,
        };
        let (longest, n_spans) = (self.spans.longest as u32, self.spans.n_spans as u32);
        let grid = [
            longest,
            n_spans,
            parts_of_heads(longest.saturating_mul(n_spans), params.n_q_heads + 2 * self.kv.layout.n_kv_heads as u32),
        ];
        queue.launch(kernel, grid, params)
    }
}
