//! The fast ways through the shadow, for plain accesses to whole words: they say yes to what is ordered beyond doubt, and
//! leave the marks that [`Shadow::record`] would; everything else goes to [`Shadow::check`].

use super::clock::MAX_COUNT;
use super::shadow::{
    Agent, BYTES_SHIFT, COUNT_SHIFT, EPOCH, LANE_SHIFT, MIXED, PENDING, READY, Shadow, THREAD, WARP_SHIFT, WORDS,
};

/// `N` words of a granule from word `first` on, as its mark holds them.
#[inline(always)]
fn words_of<const N: usize>(first: usize) -> u32 {
    ((1 << N) - 1) << (first & 3) << BYTES_SHIFT
}

/// What the marks of a granule become when it is read with `mark`: its last reader, and the last of another warp.
#[inline(always)]
fn joined(old: u32, before: u32, mark: u32) -> (u32, u32) {
    let other_lane = u32::from((old ^ mark) >> LANE_SHIFT & 31 != 0) * MIXED;
    let same_epoch = (old ^ mark) & EPOCH == 0;
    let other_warp = (old ^ mark) >> WARP_SHIFT & 31 != 0;
    let last = if same_epoch { mark | old & (WORDS | MIXED) | other_lane } else { mark };
    (last, if other_warp { old } else { before })
}

impl Shadow {
    /// Marks below this are ordered before everything that `warp` does.
    #[inline(always)]
    pub(crate) fn limit(&self, warp: u32) -> u32 {
        (self.clocks.floor(warp as usize).min(MAX_COUNT) + 1) << COUNT_SHIFT
    }

    /// The mark of a warp's first lane now, with no words.
    #[inline(always)]
    fn first_lane(&self, warp: u32) -> u32 {
        self.mark(Agent { warp, lane: 0 }, 0)
    }

    /// Whether `N` aligned words were written before `limit` or by the thread of mark `own`, and none is pending.
    #[inline(always)]
    fn is_readable<const N: usize>(&self, own: u32, limit: u32, first: usize) -> bool {
        let (written, state) = (&self.written[first..first + N], &self.state[first..first + N]);
        let (mut foreign, mut unready) = (0, 0);
        for k in 0..N {
            foreign |= (written[k] ^ own) & THREAD & u32::from(written[k] >= limit).wrapping_neg();
            unready |= state[k] ^ READY;
        }
        foreign == 0 && unready == 0
    }

    /// Whether `N` aligned words can be written by the thread of mark `own` without a closer look.
    #[inline(always)]
    fn is_writable<const N: usize>(&self, own: u32, limit: u32, first: usize) -> bool {
        let (written, state) = (&self.written[first..first + N], &self.state[first..first + N]);
        let mut good = !self.fine_reads;
        for k in 0..N {
            good &= (written[k] < limit) | ((written[k] ^ own) & THREAD == 0);
            good &= state[k] & PENDING == 0;
        }
        // Aligned groups of up to four words lie in one granule.
        let touched = words_of::<N>(first);
        for mark in [self.granules[first / 4], self.granules_before[first / 4]] {
            good &= (mark < limit) | (mark & touched == 0) | ((mark ^ own) & (THREAD | MIXED) == 0);
        }
        good
    }

    /// Marks a granule's read.
    #[inline(always)]
    pub(super) fn note_granule(&mut self, granule: usize, mark: u32) {
        let (last, before) = (&mut self.granules[granule], &mut self.granules_before[granule]);
        (*last, *before) = joined(*last, *before, mark);
    }

    /// Reads `N` aligned words by all lanes of a warp at one place, the last of which stays in the mark, if that needs no closer look; otherwise does nothing and
    /// returns false. What the warp itself wrote since its last barrier takes the closer look.
    #[inline(always)]
    pub(crate) fn read_same<const N: usize>(&mut self, warp: u32, first: usize) -> bool {
        let (limit, own) = (self.limit(warp), self.first_lane(warp));
        let (written, state) = (&self.written[first..first + N], &self.state[first..first + N]);
        let settled = (0..N).all(|k| (written[k] < limit) & (state[k] == READY));
        if settled {
            self.note_granule(first / 4, own | 31 << LANE_SHIFT | words_of::<N>(first) | MIXED);
        }
        settled
    }

    /// Reads `N` aligned words of each of `lanes` at the byte offset of the lane; false, with some of them marked, if one
    /// needs a closer look.
    #[inline(always)]
    pub(crate) fn read_lanes<const N: usize>(
        &mut self,
        warp: u32,
        lanes: impl Iterator<Item = usize>,
        offsets: &[u32; 32],
    ) -> bool {
        let (limit, own) = (self.limit(warp), self.first_lane(warp));
        for lane in lanes {
            let (thread, first) = (own | (lane as u32) << LANE_SHIFT, offsets[lane] as usize / 4);
            if !self.is_readable::<N>(thread, limit, first) {
                return false;
            }
            self.note_granule(first / 4, thread | words_of::<N>(first));
        }
        true
    }

