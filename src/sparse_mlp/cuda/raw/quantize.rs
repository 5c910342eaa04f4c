//! Inputs of few tokens as int8.

use super::{Codes, check_tokens, check_width};
use crate::device::{Access, Address, Buffer, Device, Enqueue, Queue, product};
use crate::error::Result;
use crate::sparse_mlp::cuda::mirror::{QUANTIZE, QuantizeParams};

/// codes\[t\] = x\[t\] / scale\[t\] to nearest even, scale = max|x\[t\]| / 127, over the first n values of each token. A token with a
/// value that is not finite gets a NaN scale.
#[derive(Debug, Clone, Copy)]
pub struct QuantizeRows {
    /// f32 \[tokens, stride\].
    pub x: Address<f32>,
    /// Where the codes go.
    pub codes: Codes,
    /// Values of a token at most.
    pub n: usize,
    /// Elements from one token's values, and codes, to the next's.
    pub stride: usize,
    /// Tokens.
    pub tokens: usize,
}

impl Enqueue for QuantizeRows {
    fn check_sizes(&self, _: &Device) -> Result<()> {
        check_tokens(self.tokens)?;
        check_width("n", self.n, self.stride)
    }

    fn name_buffers(&self, _: &Device, show: &mut dyn FnMut(Buffer)) {
        show(Buffer::read("x", self.x, product([self.tokens, self.stride])));
        self.codes.name_buffers(self.tokens, self.stride, Access::Write, show);
    }

    fn enqueue(&self, queue: &Queue<'_>) -> Result<()> {
        if self.tokens == 0 {
            return Ok(());
        }
        let params = QuantizeParams {
            x: self.x.get(),
            codes: self.codes.codes.get(),
            sums: self.codes.sums.get(),
            scales: self.codes.scale.get(),
            n: self.n as u32,
            stride: self.stride as u32,
        };
        queue.launch(QUANTIZE, [self.tokens as u32, 1, 1], params)
    }
}
