//! Operations that are delivered some time after their issue: bulk copies and the arrivals of `cp.async`.

use super::super::checks::Check;
use super::super::error::FaultKind;
use super::asynchronous::{Copy, apply_all};
use super::block::{Note, Peer};
use super::mbarrier;
use super::memory::{SHARED, addresses, report};
use super::undefined::Spread;
use super::{Block, Flow, Inst, Isa, Op, Slot, Warp};

/// What a bulk queue holds.
#[derive(Debug)]
enum Bulk {
    /// Into shared memory of a cluster's block, announced on an mbarrier.
    Load { from: u64, to: (u32, u32), bytes: u32, mbarrier: u64 },
    /// From shared to global memory.
    Store { from: u32, to: u64, bytes: u32 },
    /// `cp.async.mbarrier.arrive`: a warp's copies, then an arrival per lane.
    Arrive { warp: u32, copies: Vec<Copy>, mbarriers: Vec<u64> },
}

/// Operations of a block that are delivered some time after their issue.
#[derive(Debug, Default)]
pub(crate) struct BulkQueue {
    /// Operation, its issuing thread, and the bulk group it was committed to (0 before).
    ops: Vec<(Bulk, u32, u32)>,
    /// (group, thread)
    commits: Vec<(u32, u32)>,
    last_group: u32,
}

impl BulkQueue {
    pub(crate) fn clear(&mut self) {
        self.ops.clear();
        self.commits.clear();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }
}

/// Delivers one pending operation of a block, chosen by `pick`; false if there is none.
pub(crate) fn deliver(b: &mut Block, pick: u64) -> Result<bool, ()> {
    if b.bulk.is_empty() {
        return Ok(false);
    }
    let index = (pick % b.bulk.ops.len() as u64) as usize;
    let (op, thread, _) = b.bulk.ops.remove(index);
    perform(b, op, thread).map(|()| true)
}

fn peer_of(b: &Block, rank: u32) -> Peer {
    b.peers[rank as usize]
}

fn perform(b: &mut Block, op: Bulk, thread: u32) -> Result<(), ()> {
    match op {
        Bulk::Load { from, to: (rank, offset), bytes, mbarrier } => {
            let peer = peer_of(b, rank);
            // SAFETY: both ranges were checked at issue; the cluster is run by this worker alone.
            unsafe {
                std::ptr::copy(from as *const u8, peer.shared.add(offset as usize), bytes as usize);
                if b.checks {
                    (*peer.shadow).finish_bulk(offset, bytes, mbarrier as u32 & 0xff_ffff);
                    leave_unwritten(b, from, peer, offset, bytes);
                }
            }
            mbarrier::complete_transaction(b, mbarrier, bytes, thread)
        }
        Bulk::Store { from, to, bytes } => {
            // SAFETY: as above.
            unsafe { std::ptr::copy(b.shared.add(from as usize), to as *mut u8, bytes as usize) };
            Ok(())
        }
        Bulk::Arrive { warp, copies, mbarriers } => {
            apply_all(b, warp, &copies);
            mbarriers.into_iter().try_for_each(|m| mbarrier::arrive_later(b, warp, m))
        }
    }
}

/// Marks what a bulk copy from global memory delivered that nothing had written there.
fn leave_unwritten(b: &Block, from: u64, peer: Peer, to: u32, bytes: u32) {
    let offset = from.wrapping_sub(b.arena_base) as usize;
    if offset >= b.arena_span || b.memory.is_initialized(offset, bytes as usize) {
        return;
    }
    for at in (0..bytes).step_by(16) {
        // SAFETY: the peer belongs to this worker's cluster; no other reference to its shadow is alive.
        unsafe { (*peer.shadow).leave_unwritten(to + at, b.memory.unwritten(offset + at as usize, 16)) };
    }
}

/// `cp.async.mbarrier.arrive`: mbarrier address in `a` (words); `extra` 1 is `.noinc`.
pub(crate) struct CpArrive;

impl Op for CpArrive {
    const SPREAD: Spread = Spread::Sink;

    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, b: &mut Block, i: &Inst) -> Flow {
        let address = addresses::<SHARED>(w, i);
        for lane in w.lanes() {
            if i.extra != 1 && mbarrier::raise_pending(b, lane, address[lane]).is_err() {
                return Flow::Fault;
            }
        }
        let copies = w.copies.take(w.mask);
        let mbarriers = w.lanes().map(|lane| address[lane]).collect();
        b.bulk.ops.push((Bulk::Arrive { warp: w.index, copies, mbarriers }, w.index * 32 + w.leader() as u32, 0));
        Flow::Next
    }
}

/// Directions of `cp.async.bulk`, in `target`.
pub(crate) const BULK_GLOBAL_TO_SHARED: u32 = 0;
pub(crate) const BULK_SHARED_TO_GLOBAL: u32 = 1;
pub(crate) const BULK_SHARED_TO_CLUSTER: u32 = 2;

/// `cp.async.bulk`: destination, source, size and mbarrier are slots in the list at `extra`, each with a flag for 64-bit
/// addresses; displacements are not allowed.
pub(crate) struct CpBulk;

impl Op for CpBulk {
    const SPREAD: Spread = Spread::ListSink(3);

    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, b: &mut Block, i: &Inst) -> Flow {
        for lane in w.lanes() {
            if issue_bulk(w, b, i, lane).is_err() {
                return Flow::Fault;
            }
        }
        Flow::Next
    }
}

/// A lane's value of a list entry: slot, then 1 if it has 64 bits.
pub(crate) fn list_value(w: &Warp, b: &Block, at: u32, lane: usize) -> u64 {
    let slot = Slot(b.list(at));
    if b.list(at + 1) == 1 { w.doubles(slot)[lane] } else { w.words(slot)[lane].into() }
}