    /// The same for writes. They are marked when all have been checked, so that lanes of one instruction do not meet each
    /// other's marks.
    #[inline(always)]
    pub(crate) fn write_lanes<const N: usize>(
        &mut self,
        warp: u32,
        lanes: impl Iterator<Item = usize> + Clone,
        offsets: &[u32; 32],
    ) -> bool {
        let (limit, own) = (self.limit(warp), self.first_lane(warp));
        for lane in lanes.clone() {
            let thread = own | (lane as u32) << LANE_SHIFT;
            if !self.is_writable::<N>(thread, limit, offsets[lane] as usize / 4) {
                return false;
            }
        }
        for lane in lanes {
            self.note_write::<N>(own | (lane as u32) << LANE_SHIFT, offsets[lane] as usize / 4);
        }
        true
    }

    /// Marks a write of `N` aligned words by the thread of mark `own`.
    #[inline(always)]
    fn note_write<const N: usize>(&mut self, own: u32, first: usize) {
        self.written[first..first + N].fill(own | 15 << BYTES_SHIFT);
        self.state[first..first + N].fill(READY);
    }

    /// Issues an asynchronous copy of a lane into `N` aligned words, if that needs no closer look; `limit` is the warp's.
    #[inline(always)]
    pub(crate) fn issue_copy_to<const N: usize>(&mut self, agent: Agent, limit: u32, first: usize) -> bool {
        let good = self.is_writable::<N>(self.mark(agent, 0), limit, first);
        if good {
            self.state[first..first + N].iter_mut().for_each(|s| *s |= PENDING);
        }
        good
    }

    /// A thread's own asynchronous copy into `N` aligned words has been waited for.
    #[inline(always)]
    pub(crate) fn finish_copy_to<const N: usize>(&mut self, agent: Agent, first: usize) {
        self.note_write::<N>(self.mark(agent, 0), first);
    }

    /// Reads or writes `N` words of all 32 lanes that lie one behind the other, if that needs no closer look; otherwise does
    /// nothing and returns false.
    #[inline(always)]
    pub(crate) fn access_run<const N: usize>(&mut self, write: bool, warp: u32, first: usize) -> bool {
        let (limit, own) = (self.limit(warp), self.first_lane(warp));
        let (written, state) = (&mut self.written[first..first + 32 * N], &mut self.state[first..first + 32 * N]);
        // Writes lie before the limit, or each thread has written its own words.
        let mut foreign = 0;
        for (k, &mark) in written.iter().enumerate() {
            let thread = own + ((k / N) as u32) * (1 << LANE_SHIFT);
            foreign |= (mark ^ thread) & THREAD & u32::from(mark >= limit).wrapping_neg();
        }
        if foreign != 0 {
            return false;
        }
        if !write {
            let ready = state.iter().fold(0, |bits, &s| bits | s ^ READY) == 0;
            if ready {
                self.note_read_run::<N>(own, first);
            }
            return ready;
        }
        let pending = state.iter().fold(0, |any, &s| any | s) & PENDING != 0;
        let granules = first / 4..(first + 32 * N).div_ceil(4);
        let marks = self.granules[granules.clone()].iter().chain(&self.granules_before[granules]);
        let latest = marks.fold(0, |latest: u32, &mark| latest.max(mark));
        if pending || latest >= limit || self.fine_reads {
            return false;
        }
        for (k, mark) in written.iter_mut().enumerate() {
            *mark = own + ((k / N) as u32) * (1 << LANE_SHIFT) + (15 << BYTES_SHIFT);
        }
        state.fill(READY);
        true
    }

    /// Marks that all lanes read `N` words each, one behind the other.
    #[inline(always)]
    fn note_read_run<const N: usize>(&mut self, own: u32, first: usize) {
        let lane = |n: usize| (n as u32) << LANE_SHIFT;
        if first & 3 == 0 {
            // Every granule is read as a whole, by 4 / N lanes, of which the last stays in the mark.
            let range = first / 4..first / 4 + 8 * N;
            let marks = self.granules[range.clone()].iter_mut().zip(&mut self.granules_before[range]);
            for (granule, (last, before)) in marks.enumerate() {
                let mark = own + lane(granule * (4 / N) + 4 / N - 1) + WORDS + if N < 4 { MIXED } else { 0 };
                (*last, *before) = joined(*last, *before, mark);
            }
            return;
        }
        for n in 0..32 {
            self.note_granule((first + n * N) / 4, own + lane(n) + words_of::<N>(first + n * N));
        }
    }
}
