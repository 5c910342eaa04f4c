//! Calls that ask how many blocks of a kernel fit.

use super::function;
use crate::driver::abi::{Out, api};
use crate::driver::codes::{Code, Result};
use crate::driver::object::occupancy::{SHARED_UNIT_BYTES, best_block, max_active_blocks};

fn active_blocks(out: &Out<i32>, function: usize, threads: i32, dynamic_bytes: usize, flags: u32) -> Result<()> {
    let (driver, kernel) = function::find(function)?;
    let threads = u32::try_from(threads).ok().filter(|&n| n > 0 && flags <= 1).ok_or(Code::INVALID_VALUE)?;
    out.set(max_active_blocks(&driver.device.options, &kernel, threads, dynamic_bytes) as i32)
}

/// How a kernel's dynamic shared memory depends on its block size.
type SharedForBlock = Option<extern "C" fn(i32) -> usize>;

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
    let best = best_block(&driver.device.options, &kernel, &shared, limit);
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
        let limits = driver.device.options.arch.limits();
        let blocks = u32::try_from(blocks).ok().filter(|&n| n > 0 && n <= limits.blocks_per_sm).ok_or(Code::INVALID_VALUE)?;
        u32::try_from(threads).ok().filter(|&n| n > 0).ok_or(Code::INVALID_VALUE)?;
        let share = (limits.shared_per_sm_bytes / blocks) / SHARED_UNIT_BYTES * SHARED_UNIT_BYTES;
        let block = share.saturating_sub(limits.reserved_shared_bytes).min(driver.device.options.max_shared_bytes);
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
