//! 1F1B: a warm-up of min(p − x − 1, m) forwards, then one forward and one backward in turn, then the backwards left.

use crate::op::{Op, OpKind};

/// Counts the forwards stage `stage` runs before its first backward pair, min(p − x − 1, m). Without the clamp a
/// stage would wait for micro-batches that do not exist.
pub fn warmup(stages: u32, micro_batches: u32, stage: u32) -> u32 {
    (stages - stage - 1).min(micro_batches)
}

/// Orders the operations of a stage that warms up with `warmup` forwards.
pub fn order(micro_batches: u32, warmup: u32) -> Vec<Op> {
    let mut ops = Vec::with_capacity(2 * micro_batches.max(warmup) as usize);
    ops.extend((0..warmup).map(|i| Op::new(OpKind::Forward, i)));
    for i in 0..micro_batches.saturating_sub(warmup) {
        ops.push(Op::new(OpKind::Forward, warmup + i));
        ops.push(Op::new(OpKind::Backward, i));
    }
    let left = micro_batches.saturating_sub(warmup)..micro_batches.max(warmup);
    ops.extend(left.map(|i| Op::new(OpKind::Backward, i)));
    ops
}

/// Orders every stage's operations.
pub fn orders(stages: u32, micro_batches: u32) -> Vec<Vec<Op>> {
    (0..stages).map(|x| order(micro_batches, warmup(stages, micro_batches, x))).collect()
}
