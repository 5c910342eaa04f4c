//! Occupancy: how many blocks of a kernel fit on a multiprocessor.
//!
//! Registers are those that the machine code of the fatbin states; of PTX that came alone they are an estimate.

use super::kernel::Kernel;
use crate::machine::Limits;
use crate::machine::Options;

/// Registers are handed out in units of 256 a warp, shared memory in units of 128 bytes.
const REGISTER_UNIT: u32 = 256;
pub(crate) const SHARED_UNIT_BYTES: u32 = 128;

/// Counts the blocks that fit by threads, blocks, registers and shared memory.
fn blocks_that_fit(limits: &Limits, threads: u32, registers: u32, shared_bytes: u32) -> u32 {
    let warps = threads.div_ceil(32);
    let by_threads = limits.threads_per_sm / 32 / warps;
    let warp_registers = (registers.max(1) * 32).next_multiple_of(REGISTER_UNIT);
    let by_registers = limits.registers_per_sm / warp_registers / warps;
    let block_shared = (shared_bytes + limits.reserved_shared_bytes).next_multiple_of(SHARED_UNIT_BYTES);
    by_threads.min(limits.blocks_per_sm).min(by_registers).min(limits.shared_per_sm_bytes / block_shared)
}

/// Counts the blocks of `threads` threads that fit on one multiprocessor; 0 where not even one does.
pub(crate) fn max_active_blocks(options: &Options, kernel: &Kernel, threads: u32, dynamic_bytes: usize) -> u32 {
    let function = &kernel.function;
    let shared = function.static_shared_bytes + dynamic_bytes;
    let limits = options.arch.limits();
    if threads > kernel.max_threads(&limits) || shared > options.max_shared_bytes as usize {
        return 0;
    }
    blocks_that_fit(&limits, threads, function.registers, shared as u32)
}

/// Finds the block size with the most threads per multiprocessor, the largest among equals, and the grid that fills the
/// device with it.
pub(crate) fn best_block(options: &Options, kernel: &Kernel, shared: &dyn Fn(i32) -> usize, limit: i32) -> (i32, i32) {
    let most = kernel.max_threads(&options.arch.limits()).min(if limit > 0 { limit as u32 } else { u32::MAX });
    let (mut best, mut best_threads) = ((0, 0), 0);
    let sizes = (1..=most / 32).rev().map(|warps| warps * 32).chain((most < 32).then_some(most));
    for threads in sizes {
        let blocks = max_active_blocks(options, kernel, threads, shared(threads as i32));
        if blocks * threads > best_threads {
            best_threads = blocks * threads;
            best = ((blocks * options.sm_count) as i32, threads as i32);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Arch;

    #[test]
    fn blocks_match_a_count_by_hand_for_each_limit() {
        let limits = Arch::Sm80.limits();
        // (threads, registers, shared) -> blocks, and what bounds it
        for (threads, registers, shared, blocks) in [
            (256, 16, 0, 8),          // 2048 threads
            (32, 16, 0, 32),          // 32 blocks
            (256, 64, 0, 4),          // 65536 / (64·32·8)
            (1024, 65, 0, 0),         // 65 registers round up to 72 a thread: 28 warps
            (128, 16, 48 * 1024, 3),  // 164 KiB / 49 KiB
            (128, 16, 163 * 1024, 1), // the whole
            (33, 16, 0, 32),          // two warps: 32 pairs, and 32 blocks
        ] {
            assert_eq!(blocks_that_fit(&limits, threads, registers, shared), blocks, "{threads} {registers} {shared}");
        }
    }
}
