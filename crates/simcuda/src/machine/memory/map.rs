//! Address space from the operating system, backed by pages only where touched.

use std::io;

/// An anonymous, zeroed, page-aligned mapping.
pub(crate) struct Mapping {
    base: *mut u8,
    len: usize,
}

// SAFETY: a mapping is an address range; who may access which part is decided by its owner.
unsafe impl Send for Mapping {}
// SAFETY: as above; the type itself hands out only the base address.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Reserves `len` bytes without committing memory.
    pub(crate) fn reserve(len: usize) -> io::Result<Self> {
        let len = len.max(1);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches no existing memory.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { base: base.cast(), len })
    }

    #[inline(always)]
    pub(crate) fn base(&self) -> *mut u8 {
        self.base
    }

    #[inline(always)]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Gives the whole pages inside a range back; they read as zero afterwards.
    pub(crate) fn release_pages(&self, first: usize, bytes: usize) {
        const PAGE_BYTES: usize = 4096;
        let start = first.next_multiple_of(PAGE_BYTES);
        let end = (first + bytes).min(self.len) / PAGE_BYTES * PAGE_BYTES;
        if start < end {
            // SAFETY: start..end are whole pages inside this private anonymous mapping.
            unsafe { libc::madvise(self.base.add(start).cast(), end - start, libc::MADV_DONTNEED) };
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: base and len are those of the mmap that made this mapping; the owner outlives all users.
        unsafe { libc::munmap(self.base.cast(), self.len) };
    }
}
