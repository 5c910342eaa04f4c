//! Asynchronous copies: `cp.async` queues of the lanes, and bulk copies that are delivered later.

use super::super::check::shadow::{Access, Agent};
use super::super::error::FaultKind;
use super::block::Peer;
use super::mbarrier;
use super::memory::{GLOBAL, SHARED, addresses, report};
use super::scatter::locate;
use super::warp::Bits;
use super::{Block, Flow, Inst, Isa, LANES, Op, Slot, Warp};

/// One `cp.async` of the lanes that have not waited for it.
#[derive(Clone, Debug)]
struct Copy {
    lanes: u32,
    /// Group it was committed to; 0 before.
    group: u32,
    bytes: u32,
    from: [u64; LANES],
    to: [u32; LANES],
    /// Bytes read of each lane's source; the rest of the destination becomes zero.
    read: [u8; LANES],
}

/// The pending `cp.async` of a warp.
#[derive(Debug, Default)]
pub(crate) struct CopyQueue {
    copies: Vec<Copy>,
    /// (group, lanes that committed it)
    commits: Vec<(u32, u32)>,
    last_group: u32,
}

impl CopyQueue {
    pub(crate) fn clear(&mut self) {
        self.copies.clear();
        self.commits.clear();
    }

    fn commit(&mut self, lanes: u32) {
        self.last_group += 1;
        for copy in self.copies.iter_mut().filter(|c| c.group == 0 && c.lanes & lanes != 0) {
            copy.group = self.last_group;
        }
        self.commits.push((self.last_group, lanes));
    }

    /// Takes what `lanes` wait for: all but their `keep` newest groups, or everything.
    fn take(&mut self, lanes: u32, keep: Option<u32>) -> Vec<Copy> {
        let mut taken = Vec::new();
        for copy in &mut self.copies {
            let mut ready = copy.lanes & lanes;
            if let Some(keep) = keep {
                if copy.group == 0 {
                    continue;
                }
                let newer = self.commits.iter().filter(|c| c.0 > copy.group);
                ready = Bits(ready)
                    .filter(|&lane| newer.clone().filter(|c| c.1 >> lane & 1 == 1).count() >= keep as usize)
                    .fold(0, |mask, lane| mask | 1 << lane);
            }
            if ready != 0 {
                copy.lanes &= !ready;
                taken.push(Copy { lanes: ready, ..copy.clone() });
            }
        }
        self.copies.retain(|c| c.lanes != 0);
        let oldest = self.copies.iter().map(|c| c.group).filter(|&g| g != 0).min();
        self.commits.retain(|c| oldest.is_some_and(|o| c.0 >= o));
        taken
    }
}

/// Applies copies of a warp to its block's shared memory.
fn apply(b: &mut Block, warp: u32, copies: &[Copy]) {
    for copy in copies {
        for lane in Bits(copy.lanes) {
            let read = u32::from(copy.read[lane]).min(copy.bytes) as usize;
            // SAFETY: source and destination were checked when the copy was issued, and neither arena nor shared memory
            // moves; they are different mappings.
            unsafe {
                let to = b.shared.add(copy.to[lane] as usize);
                std::ptr::copy_nonoverlapping(copy.from[lane] as *const u8, to, read);
                std::ptr::write_bytes(to.add(read), 0, copy.bytes as usize - read);
            }
            if b.checks {
                b.shadow.finish_copy(Agent { warp, lane: lane as u32 }, copy.to[lane], copy.bytes);
            }
        }
    }
}

/// `cp.async`: destination addresses in `a` (words), source in `b`, bytes in `extra`, source size in `c` if `target` is 1.
pub(crate) struct CpAsync;

impl Op for CpAsync {
    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, b: &mut Block, i: &Inst) -> Flow {
        issue(w, b, i)
    }
}

