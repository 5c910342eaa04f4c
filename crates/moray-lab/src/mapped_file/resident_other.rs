//! Where the system takes no advice, pages stay until it needs them.

use memmap2::Mmap;

/// Does nothing.
pub(super) fn discard(_map: &Mmap, _offset: usize, _len: usize) {}
