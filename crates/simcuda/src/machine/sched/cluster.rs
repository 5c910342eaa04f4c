//! A cluster: the blocks that one worker runs together (a single block where the launch has no clusters).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::super::checks::{Check, Level};
use super::super::env::Env;
use super::super::error::{Fault, FaultKind};
use super::super::exec::block::Peer;
use super::super::exec::{Block, Warp, bulk};
use super::super::meter::Warning;
use super::barrier::open_ready;
use super::group::{CLUSTER_KEY, State};
use super::run::{Stop, run};
use super::stuck;

/// Steps a warp runs before the next one gets its turn.
const SLICE: u32 = 4096;
/// What the blocks of a cluster share.
#[derive(Debug, Default)]
pub(crate) struct ClusterSync {
    /// Threads that arrived at the cluster's barrier in its current phase.
    arrived: AtomicU32,
    phase: AtomicU32,
    /// Events that may let a waiting warp go on.
    events: AtomicU64,
}

impl ClusterSync {
    pub(crate) fn arrive(&self, threads: u32) {
        self.arrived.fetch_add(threads, Ordering::Relaxed);
        self.progress();
    }

    /// Notes something that a waiting warp may wait for.
    pub(crate) fn progress(&self) {
        self.events.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn phase(&self) -> u32 {
        self.phase.load(Ordering::Relaxed)
    }
}

/// How a cluster's turn ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    Done,
    /// Out of steps.
    Parked,
    /// Every warp waits or polls.
    Idle,
    Fault(Box<Fault>),
}

/// Blocks and warps of a cluster, reused for one cluster index after the other.
pub(crate) struct Cluster {
    pub blocks: Vec<Block>,
    warps: Vec<Vec<Warp>>,
    sync: Arc<ClusterSync>,
    /// Not restarted yet.
    fresh: bool,
    /// Every warp only polled in the last round.
    idle: bool,
    last_events: u64,
    random: u64,
    /// Steps taken since they were last asked for.
    steps: u64,
}

// SAFETY: the raw pointers of warps and blocks lead into the cluster's own heap memory and into code that its blocks keep
// alive; the cluster moves between workers as a whole.
unsafe impl Send for Cluster {}

impl Cluster {
    pub(crate) fn new(env: &Arc<Env>) -> Self {
        let sync = Arc::new(ClusterSync::default());
        let size = env.config.cluster.iter().product::<u32>();
        let mut blocks: Vec<Block> = (0..size).map(|rank| Block::new(env, rank, &sync)).collect();
        let peers: Vec<Peer> =
            blocks.iter_mut().map(|b| Peer { shared: b.shared, shadow: &raw mut b.shadow }).collect();
        for block in &mut blocks {
            block.peers.clone_from(&peers);
        }
        let warp_count = env.threads().div_ceil(32);
        let warps = |_| (0..warp_count).map(|index| Warp::new(&env.code, index, env.config.block)).collect();
        let warps = (0..size).map(warps).collect();
        Self { blocks, warps, sync, fresh: true, idle: false, last_events: 0, random: env.options.seed, steps: 0 }
    }

    /// Starts the cluster of a linear index.
    pub(crate) fn restart(&mut self, env: &Env, index: u64) {
        self.sync.arrived.store(0, Ordering::Relaxed);
        self.sync.phase.store(0, Ordering::Relaxed);
        self.idle = false;
        // A generator of its own per cluster keeps the order of deliveries independent of the worker.
        self.random = env.options.seed ^ index.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        for (rank, (block, warps)) in self.blocks.iter_mut().zip(&mut self.warps).enumerate() {
            let position = env.block_index(index, rank as u32);
            block.restart(position);
            env.fill_launch_rows(block, self.fresh);
            for warp in warps {
                warp.restart(env.threads(), block.launch_rows.as_mut_ptr().cast());
            }
        }
        self.fresh = false;
    }

    /// Steps taken since the last call.
    pub(crate) fn take_steps(&mut self) -> u64 {
        std::mem::take(&mut self.steps)
    }

    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// Runs until all threads have ended, `quantum` steps are taken, or all that warps do is to poll.
    pub(crate) fn run(&mut self, quantum: u32) -> Outcome {
        let mut left = quantum;
        loop {
            let (mut live, mut moved) = (false, false);
            for block in 0..self.blocks.len() {
                for warp in 0..self.warps[block].len() {
                    if self.warps[block][warp].is_done() {
                        continue;
                    }
                    live = true;
                    match self.run_warp(block, warp, &mut left) {
                        Ok(ran) => moved |= ran,
                        Err(fault) => return Outcome::Fault(fault),
                    }
                    if std::mem::take(&mut self.blocks[block].pause) {
                        return Outcome::Parked;
                    }
                }
            }
            if !live {
                return self.finish();
            }
            if let Err(fault) = self.between_rounds(moved) {
                return Outcome::Fault(fault);
            }
            if self.idle {
                return Outcome::Idle;
            }
            if left == 0 {
                return Outcome::Parked;
            }
        }
    }

