//! Drawing tokens from logits.

use super::{ROOM_WORDS, blocks_of_row, check_rows};
use crate::device::{Address, Buffer, Device, Enqueue, Queue, layout, product};
use crate::error::{Error, Result};
use crate::llama::cuda::mirror::{SAMPLE, SampleParams, Sampler};

/// A sampler in device memory: settings, and the state of its random numbers, which a draw moves on.
#[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct SamplerRecord {
    /// Of SplitMix64.
    pub state: u64,
    /// In units of 2⁻⁶⁴; 0 keeps all tokens.
    pub top_p: u64,
    /// 0: the largest logit.
    pub temperature: f32,
    /// Tokens less probable than this times the most probable are left out.
    pub min_p: f32,
}

layout!(SamplerRecord, 24, state = 0, top_p = 8, temperature = 16, min_p = 20);
const _: () = assert!(size_of::<SamplerRecord>() == size_of::<Sampler>());

/// token\[r\] = what sampler r draws of row r, as [`crate::llama::Sampler`] on the CPU; [`crate::llama::cuda::NO_TOKEN`] where
/// that refuses the logits.
///
/// Where there are fewer rows than multiprocessors, several blocks share a row; they wait for each other, so that all are resident together, at
/// most one on each multiprocessor.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// f32 \[rows, vocab\].
    pub logits: Address<f32>,
    /// f32 \[rows, vocab\] of scratch.
    pub probability: Address<f32>,
    /// \[rows\].
    pub samplers: Address<SamplerRecord>,
    /// u32 \[rows\].
    pub token: Address<u32>,
    /// u64 \[[`Sample::room_words`]\]: zeros before the first call of it or of an [`super::Argmax`]; no two calls use it at once. A launch that
    /// does not run to its end ends its context and it.
    pub rooms: Address<u64>,
    /// Rows, 1 to 65535.
    pub rows: usize,
    /// Tokens that there are, 1 to 2²⁴.
    pub vocab: usize,
}

impl Sample {
    /// Words of what the blocks of rows tell each other.
    pub fn room_words(rows: usize) -> usize {
        rows.saturating_mul(ROOM_WORDS)
    }
}

impl Enqueue for Sample {
    fn check_sizes(&self, _: &Device) -> Result<()> {
        check_rows("rows", self.rows)?;
        match self.vocab {
            1..=0x100_0000 => Ok(()),
            got => Err(Error::Shape { what: "vocab", expected: "1 to 2^24", got }),
        }
    }

    fn name_buffers(&self, _: &Device, show: &mut dyn FnMut(Buffer)) {
        let elems = product([self.rows, self.vocab]);
        show(Buffer::read("logits", self.logits, elems));
        show(Buffer::write("probability", self.probability, elems));
        show(Buffer::write("samplers", self.samplers, self.rows));
        show(Buffer::write("token", self.token, self.rows));
        show(Buffer::write("rooms", self.rooms, Sample::room_words(self.rows)));
    }

    fn enqueue(&self, queue: &Queue<'_>) -> Result<()> {
        let params = SampleParams {
            logits: self.logits.get(),
            probability: self.probability.get(),
            samplers: self.samplers.get(),
            token: self.token.get(),
            rooms: self.rooms.get(),
            vocab: self.vocab as u32,
            reserved: 0,
        };
        let (device, rows) = (queue.device(), self.rows as u32);
        match blocks_of_row(device, self.rows, self.vocab) {
            blocks if blocks > 1 && device.launches_together() => {
                queue.launch_together(SAMPLE, [blocks, rows, 1], params)
            }
            _ => queue.launch(SAMPLE, [1, rows, 1], params),
        }
    }
}
