//! Interleaved 1F1B: v chunks per device, virtual stage c·p + x on device x. Micro-batches go through the chunks in
//! groups of p, so p must divide m. The bubble shrinks by v; the warm-up, and with it the memory, grows.

use crate::error::Error;
use crate::op::{Op, OpKind};
use crate::pipeline::Layout;
use crate::program::Program;

/// Writes every device's program.
///
/// # Errors
/// [`Error::InterleavedIndivisible`] unless p divides m, [`Error::OutOfRange`] for fewer than 2 chunks.
pub fn program(stages: u32, micro_batches: u32, chunks: u32) -> Result<Program, Error> {
    if !micro_batches.is_multiple_of(stages) {
        return Err(Error::InterleavedIndivisible { stages, micro_batches });
    }
    if chunks < 2 {
        let what = "interleaved chunks".into();
        return Err(Error::OutOfRange { what, expected: "at least 2", got: f64::from(chunks) });
    }
    let orders = (0..stages).map(|x| order(stages, micro_batches, chunks, x)).collect();
    Ok(Program { orders, layout: Layout::Loop, chunks, cap: None, lookahead: None })
}

/// The `index`-th pass of a device: groups of p micro-batches, each through all chunks; backward takes the last chunk
/// first.
fn pass(kind: OpKind, index: u32, stages: u32, chunks: u32) -> Op {
    let (group, inside) = (index / (stages * chunks), index % (stages * chunks));
    let chunk = inside / stages;
    let chunk = if kind == OpKind::Forward { chunk } else { chunks - 1 - chunk };
    Op { kind, chunk: chunk as u16, micro_batch: group * stages + inside % stages }
}

fn order(stages: u32, micro_batches: u32, chunks: u32, stage: u32) -> Vec<Op> {
    let total = micro_batches * chunks;
    // The last chunk's first backward must find its forwards done: all earlier chunks of a group, and twice the
    // distance to the last device, once down and once back.
    let ahead = if micro_batches == stages { total } else { 2 * (stages - stage - 1) + (chunks - 1) * stages };
    let warmup = ahead.min(total);
    let forward = |index| pass(OpKind::Forward, index, stages, chunks);
    let backward = |index| pass(OpKind::Backward, index, stages, chunks);
    let mut ops: Vec<Op> = (0..warmup).map(forward).collect();
    for index in 0..total - warmup {
        ops.push(forward(warmup + index));
        ops.push(backward(index));
    }
    ops.extend((total - warmup..total).map(backward));
    ops
}