    /// Runs one warp for a slice; true if it could go on.
    fn run_warp(&mut self, block: usize, warp: usize, left: &mut u32) -> Result<bool, Box<Fault>> {
        let given = SLICE.min((*left).max(1));
        let mut steps = given;
        let (b, w) = (&mut self.blocks[block], &mut self.warps[block][warp]);
        let was_dead = w.dead;
        let stop = run(w, b, &mut steps);
        let ran = given - steps;
        self.steps += u64::from(ran);
        *left = left.saturating_sub(ran);
        let died = w.dead != was_dead;
        match stop {
            Stop::Fault => return Err(stuck::fault(b, w)),
            Stop::Blocked if stuck::is_hopeless(w) => {
                self.stands_still(block, warp)?;
                return Ok(true);
            }
            _ => {}
        }
        if died {
            self.sync.progress();
        }
        if (died || stop == Stop::Blocked) && self.blocks[block].barriers.is_busy() {
            self.open_barriers(block)?;
        }
        let pick = if self.blocks[block].bulk.is_empty() { 0 } else { self.random() };
        // Deliveries come late and out of order, as far as the program allows.
        if pick & 3 == 3 {
            self.deliver(block, pick >> 2)?;
        }
        Ok(ran > 0 && stop != Stop::Yielded)
    }

    /// Opens a block's complete barriers; a read that waited for a writer has found none by then.
    fn open_barriers(&mut self, block: usize) -> Result<(), Box<Fault>> {
        let b = &mut self.blocks[block];
        if open_ready(b, &mut self.warps[block])
            && let Some(fault) = stuck::deferred(b)
        {
            return Err(fault);
        }
        Ok(())
    }

    fn deliver(&mut self, block: usize, pick: u64) -> Result<bool, Box<Fault>> {
        let delivered = bulk::deliver(&mut self.blocks[block], pick);
        delivered.map_err(|()| stuck::delivery_fault(&mut self.blocks[block]))
    }

    /// Opens the cluster's barrier, and breaks or reports a standstill.
    fn between_rounds(&mut self, moved: bool) -> Result<(), Box<Fault>> {
        self.open_cluster_barrier();
        for block in 0..self.blocks.len() {
            if self.blocks[block].barriers.is_busy() {
                self.open_barriers(block)?;
            }
        }
        let events = self.sync.events.load(Ordering::Relaxed);
        if moved || events != self.last_events {
            (self.last_events, self.idle) = (events, false);
            return Ok(());
        }
        for block in 0..self.blocks.len() {
            let pick = self.random();
            if self.deliver(block, pick)? {
                return Ok(());
            }
        }
        let ready = |w: &Warp| w.active != 0 || w.groups.iter().any(|g| g.state == State::Ready);
        if self.warps.iter().flatten().any(ready) {
            // what they poll for may be another cluster's to do
            self.idle = true;
            return Ok(());
        }
        self.stand()
    }

    /// Reports why nothing goes on, or breaks the standstill.
    pub(crate) fn stand(&mut self) -> Result<(), Box<Fault>> {
        self.idle = false;
        let at = self
            .warps
            .iter()
            .enumerate()
            .find_map(|(b, warps)| warps.iter().position(|w| !w.is_done()).map(|w| (b, w)));
        match at {
            Some((block, warp)) => match stuck::deferred(&mut self.blocks[block]) {
                Some(earlier) => Err(earlier),
                None => self.stands_still(block, warp),
            },
            None => Ok(()),
        }
    }

    /// A warp that can never go on: the reason, or nothing if it now can because its lanes need not meet at barriers.
    fn stands_still(&mut self, block: usize, warp: usize) -> Result<(), Box<Fault>> {
        let fault = stuck::explain(&self.blocks[block], &self.warps[block], warp);
        let (b, w) = (&mut self.blocks[block], &mut self.warps[block][warp]);
        let level = b.levels.of(Check::Barrier);
        if fault.kind != FaultKind::DivergentBarrier || level == Level::Fatal || w.loose {
            return Err(fault);
        }
        if level == Level::Warn {
            Warning::add(&mut b.warnings, Warning { fault: *fault, count: 1 });
        }
        w.loose = true;
        w.recheck();
        self.sync.progress();
        Ok(())
    }

    fn open_cluster_barrier(&mut self) {
        let arrived = self.sync.arrived.load(Ordering::Relaxed);
        let live = |w: &Warp| (!w.dead).count_ones();
        if arrived == 0 || arrived < self.warps.iter().flatten().map(live).sum() {
            return;
        }
        self.sync.arrived.store(0, Ordering::Relaxed);
        self.sync.phase.fetch_add(1, Ordering::Relaxed);
        self.sync.progress();
        for (block, warps) in self.blocks.iter_mut().zip(&mut self.warps) {
            if block.checks {
                block.shadow.meet_all();
            }
            for group in warps.iter_mut().flat_map(|w| &mut w.groups) {
                if group.state == (State::Parked { key: CLUSTER_KEY }) {
                    group.pc += 1;
                    group.state = State::Ready;
                }
            }
        }
    }

    /// Delivers what is still pending when all threads have ended.
    fn finish(&mut self) -> Outcome {
        for block in 0..self.blocks.len() {
            if let Some(fault) = stuck::deferred(&mut self.blocks[block]) {
                return Outcome::Fault(fault);
            }
            loop {
                match self.deliver(block, 0) {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(fault) => return Outcome::Fault(fault),
                }
            }
        }
        Outcome::Done
    }

    /// A live warp for a report of an endless launch.
    pub(crate) fn endless(&self) -> Option<Box<Fault>> {
        self.blocks.iter().zip(&self.warps).find_map(|(b, warps)| {
            let w = warps.iter().find(|w| !w.is_done())?;
            Some(stuck::endless(b, w))
        })
    }
}
