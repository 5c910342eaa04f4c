//! Host memory that the device can address: pinned, managed, and registered ranges.
//!
//! Device pointers are host pointers, so pinned and managed memory are device allocations that count as written.

use std::collections::{BTreeMap, HashSet};
use std::sync::Mutex;

use crate::driver::codes::{Code, Result};
use crate::driver::registry::lock;

/// Which addresses are host memory of a special kind.
#[derive(Default)]
pub(crate) struct HostMemory {
    pinned: Mutex<HashSet<u64>>,
    managed: Mutex<HashSet<u64>>,
    /// Start -> length of registered ranges.
    registered: Mutex<BTreeMap<usize, usize>>,
}

impl HostMemory {
    /// Tells whether an allocation that starts at `base` is pinned host memory.
    pub(crate) fn is_pinned(&self, base: u64) -> bool {
        lock(&self.pinned).contains(&base)
    }

    /// Notes that an allocation is pinned host memory.
    pub(crate) fn pin(&self, base: u64) {
        lock(&self.pinned).insert(base);
    }

    /// Forgets a pinned allocation; false if `base` is none.
    pub(crate) fn unpin(&self, base: u64) -> bool {
        lock(&self.pinned).remove(&base)
    }

    /// Tells whether an allocation that starts at `base` is managed memory.
    pub(crate) fn is_managed(&self, base: u64) -> bool {
        lock(&self.managed).contains(&base)
    }

    /// Notes that an allocation is managed memory.
    pub(crate) fn manage(&self, base: u64) {
        lock(&self.managed).insert(base);
    }

    /// Forgets a managed allocation that is being freed.
    pub(crate) fn forget(&self, base: u64) {
        lock(&self.managed).remove(&base);
    }

    /// Tells whether an address lies in a registered range.
    pub(crate) fn is_registered(&self, address: usize) -> bool {
        let registered = lock(&self.registered);
        registered.range(..=address).next_back().is_some_and(|(start, bytes)| address - start < *bytes)
    }

    /// Registers a range that overlaps no other.
    pub(crate) fn register(&self, start: usize, bytes: usize) -> Result<()> {
        let mut registered = lock(&self.registered);
        let end = start.checked_add(bytes).filter(|_| start != 0 && bytes > 0).ok_or(Code::INVALID_VALUE)?;
        if registered.range(..end).next_back().is_some_and(|(other, length)| other + length > start) {
            return Err(Code::HOST_MEMORY_ALREADY_REGISTERED.into());
        }
        registered.insert(start, bytes);
        Ok(())
    }

    /// Ends the registration of the range that starts at `start`.
    pub(crate) fn unregister(&self, start: usize) -> Result<()> {
        let removed = lock(&self.registered).remove(&start);
        removed.map(drop).ok_or_else(|| Code::HOST_MEMORY_NOT_REGISTERED.into())
    }
}
