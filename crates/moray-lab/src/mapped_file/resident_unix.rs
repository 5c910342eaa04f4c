//! Giving resident pages of a mapping back to the system.

use memmap2::{Mmap, UncheckedAdvice};

/// Drops a range of a read-only mapping from the resident set. Failure changes only the resident size.
pub(super) fn discard(map: &Mmap, offset: usize, len: usize) {
    // SAFETY: the mapping is read-only and backed by a file, so discarded pages are read back from it; nothing was ever
    // written to them. The caller clamps the range to the mapping.
    let _ = unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, offset, len) };
}
