//! V-Half: two chunks per device in a V, the backward split in two, and a repeating pattern chosen so that every
//! device keeps (p + 2)/2 micro-batches, rounded down. The cap of BPipe without its transfers.
//!
//! Take forward, input gradient and weight gradient of a chunk as one tick each; a device then repeats six operations
//! per micro-batch. Micro-batch 0 goes down the first chunks at 2 ticks per device, up the second at 1, its gradient
//! down the second at 2 and up the first at 1. A device's two lifetimes sum to the same on all devices, since what is
//! waited for towards either end of the V adds up alike (2 + 1 = 1 + 2), and all distances between its four placed
//! operations change by multiples of 3 from device to device, so one choice of the three turns keeps the six
//! operations apart modulo 6 on every device. Micro-batch i follows 6·i ticks later. The devices then run this order
//! as early as their inputs allow, whatever the real times are.

use crate::op::{Op, OpKind};
use crate::pipeline::Layout;
use crate::program::Program;

/// Operations per micro-batch and device: two chunks, three operations each.
const PERIOD: u64 = 6;

/// Writes every device's program, p ≥ 2.
pub fn program(stages: u32, micro_batches: u32) -> Program {
    let orders = (0..stages).map(|device| order(stages, micro_batches, device)).collect();
    Program { orders, layout: Layout::V, chunks: 2, cap: None, lookahead: None }
}

/// Ticks at which micro-batch 0 runs a device's operations.
fn first_ticks(stages: u32, device: u32) -> [(u64, OpKind, u16); 6] {
    let (p, d) = (u64::from(stages), u64::from(device));
    let left = p - 1 - d;
    // Ticks from forward to forward at the last device, forward to gradient at the first, gradient to gradient at the
    // last: the smallest that keep the operations apart, with gradient and weight gradient freeing the least memory late.
    let (turn, top, back) = if p.is_multiple_of(2) { (1, 4, 2) } else { (1, 1, 2) };
    let forward_0 = 2 * d;
    let forward_1 = 2 * (p - 1) + turn + left;
    let grad_1 = 2 * (p - 1) + turn + (p - 1) + top + 2 * d;
    let grad_0 = 2 * (p - 1) + turn + (p - 1) + top + 2 * (p - 1) + back + left;
    let placed = [forward_0, forward_1, grad_1, grad_0].map(|tick| tick % PERIOD);
    let mut free = (0..PERIOD).filter(|residue| !placed.contains(residue));
    let (one, other) = (free.next().unwrap_or(0), free.next().unwrap_or(0));
    let after = |tick: u64, residue: u64| tick + 1 + (residue + PERIOD - (tick + 1) % PERIOD) % PERIOD;
    let choices = [(after(grad_1, one), after(grad_0, other)), (after(grad_1, other), after(grad_0, one))];
    let (weight_1, weight_0) =
        if choices[0].0 + choices[0].1 <= choices[1].0 + choices[1].1 { choices[0] } else { choices[1] };
    [
        (forward_0, OpKind::Forward, 0),
        (forward_1, OpKind::Forward, 1),
        (grad_1, OpKind::InputGrad, 1),
        (weight_1, OpKind::WeightGrad, 1),
        (grad_0, OpKind::InputGrad, 0),
        (weight_0, OpKind::WeightGrad, 0),
    ]
}

fn order(stages: u32, micro_batches: u32, device: u32) -> Vec<Op> {
    let first = first_ticks(stages, device);
    let mut timed: Vec<(u64, Op)> = (0..micro_batches)
        .flat_map(|i| {
            first.map(|(tick, kind, chunk)| (tick + PERIOD * u64::from(i), Op { kind, chunk, micro_batch: i }))
        })
        .collect();
    timed.sort_by_key(|&(tick, _)| tick);
    timed.into_iter().map(|(_, op)| op).collect()
}
