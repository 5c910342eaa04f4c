//! Marks beside shared memory: who wrote and read each word, which bytes hold data, and which await an asynchronous copy.

use std::collections::HashMap;

use super::clock::{AGENTS, ASYNC_AGENT, Clock, Clocks, MAX_COUNT};

/// All four bytes written, nothing pending.
const READY: u8 = 0x0f;
/// An asynchronous copy into the word has not been waited for.
const PENDING: u8 = 0x10;
/// Marks: count << 16 | warp << 11 | lane << 6 | bytes << 2 | proxy << 1 | atomic.
const BYTES_SHIFT: u32 = 2;
const LANE_SHIFT: u32 = 6;
const WARP_SHIFT: u32 = 11;
const COUNT_SHIFT: u32 = 16;
const PROXY: u32 = 2;
const ATOMIC: u32 = 1;

/// What an access does to shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
    /// Atomic, volatile or synchronising access: ordered among its kind.
    Atomic,
    /// As `Atomic`, but only reads.
    AtomicRead,
}

/// What the checker found, with the byte offset in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    Uninitialized(u32),
    Pending(u32),
    /// A conflict with the access of (warp, lane, whether it wrote).
    Race {
        at: u32,
        warp: u32,
        lane: u32,
        wrote: bool,
    },
    /// A conflict that is none if the write leaves the bytes as they are.
    Overwrite {
        at: u32,
        warp: u32,
        lane: u32,
    },
    Unfenced {
        at: u32,
        warp: u32,
        lane: u32,
    },
}

/// Who accesses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Agent {
    pub warp: u32,
    pub lane: u32,
}

/// The marks of one block.
#[derive(Debug, Default)]
pub(crate) struct Shadow {
    written: Vec<u32>,
    /// The last reader, and the last of another warp.
    read: Vec<u32>,
    read_before: Vec<u32>,
    state: Vec<u8>,
    pub(crate) clocks: Clocks,
    /// Count of each warp's last proxy fence.
    fences: Vec<u32>,
    /// What each mbarrier passes on.
    mbarriers: HashMap<u32, Box<Clock>>,
    /// What each named barrier has gathered.
    barriers: HashMap<u32, Box<Clock>>,
}

impl Shadow {
    /// Starts a block of `warps` with `bytes` of shared memory that nothing has written.
    pub(crate) fn reset(&mut self, warps: usize, bytes: usize) {
        let words = bytes.div_ceil(4);
        self.state.clear();
        self.state.resize(words, 0);
        self.forget(words);
        self.clocks.reset(warps);
        self.fences.clear();
        self.fences.resize(warps, 0);
        self.mbarriers.clear();
        self.barriers.clear();
    }

    fn forget(&mut self, words: usize) {
        for marks in [&mut self.written, &mut self.read, &mut self.read_before] {
            marks.clear();
            marks.resize(words, 0);
        }
    }

    /// The mark of an access now.
    fn mark(&self, agent: Agent, bytes: u32) -> u32 {
        let count = self.clocks.count(agent.warp as usize);
        count << COUNT_SHIFT | agent.warp << WARP_SHIFT | agent.lane << LANE_SHIFT | bytes << BYTES_SHIFT
    }

    /// Whether an access of `agent` to `bytes` of a word is unordered with the marked one.
    fn conflicts(&self, mark: u32, agent: Agent, bytes: u32) -> bool {
        if mark >> BYTES_SHIFT & bytes & 15 == 0 {
            return false;
        }
        let (count, warp) = (mark >> COUNT_SHIFT, mark >> WARP_SHIFT & 31);
        if mark & PROXY != 0 {
            return count > self.clocks.known(agent.warp as usize, ASYNC_AGENT);
        }
        if warp == agent.warp {
            return mark >> LANE_SHIFT & 31 != agent.lane && count >= self.clocks.count(warp as usize);
        }
        count > self.clocks.known(agent.warp as usize, warp as usize)
    }

    /// Splits `size` bytes at `offset` into (word, bits of its bytes).
    fn words(offset: u32, size: u32) -> impl Iterator<Item = (usize, u32)> {
        let end = offset + size;
        (offset >> 2..end.div_ceil(4)).map(move |word| {
            let from = offset.saturating_sub(word * 4);
            let to = (end - word * 4).min(4);
            (word as usize, (15 << from & 15) & (15 >> (4 - to)))
        })
    }

