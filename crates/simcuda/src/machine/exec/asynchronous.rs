//! `cp.async`: copies that each lane queues and waits for.

use super::super::check::shadow::{Access, Agent};
use super::super::error::FaultKind;
use super::block::CLUSTER_SHIFT;
use super::memory::{GLOBAL, report};
use super::scatter::locate;
use super::undefined::Spread;
use super::warp::Bits;
use super::{Block, Flow, Inst, Isa, LANES, Op, Warp};

/// One `cp.async` of the lanes that have not waited for it.
#[derive(Clone, Debug)]
pub(super) struct Copy {
    lanes: u32,
    /// Group it was committed to; 0 before.
    group: u32,
    bytes: u32,
    from: [u64; LANES],
    to: [u32; LANES],
    /// Bytes read of each lane's source; the rest of the destination becomes zero.
    read: [u8; LANES],
    /// Bytes of each lane's source that nothing wrote, as bits.
    unwritten: Option<Box<[u16; LANES]>>,
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

    /// Hands `each` what `lanes` wait for: all but their `keep` newest groups, or everything.
    fn release(&mut self, lanes: u32, keep: Option<u32>, mut each: impl FnMut(&Copy, u32)) {
        for copy in &mut self.copies {
            let ready = match keep {
                _ if copy.lanes & lanes == 0 => 0,
                None => copy.lanes & lanes,
                Some(_) if copy.group == 0 => 0,
                Some(keep) => behind(&self.commits, copy.group, copy.lanes & lanes, keep),
            };
            if ready != 0 {
                each(copy, ready);
                copy.lanes &= !ready;
            }
        }
        self.copies.retain(|c| c.lanes != 0);
        let oldest = self.copies.iter().map(|c| c.group).filter(|&g| g != 0).min();
        self.commits.retain(|c| oldest.is_some_and(|o| c.0 >= o));
    }

    /// Takes everything that `lanes` have issued.
    pub(super) fn take(&mut self, lanes: u32) -> Vec<Copy> {
        let mut taken = Vec::new();
        self.release(lanes, None, |copy, ready| taken.push(Copy { lanes: ready, ..copy.clone() }));
        taken
    }
}

/// Those of `lanes` that have committed at least `keep` groups after `group`.
fn behind(commits: &[(u32, u32)], group: u32, lanes: u32, keep: u32) -> u32 {
    let newer = || commits.iter().filter(|c| c.0 > group);
    // Mostly all lanes commit together.
    if newer().all(|c| c.1 & lanes == lanes) {
        return if newer().count() >= keep as usize { lanes } else { 0 };
    }
    let enough = |lane: &usize| newer().filter(|c| c.1 >> lane & 1 == 1).count() >= keep as usize;
    Bits(lanes).filter(enough).fold(0, |mask, lane| mask | 1 << lane)
}

/// Applies a copy of some lanes of a warp to its block's shared memory.
fn apply(b: &mut Block, warp: u32, copy: &Copy, lanes: u32) {
    for lane in Bits(lanes) {
        let (agent, offset) = (Agent { warp, lane: lane as u32 }, copy.to[lane] as usize);
        let read = u32::from(copy.read[lane]).min(copy.bytes) as usize;
        // SAFETY: source and destination were checked when the copy was issued, and neither arena nor shared memory moves;
        // they are different mappings.
        unsafe {
            let (from, to) = (copy.from[lane] as *const u8, b.shared.add(offset));
            if read == 16 {
                to.cast::<[u8; 16]>().write_unaligned(from.cast::<[u8; 16]>().read_unaligned());
            } else {
                std::ptr::copy_nonoverlapping(from, to, read);
                std::ptr::write_bytes(to.add(read), 0, copy.bytes as usize - read);
            }
        }
        if b.checks {
            match copy.bytes {
                4 => b.shadow.finish_copy_to::<1>(agent, offset / 4),
                8 => b.shadow.finish_copy_to::<2>(agent, offset / 4),
                _ => b.shadow.finish_copy_to::<4>(agent, offset / 4),
            }
            if let Some(unwritten) = &copy.unwritten {
                b.shadow.leave_unwritten(offset as u32, unwritten[lane]);
            }
        }
    }
}

/// Applies copies that were taken from a warp's queue.
pub(super) fn apply_all(b: &mut Block, warp: u32, copies: &[Copy]) {
    copies.iter().for_each(|copy| apply(b, warp, copy, copy.lanes));
}

/// `cp.async`: destination addresses in `a` (words), source in `b`, bytes in `extra`, source size in `c` if `target` is 1.
pub(crate) struct CpAsync;

