//! Marks beside shared memory: who wrote and read each word, which bytes hold data, and which await an asynchronous copy.

use std::collections::HashMap;

use super::clock::{ASYNC_AGENT, Clock, Clocks};

/// All four bytes written, nothing pending.
pub(super) const READY: u8 = 0x0f;
/// An asynchronous copy into the word has not been waited for.
pub(super) const PENDING: u8 = 0x10;
/// Marks: count << 16 | warp << 11 | lane << 6 | bytes << 2 | proxy << 1 | atomic.
pub(super) const BYTES_SHIFT: u32 = 2;
pub(super) const LANE_SHIFT: u32 = 6;
pub(super) const WARP_SHIFT: u32 = 11;
pub(super) const COUNT_SHIFT: u32 = 16;
pub(super) const PROXY: u32 = 2;
pub(super) const ATOMIC: u32 = 1;
/// Marks of granules hold four words in place of bytes, and this where lanes of one warp are joined in one mark.
pub(super) const MIXED: u32 = 1;
pub(super) const WORDS: u32 = 15 << BYTES_SHIFT;
/// Count and warp of a mark.
pub(super) const EPOCH: u32 = !0 << WARP_SHIFT;
/// Warp, lane and proxy of a mark: the same in marks of one thread.
pub(super) const THREAD: u32 = 0x3ff << LANE_SHIFT | PROXY;

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
    /// Per word: its last writer.
    pub(super) written: Vec<u32>,
    /// Per granule of four words: the last reader of whole words, and the last of another warp.
    pub(super) granules: Vec<u32>,
    pub(super) granules_before: Vec<u32>,
    /// Per word, the same for reads of single bytes and synchronising ones, if there were any.
    pub(super) read: Vec<u32>,
    pub(super) read_before: Vec<u32>,
    pub(super) fine_reads: bool,
    pub(super) state: Vec<u8>,
    pub(crate) clocks: Clocks,
    /// Count of each warp's last proxy fence.
    pub(super) fences: Vec<u32>,
    /// What each mbarrier passes on.
    pub(super) mbarriers: HashMap<u32, Box<Clock>>,
    /// What each named barrier has gathered.
    pub(super) barriers: HashMap<u32, Box<Clock>>,
}

impl Shadow {
    /// Starts a block of `warps` with `bytes` of shared memory that nothing has written.
    pub(crate) fn reset(&mut self, warps: usize, bytes: usize) {
        let words = bytes.div_ceil(4);
        self.state.clear();
        self.state.resize(words, 0);
        self.fine_reads = false;
        self.forget(words);
        self.clocks.reset(warps);
        self.fences.clear();
        self.fences.resize(warps, 0);
        self.mbarriers.clear();
        self.barriers.clear();
    }

    pub(super) fn forget(&mut self, words: usize) {
        let granules = words.div_ceil(4);
        let all = [
            (&mut self.written, words),
            (&mut self.granules, granules),
            (&mut self.granules_before, granules),
            (&mut self.read, if self.fine_reads { words } else { 0 }),
            (&mut self.read_before, if self.fine_reads { words } else { 0 }),
        ];
        for (marks, len) in all {
            marks.clear();
            marks.resize(len, 0);
        }
    }

    /// Makes room for marks of fine reads.
    #[cold]
    fn start_fine_reads(&mut self) {
        self.fine_reads = true;
        self.read.resize(self.written.len(), 0);
        self.read_before.resize(self.written.len(), 0);
    }

