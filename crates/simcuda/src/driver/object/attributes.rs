//! Device attributes of the two simulated capabilities.
//!
//! # Source
//! The technical specifications per compute capability in the CUDA C++ Programming Guide; numbers as in `CUdevice_attribute`.

use crate::driver::codes::{Code, Result};
use crate::machine::{Arch, Options};

/// Limits of one multiprocessor and one block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) threads_per_block: u32,
    pub(crate) block: [u32; 3],
    pub(crate) grid: [u32; 3],
    pub(crate) threads_per_sm: u32,
    pub(crate) blocks_per_sm: u32,
    pub(crate) registers_per_sm: u32,
    /// Shared memory per multiprocessor, the reserved part of each block included.
    pub(crate) shared_per_sm_bytes: u32,
    /// Shared memory per block without opting in.
    pub(crate) shared_per_block_bytes: u32,
    /// Shared memory that the system takes of each block.
    pub(crate) reserved_shared_bytes: u32,
    /// Blocks of a cluster that every device of the capability can run; none without clusters.
    pub(crate) portable_cluster_blocks: u32,
}

/// Tells the limits of an architecture.
pub(crate) fn limits(arch: Arch) -> Limits {
    let (shared_kib, portable_cluster_blocks) = match arch {
        // a block may have all of it, so there is none to reserve
        Arch::Sm75 => (64, 0),
        Arch::Sm80 => (164, 0),
        Arch::Sm90 => (228, 8),
    };
    Limits {
        threads_per_block: 1024,
        block: [1024, 1024, 64],
        grid: [i32::MAX as u32, 65535, 65535],
        threads_per_sm: 2048,
        blocks_per_sm: 32,
        registers_per_sm: 65536,
        shared_per_sm_bytes: shared_kib * 1024,
        shared_per_block_bytes: 48 * 1024,
        reserved_shared_bytes: if arch == Arch::Sm75 { 0 } else { 1024 },
        portable_cluster_blocks,
    }
}

/// The last attribute number that CUDA 13 defines.
const LAST_ATTRIBUTE: i32 = 147;

/// Tells one attribute. Those of textures, surfaces, peers and interprocess handles are 0, as of a device without them.
pub(crate) fn device_attribute(options: &Options, attribute: i32) -> Result<i32> {
    let arch = options.arch;
    let limits = limits(arch);
    let (major, minor) = arch.compute_capability();
    let hopper = arch == Arch::Sm90;
    let value: u32 = match attribute {
        1 => limits.threads_per_block,
        2..=4 => limits.block[attribute as usize - 2],
        5..=7 => limits.grid[attribute as usize - 5],
        8 => limits.shared_per_block_bytes,
        9 => 64 * 1024,                     // constant memory
        10 => 32,                           // warp size
        11 => i32::MAX as u32,              // pitch
        12 | 82 => limits.registers_per_sm, // per block, per multiprocessor
        13 => {
            if hopper {
                1_980_000
            } else {
                1_410_000
            }
        } // kHz
        14 | 30 => 512,                     // texture and surface alignment
        15 | 31 => 1,                       // overlapping copies, concurrent kernels
        16 => options.sm_count,
        19 | 41 | 78 => 1, // mapped host memory, unified addresses, stream priorities
        36 => {
            if hopper {
                2_619_000
            } else {
                1_215_000
            }
        } // memory clock in kHz
        37 => 5120,        // bus width in bits
        38 => {
            if hopper {
                50 << 20
            } else {
                40 << 20
            }
        } // L2 bytes
        39 => limits.threads_per_sm,
        40 => 3,  // copy engines
        51 => 32, // texture pitch alignment
        75 => major,
        76 => minor,
        79 | 80 => 1, // L1 caches global and local memory
        81 => limits.shared_per_sm_bytes,
        83 | 89 => 1, // managed memory, also beside a running kernel
        87 => 2,      // single to double performance
        90 => 1,      // preemption
        91 => 0,      // host pointers of registered memory are not device pointers
        95 => 1,      // cooperative launch
        97 => options.max_shared_bytes,
        99 => 1, // host registration
        106 => limits.blocks_per_sm,
        111 => limits.reserved_shared_bytes,
        115 => 1,                 // memory pools
        120 => u32::from(hopper), // cluster launch
        124 => {
            if hopper {
                4
            } else {
                1
            }
        } // domains of memory order
        0 | LAST_ATTRIBUTE.. | i32::MIN..0 => return Err(Code::INVALID_VALUE.into()),
        _ => 0,
    };
    Ok(value as i32)
}