fn issue(w: &mut Warp, b: &mut Block, i: &Inst) -> Flow {
    let bytes = i.extra;
    let source = w.doubles(i.b);
    // The source's displacement is in the upper half of `imm`, the destination's in the lower.
    let from = source.map(|a| a.wrapping_add((i.imm >> 32) as u64));
    let to = addresses::<SHARED>(w, &Inst { imm: i.imm << 32 >> 32, ..i.clone() });
    let read = if i.target == 1 { w.words(i.c).map(|n| n.min(bytes) as u8) } else { [bytes as u8; LANES] };
    let (all, mut pointers) = (w.mask, [std::ptr::null_mut(); LANES]);
    for size in [bytes, 0, 1, 2, 4, 8].into_iter().enumerate().filter(|&(n, s)| n == 0 || s != bytes).map(|(_, s)| s) {
        w.mask = Bits(all).filter(|&lane| u32::from(read[lane]) == size).fold(0, |m, lane| m | 1 << lane);
        if size == 0 || w.mask == 0 {
            continue;
        }
        if !locate(w, b, &from, GLOBAL, size, Access::Read, &mut pointers) {
            return Flow::Fault;
        }
    }
    w.mask = all;
    let limit = if b.checks { b.shadow.limit(w.index) } else { 0 };
    let mut offsets = [0; LANES];
    for lane in w.lanes() {
        let odd = read[lane].count_ones() > 1;
        match b.shared_at(to[lane], bytes) {
            Some((peer, offset)) if peer.shared == b.shared && offset & (bytes - 1) == 0 && !odd => {
                offsets[lane] = offset
            }
            _ => {
                let message = format!("expected {bytes} aligned bytes of the block's shared memory as destination");
                return b.fault(FaultKind::OutOfBounds, lane, Some(to[lane]), message);
            }
        }
        if b.checks {
            let (agent, first) = (Agent { warp: w.index, lane: lane as u32 }, offsets[lane] as usize / 4);
            let ordered = match bytes {
                4 => b.shadow.is_writable::<1>(agent, limit, first),
                8 => b.shadow.is_writable::<2>(agent, limit, first),
                _ => b.shadow.is_writable::<4>(agent, limit, first),
            };
            if !ordered && let Err(problem) = b.shadow.check(Access::Write, agent, offsets[lane], bytes) {
                return report(b, lane, problem);
            }
            match bytes {
                4 => b.shadow.issue_words::<1>(first),
                8 => b.shadow.issue_words::<2>(first),
                _ => b.shadow.issue_words::<4>(first),
            }
        }
    }
    b.counters.async_copies += 1;
    w.copies.copies.push(Copy { lanes: w.mask, group: 0, bytes, from, to: offsets, read });
    Flow::Next
}

/// `cp.async.commit_group`
pub(crate) struct CpCommit;

impl Op for CpCommit {
    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, _: &mut Block, _: &Inst) -> Flow {
        w.copies.commit(w.mask);
        Flow::Next
    }
}

/// `cp.async.wait_group` (`imm` groups may stay pending) and `cp.async.wait_all` (negative `imm`).
pub(crate) struct CpWait;

impl Op for CpWait {
    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, b: &mut Block, i: &Inst) -> Flow {
        let copies = w.copies.take(w.mask, u32::try_from(i.imm).ok());
        apply(b, w.index, &copies);
        Flow::Next
    }
}

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
            apply(b, warp, &copies);
            mbarriers.into_iter().try_for_each(|m| mbarrier::arrive_later(b, warp, m))
        }
    }
}

/// `cp.async.mbarrier.arrive`: mbarrier address in `a` (words); `extra` 1 is `.noinc`.
pub(crate) struct CpArrive;

impl Op for CpArrive {
    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, b: &mut Block, i: &Inst) -> Flow {
        let address = addresses::<SHARED>(w, i);
        for lane in w.lanes() {
            if i.extra != 1 && mbarrier::raise_pending(b, lane, address[lane]).is_err() {
                return Flow::Fault;
            }
        }
        let copies = w.copies.take(w.mask, None);
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
            b.fault_in(
                kind,
                lane,
                Some(at),
                allocation,
                format!("expected {bytes} bytes of global memory for a bulk copy"),
            );
            return Err(());
        }
        if b.checks && write {
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
            check_source(b, lane, offset, bytes)?;
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
                check_source(b, lane, at, bytes)?;
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

fn check_source(b: &mut Block, lane: usize, offset: u32, bytes: u32) -> Result<(), ()> {
    if b.checks
        && let Err(problem) = b.shadow.check_proxy_read(offset, bytes)
    {
        report(b, lane, problem);
        return Err(());
    }
    Ok(())
}

/// `cp.async.bulk.commit_group`
pub(crate) struct BulkCommit;

impl Op for BulkCommit {
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
