//! The closer look at accesses whose lanes do not form one run.

use super::super::check::shadow::{Access, Agent, Problem};
use super::super::checks::{Check, Level};
use super::super::error::FaultKind;
use super::block::{LOCAL_WINDOW, Note, SHARED_WINDOW, WINDOW_SHIFT};
use super::memory::{GLOBAL, SHARED, describe, report};
use super::{Block, Flow, LANES, Warp};

/// A write that conflicts with an earlier one unless it leaves the bytes as they are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Suspect {
    lane: usize,
    problem: Problem,
    place: *const u8,
    bytes: [u8; 16],
    size: usize,
}

/// What an address belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Global,
    Shared,
    Local,
    Param,
    Nothing,
}

fn kind_of(address: u64, space: u8) -> Kind {
    match space {
        SHARED => Kind::Shared,
        _ => match address >> WINDOW_SHIFT {
            0 => Kind::Global,
            1 => Kind::Shared,
            2 => Kind::Local,
            3 => Kind::Param,
            _ => Kind::Nothing,
        },
    }
}

/// Finds, checks and counts the places of all executing lanes; false if one of them has a fault.
pub(crate) fn locate(
    w: &Warp,
    b: &mut Block,
    addr: &[u64; LANES],
    space: u8,
    size: u32,
    kind: Access,
    pointers: &mut [*mut u8; LANES],
) -> bool {
    let (mut global, mut shared) = (0u32, 0u32);
    let bits = w.lanes().fold(0, |bits, lane| bits | addr[lane]);
    if space == GLOBAL && bits & u64::from(size - 1) == 0 && bits >> WINDOW_SHIFT == 0 {
        return locate_global(w, b, w.mask, addr, size, kind, pointers);
    }
    for lane in w.lanes() {
        let address = addr[lane];
        if address & u64::from(size - 1) != 0 {
            misaligned(b, lane, address, size, kind_of(address, space) == Kind::Global);
            return false;
        }
        let place = match kind_of(address, space) {
            Kind::Global => {
                global |= 1 << lane;
                continue;
            }
            Kind::Shared => {
                shared |= 1 << lane;
                continue;
            }
            Kind::Local => {
                let offset = address & ((1 << WINDOW_SHIFT) - 1);
                if !b.local_unwritten.is_empty() {
                    note_local(w, b, lane, offset, size, kind);
                }
                b.local_at(w, lane, offset, size)
            }
            Kind::Param if matches!(kind, Access::Read | Access::AtomicRead) => {
                let offset = (address & ((1 << WINDOW_SHIFT) - 1)) as usize;
                b.env.params.get(offset..offset.saturating_add(size as usize)).map(|p| p.as_ptr().cast_mut())
            }
            Kind::Param | Kind::Nothing => None,
        };
        match place {
            Some(p) => pointers[lane] = p,
            None => {
                outside(b, lane, address, size, "local memory or parameters");
                return false;
            }
        }
    }
    (global == 0 || locate_global(w, b, global, addr, size, kind, pointers))
        && (shared == 0 || locate_shared(w, b, shared, addr, size, kind, pointers))
}

/// Follows undefined values through local memory: a read finds them, a write ends them.
#[cold]
fn note_local(w: &Warp, b: &mut Block, lane: usize, offset: u64, size: u32, kind: Access) {
    let start = (w.index as usize * LANES + lane) * b.env.local_bytes as usize + offset as usize;
    let mut unwritten = 0;
    for byte in 0..size as usize {
        if kind == Access::Write {
            b.local_unwritten.remove(&(start + byte));
        } else if b.local_unwritten.contains(&(start + byte)) {
            unwritten |= 1 << byte;
        }
    }
    b.note_unwritten(lane, offset | LOCAL_WINDOW, unwritten);
}

#[cold]
fn misaligned(b: &mut Block, lane: usize, address: u64, size: u32, is_global: bool) {
    let (kind, _, allocation) = b.memory.diagnose(address, 1);
    // A null pointer is no better for an offset.
    let kind = match kind {
        FaultKind::OutOfBounds | FaultKind::UseAfterFree if is_global => kind,
        _ => FaultKind::Misaligned,
    };
    let message = format!("expected an address that is a multiple of {size}");
    b.fault_in(kind, lane, Some(address), allocation, message);
}

#[cold]
fn outside(b: &mut Block, lane: usize, address: u64, size: u32, what: &str) {
    b.fault(FaultKind::OutOfBounds, lane, Some(address), format!("expected {size} bytes inside {what}"));
}

