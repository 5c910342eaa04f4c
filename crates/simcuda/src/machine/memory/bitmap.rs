//! One bit per byte of the arena, in lazily mapped pages.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use super::map::Mapping;

/// One bit per arena byte; bits are set and cleared from several workers at once.
pub(crate) struct Bitmap {
    map: Mapping,
}

/// The bits `first..first + count` of one word; `count` is 1..=64.
#[inline(always)]
fn word_mask(first: usize, count: usize) -> u64 {
    (u64::MAX >> (64 - count)) << first
}

impl Bitmap {
    /// Reserves one bit for each of `bytes` arena bytes, all clear.
    pub(crate) fn new(bytes: usize) -> io::Result<Self> {
        Ok(Self { map: Mapping::reserve(bytes.div_ceil(64) * 8)? })
    }

    #[inline(always)]
    fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is page-aligned, lives as long as self, was zeroed by the kernel, and is only ever
        // accessed through this slice of atomics.
        unsafe { std::slice::from_raw_parts(self.map.base().cast(), self.map.len() / 8) }
    }

    /// Tells whether every bit of a non-empty range is set. The range must lie inside the map.
    #[inline(always)]
    pub(crate) fn all(&self, first: usize, count: usize) -> bool {
        let bit = first & 63;
        if bit + count <= 64 {
            let mask = word_mask(bit, count);
            return self.words()[first >> 6].load(Ordering::Relaxed) & mask == mask;
        }
        let last = first + count - 1;
        let [start, middle @ .., end] = &self.words()[first >> 6..=last >> 6] else { return false };
        let missing = !start.load(Ordering::Relaxed) >> bit | !end.load(Ordering::Relaxed) << (63 - (last & 63));
        middle.iter().fold(missing, |missing, word| missing | !word.load(Ordering::Relaxed)) == 0
    }

    /// Tells whether each of `lanes` has all bits of `count` set, at an aligned place that lies inside the map.
    #[inline(always)]
    pub(crate) fn all_aligned(&self, count: usize, places: impl Iterator<Item = usize>) -> bool {
        let (words, mut missing) = (self.words(), 0);
        for place in places {
            missing |= !words[place >> 6].load(Ordering::Relaxed) >> (place & 63) & word_mask(0, count);
        }
        missing == 0
    }

    /// Sets every bit of a non-empty range. Words that are set already are not written.
    #[inline(always)]
    pub(crate) fn set(&self, first: usize, count: usize) {
        for (word, mask) in self.pieces(first, count) {
            let cell = &self.words()[word];
            if cell.load(Ordering::Relaxed) & mask != mask {
                cell.fetch_or(mask, Ordering::Relaxed);
            }
        }
    }

    /// Clears every bit of a range.
    pub(crate) fn clear(&self, first: usize, count: usize) {
        for (word, mask) in self.pieces(first, count) {
            let cell = &self.words()[word];
            if cell.load(Ordering::Relaxed) & mask != 0 {
                cell.fetch_and(!mask, Ordering::Relaxed);
            }
        }
    }

    /// Finds the first clear bit of a range.
    pub(crate) fn first_clear(&self, first: usize, count: usize) -> Option<usize> {
        self.pieces(first, count).find_map(|(word, mask)| {
            let missing = !self.words()[word].load(Ordering::Relaxed) & mask;
            (missing != 0).then(|| word * 64 + missing.trailing_zeros() as usize)
        })
    }

    /// Copies `count` bits from `src` to `dst`; the ranges may overlap.
    pub(crate) fn copy(&self, dst: usize, src: usize, count: usize) {
        let get = |at: usize| {
            let (word, bit) = (at >> 6, at & 63);
            let low = self.words()[word].load(Ordering::Relaxed) >> bit;
            let high = self.words().get(word + 1).map_or(0, |w| w.load(Ordering::Relaxed));
            if bit == 0 { low } else { low | high << (64 - bit) }
        };
        let piece = |done: usize, bits: usize| {
            let value = get(src + done);
            for (word, mask) in self.pieces(dst + done, bits) {
                let shift = (word * 64).saturating_sub(dst + done);
                let placed = if shift > 0 { value >> shift } else { value << (dst + done - word * 64) };
                let cell = &self.words()[word];
                let old = cell.load(Ordering::Relaxed);
                cell.store(old & !mask | placed & mask, Ordering::Relaxed);
            }
        };
        let steps = count.div_ceil(64);
        let step = |i: usize| piece(i * 64, (count - i * 64).min(64));
        if dst <= src { (0..steps).for_each(step) } else { (0..steps).rev().for_each(step) }
    }

    /// Splits a range into (word index, mask of its bits).
    #[inline(always)]
    fn pieces(&self, first: usize, count: usize) -> impl Iterator<Item = (usize, u64)> {
        let end = first + count;
        let mut at = first;
        std::iter::from_fn(move || {
            (at < end).then(|| {
                let (word, bit) = (at >> 6, at & 63);
                let bits = (end - at).min(64 - bit);
                at += bits;
                (word, word_mask(bit, bits))
            })
        })
    }
}