fn issue_bulk(w: &Warp, b: &mut Block, i: &Inst, lane: usize) -> Result<(), ()> {
    let value = |at: u32| list_value(w, b, i.extra + 2 * at, lane) & 0x00ff_ffff_ffff_ffff;
    let (to, from, bytes) = (value(0), value(1), value(2) as u32);
    let mbarrier = if i.target == BULK_SHARED_TO_GLOBAL { 0 } else { value(3) };
    let fail = |b: &mut Block, kind, at, message: String| -> Result<(), ()> {
        b.fault(kind, lane, Some(at), message);
        Err(())
    };
    if bytes % 16 != 0 || to % 16 != 0 || from % 16 != 0 {
        let message = format!("expected addresses and size that are multiples of 16, got {bytes} bytes from {from:#x}");
        return fail(b, FaultKind::Misaligned, to, message);
    }
    if bytes == 0 {
        return Ok(());
    }
    let shared = |b: &mut Block, address: u64| {
        let found = b.shared_at(address, bytes).ok_or(());
        if found.is_err() {
            b.fault(FaultKind::OutOfBounds, lane, Some(address), format!("expected {bytes} bytes of shared memory"));
        }
        found
    };
    let global = |b: &mut Block, address: u64, write: bool| {
        let offset = address.wrapping_sub(b.arena_base) as usize;
        let inside = offset < b.arena_span && bytes as usize <= b.arena_span - offset;
        let ready = |b: &Block| match write {
            true => b.memory.is_valid(offset, bytes as usize),
            false => b.memory.is_initialized(offset, bytes as usize),
        };
        if !inside || b.checks && !ready(b) {
            let (kind, at, allocation) = b.memory.diagnose(address, bytes as usize);
            let message = format!("expected {bytes} bytes of global memory for a bulk copy");
            let note = Note { kind, lane, address: Some(at), allocation, message };
            let check = if kind == FaultKind::Uninitialized { Check::Load } else { Check::Bounds };
            if !inside {
                b.note = Some(Box::new(note));
                return Err(());
            }
            if b.found(w, check, 1, note) {
                return Err(());
            }
        }
        if b.checks && write && b.memory.is_valid(offset, bytes as usize) {
            b.memory.mark_written(offset, bytes as usize);
        }
        b.counters.global(write, bytes.into(), u64::from(bytes / 32).max(1));
        Ok(())
    };
    let thread = w.index * 32 + lane as u32;
    let op = match i.target {
        BULK_SHARED_TO_GLOBAL => {
            let (peer, offset) = shared(b, from)?;
            if peer.shared != b.shared {
                return fail(
                    b,
                    FaultKind::OutOfBounds,
                    from,
                    "expected the block's own shared memory as source".into(),
                );
            }
            global(b, to, true)?;
            check_source(w, b, lane, offset, bytes)?;
            Bulk::Store { from: offset, to, bytes }
        }
        direction => {
            let (peer, offset) = shared(b, to)?;
            let rank = b.peers.iter().position(|p| p.shared == peer.shared).unwrap_or(0) as u32;
            let source = if direction == BULK_GLOBAL_TO_SHARED {
                global(b, from, false)?;
                from
            } else {
                let (own, at) = shared(b, from)?;
                check_source(w, b, lane, at, bytes)?;
                own.shared as u64 + u64::from(at)
            };
            if b.checks {
                // SAFETY: the peer belongs to this worker's cluster; no other reference to its shadow is alive.
                unsafe { (*peer.shadow).issue_copy(offset, bytes) };
            }
            Bulk::Load { from: source, to: (rank, offset), bytes, mbarrier }
        }
    };
    b.counters.async_copies += 1;
    b.bulk.ops.push((op, thread, 0));
    Ok(())
}

fn check_source(w: &Warp, b: &mut Block, lane: usize, offset: u32, bytes: u32) -> Result<(), ()> {
    if b.checks
        && let Err(problem) = b.shadow.check_proxy_read(offset, bytes)
    {
        return if report(w, b, lane, problem) { Err(()) } else { Ok(()) };
    }
    Ok(())
}

/// `cp.async.bulk.commit_group`
pub(crate) struct BulkCommit;

impl Op for BulkCommit {
    const SPREAD: Spread = Spread::Nothing;

    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, b: &mut Block, _: &Inst) -> Flow {
        b.bulk.last_group += 1;
        let group = b.bulk.last_group;
        for lane in w.lanes() {
            let thread = w.index * 32 + lane as u32;
            for op in b.bulk.ops.iter_mut().filter(|op| op.1 == thread && op.2 == 0) {
                op.2 = group;
            }
            b.bulk.commits.push((group, thread));
        }
        Flow::Next
    }
}

/// `cp.async.bulk.wait_group`: all but the `imm` newest groups of each thread.
pub(crate) struct BulkWait;

impl Op for BulkWait {
    const SPREAD: Spread = Spread::Nothing;

    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, b: &mut Block, i: &Inst) -> Flow {
        for lane in w.lanes() {
            let thread = w.index * 32 + lane as u32;
            let newest =
                |b: &Block| b.bulk.commits.iter().filter(|c| c.1 == thread).map(|c| c.0).rev().nth(i.imm as usize);
            let Some(last) = newest(b) else { continue };
            while let Some(at) = b.bulk.ops.iter().position(|op| op.1 == thread && op.2 != 0 && op.2 <= last) {
                let (op, thread, _) = b.bulk.ops.remove(at);
                if perform(b, op, thread).is_err() {
                    return Flow::Fault;
                }
            }
            b.bulk.commits.retain(|c| c.1 != thread || c.0 > last);
        }
        Flow::Next
    }
}
