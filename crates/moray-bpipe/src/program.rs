//! What a schedule has every device do, in order.

use crate::error::Error;
use crate::op::{Op, OpKind};
use crate::pipeline::{Layout, Pipeline};
use std::collections::HashMap;

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
