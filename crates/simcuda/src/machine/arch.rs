//! The simulated architecture, and what its devices have.
//!
//! # Source
//! The technical specifications per compute capability in the CUDA C++ Programming Guide; clocks, buses and caches of the A100,
//! RTX 3090, RTX 4090, H100 and RTX 5090 in NVIDIA's data sheets.

/// The simulated architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Arch {
    /// Compute capability 7.5: a device that runs no PTX for 8.0.
    Sm75,
    /// Compute capability 8.0.
    #[default]
    Sm80,
    /// Compute capability 8.6: GeForce RTX 30.
    Sm86,
    /// Compute capability 8.9: GeForce RTX 40, with `mma` on 8-bit floats.
    Sm89,
    /// Compute capability 9.0: clusters, mbarrier transactions, bulk copies.
    Sm90,
    /// Compute capability 12.0: GeForce RTX 50, with clusters and bulk copies.
    Sm120,
}

/// What one multiprocessor and one block have at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Threads of a block.
    pub threads_per_block: u32,
    /// Threads of a block by dimension.
    pub block: [u32; 3],
    /// Blocks of a launch by dimension.
    pub grid: [u32; 3],
    /// Threads of a multiprocessor.
    pub threads_per_sm: u32,
    /// Blocks of a multiprocessor.
    pub blocks_per_sm: u32,
    /// 32-bit registers of a multiprocessor, and of a block.
    pub registers_per_sm: u32,
    /// Shared memory of a multiprocessor, the reserved part of each block included.
    pub shared_per_sm_bytes: u32,
    /// Shared memory of a block that does not opt in to more.
    pub shared_per_block_bytes: u32,
    /// Shared memory that the system takes of each block.
    pub reserved_shared_bytes: u32,
    /// Blocks of a cluster that every device of the capability can run; none without clusters.
    pub portable_cluster_blocks: u32,
    /// Clock of the multiprocessors.
    pub clock_khz: u32,
    /// Clock of the memory: half of its transfers a second and pin.
    pub memory_clock_khz: u32,
    /// Width of the memory's bus.
    pub memory_bus_bits: u32,
    /// Second-level cache.
    pub l2_bytes: u32,
}

impl Limits {
    /// Shared memory that a block may opt in to.
    pub fn most_shared_per_block_bytes(&self) -> u32 {
        self.shared_per_sm_bytes - self.reserved_shared_bytes
    }
}

impl Arch {
    /// Every architecture, oldest first.
    pub const ALL: [Self; 6] = [Self::Sm75, Self::Sm80, Self::Sm86, Self::Sm89, Self::Sm90, Self::Sm120];

    /// Compute capability as (major, minor).
    pub fn compute_capability(self) -> (u32, u32) {
        match self {
            Self::Sm75 => (7, 5),
            Self::Sm80 => (8, 0),
            Self::Sm86 => (8, 6),
            Self::Sm89 => (8, 9),
            Self::Sm90 => (9, 0),
            Self::Sm120 => (12, 0),
        }
    }

    /// What its devices have.
    pub fn limits(self) -> Limits {
        // threads and blocks, KiB of shared memory (and reserved), blocks of a cluster; kHz, memory kHz and bits, MiB of cache
        let (threads, blocks, shared, cluster, clock, memory, bus, cache) = match self {
            // a block may have all of its shared memory, so there is none to reserve
            Self::Sm75 => (1024, 16, (64, 0), 0, 1_590_000, 5_001_000, 256, 4),
            Self::Sm80 => (2048, 32, (164, 1), 0, 1_410_000, 1_215_000, 5120, 40),
            Self::Sm86 => (1536, 16, (100, 1), 0, 1_695_000, 9_751_000, 384, 6),
            Self::Sm89 => (1536, 24, (100, 1), 0, 2_520_000, 10_501_000, 384, 72),
            Self::Sm90 => (2048, 32, (228, 1), 8, 1_980_000, 2_619_000, 5120, 50),
            Self::Sm120 => (1536, 24, (100, 1), 8, 2_407_000, 14_001_000, 512, 96),
        };
        Limits {
            threads_per_block: 1024,
            block: [1024, 1024, 64],
            grid: [i32::MAX as u32, 65535, 65535],
            threads_per_sm: threads,
            blocks_per_sm: blocks,
            registers_per_sm: 65536,
            shared_per_sm_bytes: shared.0 * 1024,
            shared_per_block_bytes: 48 * 1024,
            reserved_shared_bytes: shared.1 * 1024,
            portable_cluster_blocks: cluster,
            clock_khz: clock,
            memory_clock_khz: memory,
            memory_bus_bits: bus,
            l2_bytes: cache << 20,
        }
    }
}
