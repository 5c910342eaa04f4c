//! The simulated device, and how strictly it watches.

use super::checks::Checks;

/// The simulated architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Arch {
    /// Compute capability 7.5: a device that runs no PTX for 8.0.
    Sm75,
    /// Compute capability 8.0.
    #[default]
    Sm80,
    /// Compute capability 9.0: clusters, mbarrier transactions, bulk copies.
    Sm90,
}

impl Arch {
    /// Compute capability as (major, minor).
    pub fn compute_capability(self) -> (u32, u32) {
        match self {
            Self::Sm75 => (7, 5),
            Self::Sm80 => (8, 0),
            Self::Sm90 => (9, 0),
        }
    }
}

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
    /// Seed of the order in which asynchronous operations are delivered.
    pub seed: u64,
}

impl Options {
    /// Makes the options of one architecture with checks and meter on.
    pub fn for_arch(arch: Arch) -> Self {
        let max_shared_bytes = match arch {
            Arch::Sm75 => 64 * 1024,
            Arch::Sm80 => 163 * 1024,
            Arch::Sm90 => 227 * 1024,
        };
        let workers = std::thread::available_parallelism().map_or(1, |n| n.get());
        let instruction_budget = 1 << 36;
        let checks = Checks::default();
        Self { checks, meter: true, workers, instruction_budget, arch, sm_count: 16, max_shared_bytes, seed: 0 }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self::for_arch(Arch::default())
    }
}
