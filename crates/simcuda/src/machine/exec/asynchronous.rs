//! `cp.async`: copies that each lane queues and waits for.

use super::super::check::shadow::{Access, Agent};
use super::super::error::FaultKind;
use super::memory::{GLOBAL, SHARED, addresses, report};
use super::scatter::locate;
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
    pub(super) fn take(&mut self, lanes: u32, keep: Option<u32>) -> Vec<Copy> {
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
pub(super) fn apply(b: &mut Block, warp: u32, copies: &[Copy]) {
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
    // Mostly every lane reads all its bytes.
    let whole = w.lanes().all(|lane| u32::from(read[lane]) == bytes);
    if whole && !locate(w, b, &from, GLOBAL, bytes, Access::Read, &mut pointers) {
        return Flow::Fault;
    }
    let sizes = if whole { &[][..] } else { &[0, 1, 2, 4, 8, 16][..] };
    for &size in sizes {
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
