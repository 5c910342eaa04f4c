//! The simulated device, and how strictly it watches.

use super::arch::Arch;
use super::checks::Checks;
use super::sample::Sample;

/// The simulated device and how strictly it watches.
#[derive(Clone, Debug)]
pub struct Options {
    /// What is checked; bounds of the whole arena are always kept.
    pub checks: Checks,
    /// Counts sectors and bank conflicts; instruction counts are always kept.
    pub meter: bool,
    /// Threads of the host that run blocks, the caller included.
    pub workers: usize,
    /// Warp-instructions after which a launch is stopped as endless.
    pub instruction_budget: u64,
    /// The simulated architecture.
    pub arch: Arch,
    /// Multiprocessors; with the occupancy it bounds how many blocks are resident together.
    pub sm_count: u32,
    /// Shared memory a block may opt in to.
    pub max_shared_bytes: u32,
    /// Which blocks of a launch run; all by default.
    pub sample: Sample,
    /// Whether a warp's atomic on global memory ends its block's turn, and of the blocks that wait for a turn the youngest goes first, all on
    /// one worker: what the block's other warps have not done by then comes late.
    pub youngest_first: bool,
    /// Whether matrix products of floats cut what they add, as tensor cores do, instead of rounding each sum: see `add_truncated`.
    pub truncates: bool,
    /// Seed of the order in which asynchronous operations are delivered.
    pub seed: u64,
}

impl Options {
    /// Makes the options of one architecture with checks and meter on.
    pub fn for_arch(arch: Arch) -> Self {
        let max_shared_bytes = arch.limits().most_shared_per_block_bytes();
        let workers = std::thread::available_parallelism().map_or(1, |n| n.get());
        let instruction_budget = 1 << 36;
        Self {
            checks: Checks::default(),
            meter: true,
            workers,
            instruction_budget,
            arch,
            sm_count: 16,
            max_shared_bytes,
            sample: Sample::default(),
            youngest_first: false,
            truncates: false,
            seed: 0,
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self::for_arch(Arch::default())
    }
}