    /// Whether aligned words can be accessed without a closer look: written, not pending, and every mark ordered before.
    #[inline(always)]
    fn all_ordered(&self, warp: u32, first: usize, count: usize, write: bool) -> bool {
        let limit = (self.clocks.floor(warp as usize).min(MAX_COUNT) + 1) << COUNT_SHIFT;
        let range = first..first + count;
        let (state, written) = (&self.state[range.clone()], &self.written[range.clone()]);
        let mut newest = written.iter().fold(0, |m, &mark| m.max(mark));
        if write {
            let (read, before) = (&self.read[range.clone()], &self.read_before[range]);
            newest = read.iter().zip(before).fold(newest, |m, (&r, &b)| m.max(r).max(b));
            let pending = state.iter().fold(0, |m, &s| m | s) & PENDING;
            return newest < limit && pending == 0;
        }
        let ready = state.iter().fold(true, |all, &s| all & (s == READY));
        newest < limit && ready
    }

    /// Marks aligned words as written, `1 << shift` of them by each lane from `agent.lane` on.
    #[inline(always)]
    fn mark_written(&mut self, agent: Agent, first: usize, count: usize, shift: u32) {
        let mark = self.mark(agent, 15);
        for (word, slot) in self.written[first..first + count].iter_mut().enumerate() {
            *slot = mark + ((word as u32 >> shift) << LANE_SHIFT);
        }
        self.state[first..first + count].fill(READY);
    }

    #[inline(always)]
    fn mark_read(&mut self, agent: Agent, first: usize, count: usize, shift: u32) {
        let mark = self.mark(agent, 15);
        let (read, before) = (&mut self.read[first..first + count], &mut self.read_before[first..first + count]);
        for word in 0..count {
            let old = read[word];
            let other_warp = (old ^ mark) >> WARP_SHIFT & 31 != 0;
            before[word] = if other_warp { old } else { before[word] };
            read[word] = mark + ((word as u32 >> shift) << LANE_SHIFT);
        }
    }

    /// Accesses `count` aligned words in one go if nothing speaks against it; otherwise does nothing and returns false.
    #[inline(always)]
    pub(crate) fn access_words(&mut self, kind: Access, agent: Agent, first: usize, count: usize, shift: u32) -> bool {
        let ordered = self.is_ordered(kind, agent, first, count);
        if ordered {
            self.mark_words(kind, agent, first, count, shift);
        }
        ordered
    }

    /// Whether an access to `count` aligned words needs no closer look.
    #[inline(always)]
    pub(crate) fn is_ordered(&self, kind: Access, agent: Agent, first: usize, count: usize) -> bool {
        matches!(kind, Access::Read | Access::Write)
            && self.all_ordered(agent.warp, first, count, kind == Access::Write)
    }

    /// Marks plain accesses to `count` aligned words, `1 << shift` of them by each lane from `agent.lane` on.
    #[inline(always)]
    pub(crate) fn mark_words(&mut self, kind: Access, agent: Agent, first: usize, count: usize, shift: u32) {
        if kind == Access::Write {
            self.mark_written(agent, first, count, shift);
        } else {
            self.mark_read(agent, first, count, shift);
        }
    }

    /// Looks for a problem of one lane's access, and marks nothing.
    pub(crate) fn check(&self, kind: Access, agent: Agent, offset: u32, size: u32) -> Result<(), Problem> {
        for (word, bytes) in Self::words(offset, size) {
            let (state, at) = (self.state[word], (word as u32 * 4).max(offset));
            if state & PENDING != 0 {
                return Err(Problem::Pending(at));
            }
            if kind != Access::Write && u32::from(state) & bytes != bytes {
                return Err(Problem::Uninitialized(at));
            }
            let atomic = matches!(kind, Access::Atomic | Access::AtomicRead);
            let by = |mark: u32| (mark >> WARP_SHIFT & 31, mark >> LANE_SHIFT & 31);
            let mark = self.written[word];
            if self.conflicts(mark, agent, bytes) && !(atomic && mark & ATOMIC != 0) {
                let (warp, lane) = by(mark);
                return Err(match kind {
                    Access::Write => Problem::Overwrite { at, warp, lane },
                    _ => Problem::Race { at, warp, lane, wrote: true },
                });
            }
            if matches!(kind, Access::Write | Access::Atomic) {
                for mark in [self.read[word], self.read_before[word]] {
                    if self.conflicts(mark, agent, bytes) && !(atomic && mark & ATOMIC != 0) {
                        let (warp, lane) = by(mark);
                        return Err(Problem::Race { at, warp, lane, wrote: false });
                    }
                }
            }
        }
        Ok(())
    }

    /// Marks one lane's access.
    pub(crate) fn record(&mut self, kind: Access, agent: Agent, offset: u32, size: u32) {
        let atomic = if matches!(kind, Access::Atomic | Access::AtomicRead) { ATOMIC } else { 0 };
        for (word, bytes) in Self::words(offset, size) {
            let mark = self.mark(agent, bytes) | atomic;
            // Bytes that the same thread marked at the same count stay marked.
            let merge = |old: u32| if (old ^ mark) & !(15 << BYTES_SHIFT) == 0 { mark | old } else { mark };
            if matches!(kind, Access::Write | Access::Atomic) {
                self.written[word] = merge(self.written[word]);
                self.state[word] |= bytes as u8;
            }
            if matches!(kind, Access::Read | Access::AtomicRead) {
                let old = self.read[word];
                if (old ^ mark) >> WARP_SHIFT & 31 != 0 {
                    self.read_before[word] = old;
                }
                self.read[word] = merge(old);
            }
        }
    }

