//! Host memory that the device can address: pinned, managed, and registered ranges.
//!
//! Device pointers are host pointers, so pinned and managed memory are device allocations that count as written.

use std::collections::{BTreeMap, HashSet};
use std::sync::Mutex;

use super::abi::{Bytes, Out, api};
use super::capture;
use super::codes::{Code, Result};
use super::context;
use super::registry::lock;
use super::state::Driver;
use super::stream;

/// Which addresses are host memory of a special kind.
#[derive(Default)]
pub(super) struct HostMemory {
    pinned: Mutex<HashSet<u64>>,
    managed: Mutex<HashSet<u64>>,
    /// Start -> length of registered ranges.
    registered: Mutex<BTreeMap<usize, usize>>,
}

impl HostMemory {
    /// Tells whether an allocation that starts at `base` is pinned host memory.
    pub(super) fn is_pinned(&self, base: u64) -> bool {
        lock(&self.pinned).contains(&base)
    }

    /// Tells whether an allocation that starts at `base` is managed memory.
    pub(super) fn is_managed(&self, base: u64) -> bool {
        lock(&self.managed).contains(&base)
    }

    /// Forgets a managed allocation that is being freed.
    pub(super) fn forget(&self, base: u64) {
        lock(&self.managed).remove(&base);
    }

    /// Tells whether an address lies in a registered range.
    pub(super) fn is_registered(&self, address: usize) -> bool {
        let registered = lock(&self.registered);
        registered.range(..=address).next_back().is_some_and(|(start, bytes)| address - start < *bytes)
    }
}

/// Allocates memory that the host writes without the driver seeing it.
fn alloc_visible(driver: &Driver, bytes: usize) -> Result<u64> {
    capture::refuse_unsafe_call(driver)?;
    let ptr = driver.alloc(bytes)?;
    driver.memory.mark_initialized(ptr, bytes).map_err(super::memory::bad_range)?;
    Ok(ptr)
}

fn alloc_pinned(out: &Out<u64>, bytes: usize) -> Result<()> {
    let (driver, _) = context::current()?;
    let ptr = alloc_visible(driver, bytes)?;
    lock(&driver.host.pinned).insert(ptr);
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
        let (driver, _) = context::current()?;
        capture::refuse_unsafe_call(driver)?;
        driver.drain();
        if !lock(&driver.host.pinned).remove(&ptr) {
            return Err(Code::INVALID_VALUE.because(format!("expected pinned host memory, got {ptr:#x}")));
        }
        driver.free_now(ptr)
    }

    fn cuMemHostGetDevicePointer_v2(out: Out<u64>, ptr: u64, flags: u32) {
        let (driver, _) = context::current()?;
        let range = driver.memory.allocation_of(ptr).filter(|range| driver.host.is_pinned(range.0));
        if flags != 0 || range.is_none() {
            return Err(Code::INVALID_VALUE.into());
        }
        out.set(ptr)
    }

    fn cuMemHostGetFlags(flags: Out<u32>, ptr: u64) {
        let (driver, _) = context::current()?;
        driver.memory.allocation_of(ptr).filter(|range| driver.host.is_pinned(range.0)).ok_or(Code::INVALID_VALUE)?;
        flags.set(2)
    }

    fn cuMemHostRegister_v2(ptr: Bytes, bytes: usize, _flags: u32) {
        let (driver, _) = context::current()?;
        let mut registered = lock(&driver.host.registered);
        let start = ptr.address();
        let end = start.checked_add(bytes).filter(|_| !ptr.is_null() && bytes > 0).ok_or(Code::INVALID_VALUE)?;
        if registered.range(..end).next_back().is_some_and(|(other, length)| other + length > start) {
            return Err(Code::HOST_MEMORY_ALREADY_REGISTERED.into());
        }
        registered.insert(start, bytes);
        Ok(())
    }

    fn cuMemHostUnregister(ptr: Bytes) {
        let (driver, _) = context::current()?;
        driver.drain();
        let removed = lock(&driver.host.registered).remove(&ptr.address());
        removed.map(drop).ok_or_else(|| Code::HOST_MEMORY_NOT_REGISTERED.into())
    }

    fn cuMemAllocManaged(out: Out<u64>, bytes: usize, flags: u32) {
        let (driver, _) = context::current()?;
        // Attached to every stream, or to the host.
        if !matches!(flags, 1 | 2) {
            return Err(Code::INVALID_VALUE.into());
        }
        let ptr = alloc_visible(driver, bytes)?;
        lock(&driver.host.managed).insert(ptr);
        out.set(ptr)
    }

    fn cuMemAdvise_v2(ptr: u64, _bytes: usize, _advice: i32, _location: u64) {
        let (driver, _) = context::current()?;
        driver.memory.allocation_of(ptr).map(drop).ok_or_else(|| Code::INVALID_VALUE.into())
    }

    fn cuMemPrefetchAsync_v2(ptr: u64, _bytes: usize, _location: u64, _flags: u32, stream: usize) {
        let (driver, _) = stream::find(stream)?;
        driver.memory.allocation_of(ptr).map(drop).ok_or_else(|| Code::INVALID_VALUE.into())
    }
}
