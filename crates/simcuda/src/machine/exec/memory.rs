//! Loads and stores of every space, and the checks and counters on their way.

use std::marker::PhantomData;

use super::super::check::shadow::{Access, Problem};
use super::super::checks::Check;
use super::super::error::FaultKind;
use super::block::{Note, WINDOW_SHIFT};
use super::shared;
use super::undefined::{self, Spread, Unwritten};
use super::{ALL, Block, Flow, Inst, Isa, LANES, Lane, Op, Slot, Warp};

/// Kinds of addresses, as const parameters: 64 bits of global memory, 32 bits of shared memory, 64 bits of any.
pub(crate) const GLOBAL: u8 = 0;
pub(crate) const SHARED: u8 = 1;
pub(crate) const GENERIC: u8 = 2;

/// Flag in an instruction's `target`: the access synchronises (volatile, relaxed, acquire, release).
pub(crate) const SYNCHRONISING: u32 = 1;
/// Window that an instruction's `target` adds to generic addresses from this bit on: local memory, parameters, and shared
/// memory by 64-bit addresses are reached as generic ones.
pub(crate) const TARGET_WINDOW_SHIFT: u32 = 8;

/// A memory element: how many bytes it has and how it fills a register.
pub(crate) trait Element: Copy {
    /// The register's lane: 32 or 64 bits.
    type Word: Lane;
    const BYTES: usize;
    /// # Safety
    /// `p` must be valid for reading [`Self::BYTES`].
    unsafe fn load(p: *const u8) -> Self::Word;
    /// # Safety
    /// `p` must be valid for writing [`Self::BYTES`].
    unsafe fn store(p: *mut u8, value: Self::Word);
}

macro_rules! element {
    ($($t:ty, $word:ty, $via:ty;)*) => {$(
        impl Element for $t {
            type Word = $word;
            const BYTES: usize = size_of::<$t>();
            #[inline(always)]
            unsafe fn load(p: *const u8) -> $word {
                // SAFETY: as this function demands.
                (unsafe { p.cast::<$t>().read_unaligned() }) as $via as $word
            }
            #[inline(always)]
            unsafe fn store(p: *mut u8, value: $word) {
                // SAFETY: as this function demands.
                unsafe { p.cast::<$t>().write_unaligned(value as $t) }
            }
        }
    )*};
}
element! { u8, u32, u32; i8, u32, i32; u16, u32, u32; i16, u32, i32; u32, u32, u32; u64, u64, u64; }

/// Where an access goes once it has been found in order.
pub(crate) enum Plan {
    /// All lanes, one behind the other.
    Run(*mut u8),
    /// All lanes at one place.
    Same(*mut u8),
    /// Each executing lane at its pointer.
    Scatter,
    Fault,
}

/// Addresses of the lanes as 64 bits.
#[inline(always)]
pub(crate) fn addresses<const SPACE: u8>(w: &Warp, i: &Inst) -> [u64; LANES] {
    let mut out = [0; LANES];
    if SPACE == SHARED {
        let a = w.words(i.a);
        for lane in 0..LANES {
            out[lane] = u64::from(a[lane].wrapping_add(i.imm as u32));
        }
    } else {
        let window = if SPACE == GENERIC { u64::from(i.target >> TARGET_WINDOW_SHIFT) << WINDOW_SHIFT } else { 0 };
        let a = w.doubles(i.a);
        for lane in 0..LANES {
            out[lane] = a[lane].wrapping_add(i.imm as u64) | window;
        }
    }
    out
}

/// Finds the places of an access of `SIZE` bytes per lane, checks them and counts them.
#[inline(always)]
pub(crate) fn plan<I: Isa, const SPACE: u8, const SIZE: usize>(
    w: &Warp,
    b: &mut Block,
    i: &Inst,
    kind: Access,
    pointers: &mut [*mut u8; LANES],
) -> Plan {
    let addr = addresses::<SPACE>(w, i);
    if w.mask == ALL {
        let first = addr[0];
        let (mut run, mut same) = (0, 0);
        for lane in 0..LANES {
            run |= addr[lane] ^ first.wrapping_add((lane * SIZE) as u64);
            same |= addr[lane] ^ first;
        }
        let in_shared = SPACE == SHARED || SPACE == GENERIC && first >> WINDOW_SHIFT != 0;
        if run == 0 {
            let found = if in_shared {
                shared::run::<SIZE>(w, b, first, kind)
            } else {
                global_run(b, first, SIZE, LANES, kind)
            };
            if let Some(p) = found {
                return Plan::Run(p);
            }
        } else if same == 0
            && kind == Access::Read
            && let Some(p) =
                if in_shared { shared::same::<SIZE>(w, b, first) } else { global_run(b, first, SIZE, 1, kind) }
        {
            return Plan::Same(p);
        }
    }
    if SPACE != GLOBAL && shared::lanes::<SIZE>(w, b, &addr, SPACE == GENERIC, kind, pointers) {
        return Plan::Scatter;
    }
    if super::scatter::locate(w, b, &addr, SPACE, SIZE as u32, kind, pointers) { Plan::Scatter } else { Plan::Fault }
}