    /// Another block wrote the range; clusters order their blocks by means that these marks do not follow.
    pub(crate) fn fill(&mut self, offset: u32, size: u32) {
        for (word, bytes) in Self::words(offset, size) {
            self.written[word] = 0;
            self.state[word] |= bytes as u8;
        }
    }

    /// An asynchronous copy into the range was issued.
    pub(crate) fn issue_copy(&mut self, offset: u32, size: u32) {
        for (word, _) in Self::words(offset, size) {
            self.state[word] |= PENDING;
        }
    }

    /// A thread's own asynchronous copy has been waited for.
    pub(crate) fn finish_copy(&mut self, agent: Agent, offset: u32, size: u32) {
        for (word, bytes) in Self::words(offset, size) {
            self.written[word] = self.mark(agent, bytes);
            self.state[word] = self.state[word] & !PENDING | bytes as u8;
        }
    }

    /// A bulk copy has been delivered; who waits on `mbarrier` is ordered behind it.
    pub(crate) fn finish_bulk(&mut self, offset: u32, size: u32, mbarrier: u32) {
        let mut clock = self.mbarriers.remove(&mbarrier).unwrap_or_else(|| Box::new([0; AGENTS]));
        let count = self.clocks.proxy_write(&mut clock);
        self.mbarriers.insert(mbarrier, clock);
        for (word, bytes) in Self::words(offset, size) {
            self.written[word] = count.min(MAX_COUNT) << COUNT_SHIFT | bytes << BYTES_SHIFT | PROXY;
            self.state[word] = self.state[word] & !PENDING | bytes as u8;
        }
    }

    /// Looks whether the asynchronous proxy may read the range: written, and a proxy fence behind generic writes.
    pub(crate) fn check_proxy_read(&self, offset: u32, size: u32) -> Result<(), Problem> {
        for (word, bytes) in Self::words(offset, size) {
            let at = (word as u32 * 4).max(offset);
            if self.state[word] & PENDING != 0 {
                return Err(Problem::Pending(at));
            }
            if u32::from(self.state[word]) & bytes != bytes {
                return Err(Problem::Uninitialized(at));
            }
            let mark = self.written[word];
            let (warp, lane) = (mark >> WARP_SHIFT & 31, mark >> LANE_SHIFT & 31);
            if mark != 0 && mark & PROXY == 0 && mark >> COUNT_SHIFT > self.fences[warp as usize] {
                return Err(Problem::Unfenced { at, warp, lane });
            }
        }
        Ok(())
    }

    /// `fence.proxy.async` of a warp.
    pub(crate) fn proxy_fence(&mut self, warp: u32) {
        self.fences[warp as usize] = self.clocks.count(warp as usize);
        self.clocks.step(warp as usize);
    }

    /// A warp arrives on an mbarrier.
    pub(crate) fn mbarrier_arrive(&mut self, warp: u32, mbarrier: u32) {
        let mut clock = self.mbarriers.remove(&mbarrier).unwrap_or_else(|| Box::new([0; AGENTS]));
        self.clocks.release(warp as usize, &mut clock);
        self.mbarriers.insert(mbarrier, clock);
    }

    /// A warp has seen a phase of an mbarrier complete.
    pub(crate) fn mbarrier_wait(&mut self, warp: u32, mbarrier: u32) {
        if let Some(clock) = self.mbarriers.get(&mbarrier) {
            self.clocks.acquire(warp as usize, clock);
        }
    }

    /// A warp arrives at a named barrier that only some warps share.
    pub(crate) fn barrier_arrive(&mut self, warp: u32, barrier: u32) {
        let mut clock = self.barriers.remove(&barrier).unwrap_or_else(|| Box::new([0; AGENTS]));
        self.clocks.release(warp as usize, &mut clock);
        self.barriers.insert(barrier, clock);
    }

    /// A warp leaves a named barrier.
    pub(crate) fn barrier_leave(&mut self, warp: u32, barrier: u32) {
        if let Some(clock) = self.barriers.get(&barrier) {
            self.clocks.acquire(warp as usize, clock);
        }
    }

    /// All warps met; marks are dropped when their counts run out.
    pub(crate) fn meet_all(&mut self) {
        if !self.clocks.meet_all() {
            let words = self.state.len();
            self.forget(words);
            let warps = self.fences.len();
            self.clocks.reset(warps);
            self.fences.fill(0);
            self.mbarriers.clear();
            self.barriers.clear();
        }
    }
}
