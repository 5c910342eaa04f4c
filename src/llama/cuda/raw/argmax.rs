//! The largest of logits.

use super::{check_rows, check_width};
use crate::device::{Address, Buffer, Device, Enqueue, Queue, product};
use crate::error::Result;
use crate::llama::cuda::mirror::{ARGMAX, ArgmaxParams};

/// token\[r\] = the largest logit of row r, the first of equals; [`crate::llama::cuda::NO_TOKEN`] if one is NaN or +∞, or all
/// are −∞.
#[derive(Debug, Clone, Copy)]
pub struct Argmax {
    /// f32 \[rows, vocab\].
    pub logits: Address<f32>,
    /// u32 \[rows\].
    pub token: Address<u32>,
    /// Rows, 1 to 65535.
    pub rows: usize,
    /// Tokens that there are.
    pub vocab: usize,
}

impl Enqueue for Argmax {
    fn check_sizes(&self, _: &Device) -> Result<()> {
        check_rows("rows", self.rows)?;
        check_width("vocab", self.vocab)
    }

    fn name_buffers(&self, _: &Device, show: &mut dyn FnMut(Buffer)) {
        show(Buffer::read("logits", self.logits, product([self.rows, self.vocab])));
        show(Buffer::write("token", self.token, self.rows));
    }

    fn enqueue(&self, queue: &Queue<'_>) -> Result<()> {
        let (logits, token, vocab) = (self.logits.get(), self.token.get(), self.vocab as u32);
        let params = ArgmaxParams { logits, token, vocab, reserved: 0 };
        queue.launch(ARGMAX, [self.rows as u32, 1, 1], params)
    }
}
