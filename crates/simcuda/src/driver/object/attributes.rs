//! Device attributes; numbers as in `CUdevice_attribute`.

use crate::driver::codes::{Code, Result};
use crate::machine::Options;

/// The last attribute number that CUDA 13 defines.
const LAST_ATTRIBUTE: i32 = 147;

/// Tells one attribute. Those of textures, surfaces, peers and interprocess handles are 0, as of a device without them.
pub(crate) fn device_attribute(options: &Options, attribute: i32) -> Result<i32> {
    let limits = options.arch.limits();
    let (major, minor) = options.arch.compute_capability();
    let value: u32 = match attribute {
        1 => limits.threads_per_block,
        2..=4 => limits.block[attribute as usize - 2],
        5..=7 => limits.grid[attribute as usize - 5],
        8 => limits.shared_per_block_bytes,
        9 => 64 * 1024,                     // constant memory
        10 => 32,                           // warp size
        11 => i32::MAX as u32,              // pitch
        12 | 82 => limits.registers_per_sm, // per block, per multiprocessor
        13 => limits.clock_khz,
        14 | 30 => 512, // texture and surface alignment
        15 | 31 => 1,   // overlapping copies, concurrent kernels
        16 => options.sm_count,
        19 | 41 | 78 => 1, // mapped host memory, unified addresses, stream priorities
        36 => limits.memory_clock_khz,
        37 => limits.memory_bus_bits,
        38 => limits.l2_bytes,
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
        115 => 1, // memory pools
        120 => u32::from(limits.portable_cluster_blocks > 0),
        124 => {
            if major == 9 {
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
