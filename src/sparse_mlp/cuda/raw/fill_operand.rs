//! Activations of many tokens as the matrix units take them.

use super::{Operand, check_tokens, check_width};
use crate::device::{Access, Address, Buffer, Device, Enqueue, Queue, or_null, product};
use crate::error::{Error, Result};
use crate::sparse_mlp::cuda::RowFormat;
use crate::sparse_mlp::cuda::mirror::{self, OperandParams};
use crate::sparse_mlp::cuda::variant::operand;

/// Brings the first n values of each token into the form of [`Operand`].
#[derive(Debug, Clone, Copy)]
pub struct FillOperand {
    /// Of the rows that it will meet.
    pub format: RowFormat,
    /// f32 \[tokens, stride\], aligned to 16 bytes.
    pub x: Address<f32>,
    /// u32 \[1\]: values of each token, at most n. None: n.
    pub count: Option<Address<u32>>,
    /// Where they go.
    pub to: Operand,
    /// Values of a token at most: at most the operand's width.
    pub n: usize,
    /// Elements from one token's values to the next's: a multiple of 4.
    pub stride: usize,
    /// Tokens.
    pub tokens: usize,
}

impl Enqueue for FillOperand {
    fn check_sizes(&self, _: &Device) -> Result<()> {
        check_tokens(self.tokens)?;
        check_width("n", self.n, self.stride)?;
        if self.stride % 4 != 0 {
            return Err(Error::Shape { what: "stride", expected: "a multiple of 4", got: self.stride });
        }
        match self.n > self.to.width {
            true => Err(Error::Shape { what: "n", expected: "at most the operand's width", got: self.n }),
            false => Ok(()),
        }
    }

    fn name_buffers(&self, _: &Device, show: &mut dyn FnMut(Buffer)) {
        show(Buffer::read("x", self.x, product([self.tokens, self.stride])).aligned(16));
        if let Some(count) = self.count {
            show(Buffer::read("count", count, 1));
        }
        self.to.name_buffers(self.format, self.tokens, Access::Write, show);
    }

    fn enqueue(&self, queue: &Queue<'_>) -> Result<()> {
        if self.tokens == 0 {
            return Ok(());
        }
        let mirror::Operand { tiles, sums, scale, token_tiles, spans } = self.to.params(self.format, self.tokens);
        let (n, stride) = (self.n as u32, self.stride as u32);
        let params = OperandParams {
            x: self.x.get(),
            count: or_null(self.count),
            tiles,
            sums,
            scale,
            n,
            stride,
            token_tiles,
            spans,
        };
        let grid = [self.tokens as u32, 1, 1];
        queue.launch(operand(self.format), grid, params)
    }
}
