//! Device memory: one reserved range whose device pointers are host pointers.
//!
//! Each allocation is followed by a red zone that is never handed out, and freed ranges rest in quarantine before they are
//! used again, so that a stray access meets neither. Two bits per byte say what is allocated and what has been written.

mod bitmap;
mod map;
mod table;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::error::{Allocation, FaultKind, MemoryError};
use bitmap::Bitmap;
use map::Mapping;
use table::Table;

/// The memory of one simulated device; clones share it.
#[derive(Clone)]
pub struct Memory(Arc<Arena>);

struct Arena {
    data: Mapping,
    capacity_bytes: usize,
    valid: Bitmap,
    init: Bitmap,
    table: Mutex<Table>,
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (free, total) = self.info();
        f.debug_struct("Memory").field("free_bytes", &free).field("total_bytes", &total).finish()
    }
}

impl Memory {
    /// Reserves a device of `capacity_bytes`; pages are committed where they are touched.
    ///
    /// # Errors
    /// Returns the operating system's error if the address space cannot be reserved.
    pub fn new(capacity_bytes: usize) -> io::Result<Self> {
        let capacity_bytes = capacity_bytes.next_multiple_of(4096);
        // Red zones and quarantine need address space of their own, or small devices could not hand out what they have.
        let span = capacity_bytes + capacity_bytes / 4 + (1 << 20);
        Ok(Self(Arc::new(Arena {
            data: Mapping::reserve(span)?,
            capacity_bytes,
            valid: Bitmap::new(span)?,
            init: Bitmap::new(span)?,
            table: Mutex::new(Table::new(span, capacity_bytes)),
        })))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Allocates `bytes` aligned to 256 bytes; `None` if they do not fit, or for 0 bytes.
    pub fn alloc(&self, bytes: usize) -> Option<u64> {
        let offset = self.table().alloc(bytes, &self.0.data)?;
        self.0.valid.set(offset, bytes);
        Some(self.base() + offset as u64)
    }

    /// Frees an allocation by its first address.
    ///
    /// # Errors
    /// Returns [`MemoryError::InvalidPointer`] if no live allocation starts there.
    pub fn free(&self, ptr: u64) -> Result<(), MemoryError> {
        let mut table = self.table();
        let offset = self.offset(ptr).ok_or(MemoryError::InvalidPointer { ptr })?;
        let bytes = table.live_size(offset).ok_or(MemoryError::InvalidPointer { ptr })?;
        self.0.valid.clear(offset, bytes);
        self.0.init.clear(offset, bytes);
        table.free(offset);
        Ok(())
    }

    /// Tells (free, total) bytes.
    pub fn info(&self) -> (usize, usize) {
        let used = self.table().used_bytes();
        (self.0.capacity_bytes.saturating_sub(used), self.0.capacity_bytes)
    }

    /// Copies host bytes to the device.
    ///
    /// # Errors
    /// Returns [`MemoryError`] if the range is not inside one live allocation.
    pub fn write(&self, dst: u64, src: &[u8]) -> Result<(), MemoryError> {
        if src.is_empty() {
            return Ok(());
        }
        let offset = self.inside(dst, src.len())?;
        // SAFETY: `inside` found the range in one live allocation of the mapping; src is a host slice outside it.
        unsafe { std::ptr::copy(src.as_ptr(), self.0.data.base().add(offset), src.len()) };
        self.0.init.set(offset, src.len());
        Ok(())
    }

    /// Copies device bytes to the host.
    ///
    /// # Errors
    /// Returns [`MemoryError`] if the range is not inside one live allocation.
    pub fn read(&self, dst: &mut [u8], src: u64) -> Result<(), MemoryError> {
        if dst.is_empty() {
            return Ok(());
        }
        let offset = self.inside(src, dst.len())?;
        // SAFETY: `inside` found the range in one live allocation of the mapping; dst is an exclusive host slice.
        unsafe { std::ptr::copy(self.0.data.base().add(offset), dst.as_mut_ptr(), dst.len()) };
        Ok(())
    }

    /// Copies `bytes` within the device, with their initialisation; the ranges may overlap.
    ///
    /// # Errors
    /// Returns [`MemoryError`] if either range is not inside one live allocation.
    pub fn copy(&self, dst: u64, src: u64, bytes: usize) -> Result<(), MemoryError> {
        if bytes == 0 {
            return Ok(());
        }
        let (to, from) = (self.inside(dst, bytes)?, self.inside(src, bytes)?);
        let base = self.0.data.base();
        // SAFETY: `inside` found both ranges in live allocations of the mapping; `copy` allows overlap.
        unsafe { std::ptr::copy(base.add(from), base.add(to), bytes) };
        self.0.init.copy(to, from, bytes);
        Ok(())
    }

    /// Writes `pattern` (1, 2 or 4 bytes) `count` times.
    ///
    /// # Errors
    /// Returns [`MemoryError`] for another pattern size, a misaligned pointer, or a range outside one live allocation.
    pub fn fill(&self, dst: u64, pattern: &[u8], count: usize) -> Result<(), MemoryError> {
        let size = pattern.len();
        if !matches!(size, 1 | 2 | 4) || !dst.is_multiple_of(size as u64) {
            return Err(MemoryError::Misaligned { ptr: dst, align_bytes: size });
        }
        if count == 0 {
            return Ok(());
        }
        let bytes = count.saturating_mul(size);
        let offset = self.inside(dst, bytes)?;
        // SAFETY: `inside` found the range in one live allocation; no reference to it exists outside this call.
        let target = unsafe { std::slice::from_raw_parts_mut(self.0.data.base().add(offset), bytes) };
        if size == 1 {
            target.fill(pattern[0]);
        } else {
            target.chunks_exact_mut(size).for_each(|c| c.copy_from_slice(pattern));
        }
        self.0.init.set(offset, bytes);
        Ok(())
    }

    /// Declares a range written by means the device does not see, as a host that writes pinned memory directly.
    ///
    /// # Errors
    /// Returns [`MemoryError`] if the range is not inside one live allocation.
    pub fn mark_initialized(&self, ptr: u64, bytes: usize) -> Result<(), MemoryError> {
        if bytes > 0 {
            self.0.init.set(self.inside(ptr, bytes)?, bytes);
        }
        Ok(())
    }

    /// Finds the live allocation that holds `ptr`: its first address and size in bytes.
    pub fn allocation_of(&self, ptr: u64) -> Option<(u64, usize)> {
        let offset = self.offset(ptr)?;
        self.table().live_around(offset).map(|(start, bytes)| (self.base() + start as u64, bytes))
    }

    /// First address of the reserved range.
    #[inline(always)]
    pub(crate) fn base(&self) -> u64 {
        self.0.data.base() as u64
    }

    /// Length of the reserved range, which is mapped for reading and writing as a whole.
    #[inline(always)]
    pub(crate) fn span(&self) -> usize {
        self.0.data.len()
    }

    fn offset(&self, ptr: u64) -> Option<usize> {
        ptr.checked_sub(self.base()).map(|o| o as usize).filter(|&o| o < self.span())
    }

    fn inside(&self, ptr: u64, bytes: usize) -> Result<usize, MemoryError> {
        let invalid = MemoryError::InvalidPointer { ptr };
        let offset = self.offset(ptr).ok_or(invalid)?;
        let (start, size_bytes) = self.table().live_around(offset).ok_or(invalid)?;
        if bytes > start + size_bytes - offset {
            let allocation = Allocation { base: self.base() + start as u64, size_bytes, freed: false };
            return Err(MemoryError::OutOfBounds { ptr, bytes, allocation });
        }
        Ok(offset)
    }

    /// Tells whether `bytes` at arena offset `offset` are all allocated and written. The range must lie in the arena.
    #[inline(always)]
    pub(crate) fn is_initialized(&self, offset: usize, bytes: usize) -> bool {
        self.0.init.all(offset, bytes)
    }

    /// Tells whether `bytes` at arena offset `offset` are all allocated. The range must lie in the arena.
    #[inline(always)]
    pub(crate) fn is_valid(&self, offset: usize, bytes: usize) -> bool {
        self.0.valid.all(offset, bytes)
    }

    /// [`Memory::is_initialized`] of several places that are multiples of `bytes`, a power of two of at most 64.
    #[inline(always)]
    pub(crate) fn are_initialized(&self, bytes: usize, places: impl Iterator<Item = usize>) -> bool {
        self.0.init.all_aligned(bytes, places)
    }

    /// The same for [`Memory::is_valid`].
    #[inline(always)]
    pub(crate) fn are_valid(&self, bytes: usize, places: impl Iterator<Item = usize>) -> bool {
        self.0.valid.all_aligned(bytes, places)
    }

    /// Tells which of at most 16 bytes at an arena offset nothing has written, a bit each. The range must lie in the arena.
    pub(crate) fn unwritten(&self, offset: usize, bytes: usize) -> u16 {
        (0..bytes.min(16)).filter(|byte| !self.0.init.all(offset + byte, 1)).fold(0, |bits, byte| bits | 1 << byte)
    }

    /// Records a write by a kernel. The range must lie in the arena and be allocated.
    #[inline(always)]
    pub(crate) fn mark_written(&self, offset: usize, bytes: usize) {
        if !self.0.init.all(offset, bytes) {
            self.0.init.set(offset, bytes);
        }
    }

    /// Finds out why an access was refused: the kind, the first bad address, and the allocation in or next to it.
    pub(crate) fn diagnose(&self, addr: u64, bytes: usize) -> (FaultKind, u64, Option<Allocation>) {
        let table = self.table();
        let name = |(start, size_bytes, freed)| Allocation { base: self.base() + start as u64, size_bytes, freed };
        let Some(offset) = self.offset(addr).filter(|&o| o + bytes <= self.span()) else {
            return (FaultKind::OutOfBounds, addr, None);
        };
        if let Some(bad) = self.0.valid.first_clear(offset, bytes) {
            let near = table.nearest(bad);
            let freed = near.is_some_and(|(start, size, freed)| freed && (start..start + size).contains(&bad));
            let kind = if freed { FaultKind::UseAfterFree } else { FaultKind::OutOfBounds };
            return (kind, self.base() + bad as u64, near.map(name));
        }
        let bad = self.0.init.first_clear(offset, bytes).unwrap_or(offset);
        (FaultKind::Uninitialized, self.base() + bad as u64, table.nearest(bad).map(name))
    }
}

#[cfg(test)]
mod tests;