/// Global lanes at aligned addresses.
fn locate_global(
    w: &Warp,
    b: &mut Block,
    lanes: u32,
    addr: &[u64; LANES],
    size: u32,
    kind: Access,
    pointers: &mut [*mut u8; LANES],
) -> bool {
    let (base, most, bytes) = (b.arena_base, b.arena_span - size as usize, size as usize);
    let (mut inside, mut last_sector, mut sectors, mut ordered) = (true, 0, 0, true);
    for lane in super::warp::Bits(lanes) {
        inside &= addr[lane].wrapping_sub(base) as usize <= most;
        pointers[lane] = addr[lane] as *mut u8;
        let sector = addr[lane] >> 5;
        ordered &= sector >= last_sector;
        sectors += u64::from(sector != last_sector);
        last_sector = sector;
    }
    let places = super::warp::Bits(lanes).map(|lane| addr[lane].wrapping_sub(base) as usize);
    let good = inside
        && (!b.checks
            || if kind == Access::Write {
                b.memory.are_valid(bytes, places.clone())
            } else {
                b.memory.are_initialized(bytes, places.clone())
            });
    if !good {
        for lane in super::warp::Bits(lanes) {
            if !is_good(b, addr[lane], bytes, kind) && !may_go_on(w, b, lane, addr[lane], size, kind) {
                return false;
            }
        }
    }
    if b.checks && kind == Access::Write && !b.memory.are_initialized(bytes, places.clone()) {
        places.filter(|&place| b.memory.is_valid(place, bytes)).for_each(|place| b.memory.mark_written(place, bytes));
    }
    if b.metered {
        let sectors = if ordered { sectors } else { distinct_sectors(lanes, addr) };
        b.counters.global(kind == Access::Write, u64::from(lanes.count_ones() * size), sectors);
    }
    true
}

/// Whether one lane's access lies in the arena and, with checks, in memory that it may touch.
#[cold]
fn is_good(b: &Block, address: u64, bytes: usize, kind: Access) -> bool {
    let offset = address.wrapping_sub(b.arena_base) as usize;
    let inside = offset <= b.arena_span - bytes;
    let may = |offset| {
        if kind == Access::Write { b.memory.is_valid(offset, bytes) } else { b.memory.is_initialized(offset, bytes) }
    };
    inside && (!b.checks || may(offset))
}

/// Counts the 32-byte sectors that lanes in any order touch; aligned accesses touch one each.
fn distinct_sectors(lanes: u32, addr: &[u64; LANES]) -> u64 {
    let (mut seen, mut count) = ([0u64; LANES], 0);
    for lane in super::warp::Bits(lanes) {
        let sector = addr[lane] >> 5;
        if !seen[..count].contains(&sector) {
            seen[count] = sector;
            count += 1;
        }
    }
    count as u64
}

/// A lane's access to global memory that is not in order; whether the kernel goes on with it.
#[cold]
fn may_go_on(w: &Warp, b: &mut Block, lane: usize, first: u64, size: u32, access: Access) -> bool {
    let bytes = size as usize;
    let (kind, address, allocation) = b.memory.diagnose(first, bytes);
    let message = match kind {
        FaultKind::Uninitialized => format!("expected {size} bytes that were written, got memory that nothing wrote"),
        FaultKind::UseAfterFree => format!("expected {size} bytes of a live allocation, got a freed one"),
        _ => format!("expected {size} bytes inside an allocation"),
    };
    let note = Note { kind, lane, address: Some(address), allocation, message };
    let offset = first.wrapping_sub(b.arena_base) as usize;
    if offset > b.arena_span - bytes {
        // There is no memory to go on with.
        b.note = Some(Box::new(note));
        return false;
    }
    match kind {
        FaultKind::Uninitialized if access == Access::Atomic => !b.found(w, Check::Init, 1, note),
        FaultKind::Uninitialized => {
            let unwritten = b.memory.unwritten(offset, bytes);
            may_read_unwritten(w, b, note, first, unwritten)
        }
        _ => !b.found(w, Check::Bounds, 1, note),
    }
}

/// A read of bytes that nothing wrote; whether the kernel goes on with it, in which case the values are followed.
fn may_read_unwritten(w: &Warp, b: &mut Block, note: Note, address: u64, unwritten: u16) -> bool {
    let lane = note.lane;
    if b.found(w, Check::Load, 1, note) {
        return false;
    }
    if b.levels.is_on(Check::Init) {
        b.note_unwritten(lane, address, unwritten);
    }
    true
}

/// Shared lanes, of this block and others of its cluster.
fn locate_shared(
    w: &Warp,
    b: &mut Block,
    lanes: u32,
    addr: &[u64; LANES],
    size: u32,
    kind: Access,
    pointers: &mut [*mut u8; LANES],
) -> bool {
    let mut offsets = [0u32; LANES];
    let mut own = 0u32;
    for lane in super::warp::Bits(lanes) {
        let address = addr[lane] & ((1 << WINDOW_SHIFT) - 1);
        let Some((peer, offset)) = b.shared_at(address, size) else {
            outside(b, lane, address, size, &format!("the block's {} bytes of shared memory", b.shared_bytes));
            return false;
        };
        offsets[lane] = offset;
        // SAFETY: `shared_at` found the bytes inside the peer's shared memory.
        pointers[lane] = unsafe { peer.shared.add(offset as usize) };
        if !b.checks || peer.shared != b.shared {
            continue;
        }
        own |= 1 << lane;
        let agent = Agent { warp: w.index, lane: lane as u32 };
        for problem in b.shadow.problems(kind, agent, offset, size) {
            let goes_on = match problem {
                Problem::Uninitialized(_) => unwritten_shared(w, b, lane, problem, kind, address, offset, size),
                Problem::Overwrite { .. } if size <= 16 => suspect(b, lane, problem, pointers[lane], size),
                _ => !report(w, b, lane, problem),
            };
            if !goes_on {
                return false;
            }
        }
    }
    if b.checks {
        for lane in super::warp::Bits(own) {
            let agent = Agent { warp: w.index, lane: lane as u32 };
            b.shadow.record(kind, agent, offsets[lane], size);
        }
        if matches!(kind, Access::Write | Access::Atomic) {
            for lane in super::warp::Bits(lanes & !own) {
                record_remote(b, addr[lane], size);
            }
        }
    }
    if b.metered {
        let (passes, ideal) = bank_passes(lanes, &offsets, size);
        b.counters.shared(passes, ideal);
    }
    true
}

