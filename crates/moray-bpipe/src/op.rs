//! One operation of a device: a pass of a chunk for a micro-batch, or a transfer of its activations.

use serde::Serialize;
use std::fmt;

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
