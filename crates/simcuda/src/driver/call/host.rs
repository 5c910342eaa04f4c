//! Calls on host memory that the device can address.

use crate::driver::abi::{Bytes, Out, api};
use crate::driver::codes::{Code, Result};
use crate::driver::current::current;
use crate::driver::object::device::bad_range;
use crate::driver::state::Driver;
use crate::driver::streams;

/// Allocates memory that the host writes without the driver seeing it.
fn alloc_visible(driver: &Driver, bytes: usize) -> Result<u64> {
    driver.refuse_unsafe_call()?;
    let ptr = driver.alloc(bytes)?;
    driver.device.memory.mark_initialized(ptr, bytes).map_err(bad_range)?;
    Ok(ptr)
}

fn alloc_pinned(out: &Out<u64>, bytes: usize) -> Result<()> {
    let (driver, _) = current()?;
    let ptr = alloc_visible(driver, bytes)?;
    driver.device.host.pin(ptr);
    out.set(ptr)
}

api! {
    fn cuMemHostAlloc(out: Out<u64>, bytes: usize, flags: u32) {
        // Portable, mapped, write-combined.
        if flags & !7 != 0 {
            return Err(Code::INVALID_VALUE.into());
        }
        alloc_pinned(&out, bytes)
    }

    fn cuMemAllocHost_v2(out: Out<u64>, bytes: usize) {
        alloc_pinned(&out, bytes)
    }

    fn cuMemFreeHost(ptr: u64) {
        let (driver, _) = current()?;
        driver.refuse_unsafe_call()?;
        driver.drain();
        if !driver.device.host.unpin(ptr) {
            return Err(Code::INVALID_VALUE.because(format!("expected pinned host memory, got {ptr:#x}")));
        }
        driver.device.free(ptr)
    }

    fn cuMemHostGetDevicePointer_v2(out: Out<u64>, ptr: u64, flags: u32) {
        let (driver, _) = current()?;
        let range = driver.device.memory.allocation_of(ptr).filter(|range| driver.device.host.is_pinned(range.0));
        if flags != 0 || range.is_none() {
            return Err(Code::INVALID_VALUE.into());
        }
        out.set(ptr)
    }

    fn cuMemHostGetFlags(flags: Out<u32>, ptr: u64) {
        let (driver, _) = current()?;
        driver.device.memory.allocation_of(ptr).filter(|range| driver.device.host.is_pinned(range.0)).ok_or(Code::INVALID_VALUE)?;
        flags.set(2)
    }

    fn cuMemHostRegister_v2(ptr: Bytes, bytes: usize, _flags: u32) {
        let (driver, _) = current()?;
        driver.device.host.register(ptr.address(), bytes)
    }

    fn cuMemHostUnregister(ptr: Bytes) {
        let (driver, _) = current()?;
        driver.drain();
        driver.device.host.unregister(ptr.address())
    }

    fn cuMemAllocManaged(out: Out<u64>, bytes: usize, flags: u32) {
        let (driver, _) = current()?;
        // Attached to every stream, or to the host.
        if !matches!(flags, 1 | 2) {
            return Err(Code::INVALID_VALUE.into());
        }
        let ptr = alloc_visible(driver, bytes)?;
        driver.device.host.manage(ptr);
        out.set(ptr)
    }

    fn cuMemAdvise(ptr: u64, _bytes: usize, _advice: i32, _device: i32) {
        let (driver, _) = current()?;
        driver.device.memory.allocation_of(ptr).map(drop).ok_or_else(|| Code::INVALID_VALUE.into())
    }

    fn cuMemPrefetchAsync(ptr: u64, _bytes: usize, _device: i32, stream: usize) {
        let (driver, _) = streams::find(stream)?;
        driver.device.memory.allocation_of(ptr).map(drop).ok_or_else(|| Code::INVALID_VALUE.into())
    }

    fn cuMemAdvise_v2(ptr: u64, _bytes: usize, _advice: i32, _location: u64) {
        let (driver, _) = current()?;
        driver.device.memory.allocation_of(ptr).map(drop).ok_or_else(|| Code::INVALID_VALUE.into())
    }

    fn cuMemPrefetchAsync_v2(ptr: u64, _bytes: usize, _location: u64, _flags: u32, stream: usize) {
        let (driver, _) = streams::find(stream)?;
        driver.device.memory.allocation_of(ptr).map(drop).ok_or_else(|| Code::INVALID_VALUE.into())
    }
}
