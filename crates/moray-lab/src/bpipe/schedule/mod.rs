//! The order in which every device runs its forward and backward passes.

pub mod bpipe;
pub mod gpipe;
pub mod interleaved;
pub mod one_f_one_b;
pub mod v_half;

use super::error::Error;
use super::pipeline::{Layout, Pipeline};
use serde::Serialize;
use std::collections::HashMap;
use std::fmt;

/// Most operations a schedule may have; each takes about 150 bytes while it is simulated.
pub const MAX_OPS: u64 = 40_000_000;

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OpKind {
    /// The forward pass of a chunk for one micro-batch.
    Forward,
    /// The whole backward pass.
    Backward,
    /// The part of the backward pass the previous stage waits for.
    InputGrad,
    /// The rest of it.
    WeightGrad,
    /// Sends a micro-batch's activations to the partner.
    Evict,
    /// Brings them back.
    Load,
}

impl OpKind {
    /// Says whether the operation moves activations instead of computing.
    pub fn is_transfer(self) -> bool {
        matches!(self, OpKind::Evict | OpKind::Load)
    }
}

/// One operation of a device's program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct Op {
    /// What it does.
    pub kind: OpKind,
    /// The chunk of the device's layers, 0 without interleaving.
    pub chunk: u16,
    /// The micro-batch, from 0.
    pub micro_batch: u32,
}

impl Op {
    /// Names an operation on a device's only chunk.
    pub fn new(kind: OpKind, micro_batch: u32) -> Self {
        Self { kind, chunk: 0, micro_batch }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            OpKind::Forward => "forward",
            OpKind::Backward => "backward",
            OpKind::InputGrad => "input gradient",
            OpKind::WeightGrad => "weight gradient",
            OpKind::Evict => "eviction",
            OpKind::Load => "load",
        };
        write!(f, "{kind} of micro-batch {}", self.micro_batch)?;
        if self.chunk > 0 { write!(f, ", chunk {}", self.chunk) } else { Ok(()) }
    }
}

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

/// Every device's operations in program order. Compute operations of a device run in this order on its compute stream;
/// transfers run in this order on the pair's link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Per device.
    pub orders: Vec<Vec<Op>>,
    /// Where the virtual stages sit.
    pub layout: Layout,
    /// Chunks per device; a chunk's activations are one memory unit, a stage's micro-batch `chunks` of them.
    pub chunks: u32,
    /// BPipe's cap in units, where there is one.
    pub cap: Option<u32>,
    /// The lookahead BPipe was planned with.
    pub lookahead: Option<u32>,
}

impl Program {
    /// Describes a schedule of one chunk per device without transfers.
    pub fn plain(orders: Vec<Vec<Op>>) -> Self {
        Self { orders, layout: Layout::Loop, chunks: 1, cap: None, lookahead: None }
    }

    /// Checks that every device does each thing at most once and in turn: forward, any evictions each followed by its
    /// load, then backward, whole or in two halves.
    ///
    /// # Errors
    /// [`Error::Count`] for other than one program per stage, [`Error::Program`] for an operation out of turn.
    pub fn check(&self, pipeline: &Pipeline) -> Result<(), Error> {
        let (expected, got) = (pipeline.stages.len(), self.orders.len());
        if got != expected {
            return Err(Error::Count { what: "programs".into(), expected, got });
        }
        let m = pipeline.micro_batches as usize;
        for (stage, order) in self.orders.iter().enumerate() {
            let mut last = vec![None; self.chunks as usize * m];
            // Micro-batches that do not exist may be asked for: they deadlock, but not here.
            let mut beyond = HashMap::new();
            for op in order {
                let exists = u32::from(op.chunk) < self.chunks;
                let before = match last.get_mut(usize::from(op.chunk) * m + op.micro_batch as usize) {
                    Some(slot) if (op.micro_batch as usize) < m => slot.replace(op.kind),
                    _ => beyond.insert((op.chunk, op.micro_batch), op.kind),
                };
                if !exists || !in_turn(before, op.kind) {
                    let expected = "forward, evictions and loads in pairs, backward, of an existing chunk";
                    return Err(Error::Program { stage, expected, got: op.to_string() });
                }
            }
        }
        Ok(())
    }

    /// Says whether weight gradients are operations of their own.
    pub fn splits_backward(&self) -> bool {
        self.orders.iter().flatten().any(|op| op.kind == OpKind::WeightGrad)
    }
}

/// Whether an operation may follow the last one of its micro-batch.
fn in_turn(before: Option<OpKind>, next: OpKind) -> bool {
    use OpKind::{Backward, Evict, Forward, InputGrad, Load, WeightGrad};
    let at_hand = matches!(before, Some(Forward | Load));
    match next {
        Forward => before.is_none(),
        Backward | InputGrad | Evict => at_hand,
        Load => before == Some(Evict),
        WeightGrad => before == Some(InputGrad),
    }
}
