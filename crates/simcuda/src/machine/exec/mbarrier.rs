//! mbarriers: their state lies in the eight bytes of shared memory that the program gave them.
//!
//! Bits 0..20 arrivals still pending, 20..40 expected arrivals, 40..61 transaction bytes (signed), 61 phase, 63 valid.

use super::super::error::FaultKind;
use super::block::{Peer, WINDOW_SHIFT};
use super::undefined::Spread;
use super::{Block, Flow, Inst, Isa, LANES, Op, Warp};

const COUNT_MAX: u64 = (1 << 20) - 1;
const VALID: u64 = 1 << 63;

/// An mbarrier's state, unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    pending: u64,
    expected: u64,
    bytes: i64,
    phase: bool,
}

impl State {
    fn unpack(word: u64) -> Option<Self> {
        let bytes = (word << 3) as i64 >> 43;
        (word & VALID != 0).then_some(Self {
            pending: word & COUNT_MAX,
            expected: word >> 20 & COUNT_MAX,
            bytes,
            phase: word >> 61 & 1 == 1,
        })
    }

    fn pack(self) -> u64 {
        let bytes = (self.bytes as u64 & ((1 << 21) - 1)) << 40;
        VALID | self.pending | self.expected << 20 | bytes | u64::from(self.phase) << 61
    }

    /// Completes the phase if nothing is outstanding.
    fn settle(&mut self) {
        if self.pending == 0 && self.bytes == 0 {
            self.phase = !self.phase;
            self.pending = self.expected;
        }
    }
}

/// Finds an mbarrier's bytes; notes a fault if it is none of the cluster's.
fn find(b: &mut Block, lane: usize, address: u64) -> Result<(Peer, u32), ()> {
    match b.shared_at(address & ((1 << WINDOW_SHIFT) - 1), 8) {
        Some((peer, offset)) if offset % 8 == 0 => Ok((peer, offset)),
        _ => {
            b.fault(
                FaultKind::OutOfBounds,
                lane,
                Some(address),
                "expected an mbarrier in shared memory, 8-byte aligned".into(),
            );
            Err(())
        }
    }
}

/// Changes an mbarrier's state; `change` returns what was wrong.
fn update<R>(
    b: &mut Block,
    lane: usize,
    address: u64,
    change: impl FnOnce(&mut State) -> Result<R, String>,
) -> Result<R, ()> {
    let (peer, offset) = find(b, lane, address)?;
    // SAFETY: `find` gave 8 aligned bytes of shared memory of this worker's cluster.
    let place: *mut u64 = unsafe { peer.shared.add(offset as usize).cast() };
    // SAFETY: as above.
    let result = match State::unpack(unsafe { place.read() }) {
        None => Err("expected an initialised mbarrier".into()),
        Some(mut state) => {
            let result = change(&mut state);
            // SAFETY: as above.
            unsafe { place.write(state.pack()) };
            result
        }
    };
    b.cluster.progress();
    result.map_err(|message| {
        b.fault(FaultKind::MbarrierMisuse, lane, Some(address), message);
    })
}

fn arrive(state: &mut State, count: u64, drop: bool) -> Result<(), String> {
    if count > state.pending {
        return Err(format!("expected at most {} arrivals in this phase, got {count}", state.pending));
    }
    state.pending -= count;
    if drop {
        state.expected = state.expected.saturating_sub(count);
    }
    state.settle();
    Ok(())
}

/// The asynchronous proxy has written `bytes`.
pub(crate) fn complete_transaction(b: &mut Block, address: u64, bytes: u32, thread: u32) -> Result<(), ()> {
    update(b, thread as usize % LANES, address, |state| {
        state.bytes -= i64::from(bytes);
        state.settle();
        Ok(())
    })
}

/// An arrival that `cp.async.mbarrier.arrive` promised.
pub(crate) fn arrive_later(b: &mut Block, warp: u32, address: u64) -> Result<(), ()> {
    if b.checks {
        b.shadow.mbarrier_arrive(warp, key(address));
    }
    update(b, 0, address, |state| arrive(state, 1, false))
}

/// Raises the pending count for an arrival to come.
pub(crate) fn raise_pending(b: &mut Block, lane: usize, address: u64) -> Result<(), ()> {
    update(b, lane, address, |state| {
        state.pending += 1;
        Ok(())
    })
}

/// Under which name the shadow keeps an mbarrier's clock.
fn key(address: u64) -> u32 {
    address as u32 & 0xff_ffff
}

/// What an mbarrier form does.
pub(crate) const INIT: u8 = 0;
pub(crate) const INVAL: u8 = 1;
pub(crate) const ARRIVE: u8 = 2;
pub(crate) const ARRIVE_DROP: u8 = 3;
pub(crate) const ARRIVE_EXPECT: u8 = 4;
pub(crate) const EXPECT: u8 = 5;
pub(crate) const COMPLETE: u8 = 6;
pub(crate) const WAIT_PARITY: u8 = 7;
pub(crate) const WAIT_STATE: u8 = 8;
pub(crate) const PENDING_COUNT: u8 = 9;

