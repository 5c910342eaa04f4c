//! The allocation table: live ranges, free extents, and freed ranges in quarantine.

use std::collections::{BTreeMap, VecDeque};

use super::map::Mapping;

/// Alignment of every allocation, as on the real device.
const ALIGN_BYTES: usize = 256;
/// Bytes after each allocation that are never handed out.
const RED_ZONE_BYTES: usize = 256;
/// Freed ranges of at least this size give their pages back when they leave the quarantine.
const RELEASE_BYTES: usize = 1 << 16;

/// Space an allocation takes with its rounding and red zone.
fn extent(bytes: usize) -> Option<usize> {
    bytes.checked_next_multiple_of(ALIGN_BYTES)?.checked_add(RED_ZONE_BYTES)
}

pub(super) struct Table {
    capacity_bytes: usize,
    used_bytes: usize,
    /// offset -> size asked for
    live: BTreeMap<usize, usize>,
    /// offset -> length of free extents, never adjacent
    free: BTreeMap<usize, usize>,
    /// offset -> size asked for, of freed ranges whose space is not used again yet
    resting: BTreeMap<usize, usize>,
    quarantine: VecDeque<usize>,
    quarantine_bytes: usize,
}

impl Table {
    pub(super) fn new(span: usize, capacity_bytes: usize) -> Self {
        // The first extent stays unused, so that the red zone lies on both sides of every allocation.
        let free = BTreeMap::from([(ALIGN_BYTES, span - ALIGN_BYTES)]);
        Self {
            capacity_bytes,
            used_bytes: 0,
            live: BTreeMap::new(),
            free,
            resting: BTreeMap::new(),
            quarantine: VecDeque::new(),
            quarantine_bytes: 0,
        }
    }

    pub(super) fn used_bytes(&self) -> usize {
        self.used_bytes
    }

    pub(super) fn live_size(&self, offset: usize) -> Option<usize> {
        self.live.get(&offset).copied()
    }

    /// The live range that holds `offset`.
    pub(super) fn live_around(&self, offset: usize) -> Option<(usize, usize)> {
        let (&start, &bytes) = self.live.range(..=offset).next_back()?;
        (offset < start + bytes).then_some((start, bytes))
    }

    /// The live or freed range that holds `offset` or else lies nearest: (start, size, freed).
    pub(super) fn nearest(&self, offset: usize) -> Option<(usize, usize, bool)> {
        let around = |map: &BTreeMap<usize, usize>, freed: bool| {
            let below = map.range(..=offset).next_back().map(|(&s, &b)| (offset.saturating_sub(s + b), s, b, freed));
            let above = map.range(offset..).next().map(|(&s, &b)| (s - offset, s, b, freed));
            [below, above]
        };
        let all = [around(&self.live, false), around(&self.resting, true)];
        let best = all.into_iter().flatten().flatten().min_by_key(|&(distance, ..)| distance)?;
        Some((best.1, best.2, best.3))
    }

    pub(super) fn alloc(&mut self, bytes: usize, data: &Mapping) -> Option<usize> {
        let need = extent(bytes).filter(|_| bytes > 0)?;
        if bytes.next_multiple_of(ALIGN_BYTES) > self.capacity_bytes - self.used_bytes {
            return None;
        }
        // A quarter of the capacity rests at most; the oldest goes first.
        while self.quarantine_bytes > self.capacity_bytes / 4 {
            self.wake_oldest(data);
        }
        let offset = loop {
            if let Some((&offset, _)) = self.free.iter().find(|&(_, &len)| len >= need) {
                break offset;
            }
            if !self.wake_oldest(data) {
                return None;
            }
        };
        let len = self.free.remove(&offset)?;
        if len > need {
            self.free.insert(offset + need, len - need);
        }
        self.live.insert(offset, bytes);
        self.used_bytes += bytes.next_multiple_of(ALIGN_BYTES);
        Some(offset)
    }

    pub(super) fn free(&mut self, offset: usize) {
        if let Some(bytes) = self.live.remove(&offset) {
            self.used_bytes -= bytes.next_multiple_of(ALIGN_BYTES);
            self.resting.insert(offset, bytes);
            self.quarantine.push_back(offset);
            self.quarantine_bytes += bytes;
        }
    }

    /// Returns the oldest resting range to the free extents; false if none rests.
    fn wake_oldest(&mut self, data: &Mapping) -> bool {
        let Some(offset) = self.quarantine.pop_front() else { return false };
        let bytes = self.resting.remove(&offset).unwrap_or(0);
        self.quarantine_bytes -= bytes;
        if bytes >= RELEASE_BYTES {
            data.release_pages(offset, bytes);
        }
        let (mut start, mut end) = (offset, offset + extent(bytes).unwrap_or(0));
        if let Some((&before, &len)) = self.free.range(..start).next_back()
            && before + len == start
        {
            self.free.remove(&before);
            start = before;
        }
        if let Some(len) = self.free.remove(&end) {
            end += len;
        }
        self.free.insert(start, end - start);
        true
    }
}
