//! A block: its shared and local memory, its barriers, and what its warps report.

use std::collections::HashSet;
use std::sync::Arc;

use super::super::check::shadow::Shadow;
use super::super::checks::{Check, Level, Levels};
use super::super::env::Env;
use super::super::error::{Allocation, FaultKind};
use super::super::memory::Memory;
use super::super::meter::{Counters, Warning};
use super::super::sched::barrier::Barriers;
use super::super::sched::cluster::ClusterSync;
use super::super::sched::stuck::locate;
use super::bulk::BulkQueue;
use super::scatter::Suspect;
use super::undefined::Unwritten;
use super::warp::Row;
use super::{Flow, Slot, Warp};

/// What a handler knows of a fault; the scheduler adds kernel, line and thread.
#[derive(Debug)]
pub(crate) struct Note {
    pub kind: FaultKind,
    pub lane: usize,
    pub address: Option<u64>,
    pub allocation: Option<Allocation>,
    pub message: String,
}

/// Another block's shared memory as a cluster's threads reach it.
#[derive(Clone, Copy)]
pub(crate) struct Peer {
    pub shared: *mut u8,
    pub shadow: *mut Shadow,
}

/// One running block.
pub(crate) struct Block {
    pub env: Arc<Env>,
    pub memory: Memory,
    pub arena_base: u64,
    pub arena_span: usize,
    /// Ends the turn of the block's cluster.
    pub pause: bool,
    /// Whether any check is made, and which.
    pub checks: bool,
    pub levels: Levels,
    pub metered: bool,
    pub index: [u32; 3],
    /// Rank in its cluster.
    pub rank: u32,
    pub shared: *mut u8,
    pub shared_bytes: u32,
    pub shadow: Shadow,
    pub local: Vec<u8>,
    pub launch_rows: Vec<Row>,
    pub barriers: Barriers,
    pub counters: Counters,
    /// Times each instruction was executed.
    pub counts: Vec<u64>,
    pub note: Option<Box<Note>>,
    /// A read of shared memory that nothing had written yet, with its warp and instruction: a race if another warp writes
    /// it before they meet, else a fault of its own.
    pub deferred: Option<Box<(Note, u32, u32)>>,
    /// Findings that did not stop the kernel.
    pub warnings: Vec<Warning>,
    /// What the last access read that nothing wrote.
    pub unwritten: Option<Box<Unwritten>>,
    /// Bytes of local memory, by their place in `local`, that an undefined value was stored to.
    pub local_unwritten: HashSet<usize>,
    /// All blocks of the cluster by rank, this one included.
    pub peers: Vec<Peer>,
    pub bulk: BulkQueue,
    pub cluster: Arc<ClusterSync>,
    /// Overwrites of the running store that may be races.
    pub suspects: Vec<Suspect>,
    lists: *const u32,
    /// Keeps the shared memory in place.
    store: Vec<Row>,
}

// SAFETY: the raw pointers lead into the block itself, into its cluster's other blocks and into code kept alive by `env`;
// a cluster is moved between workers as a whole and run by one at a time.
unsafe impl Send for Block {}

impl Block {
    /// Makes a block that can be restarted for any index of its launch.
    pub(crate) fn new(env: &Arc<Env>, rank: u32, cluster: &Arc<ClusterSync>) -> Self {
        let shared_bytes = env.shared_bytes;
        let mut store = vec![Row([0; 32]); shared_bytes.div_ceil(128) as usize + 1];
        let code = &env.code;
        Self {
            memory: env.memory.clone(),
            arena_base: env.memory.base(),
            arena_span: env.memory.span(),
            pause: false,
            checks: env.levels.any(),
            levels: env.levels,
            metered: env.options.meter,
            index: [0; 3],
            rank,
            shared: store.as_mut_ptr().cast(),
            shared_bytes,
            shadow: Shadow::default(),
            local: vec![0; env.local_bytes as usize * env.threads().next_multiple_of(32) as usize],
            launch_rows: vec![Row([0; 32]); code.launch_rows.len()],
            barriers: Barriers::default(),
            counters: Counters::default(),
            counts: vec![0; code.insts.len()],
            note: None,
            deferred: None,
            warnings: Vec::new(),
            unwritten: None,
            local_unwritten: HashSet::new(),
            peers: Vec::new(),
            bulk: BulkQueue::default(),
            cluster: Arc::clone(cluster),
            suspects: Vec::new(),
            lists: code.lists.as_ptr(),
            store,
            env: Arc::clone(env),
        }
    }