/// Checks a run of lanes in global memory; `None` sends it to the closer look of single lanes.
#[inline(always)]
fn global_run(b: &mut Block, first: u64, size: usize, lanes: usize, kind: Access) -> Option<*mut u8> {
    let (offset, bytes) = (first.wrapping_sub(b.arena_base) as usize, size * lanes);
    if offset > b.arena_span - bytes || first & (size as u64 - 1) != 0 {
        return None;
    }
    if b.checks {
        if kind == Access::Write {
            if !b.memory.is_valid(offset, bytes) {
                return None;
            }
            b.memory.mark_written(offset, bytes);
        } else if !b.memory.is_initialized(offset, bytes) {
            return None;
        }
    }
    if b.metered {
        let sectors = ((first + bytes as u64 - 1) >> 5) - (first >> 5) + 1;
        b.counters.global(kind == Access::Write, (size * LANES) as u64, sectors);
    }
    Some(first as *mut u8)
}

/// What a problem of the shadow is for one lane.
#[cold]
pub(crate) fn describe(lane: usize, problem: Problem) -> Note {
    let thread = |warp: u32, lane: u32| warp * LANES as u32 + lane;
    let (kind, at, message) = match problem {
        Problem::Uninitialized(at) => {
            (FaultKind::Uninitialized, at, "expected written shared memory, got bytes that nothing wrote".into())
        }
        Problem::Pending(at) => (
            FaultKind::AsyncNotWaited,
            at,
            "expected a wait for the asynchronous copy into shared memory, got none".into(),
        ),
        Problem::Race { at, warp, lane, wrote } => {
            let (did, thread) = (if wrote { "write" } else { "read" }, thread(warp, lane));
            let message =
                format!("expected a barrier between this access to shared memory and the {did} of thread {thread}");
            (FaultKind::SharedRace, at, message)
        }
        Problem::Overwrite { at, warp, lane } => {
            let thread = thread(warp, lane);
            let message =
                format!("expected a barrier between this write to shared memory and the write of thread {thread}");
            (FaultKind::SharedRace, at, message)
        }
        Problem::Unfenced { at, warp, lane } => {
            let thread = thread(warp, lane);
            let message =
                format!("expected fence.proxy.async between the write of thread {thread} and this read, got none");
            (FaultKind::MissingProxyFence, at, message)
        }
    };
    Note { kind, lane, address: Some(at.into()), allocation: None, message }
}

/// Takes a problem of the shadow for one lane; true if it stops the kernel.
#[cold]
pub(crate) fn report(w: &Warp, b: &mut Block, lane: usize, problem: Problem) -> bool {
    let note = describe(lane, problem);
    Check::of(note.kind).is_none_or(|check| b.found(w, check, 1, note))
}

fn access_kind(i: &Inst, write: bool) -> Access {
    match (i.target & SYNCHRONISING != 0, write) {
        (false, false) => Access::Read,
        (false, true) => Access::Write,
        (true, false) => Access::AtomicRead,
        (true, true) => Access::Atomic,
    }
}

/// A load of `V` elements per lane.
pub(crate) struct Load<T, const V: usize, const SIZE: usize, const SPACE: u8>(PhantomData<T>);

/// Slot of element `v` of an access.
#[inline(always)]
fn part<const V: usize>(b: &Block, i: &Inst, v: usize) -> Slot {
    if V == 1 { i.dst } else { b.slot(i.extra + v as u32) }
}

/// Reads `V` elements of every lane that lie one behind the other.
///
/// # Safety
/// `p` must be valid for reading `LANES * SIZE` bytes.
#[inline(always)]
unsafe fn load_run<I: Isa, T: Element, const V: usize, const SIZE: usize>(p: *const u8) -> [[T::Word; LANES]; V] {
    let mut rows = [[T::Word::default(); LANES]; V];
    #[cfg(target_arch = "x86_64")]
    if I::AVX2 && SIZE == 16 && T::BYTES == 4 {
        // Four lanes of four words are transposed at a time.
        use std::arch::x86_64::*;
        for part in 0..LANES / 4 {
            // SAFETY: compiled for and run with AVX2; the caller vouches for the source, and each row has LANES words.
            unsafe {
                let lane = |n: usize| _mm_loadu_si128(p.add((part * 4 + n) * 16).cast());
                let (a, b, c, d) = (lane(0), lane(1), lane(2), lane(3));
                let (ab_low, ab_high) = (_mm_unpacklo_epi32(a, b), _mm_unpackhi_epi32(a, b));
                let (cd_low, cd_high) = (_mm_unpacklo_epi32(c, d), _mm_unpackhi_epi32(c, d));
                let columns = [
                    _mm_unpacklo_epi64(ab_low, cd_low),
                    _mm_unpackhi_epi64(ab_low, cd_low),
                    _mm_unpacklo_epi64(ab_high, cd_high),
                    _mm_unpackhi_epi64(ab_high, cd_high),
                ];
                for (row, column) in rows.iter_mut().zip(columns) {
                    _mm_storeu_si128(row.as_mut_ptr().cast::<u8>().add(part * 16).cast(), column);
                }
            }
        }
        return rows;
    }
    for lane in 0..LANES {
        for v in 0..V {
            // SAFETY: the caller vouches for the whole run.
            rows[v][lane] = unsafe { T::load(p.add(lane * SIZE + v * T::BYTES)) };
        }
    }
    rows
}

