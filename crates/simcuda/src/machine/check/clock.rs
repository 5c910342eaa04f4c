//! Vector clocks: what each warp knows to have happened before it.
//!
//! Every warp counts its own synchronisations. An access is marked with its warp and that count; another warp is ordered
//! behind it once it knows a count at least as high, which barriers, mbarriers and fences pass on. Fences are taken to
//! synchronise with every later fence, so an ordering may be assumed that is not there (a race is missed), never the reverse.

/// Warps of a block, and the asynchronous proxy behind them.
pub(crate) const AGENTS: usize = 33;
/// The agent that bulk copies write as.
pub(crate) const ASYNC_AGENT: usize = 32;
/// Counts above this are reset with all marks, which have 16 bits for them.
pub(crate) const MAX_COUNT: u32 = 65_000;

/// The count of each agent that is known.
pub(crate) type Clock = [u32; AGENTS];

/// Joins what `other` knows into `clock`.
pub(crate) fn join(clock: &mut Clock, other: &Clock) {
    for (mine, &theirs) in clock.iter_mut().zip(other) {
        *mine = theirs.max(*mine);
    }
}

/// The clocks of a block's warps.
#[derive(Debug, Default)]
pub(crate) struct Clocks {
    warps: Vec<Clock>,
    /// Per warp: every mark of at most this count is ordered before it.
    floors: Vec<u32>,
    /// What fences have passed on.
    fenced: Option<Box<Clock>>,
    /// Count of the asynchronous proxy.
    async_count: u32,
}

impl Clocks {
    pub(crate) fn reset(&mut self, warps: usize) {
        self.warps.clear();
        self.warps.resize(warps, [0; AGENTS]);
        for warp in 0..warps {
            self.warps[warp][warp] = 1;
        }
        self.floors.clear();
        self.floors.resize(warps, 0);
        self.fenced = None;
        self.async_count = 1;
    }

    #[inline(always)]
    pub(crate) fn floor(&self, warp: usize) -> u32 {
        self.floors[warp]
    }

    #[inline(always)]
    pub(crate) fn count(&self, warp: usize) -> u32 {
        self.warps[warp][warp]
    }

    #[inline(always)]
    pub(crate) fn known(&self, warp: usize, agent: usize) -> u32 {
        self.warps[warp][agent]
    }

    fn lower(&mut self, warp: usize) {
        let clock = &self.warps[warp];
        let others = clock.iter().enumerate().take(self.warps.len()).filter(|&(agent, _)| agent != warp);
        let floor = others.map(|(_, &count)| count).min().unwrap_or(u32::MAX);
        // The proxy's marks count too once it has written.
        let proxy = if self.async_count > 1 { clock[ASYNC_AGENT] } else { u32::MAX };
        self.floors[warp] = floor.min(proxy).min(clock[warp] - 1);
    }

    /// A step of one warp: what its lanes did before is ordered among them. Its floor may stay too low, which is safe.
    #[inline(always)]
    pub(crate) fn step(&mut self, warp: usize) {
        self.warps[warp][warp] += 1;
    }

    /// Makes `warp` know what `clock` knows.
    pub(crate) fn acquire(&mut self, warp: usize, clock: &Clock) {
        join(&mut self.warps[warp], clock);
        self.lower(warp);
    }

    /// Joins what `warp` knows into `clock` and starts its next count.
    pub(crate) fn release(&mut self, warp: usize, clock: &mut Clock) {
        join(clock, &self.warps[warp]);
        self.step(warp);
    }

    /// A fence passes on what its warp knows, and learns what earlier fences passed on.
    pub(crate) fn fence(&mut self, warp: usize) {
        let mut fenced = self.fenced.take().unwrap_or_else(|| Box::new([0; AGENTS]));
        self.release(warp, &mut fenced);
        self.acquire(warp, &fenced);
        self.fenced = Some(fenced);
    }

    /// All warps of the block meet: everything before is ordered before everything after.
    pub(crate) fn meet_all(&mut self) -> bool {
        let top = (0..self.warps.len()).map(|warp| self.warps[warp][warp]).max().unwrap_or(0);
        for (warp, clock) in self.warps.iter_mut().enumerate() {
            let proxy = clock[ASYNC_AGENT];
            clock.fill(top);
            clock[ASYNC_AGENT] = proxy;
            clock[warp] = top + 1;
        }
        let proxy = self.warps.iter().map(|clock| clock[ASYNC_AGENT]).max().unwrap_or(0);
        for warp in 0..self.warps.len() {
            self.warps[warp][ASYNC_AGENT] = proxy;
            self.lower(warp);
        }
        top < MAX_COUNT
    }

    /// A count for a write of the asynchronous proxy, which is passed on in `clock`.
    pub(crate) fn proxy_write(&mut self, clock: &mut Clock) -> u32 {
        let count = self.async_count;
        clock[ASYNC_AGENT] = clock[ASYNC_AGENT].max(count);
        self.async_count += 1;
        if count == 1 {
            (0..self.warps.len()).for_each(|warp| self.lower(warp));
        }
        count
    }
}
