//! BPipe: 1F1B whose early stages, the evictors, park activations at the late ones, the acceptors.
//!
//! Stage x < p/2 evicts to stage p − x − 1. The cap K counts a buffer from the start of the forward, or of the
//! transfer, that fills it until the backward, or the transfer, that empties it. The plan is demand paging in program
//! order: before a forward, or before a load, that would exceed K, the newest saved micro-batch goes, since its
//! backward is the furthest away; an evicted one comes back before its backward. The acceptor's own needs are set
//! aside, so its compute never waits for a transfer. Program order is not time: a transfer starts as soon as its data,
//! its buffer and the link are there, so an eviction runs under the operations since its victim was saved. That is
//! what `lookahead` is for: only a micro-batch saved at least that many operations earlier is taken, which gives the
//! eviction that long a window.

use super::one_f_one_b;
use crate::error::Error;
use crate::memory::{checked_cap, partner, peak_1f1b};
use crate::op::{Op, OpKind};
use crate::pipeline::{Layout, Pipeline};
use crate::program::Program;
use crate::simulate::simulate;
use std::collections::BTreeSet;

/// Lookaheads tried when none is given.
const TRIED: std::ops::RangeInclusive<u32> = 1..=8;

/// Writes every device's program.
///
/// # Errors
/// [`Error::CapTooSmall`], and [`Error::OutOfRange`] for a lookahead of 0.
pub fn program(pipeline: &Pipeline, cap: Option<u32>, lookahead: Option<u32>) -> Result<Program, Error> {
    let cap = checked_cap(pipeline.depth(), pipeline.micro_batches, cap)?;
    let lookahead = match lookahead {
        Some(0) => {
            let what = "lookahead".into();
            return Err(Error::OutOfRange { what, expected: "at least 1", got: 0.0 });
        }
        Some(given) => given,
        None => best_lookahead(pipeline, cap)?,
    };
    Ok(planned(pipeline.depth(), pipeline.micro_batches, cap, lookahead))
}

fn planned(stages: u32, micro_batches: u32, cap: u32, lookahead: u32) -> Program {
    let mut orders = one_f_one_b::orders(stages, micro_batches);
    for (x, order) in (0..).zip(orders.iter_mut()) {
        let evicts = peak_1f1b(stages, micro_batches, x) > cap;
        if evicts && partner(stages, x).is_some_and(|other| x < other) {
            *order = plan(order, cap as usize, lookahead as usize);
        }
    }
    Program { orders, layout: Layout::Loop, chunks: 1, cap: Some(cap), lookahead: Some(lookahead) }
}

/// Picks the lookahead that runs the first 4·p micro-batches fastest; the smallest wins a tie.
fn best_lookahead(pipeline: &Pipeline, cap: u32) -> Result<u32, Error> {
    let (stages, cut) = (pipeline.depth(), pipeline.micro_batches.min(4 * pipeline.depth()));
    let trial = Pipeline { micro_batches: cut, ..pipeline.clone() };
    let plain = simulate(&trial, &Program::plain(one_f_one_b::orders(stages, cut)))?.makespan_ns;
    let mut best = (u64::MAX, *TRIED.start());
    for lookahead in TRIED {
        let makespan_ns = simulate(&trial, &planned(stages, cut, cap, lookahead))?.makespan_ns;
        best = best.min((makespan_ns, lookahead));
        // Transfers only add to 1F1B, so nothing is faster than that.
        if best.0 == plain {
            break;
        }
    }
    Ok(best.1)
}

/// A micro-batch in the evictor's memory and the position of the forward that saved it.
type Saved = (u32, usize);

/// Adds evictions and loads to one evictor's 1F1B order.
fn plan(order: &[Op], cap: usize, lookahead: usize) -> Vec<Op> {
    let mut ops = Vec::with_capacity(2 * order.len());
    let mut local: Vec<Saved> = Vec::with_capacity(cap);
    let mut remote = BTreeSet::new();
    let make_room = |ops: &mut Vec<Op>, local: &mut Vec<Saved>, remote: &mut BTreeSet<u32>, position| {
        if local.len() == cap {
            let (victim, _) = local.remove(victim(local, position, lookahead));
            remote.insert(victim);
            ops.push(Op::new(OpKind::Evict, victim));
        }
    };
    for (position, &op) in order.iter().enumerate() {
        let i = op.micro_batch;
        if op.kind == OpKind::Forward {
            make_room(&mut ops, &mut local, &mut remote, position);
            local.push((i, position));
        } else if remote.remove(&i) {
            make_room(&mut ops, &mut local, &mut remote, position);
            ops.push(Op::new(OpKind::Load, i));
        } else {
            local.retain(|&(saved, _)| saved != i);
        }
        ops.push(op);
    }
    ops
}

/// The newest micro-batch saved at least `lookahead` operations before the last one, else the oldest but the next to
/// go backward. Saved positions ascend.
fn victim(local: &[Saved], position: usize, lookahead: usize) -> usize {
    let aged = local.iter().rposition(|&(_, saved)| saved + lookahead < position);
    aged.filter(|&index| index > 0).unwrap_or(1.min(local.len() - 1))
}