    /// Prepares the block for its next index.
    pub(crate) fn restart(&mut self, index: [u32; 3]) {
        self.index = index;
        self.barriers = Barriers::default();
        self.bulk.clear();
        self.deferred = None;
        self.local_unwritten.clear();
        if self.checks {
            let warps = self.env.threads().div_ceil(32) as usize;
            self.shadow.reset(warps, self.shared_bytes as usize);
        }
        debug_assert!(self.store.len() * 128 > self.shared_bytes as usize);
    }

    /// An entry of the instruction's further operands.
    #[inline(always)]
    pub(crate) fn list(&self, index: u32) -> u32 {
        // SAFETY: the decoder writes indices of `Code::lists` only, which `env` keeps alive.
        unsafe { *self.lists.add(index as usize) }
    }

    /// An operand slot of the instruction's further operands.
    #[inline(always)]
    pub(crate) fn slot(&self, index: u32) -> Slot {
        Slot(self.list(index))
    }

    /// Notes a fault of one lane.
    #[cold]
    pub(crate) fn fault(&mut self, kind: FaultKind, lane: usize, address: Option<u64>, message: String) -> Flow {
        self.fault_in(kind, lane, address, None, message)
    }

    /// Notes a fault of one lane in an allocation.
    #[cold]
    pub(crate) fn fault_in(
        &mut self,
        kind: FaultKind,
        lane: usize,
        address: Option<u64>,
        allocation: Option<Allocation>,
        message: String,
    ) -> Flow {
        self.note = Some(Box::new(Note { kind, lane, address, allocation, message }));
        Flow::Fault
    }

    /// Takes a finding of a check, in so many lanes; true if it stops the kernel.
    #[cold]
    pub(crate) fn found(&mut self, w: &Warp, check: Check, count: u32, note: Note) -> bool {
        match self.levels.of(check) {
            Level::Off => false,
            Level::Warn => {
                let fault = *locate(self, w.index, w.pc, note);
                Warning::add(&mut self.warnings, Warning { fault, count: count.into() });
                false
            }
            Level::Fatal => {
                self.note = Some(Box::new(note));
                true
            }
        }
    }

    /// Notes which bytes of a lane's access nothing wrote.
    pub(crate) fn note_unwritten(&mut self, lane: usize, address: u64, bytes: u16) {
        if bytes == 0 {
            return;
        }
        let unwritten = match &mut self.unwritten {
            Some(unwritten) => unwritten,
            None => {
                let at = address + u64::from(bytes.trailing_zeros());
                let allocation = self
                    .memory
                    .diagnose(at, 1)
                    .2
                    .filter(|_| address >> WINDOW_SHIFT == 0 && address >= self.arena_base);
                self.unwritten.insert(Box::new(Unwritten { bytes: [0; 32], address: at, allocation }))
            }
        };
        unwritten.bytes[lane] |= bytes;
    }

    /// Finds `size` bytes of shared memory by their address, in this block or another of the cluster.
    #[inline(always)]
    pub(crate) fn shared_at(&self, address: u64, size: u32) -> Option<(Peer, u32)> {
        let (rank, offset) = ((address >> CLUSTER_SHIFT) as u32, address as u32 & ((1 << CLUSTER_SHIFT) - 1));
        if address >> 32 != 0 || u64::from(offset) + u64::from(size) > u64::from(self.shared_bytes) {
            return None;
        }
        let rank = if rank == 0 { self.rank } else { rank - 1 };
        self.peers.get(rank as usize).map(|&peer| (peer, offset))
    }

    /// Local memory of one thread: its first byte.
    #[inline(always)]
    pub(crate) fn local_at(&mut self, w: &Warp, lane: usize, offset: u64, size: u32) -> Option<*mut u8> {
        let bytes = self.env.local_bytes;
        if offset > u64::from(bytes) || offset + u64::from(size) > u64::from(bytes) {
            return None;
        }
        let start = (w.index as usize * 32 + lane) * bytes as usize + offset as usize;
        self.local.get_mut(start..start + size as usize).map(|s| s.as_mut_ptr())
    }
}

/// Shared addresses of a cluster's blocks carry the rank plus one from this bit on; none means the own block.
pub(crate) const CLUSTER_SHIFT: u32 = 24;
/// Generic addresses carry their space in the top byte; global addresses have none.
pub(crate) const WINDOW_SHIFT: u32 = 56;
pub(crate) const SHARED_WINDOW: u64 = 1 << WINDOW_SHIFT;
pub(crate) const LOCAL_WINDOW: u64 = 2 << WINDOW_SHIFT;
/// Kernel parameters taken by address.
pub(crate) const PARAM_WINDOW: u64 = 3 << WINDOW_SHIFT;
