//! Faults: where they happened, and why a cluster that cannot go on stands still.

use super::super::env::Env;
use super::super::error::{Fault, FaultKind};
use super::super::exec::block::Note;
use super::super::exec::{Block, LANES, Warp};
use super::super::meter::Class;
use super::group::{CLUSTER_KEY, Group, State};

/// Completes a note with kernel, line, block and thread.
pub(crate) fn locate(b: &Block, warp: u32, pc: u32, note: Note) -> Box<Fault> {
    let (ptx_line, loc) = b.env.code.lines.get(pc as usize).copied().unwrap_or_default();
    let shape = b.env.config.block;
    let thread = warp * LANES as u32 + note.lane as u32;
    Box::new(Fault {
        kind: note.kind,
        kernel: b.env.kernel.clone(),
        ptx_line,
        source: b.env.source(loc),
        block: b.index,
        thread: [thread % shape[0], thread / shape[0] % shape[1], thread / shape[0] / shape[1]],
        address: note.address,
        allocation: note.allocation,
        message: note.message,
    })
}

/// The fault that a handler noted.
pub(crate) fn fault(b: &mut Block, w: &Warp) -> Box<Fault> {
    let note = b.note.take().unwrap_or_else(|| {
        Box::new(Note {
            kind: FaultKind::Trap,
            lane: w.leader(),
            address: None,
            allocation: None,
            message: String::new(),
        })
    });
    locate(b, w.index, w.pc, *note)
}

/// The fault of a read that was put off, if there is one.
pub(crate) fn deferred(b: &mut Block) -> Option<Box<Fault>> {
    let (note, warp, pc) = *b.deferred.take()?;
    Some(locate(b, warp, pc, note))
}

/// A fault of an operation that was delivered after its issue.
pub(crate) fn delivery_fault(b: &mut Block) -> Box<Fault> {
    let note = b.note.take().unwrap_or_else(|| {
        Box::new(Note { kind: FaultKind::Trap, lane: 0, address: None, allocation: None, message: String::new() })
    });
    let mut fault = locate(b, 0, u32::MAX, *note);
    fault.message.push_str(" (on delivery of an asynchronous operation)");
    fault
}

/// Whether no other warp can ever set this one going: all its groups wait for lanes of their own warp.
pub(crate) fn is_hopeless(w: &Warp) -> bool {
    !w.groups.is_empty() && w.groups.iter().all(|g| matches!(g.state, State::Gather { .. }))
}

fn lane_of(group: &Group) -> usize {
    group.mask.trailing_zeros() as usize & 31
}

/// Says why a warp stands still.
pub(crate) fn explain(b: &Block, warps: &[Warp], warp: usize) -> Box<Fault> {
    let w = &warps[warp];
    let note = |kind, lane, message| Note { kind, lane, address: None, allocation: None, message };
    let Some(group) = w.groups.first().copied() else {
        let message = "expected some thread of the cluster to make progress, got all waiting for an mbarrier".into();
        return locate(b, w.index, w.pc, note(FaultKind::Deadlock, w.active.trailing_zeros() as usize & 31, message));
    };
    let gathering = w.groups.iter().find(|g| matches!(g.state, State::Gather { .. }));
    if let Some(g) = gathering {
        let State::Gather { members } = g.state else {
            return locate(b, w.index, g.pc, note(FaultKind::Deadlock, 0, String::new()));
        };
        let missing = members & !w.dead & !g.mask;
        let barrier = b.env.code.classes[g.pc as usize] == Class::Barrier;
        let kind = if barrier { FaultKind::DivergentBarrier } else { FaultKind::Deadlock };
        let what = if barrier { "a barrier" } else { "a warp-synchronous instruction" };
        let message = format!("expected lanes {missing:#010x} of the warp at {what}, got lanes {:#010x} only", g.mask);
        return locate(b, w.index, g.pc, note(kind, lane_of(g), message));
    }
    let message = match group.state {
        State::Parked { key: CLUSTER_KEY } => {
            "expected all threads of the cluster at its barrier, got some elsewhere".into()
        }
        State::Parked { key } => {
            let live: u32 = warps.iter().map(|w| (!w.dead).count_ones()).sum();
            let arrived = b.barriers.arrived(key);
            format!("expected more threads at barrier {key}, got {arrived} of the block's {live} and no other can run")
        }
        _ => "expected some thread of the cluster to make progress, got all waiting for an mbarrier".into(),
    };
    locate(b, w.index, group.pc, note(FaultKind::Deadlock, lane_of(&group), message))
}

/// The report of a launch that used up its instructions, at a warp that still runs.
pub(crate) fn endless(b: &Block, w: &Warp) -> Box<Fault> {
    let group = w.groups.first().copied().unwrap_or(Group { pc: w.pc, mask: w.active, state: State::Ready });
    let (pc, mask) = if w.active != 0 { (w.pc, w.active) } else { (group.pc, group.mask) };
    let message = format!("expected the launch to end within {} warp-instructions", b.env.options.instruction_budget);
    let note = Note {
        kind: FaultKind::Budget,
        lane: mask.trailing_zeros() as usize & 31,
        address: None,
        allocation: None,
        message,
    };
    locate(b, w.index, pc, note)
}

/// The report of a panic in the interpreter.
pub(crate) fn internal(env: &Env) -> Box<Fault> {
    Box::new(Fault {
        kind: FaultKind::Internal,
        kernel: env.kernel.clone(),
        ptx_line: 0,
        source: None,
        block: [0; 3],
        thread: [0; 3],
        address: None,
        allocation: None,
        message: "expected the interpreter to go on, got a panic".into(),
    })
}
