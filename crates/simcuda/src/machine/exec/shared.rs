//! The fast ways into the block's own shared memory, for accesses of whole words that nothing speaks against.

use super::super::check::shadow::Access;
use super::block::{SHARED_WINDOW, WINDOW_SHIFT};
use super::{Block, LANES, Warp};

/// Offset of an address in the block's own shared memory, if `bytes` fit there; generic addresses carry the window.
#[inline(always)]
fn offset_of<const SIZE: usize>(b: &Block, address: u64, bytes: usize) -> Option<usize> {
    let offset = (address & (SHARED_WINDOW - 1)) as usize;
    let inside = offset + bytes <= b.shared_bytes as usize && offset & (SIZE - 1) == 0;
    // Other windows have no fast way.
    (address >> WINDOW_SHIFT <= 1 && inside).then_some(offset)
}

/// All lanes, one behind the other from `first`; `None` sends them to the closer look.
#[inline(always)]
pub(super) fn run<const SIZE: usize>(w: &Warp, b: &mut Block, first: u64, kind: Access) -> Option<*mut u8> {
    let offset = offset_of::<SIZE>(b, first, SIZE * LANES)?;
    let write = kind == Access::Write;
    if b.checks {
        if !matches!(kind, Access::Read | Access::Write) {
            return None;
        }
        let ordered = match SIZE {
            4 => b.shadow.access_run::<1>(write, w.index, offset / 4),
            8 => b.shadow.access_run::<2>(write, w.index, offset / 4),
            16 => b.shadow.access_run::<4>(write, w.index, offset / 4),
            _ => false,
        };
        if !ordered {
            return None;
        }
    }
    if b.metered {
        let passes = (SIZE as u64 * LANES as u64).div_ceil(128);
        b.counters.shared(passes, passes);
    }
    // SAFETY: the range lies in the block's shared memory.
    Some(unsafe { b.shared.add(offset) })
}

/// All lanes read the same place.
#[inline(always)]
pub(super) fn same<const SIZE: usize>(w: &Warp, b: &mut Block, first: u64) -> Option<*mut u8> {
    let offset = offset_of::<SIZE>(b, first, SIZE)?;
    if b.checks {
        let ordered = match SIZE {
            4 => b.shadow.read_same::<1>(w.index, offset / 4),
            8 => b.shadow.read_same::<2>(w.index, offset / 4),
            16 => b.shadow.read_same::<4>(w.index, offset / 4),
            _ => false,
        };
        if !ordered {
            return None;
        }
    }
    if b.metered {
        let groups = (SIZE as u64 * LANES as u64).div_ceil(128);
        b.counters.shared(groups, groups);
    }
    // SAFETY: the place lies in the block's shared memory.
    Some(unsafe { b.shared.add(offset) })
}

/// Each executing lane at a place of its own; false sends them to the closer look.
#[inline(always)]
pub(super) fn lanes<const SIZE: usize>(
    w: &Warp,
    b: &mut Block,
    addr: &[u64; LANES],
    generic: bool,
    kind: Access,
    pointers: &mut [*mut u8; LANES],
) -> bool {
    if SIZE < 4 || !matches!(kind, Access::Read | Access::Write) || (b.shared_bytes as usize) < SIZE {
        return false;
    }
    let window = if generic { SHARED_WINDOW } else { 0 };
    let (most, mut bad, mut offsets) = (u64::from(b.shared_bytes) - SIZE as u64, 0u64, [0u32; LANES]);
    for lane in 0..LANES {
        let offset = addr[lane].wrapping_sub(window);
        // The sign of the difference says whether the offset lies beyond the last place.
        let beyond = most.wrapping_sub(offset) >> 63 | offset >> 32 | offset & (SIZE as u64 - 1);
        bad |= beyond & u64::from(w.mask >> lane & 1).wrapping_neg();
        offsets[lane] = offset as u32;
        pointers[lane] = b.shared.wrapping_add(offset as u32 as usize);
    }
    if bad != 0 || b.checks && !ordered::<SIZE>(w, b, &offsets, kind == Access::Write) {
        return false;
    }
    if b.metered {
        let (passes, ideal) = passes::<SIZE>(w.mask, &offsets);
        b.counters.shared(passes, ideal);
    }
    true
}

/// Checks and marks the lanes.
#[inline(always)]
fn ordered<const SIZE: usize>(w: &Warp, b: &mut Block, offsets: &[u32; LANES], write: bool) -> bool {
    match (SIZE, write) {
        (4, false) => b.shadow.read_lanes::<1>(w.index, w.lanes(), offsets),
        (8, false) => b.shadow.read_lanes::<2>(w.index, w.lanes(), offsets),
        (_, false) => b.shadow.read_lanes::<4>(w.index, w.lanes(), offsets),
        (4, true) => b.shadow.write_lanes::<1>(w.index, w.lanes(), offsets),
        (8, true) => b.shadow.write_lanes::<2>(w.index, w.lanes(), offsets),
        (_, true) => b.shadow.write_lanes::<4>(w.index, w.lanes(), offsets),
    }
}

/// Passes over the banks, and how many there would be without conflicts: lanes are served in groups that ask for 128 bytes.
#[inline(always)]
fn passes<const SIZE: usize>(mask: u32, offsets: &[u32; LANES]) -> (u64, u64) {
    let group = 128 / SIZE;
    let mut groups = 0;
    for first in (0..LANES).step_by(group) {
        // Each lane of a group is alone on its banks if all their places modulo 128 differ.
        let active = mask >> first & (u32::MAX >> (32 - group));
        let mut places = 0u32;
        for lane in 0..group {
            let place = offsets[first + lane] / SIZE as u32 & (group as u32 - 1);
            places |= (active >> lane & 1) << place;
        }
        if places.count_ones() != active.count_ones() {
            return super::scatter::bank_passes(mask, offsets, SIZE as u32);
        }
        groups += u64::from(active != 0);
    }
    (groups, groups)
}