/// Marks what a load has read that nothing wrote in its destinations.
#[cold]
fn note_loaded<T: Element, const V: usize>(w: &mut Warp, b: &Block, i: &Inst, unwritten: &Unwritten) {
    undefined::loaded(w, b, unwritten);
    for v in 0..V {
        let mut bits = [T::Word::default(); LANES];
        for lane in w.lanes() {
            // SAFETY: the array has 16 bytes, which no access exceeds.
            bits[lane] = unsafe { T::load(unwritten.as_bytes(lane).as_ptr().add(v * T::BYTES)) };
        }
        let slot = part::<V>(b, i, v);
        if slot.row_number() != 0 {
            T::Word::write(w, slot.twin(), bits);
        }
    }
}

impl<T: Element, const V: usize, const SIZE: usize, const SPACE: u8> Op for Load<T, V, SIZE, SPACE> {
    const SPREAD: Spread = Spread::Load(V as u8);

    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, b: &mut Block, i: &Inst) -> Flow {
        let mut pointers = [std::ptr::null_mut(); LANES];
        let plan = plan::<I, SPACE, SIZE>(w, b, i, access_kind(i, false), &mut pointers);
        let mut rows = [[T::Word::default(); LANES]; V];
        match plan {
            // SAFETY: `plan` found LANES * SIZE readable bytes behind p.
            Plan::Run(p) => rows = unsafe { load_run::<I, T, V, SIZE>(p) },
            Plan::Same(p) => {
                for v in 0..V {
                    // SAFETY: `plan` found SIZE = V * BYTES readable bytes at p.
                    rows[v] = [unsafe { T::load(p.add(v * T::BYTES)) }; LANES];
                }
            }
            Plan::Scatter => {
                for lane in w.lanes() {
                    for v in 0..V {
                        // SAFETY: `locate` found SIZE readable bytes for every executing lane.
                        rows[v][lane] = unsafe { T::load(pointers[lane].add(v * T::BYTES)) };
                    }
                }
                if let Some(unwritten) = b.unwritten.take() {
                    note_loaded::<T, V>(w, b, i, &unwritten);
                    for v in 0..V {
                        T::Word::write(w, part::<V>(b, i, v), rows[v]);
                    }
                    return Flow::Undefined;
                }
            }
            Plan::Fault => return Flow::Fault,
        }
        for v in 0..V {
            T::Word::write(w, part::<V>(b, i, v), rows[v]);
        }
        Flow::Next
    }
}

/// A store of `V` elements per lane.
pub(crate) struct Store<T, const V: usize, const SIZE: usize, const SPACE: u8>(PhantomData<T>);

impl<T: Element, const V: usize, const SIZE: usize, const SPACE: u8> Op for Store<T, V, SIZE, SPACE> {
    const SPREAD: Spread = Spread::Store { parts: V as u8, bytes: T::BYTES as u8, space: SPACE };

    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, b: &mut Block, i: &Inst) -> Flow {
        let mut pointers = [std::ptr::null_mut(); LANES];
        let kind = access_kind(i, true);
        let plan = plan::<I, SPACE, SIZE>(w, b, i, kind, &mut pointers);
        let mut rows = [[T::Word::default(); LANES]; V];
        for v in 0..V {
            rows[v] = T::Word::read(w, part::<V>(b, i, v));
        }
        if kind == Access::Atomic {
            std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        }
        match plan {
            Plan::Run(p) => {
                for lane in 0..LANES {
                    for v in 0..V {
                        // SAFETY: `plan` found SIZE = V * BYTES writable bytes for each lane behind p.
                        unsafe { T::store(p.add(lane * SIZE + v * T::BYTES), rows[v][lane]) };
                    }
                }
            }
            Plan::Fault => return Flow::Fault,
            Plan::Same(_) | Plan::Scatter => {
                for lane in w.lanes() {
                    for v in 0..V {
                        // SAFETY: `locate` found SIZE writable bytes for every executing lane.
                        unsafe { T::store(pointers[lane].add(v * T::BYTES), rows[v][lane]) };
                    }
                }
                return super::scatter::settle(w, b);
            }
        }
        Flow::Next
    }
}