    /// The mark of an access now.
    #[inline(always)]
    pub(super) fn mark(&self, agent: Agent, bytes: u32) -> u32 {
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
    pub(super) fn words(offset: u32, size: u32) -> impl Iterator<Item = (usize, u32)> {
        let end = offset + size;
        (offset >> 2..end.div_ceil(4)).map(move |word| {
            let from = offset.saturating_sub(word * 4);
            let to = (end - word * 4).min(4);
            (word as usize, (15 << from & 15) & (15 >> (4 - to)))
        })
    }

    /// The same for a granule's mark and one of its words.
    fn granule_conflicts(&self, mark: u32, agent: Agent, word: usize) -> bool {
        if mark >> BYTES_SHIFT >> (word & 3) & 1 == 0 {
            return false;
        }
        let (count, warp) = (mark >> COUNT_SHIFT, mark >> WARP_SHIFT & 31);
        if warp == agent.warp {
            let other_lane = mark & MIXED == 0 && mark >> LANE_SHIFT & 31 != agent.lane;
            return other_lane && count >= self.clocks.count(warp as usize);
        }
        count > self.clocks.known(agent.warp as usize, warp as usize)
    }

    /// Looks for a problem of one lane's access, and marks nothing.
    #[cfg(test)]
    pub(crate) fn check(&self, kind: Access, agent: Agent, offset: u32, size: u32) -> Result<(), Problem> {
        self.problems(kind, agent, offset, size).first().map_or(Ok(()), |&problem| Err(problem))
    }

    /// Looks for all problems of one lane's access, and marks nothing.
    pub(crate) fn problems(&self, kind: Access, agent: Agent, offset: u32, size: u32) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (word, bytes) in Self::words(offset, size) {
            let (state, at) = (self.state[word], (word as u32 * 4).max(offset));
            if state & PENDING != 0 {
                problems.push(Problem::Pending(at));
            } else if kind != Access::Write && u32::from(state) & bytes != bytes {
                problems.push(Problem::Uninitialized(at));
            }
            let atomic = matches!(kind, Access::Atomic | Access::AtomicRead);
            let by = |mark: u32| (mark >> WARP_SHIFT & 31, mark >> LANE_SHIFT & 31);
            let mark = self.written[word];
            if self.conflicts(mark, agent, bytes) && !(atomic && mark & ATOMIC != 0) {
                let (warp, lane) = by(mark);
                problems.push(match kind {
                    Access::Write => Problem::Overwrite { at, warp, lane },
                    _ => Problem::Race { at, warp, lane, wrote: true },
                });
                continue;
            }
            if matches!(kind, Access::Write | Access::Atomic) {
                let coarse = [self.granules[word / 4], self.granules_before[word / 4]];
                let fine = if self.fine_reads { [self.read[word], self.read_before[word]] } else { [0; 2] };
                let coarse = coarse.into_iter().filter(|&mark| self.granule_conflicts(mark, agent, word));
                let fine = fine
                    .into_iter()
                    .filter(|&mark| self.conflicts(mark, agent, bytes) && !(atomic && mark & ATOMIC != 0));
                if let Some(mark) = coarse.chain(fine).next() {
                    let (warp, lane) = by(mark);
                    problems.push(Problem::Race { at, warp, lane, wrote: false });
                }
            }
        }
        problems
    }

    /// Which bytes of a range nothing wrote, a bit each; at most 16.
    pub(crate) fn unwritten(&self, offset: u32, size: u32) -> u16 {
        let written = |at: u32| self.state[at as usize / 4] >> (at & 3) & 1 == 1;
        (0..size.min(16)).filter(|&byte| !written(offset + byte)).fold(0, |bits, byte| bits | 1 << byte)
    }

    /// Bytes of a range, given as bits, count as if nothing had written them.
    pub(crate) fn leave_unwritten(&mut self, offset: u32, bytes: u16) {
        for byte in (0..16).filter(|byte| bytes >> byte & 1 == 1) {
            let at = offset + byte;
            self.state[at as usize / 4] &= !(1 << (at & 3));
        }
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
            if kind == Access::Read && bytes == 15 {
                self.note_granule(word / 4, self.mark(agent, 1 << (word & 3)));
            } else if matches!(kind, Access::Read | Access::AtomicRead) {
                if !self.fine_reads {
                    self.start_fine_reads();
                }
                let old = self.read[word];
                if (old ^ mark) >> WARP_SHIFT & 31 != 0 {
                    self.read_before[word] = old;
                }
                self.read[word] = merge(old);
            }
        }
    }
}

#[cfg(test)]
mod tests;
