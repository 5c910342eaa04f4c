//! Occupancy: how many blocks of a kernel fit on a multiprocessor.
//!
//! Registers are those that the machine code of the fatbin states; of PTX that came alone they are an estimate.

use super::abi::{Out, api};
use super::attributes::{Limits, limits};
use super::codes::{Code, Result};
use super::function::{self, max_threads};
use super::module::Kernel;
use super::state::Driver;

/// Registers are handed out in units of 256 a warp, shared memory in units of 128 bytes.
const REGISTER_UNIT: u32 = 256;
const SHARED_UNIT_BYTES: u32 = 128;

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
pub(super) fn max_active_blocks(driver: &Driver, kernel: &Kernel, threads: u32, dynamic_bytes: usize) -> u32 {
    let function = &kernel.function;
    let shared = function.static_shared_bytes + dynamic_bytes;
    if threads > max_threads(driver, kernel) || shared > driver.options.max_shared_bytes as usize {
        return 0;
    }
    blocks_that_fit(&limits(driver.options.arch), threads, function.registers, shared as u32)
}

fn active_blocks(out: &Out<i32>, function: usize, threads: i32, dynamic_bytes: usize, flags: u32) -> Result<()> {
    let (driver, kernel) = function::find(function)?;
    let threads = u32::try_from(threads).ok().filter(|&n| n > 0 && flags <= 1).ok_or(Code::INVALID_VALUE)?;
    out.set(max_active_blocks(driver, &kernel, threads, dynamic_bytes) as i32)
}

/// How a kernel's dynamic shared memory depends on its block size.
type SharedForBlock = Option<extern "C" fn(i32) -> usize>;

/// Finds the block size with the most threads per multiprocessor, the largest among equals, and the grid that fills the
/// device with it.
fn best_block(driver: &Driver, kernel: &Kernel, shared: &dyn Fn(i32) -> usize, limit: i32) -> (i32, i32) {
    let most = max_threads(driver, kernel).min(if limit > 0 { limit as u32 } else { u32::MAX });
    let (mut best, mut best_threads) = ((0, 0), 0);
    let sizes = (1..=most / 32).rev().map(|warps| warps * 32).chain((most < 32).then_some(most));
    for threads in sizes {
        let blocks = max_active_blocks(driver, kernel, threads, shared(threads as i32));
        if blocks * threads > best_threads {
            best_threads = blocks * threads;
            best = ((blocks * driver.options.sm_count) as i32, threads as i32);
        }
    }
    best
}

fn potential(
    grid: &Out<i32>,
    block: &Out<i32>,
    function: usize,
    shared_for_block: SharedForBlock,
    dynamic_bytes: usize,
    limit: i32,
) -> Result<()> {
    let (driver, kernel) = function::find(function)?;
    let shared = |threads: i32| shared_for_block.map_or(dynamic_bytes, |of| of(threads));
    let best = best_block(driver, &kernel, &shared, limit);
    grid.set(best.0)?;
    block.set(best.1)
}

api! {
    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(out: Out<i32>, function: usize, threads: i32, dynamic_bytes: usize) {
        active_blocks(&out, function, threads, dynamic_bytes, 0)
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        out: Out<i32>, function: usize, threads: i32, dynamic_bytes: usize, flags: u32
    ) {
        active_blocks(&out, function, threads, dynamic_bytes, flags)
    }

    fn cuOccupancyAvailableDynamicSMemPerBlock(out: Out<usize>, function: usize, blocks: i32, threads: i32) {
        let (driver, kernel) = function::find(function)?;
        let limits = limits(driver.options.arch);
        let blocks = u32::try_from(blocks).ok().filter(|&n| n > 0 && n <= limits.blocks_per_sm).ok_or(Code::INVALID_VALUE)?;
        u32::try_from(threads).ok().filter(|&n| n > 0).ok_or(Code::INVALID_VALUE)?;
        let share = (limits.shared_per_sm_bytes / blocks) / SHARED_UNIT_BYTES * SHARED_UNIT_BYTES;
        let block = share.saturating_sub(limits.reserved_shared_bytes).min(driver.options.max_shared_bytes);
        out.set((block as usize).saturating_sub(kernel.function.static_shared_bytes))
    }

    fn cuOccupancyMaxPotentialBlockSize(
        grid: Out<i32>, block: Out<i32>, function: usize, shared_for_block: SharedForBlock, dynamic_bytes: usize, limit: i32
    ) {
        potential(&grid, &block, function, shared_for_block, dynamic_bytes, limit)
    }

    fn cuOccupancyMaxPotentialBlockSizeWithFlags(
        grid: Out<i32>, block: Out<i32>, function: usize, shared_for_block: SharedForBlock, dynamic_bytes: usize, limit: i32,
        flags: u32
    ) {
        if flags > 1 {
            return Err(Code::INVALID_VALUE.into());
        }
        potential(&grid, &block, function, shared_for_block, dynamic_bytes, limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Arch;

    #[test]
    fn blocks_match_a_count_by_hand_for_each_limit() {
        let limits = limits(Arch::Sm80);
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
