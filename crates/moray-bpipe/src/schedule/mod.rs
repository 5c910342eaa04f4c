//! The order in which every device runs its forward and backward passes.

pub mod bpipe;
pub mod gpipe;
pub mod interleaved;
pub mod one_f_one_b;
pub mod v_half;

use crate::error::Error;
use crate::pipeline::Pipeline;
use crate::program::Program;
use serde::Serialize;

/// Most operations a schedule may have; each takes about 150 bytes while it is simulated.
pub const MAX_OPS: u64 = 40_000_000;

/// A pipeline schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// All forwards, then all backwards.
    GPipe,
    /// One forward, one backward after a warm-up of p − x − 1 forwards.
    OneFOneB,
    /// 1F1B over several chunks per device.
    Interleaved {
        /// Chunks per device, v.
        chunks: u32,
    },
    /// 1F1B whose early stages lend activations to the late ones.
    BPipe {
        /// Most micro-batches a stage may hold, ⌈(p + 2)/2⌉ if none is given.
        cap: Option<u32>,
        /// How many operations before its slot is needed a micro-batch must have been saved to be evicted; chosen by
        /// trial if none is given.
        lookahead: Option<u32>,
    },
    /// Two chunks per device in a V, weight gradients split off, half of 1F1B's memory.
    VHalf,
}

impl Schedule {
    /// Names the schedule as the command line does.
    pub fn name(&self) -> &'static str {
        match self {
            Schedule::GPipe => "gpipe",
            Schedule::OneFOneB => "1f1b",
            Schedule::Interleaved { .. } => "interleaved",
            Schedule::BPipe { .. } => "bpipe",
            Schedule::VHalf => "v-half",
        }
    }

    /// Chunks per device.
    pub fn chunks(&self) -> u32 {
        match self {
            Schedule::Interleaved { chunks } => *chunks,
            Schedule::VHalf => 2,
            _ => 1,
        }
    }

    /// Writes every device's program.
    ///
    /// # Errors
    /// Those of [`Pipeline::check`], [`Error::TooLarge`], [`Error::InterleavedIndivisible`] and
    /// [`Error::CapTooSmall`].
    pub fn program(&self, pipeline: &Pipeline) -> Result<Program, Error> {
        pipeline.check()?;
        let (p, m, chunks) = (pipeline.depth(), pipeline.micro_batches, self.chunks());
        if chunks == 0 || chunks > u32::from(u16::MAX) {
            let what = "chunks per device".into();
            return Err(Error::OutOfRange { what, expected: "1 to 65535", got: f64::from(chunks) });
        }
        // Two passes, or three with the backward split; BPipe at most doubles a device's two.
        let per_chunk = if matches!(self, Schedule::BPipe { .. }) { 4 } else { 3 };
        let ops = u128::from(p) * u128::from(m) * u128::from(chunks) * per_chunk;
        if ops > u128::from(MAX_OPS) {
            return Err(Error::TooLarge { expected: MAX_OPS, got: u64::try_from(ops).unwrap_or(u64::MAX) });
        }
        match *self {
            Schedule::GPipe => Ok(Program::plain((0..p).map(|_| gpipe::order(m)).collect())),
            Schedule::OneFOneB => Ok(Program::plain(one_f_one_b::orders(p, m))),
            Schedule::Interleaved { chunks } => interleaved::program(p, m, chunks),
            Schedule::BPipe { cap, lookahead } => bpipe::program(pipeline, cap, lookahead),
            Schedule::VHalf => Ok(v_half::program(p, m)),
        }
    }
}