/// An mbarrier form: the address is list entry `extra`, its operand (count, bytes, parity or state) the next; `dst` is a
/// 64-bit register or a predicate, used where `target` is 1.
pub(crate) struct Mbarrier<const OP: u8>;

impl<const OP: u8> Op for Mbarrier<OP> {
    const SPREAD: Spread = Spread::ListSink(2);

    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, b: &mut Block, i: &Inst) -> Flow {
        run_mbarrier(w, b, i, OP).unwrap_or(Flow::Fault)
    }
}

fn run_mbarrier(w: &mut Warp, b: &mut Block, i: &Inst, op: u8) -> Result<Flow, ()> {
    let (mut done, mut waiting) = (0u32, false);
    for lane in w.lanes() {
        let address = super::bulk::list_value(w, b, i.extra, lane).wrapping_add(i.imm as u64);
        let value = super::bulk::list_value(w, b, i.extra + 2, lane);
        match op {
            INIT => init(b, lane, address, value)?,
            INVAL => {
                update(b, lane, address, |_| Ok(()))?;
                write_word(b, lane, address, 0)?;
            }
            ARRIVE | ARRIVE_DROP | ARRIVE_EXPECT => {
                let before = arrive_now(w, b, lane, address, value, op)?;
                if i.target == 1 {
                    w.doubles_mut(i.dst)[lane] = before;
                }
            }
            EXPECT | COMPLETE => update(b, lane, address, |state| {
                state.bytes += if op == EXPECT { value as i64 } else { -(value as i64) };
                if op == COMPLETE {
                    state.settle();
                }
                Ok(())
            })?,
            PENDING_COUNT => w.words_mut(i.dst)[lane] = (address & COUNT_MAX) as u32,
            _ => {
                let phase = test(b, lane, address)?;
                let old = if op == WAIT_PARITY { value & 1 == 1 } else { value >> 61 & 1 == 1 };
                if phase != old {
                    done |= 1 << lane;
                    if b.checks {
                        b.shadow.mbarrier_wait(w.index, key(address));
                    }
                } else {
                    waiting = true;
                }
            }
        }
    }
    if matches!(op, WAIT_PARITY | WAIT_STATE) {
        w.set_pred(i.dst.0, done);
    }
    Ok(if waiting { Flow::Yield } else { Flow::Next })
}

fn init(b: &mut Block, lane: usize, address: u64, count: u64) -> Result<(), ()> {
    if count == 0 || count > COUNT_MAX {
        let message = format!("expected an arrival count of 1 to {COUNT_MAX}, got {count}");
        b.fault(FaultKind::MbarrierMisuse, lane, Some(address), message);
        return Err(());
    }
    write_word(b, lane, address, State { pending: count, expected: count, bytes: 0, phase: false }.pack())
}

fn write_word(b: &mut Block, lane: usize, address: u64, word: u64) -> Result<(), ()> {
    let (peer, offset) = find(b, lane, address)?;
    // SAFETY: `find` gave 8 aligned bytes of shared memory of this worker's cluster, whose shadow nobody else borrows.
    unsafe {
        peer.shared.add(offset as usize).cast::<u64>().write(word);
        if b.checks {
            (*peer.shadow).fill(offset, 8);
        }
    }
    Ok(())
}

/// Arrives and returns the state before, whose phase a later `test_wait` compares.
fn arrive_now(w: &Warp, b: &mut Block, lane: usize, address: u64, value: u64, op: u8) -> Result<u64, ()> {
    let (peer, offset) = find(b, lane, address)?;
    if b.checks && peer.shared == b.shared {
        b.shadow.mbarrier_arrive(w.index, offset);
    }
    update(b, lane, address, |state| {
        let before = state.pack();
        let count = if op == ARRIVE_EXPECT { 1 } else { value };
        if op == ARRIVE_EXPECT {
            state.bytes += value as i64;
        }
        arrive(state, count, op == ARRIVE_DROP).map(|()| before)
    })
}

fn test(b: &mut Block, lane: usize, address: u64) -> Result<bool, ()> {
    let (peer, offset) = find(b, lane, address)?;
    // SAFETY: `find` gave 8 aligned bytes of shared memory of this worker's cluster.
    match State::unpack(unsafe { peer.shared.add(offset as usize).cast::<u64>().read() }) {
        Some(state) => Ok(state.phase),
        None => {
            b.fault(FaultKind::MbarrierMisuse, lane, Some(address), "expected an initialised mbarrier".into());
            Err(())
        }
    }
}
