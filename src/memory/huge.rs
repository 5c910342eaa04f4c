//! Pieces of mappings that Linux is asked to back with huge pages.
//!
//! Many matrices are smaller than a huge page, so one mapping each would have none: they are cut from slabs, one after another.
//! A large piece has a slab to itself. What is not written takes no memory, and no huge page reaches past a slab, so at most one
//! of them is there in part. A piece that is dropped gives its pages back, and a slab its addresses with its last piece: what a
//! slab has lent it never lends again, so that pieces are zeros without being written.

use memmap2::{Advice, MmapMut, MmapRaw, UncheckedAdvice};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of a huge page on x86-64 and on most others; where it is another, there are only fewer of them.
const HUGE: usize = 2 << 20;

/// Bytes of a slab for many pieces.
const SLAB: usize = 32 << 20;

/// Pieces from here on have a slab of their own.
const LARGE: usize = SLAB / 4;

/// The largest page that Linux has where it is not a huge one.
const PAGE: usize = 64 << 10;

/// The slab that the next small piece is cut from.
static OPEN: Mutex<Option<Arc<Slab>>> = Mutex::new(None);

struct Slab {
    map: MmapRaw,
    /// Where the slab begins in the mapping: at a multiple of [`HUGE`].
    first: usize,
    len: usize,
    /// Bytes that are lent.
    lent: AtomicUsize,
}

impl Slab {
    fn new(len: usize) -> Option<Self> {
        let map = MmapRaw::from(MmapMut::map_anon(len.checked_add(HUGE)?).ok()?);
        let first = map.as_ptr().addr().wrapping_neg() % HUGE;
        // a system without huge pages says so, and goes on
        let _ = map.advise_range(Advice::HugePage, first, len);
        Some(Slab { map, first, len, lent: AtomicUsize::new(0) })
    }

    /// Lends the next `len` bytes, if so many are left: where they begin in the mapping.
    fn lend(&self, len: usize) -> Option<usize> {
        let after = |lent: usize| lent.checked_add(len).filter(|&end| end <= self.len);
        let lent = self.lent.fetch_update(Ordering::Relaxed, Ordering::Relaxed, after).ok()?;
        Some(self.first + lent)
    }
}

/// Zeroed bytes.
pub(super) struct Piece {
    slab: Arc<Slab>,
    /// In the slab's mapping.
    start: usize,
    len: usize,
}

impl Piece {
    /// `len` is whole lines.
    pub(super) fn zeroed(len: usize) -> Option<Self> {
        if len >= LARGE {
            let slab = Arc::new(Slab::new(len)?);
            return Some(Piece { start: slab.lend(len)?, slab, len });
        }
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slab) = &*open
            && let Some(start) = slab.lend(len)
        {
            return Some(Piece { slab: Arc::clone(slab), start, len });
        }
        let slab = open.insert(Arc::new(Slab::new(SLAB)?));
        Some(Piece { start: slab.lend(len)?, slab: Arc::clone(slab), len })
    }

    fn data(&self) -> NonNull<u8> {
        NonNull::new(self.slab.map.as_mut_ptr().wrapping_add(self.start)).expect("a mapping is not at address 0")
    }

    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: a slab lends no byte twice, so these `len` bytes of its mapping, which the piece keeps alive, are the piece's
        // alone, and borrowed as it is.
        unsafe { NonNull::slice_from_raw_parts(self.data(), self.len).as_ref() }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`.
        unsafe { NonNull::slice_from_raw_parts(self.data(), self.len).as_mut() }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let address = self.data().as_ptr().addr();
        let before = address.wrapping_neg() % PAGE;
        let pages = (self.len.saturating_sub(before)) / PAGE;
        if pages > 0 {
            let start = self.start + before;
            // SAFETY: whole pages inside the piece, which nobody reads any more and the slab does not lend again.
            let _ = unsafe { self.slab.map.unchecked_advise_range(UncheckedAdvice::DontNeed, start, pages * PAGE) };
        }
    }
}