/// A write into another block's shared memory counts as initialised and unordered with nothing.
fn record_remote(b: &mut Block, address: u64, size: u32) {
    if let Some((peer, offset)) = b.shared_at(address & ((1 << WINDOW_SHIFT) - 1), size) {
        // SAFETY: the peer's block belongs to this cluster, which this worker alone runs; it is another block than `b`.
        unsafe { (*peer.shadow).fill(offset, size) };
    }
}

/// A lane's access to shared memory that nothing wrote; whether the kernel goes on with it.
#[cold]
fn unwritten_shared(
    w: &Warp,
    b: &mut Block,
    lane: usize,
    problem: Problem,
    kind: Access,
    address: u64,
    offset: u32,
    size: u32,
) -> bool {
    let note = describe(lane, problem);
    if kind == Access::Atomic {
        return !b.found(w, Check::Init, 1, note);
    }
    if b.levels.of(Check::Load) == Level::Fatal && kind == Access::Read && b.env.threads() > 32 {
        // It shows at the next barrier whether another warp was about to write it.
        b.deferred.get_or_insert_with(|| Box::new((note, w.index, w.pc)));
        return true;
    }
    let unwritten = b.shadow.unwritten(offset, size);
    may_read_unwritten(w, b, note, address | SHARED_WINDOW, unwritten)
}

/// Keeps an overwrite for [`settle`].
fn suspect(b: &mut Block, lane: usize, problem: Problem, place: *mut u8, size: u32) -> bool {
    let mut bytes = [0; 16];
    // SAFETY: place has `size` readable bytes, at most 16.
    unsafe { std::ptr::copy_nonoverlapping(place, bytes.as_mut_ptr(), size as usize) };
    b.suspects.push(Suspect { lane, problem, place, bytes, size: size as usize });
    true
}

/// After a store: reports overwrites that changed what another thread wrote.
#[inline(always)]
pub(crate) fn settle(w: &Warp, b: &mut Block) -> Flow {
    if b.suspects.is_empty() { Flow::Next } else { settle_suspects(w, b) }
}

#[cold]
fn settle_suspects(w: &Warp, b: &mut Block) -> Flow {
    let suspects = std::mem::take(&mut b.suspects);
    for s in suspects {
        let mut now = [0; 16];
        // SAFETY: place was found with `size` readable bytes when the suspect was made, in the same instruction.
        unsafe { std::ptr::copy_nonoverlapping(s.place, now.as_mut_ptr(), s.size) };
        if now != s.bytes && report(w, b, s.lane, s.problem) {
            return Flow::Fault;
        }
    }
    Flow::Next
}

/// Passes over the banks that an access takes, and how many it would take without conflicts.
///
/// Lanes are served in groups that ask for at most 128 bytes; in a group each bank serves one word a pass.
pub(super) fn bank_passes(lanes: u32, offsets: &[u32; LANES], size: u32) -> (u64, u64) {
    let per_group = (128 / size).min(32);
    let (mut passes, mut ideal) = (0, 0);
    for group in 0..32 / per_group {
        let mask = lanes >> (group * per_group) & (u32::MAX >> (32 - per_group));
        if mask == 0 {
            continue;
        }
        ideal += 1;
        passes += u64::from(group_passes(mask, group * per_group, offsets, size));
    }
    (passes, ideal)
}

fn group_passes(mask: u32, first: u32, offsets: &[u32; LANES], size: u32) -> u32 {
    // Per bank: the words it has to serve, as a count and the last few.
    let (mut counts, mut seen) = ([0u8; 32], [[u32::MAX; 4]; 32]);
    for lane in super::warp::Bits(mask) {
        let offset = offsets[lane + first as usize];
        for word in offset >> 2..=(offset + size - 1) >> 2 {
            let bank = word as usize & 31;
            if !seen[bank].contains(&word) {
                seen[bank][counts[bank] as usize & 3] = word;
                counts[bank] += 1;
            }
        }
    }
    counts.iter().copied().max().unwrap_or(0).max(1).into()
}