impl Op for CpAsync {
    const SPREAD: Spread = Spread::Sink;

    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, b: &mut Block, i: &Inst) -> Flow {
        issue(w, b, i)
    }
}

fn issue(w: &mut Warp, b: &mut Block, i: &Inst) -> Flow {
    let bytes = i.extra;
    // The source's displacement is in the upper half of `imm`, the destination's in the lower.
    let (mut from, mut to, mut read) = (w.doubles(i.b), w.words(i.a), [bytes as u8; LANES]);
    for lane in 0..LANES {
        from[lane] = from[lane].wrapping_add((i.imm >> 32) as u64);
        to[lane] = to[lane].wrapping_add(i.imm as u32);
    }
    let mut whole = true;
    if i.target == 1 {
        let asked = w.words(i.c);
        for lane in 0..LANES {
            read[lane] = asked[lane].min(bytes) as u8;
            whole &= asked[lane] >= bytes || w.mask >> lane & 1 == 0;
        }
    }
    if !read_sources(w, b, &from, &read, whole, bytes) {
        return Flow::Fault;
    }
    let unwritten = b.unwritten.take().map(|unwritten| Box::new(unwritten.bytes));
    let limit = if b.checks { b.shadow.limit(w.index) } else { 0 };
    for lane in w.lanes() {
        let Some(offset) = destination(b, to[lane], bytes).filter(|_| read[lane].count_ones() <= 1) else {
            let message = format!("expected {bytes} aligned bytes of the block's shared memory as destination");
            return b.fault(FaultKind::OutOfBounds, lane, Some(to[lane].into()), message);
        };
        to[lane] = offset;
        if !b.checks {
            continue;
        }
        let (agent, first) = (Agent { warp: w.index, lane: lane as u32 }, offset as usize / 4);
        let ordered = match bytes {
            4 => b.shadow.issue_copy_to::<1>(agent, limit, first),
            8 => b.shadow.issue_copy_to::<2>(agent, limit, first),
            _ => b.shadow.issue_copy_to::<4>(agent, limit, first),
        };
        if !ordered {
            for problem in b.shadow.problems(Access::Write, agent, offset, bytes) {
                if report(w, b, lane, problem) {
                    return Flow::Fault;
                }
            }
            b.shadow.issue_copy(offset, bytes);
        }
    }
    b.counters.async_copies += 1;
    w.copies.copies.push(Copy { lanes: w.mask, group: 0, bytes, from, to, read, unwritten });
    Flow::Next
}

/// Checks and counts the bytes that the executing lanes read; mostly every lane reads all of its bytes (`whole`).
fn read_sources(w: &mut Warp, b: &mut Block, from: &[u64; LANES], read: &[u8; LANES], whole: bool, bytes: u32) -> bool {
    let (all, mut pointers) = (w.mask, [std::ptr::null_mut(); LANES]);
    if whole {
        return locate(w, b, from, GLOBAL, bytes, Access::Read, &mut pointers);
    }
    let mut found = true;
    for size in [1, 2, 4, 8, 16] {
        w.mask = Bits(all).filter(|&lane| u32::from(read[lane]) == size).fold(0, |m, lane| m | 1 << lane);
        found = found && (w.mask == 0 || locate(w, b, from, GLOBAL, size, Access::Read, &mut pointers));
    }
    w.mask = all;
    found
}

/// Offset of a copy's destination in the block's own shared memory, if it lies there.
#[inline(always)]
fn destination(b: &Block, address: u32, bytes: u32) -> Option<u32> {
    let offset = if address >> CLUSTER_SHIFT == 0 {
        (address <= b.shared_bytes.saturating_sub(bytes) && bytes <= b.shared_bytes).then_some(address)
    } else {
        b.shared_at(address.into(), bytes).filter(|(peer, _)| peer.shared == b.shared).map(|(_, offset)| offset)
    };
    offset.filter(|offset| offset & (bytes - 1) == 0)
}

/// `cp.async.commit_group`
pub(crate) struct CpCommit;

impl Op for CpCommit {
    const SPREAD: Spread = Spread::Nothing;

    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, _: &mut Block, _: &Inst) -> Flow {
        w.copies.commit(w.mask);
        Flow::Next
    }
}

/// `cp.async.wait_group` (`imm` groups may stay pending) and `cp.async.wait_all` (negative `imm`).
pub(crate) struct CpWait;

impl Op for CpWait {
    const SPREAD: Spread = Spread::Nothing;

    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, b: &mut Block, i: &Inst) -> Flow {
        let (warp, mask) = (w.index, w.mask);
        w.copies.release(mask, u32::try_from(i.imm).ok(), |copy, lanes| apply(b, warp, copy, lanes));
        Flow::Next
    }
}
