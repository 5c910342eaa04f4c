//! Rows of a floating-point embedding table.

use super::{Dense, check_rows, check_width};
use crate::device::{Address, Buffer, Device, ElementKind, Enqueue, Queue, product};
use crate::error::Result;
use crate::llama::cuda::mirror::{self, EmbedParams};

/// x\[i\] = row tokens\[i\] of a table in the form of [`Dense::w`].
#[derive(Debug, Clone, Copy)]
pub struct Embed {
    /// u32 \[m\], each below n.
    pub tokens: Address<u32>,
    /// As [`Dense::w`].
    pub table: Address,
    /// Of the table.
    pub element: ElementKind,
    /// f32 \[m, k\].
    pub x: Address<f32>,
    /// Tokens, 1 to 65535.
    pub m: usize,
    /// Rows of the table.
    pub n: usize,
    /// Features.
    pub k: usize,
}

impl Enqueue for Embed {
    fn check_sizes(&self, _: &Device) -> Result<()> {
        check_rows("tokens", self.m)?;
        check_width("n", self.n)?;
        check_width("k", self.k)
    }

    fn name_buffers(&self, _: &Device, show: &mut dyn FnMut(Buffer)) {
        show(Buffer::read("tokens", self.tokens, self.m));
        let table = Buffer::read("table", self.table, Dense::weight_elems(self.n, self.k));
        show(table.of_bytes(self.element.bytes()).aligned(16));
        show(Buffer::write("x", self.x, product([self.m, self.k])));
    }

    fn enqueue(&self, queue: &Queue<'_>) -> Result<()> {
        let (tokens, table, x) = (self.tokens.get(), self.table.get(), self.x.get());
        let params = EmbedParams { tokens, table, x, k: self.k as u32, reserved: 0 };
        let kernel = match self.element {
            ElementKind::F32 => mirror::EMBED_F32,
            ElementKind::F16 => mirror::EMBED_F16,
            ElementKind::Bf16 => mirror::EMBED_BF16,
        };
        let grid = [params.k.div_ceil(kernel.threads), self.m as u32, 1];
        queue.launch(kernel, grid, params)
    }
}
