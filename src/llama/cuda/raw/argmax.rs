//! The largest of logits.

use super::{ROOM_WORDS, blocks_of_row, check_rows, check_width};
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
    /// u64 \[[`Argmax::room_words`]\]: zeros before the first call of it or of a [`super::Sample`]; no two calls use it at once. A launch that
    /// does not run to its end ends its context and it.
    pub rooms: Address<u64>,
    /// Rows, 1 to 65535.
    pub rows: usize,
    /// Tokens that there are.
    pub vocab: usize,
}

impl Argmax {
    /// Words of what the blocks of rows tell each other.
    pub fn room_words(rows: usize) -> usize {
        rows.saturating_mul(ROOM_WORDS)
    }
}

impl Enqueue for Argmax {
    fn check_sizes(&self, _: &Device) -> Result<()> {
        check_rows("rows", self.rows)?;
        check_width("vocab", self.vocab)
    }

    fn name_buffers(&self, _: &Device, show: &mut dyn FnMut(Buffer)) {
        show(Buffer::read("logits", self.logits, product([self.rows, self.vocab])));
        show(Buffer::write("token", self.token, self.rows));
        show(Buffer::write("rooms", self.rooms, Argmax::room_words(self.rows)));
    }

    fn enqueue(&self, queue: &Queue<'_>) -> Result<()> {
        let params = ArgmaxParams {
            logits: self.logits.get(),
            token: self.token.get(),
            rooms: self.rooms.get(),
            vocab: self.vocab as u32,
            reserved: 0,
        };
        let blocks = blocks_of_row(queue.device(), self.rows, self.vocab);
        queue.launch(ARGMAX, [blocks, self.rows as u32, 1], params)
    }
}
