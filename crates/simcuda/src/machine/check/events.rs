//! What orders accesses: asynchronous copies and their waits, fences, mbarriers and barriers.

use super::clock::{AGENTS, MAX_COUNT};
use super::shadow::{BYTES_SHIFT, COUNT_SHIFT, LANE_SHIFT, PENDING, PROXY, Problem, Shadow, WARP_SHIFT};

impl Shadow {
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
