//! GPipe: every forward, then every backward, newest first. A stage keeps all m micro-batches.

use crate::op::{Op, OpKind};

/// Orders one device's operations for m micro-batches.
pub fn order(micro_batches: u32) -> Vec<Op> {
    let forward = (0..micro_batches).map(|i| Op::new(OpKind::Forward, i));
    forward.chain((0..micro_batches).rev().map(|i| Op::new(OpKind::Backward, i))).collect()
}
