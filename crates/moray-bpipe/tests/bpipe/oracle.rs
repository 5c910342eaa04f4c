//! A naive simulator: every operation starts at the longest path to it, found by going over all of them until nothing
//! moves. Buffers are counted instead of assigned: the n-th operation that takes one of K buffers waits for the
//! (n − K)-th that gave one back.

use moray_bpipe::cluster::Link;
use moray_bpipe::memory::{partner, peak_1f1b};
use moray_bpipe::pipeline::Pipeline;
use moray_bpipe::{Op, OpKind, Program};
use std::collections::HashMap;

/// Start and end of every operation, by device and operation.
pub type Times = HashMap<(u32, Op), (u64, u64)>;

/// Finds the longest path to every operation.
pub fn times(pipeline: &Pipeline, program: &Program) -> Times {
    let mut times = Times::new();
    loop {
        let mut moved = false;
        for device in 0..pipeline.depth() {
            let order = &program.orders[device as usize];
            for index in 0..order.len() {
                let start = start(pipeline, program, &times, device, index);
                let end = start + duration(pipeline, program, device, order[index]);
                moved |= times.insert((device, order[index]), (start, end)) != Some((start, end));
            }
        }
        if !moved {
            return times;
        }
    }
}

fn duration(pipeline: &Pipeline, program: &Program, device: u32, op: Op) -> u64 {
    let cost = pipeline.chunk_cost(program.layout, program.chunks, device, u32::from(op.chunk));
    let p = pipeline.depth();
    let link = partner(p, device).and_then(|other| pipeline.cluster.link(p, device, other)).unwrap_or(Link::FREE);
    match op.kind {
        OpKind::Forward => cost.forward_ns,
        OpKind::Backward => cost.input_grad_ns + cost.weight_grad_ns,
        OpKind::InputGrad => cost.input_grad_ns,
        OpKind::WeightGrad => cost.weight_grad_ns,
        OpKind::Evict | OpKind::Load => link.duration_ns(cost.activation_bytes),
    }
}

fn start(pipeline: &Pipeline, program: &Program, times: &Times, device: u32, index: usize) -> u64 {
    let order = &program.orders[device as usize];
    let op = order[index];
    let end = |device: u32, op: &Op| times.get(&(device, *op)).map_or(0, |&(_, end)| end);
    // The stream: compute, or the link in this direction.
    let stream = |other: &Op| match (op.kind.is_transfer(), other.kind.is_transfer()) {
        (false, false) => true,
        (true, true) => pipeline.cluster.half_duplex || op.kind == other.kind,
        _ => false,
    };
    let before = order[..index].iter().rev().find(|other| stream(other));
    let mut start = before.map_or(0, |before| end(device, before));
    // The pipeline: the same micro-batch one virtual stage before (forward) or after (gradient).
    let (p, layout) = (pipeline.depth(), program.layout);
    let vs = layout.virtual_stage(p, device, u32::from(op.chunk));
    let neighbour = match op.kind {
        OpKind::Forward => vs.checked_sub(1),
        OpKind::Backward | OpKind::InputGrad => Some(vs + 1).filter(|&next| next < p * program.chunks),
        _ => None,
    };
    if let Some(next) = neighbour {
        let there = layout.device(p, next);
        let chunk = (next / p) as u16;
        let arrived = end(there, &Op { chunk, ..op });
        start = start.max(arrived + pipeline.boundary_ns(there, device));
    }
    // The device: whatever it did to this micro-batch before.
    let same = |other: &&Op| other.micro_batch == op.micro_batch && other.chunk == op.chunk;
    if let Some(own) = order[..index].iter().rev().find(same) {
        start = start.max(end(device, own));
    }
    start.max(buffer(pipeline, program, times, device, index))
}

/// When a buffer for the operation is free.
fn buffer(pipeline: &Pipeline, program: &Program, times: &Times, device: u32, index: usize) -> u64 {
    let order = &program.orders[device as usize];
    let (Some(cap), Some(other)) = (program.cap, partner(pipeline.depth(), device)) else { return 0 };
    if !order.iter().any(|op| op.kind.is_transfer()) {
        return 0;
    }
    let aside = cap - peak_1f1b(pipeline.depth(), pipeline.micro_batches, other);
    type Kinds = &'static [OpKind];
    let (takers, givers, size): (Kinds, Kinds, u32) = match order[index].kind {
        OpKind::Forward | OpKind::Load => (&[OpKind::Forward, OpKind::Load], &[OpKind::Backward, OpKind::Evict], cap),
        OpKind::Evict => (&[OpKind::Evict], &[OpKind::Load], aside),
        _ => return 0,
    };
    let taken = order[..index].iter().filter(|op| takers.contains(&op.kind)).count();
    let Some(nth) = taken.checked_sub(size as usize) else { return 0 };
    let giver = order.iter().filter(|op| givers.contains(&op.kind)).nth(nth).expect("a buffer given back earlier");
    times.get(&(device, *giver)).map_or(0, |&(_, end)| end)
}
