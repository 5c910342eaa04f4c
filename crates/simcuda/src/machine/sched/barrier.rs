//! The sixteen barriers of a block.

use super::super::exec::barriers::{BARRIER_COUNTED, BARRIER_REDUCE_SHIFT, REDUCE_AND, REDUCE_OR, REDUCE_POPC};
use super::super::exec::{ALL, Block, Warp};
use super::group::State;

/// Barriers of a block.
const BARRIERS: usize = 16;

/// Lanes that arrive together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    /// Threads that count towards `wanted`.
    pub threads: u32,
    /// Lanes that did arrive.
    pub lanes: u32,
    /// Lanes whose predicate holds.
    pub yes: u32,
    /// Threads that open the barrier; all of the block if not given.
    pub wanted: Option<u32>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    threads: u32,
    lanes: u32,
    yes: u32,
    wanted: Option<u32>,
}

/// What has arrived at each barrier.
#[derive(Clone, Debug, Default)]
pub(crate) struct Barriers {
    slots: [Slot; BARRIERS],
    /// Barriers with arrivals, as bits.
    busy: u32,
}

impl Barriers {
    /// Takes an arrival; the message says what was wrong with it.
    pub(crate) fn arrive(&mut self, id: u32, arrival: Arrival) -> Result<(), String> {
        let Some(slot) = self.slots.get_mut(id as usize) else {
            return Err(format!("expected a barrier below {BARRIERS}, got {id}"));
        };
        if arrival.wanted.is_some_and(|n| n == 0 || n % 32 != 0) {
            return Err(format!(
                "expected a barrier count that is a multiple of 32, got {}",
                arrival.wanted.unwrap_or(0)
            ));
        }
        if slot.lanes > 0 && slot.wanted != arrival.wanted {
            return Err(format!("expected the same count from all who meet at barrier {id}, got another"));
        }
        slot.threads += arrival.threads;
        slot.lanes += arrival.lanes;
        slot.yes += arrival.yes;
        slot.wanted = arrival.wanted;
        self.busy |= 1 << id;
        if slot.wanted.is_some_and(|n| slot.threads > n) {
            return Err(format!("expected {} threads at barrier {id}, got {}", slot.wanted.unwrap_or(0), slot.threads));
        }
        Ok(())
    }

    /// How many lanes wait at a barrier.
    pub(crate) fn arrived(&self, id: u32) -> u32 {
        self.slots.get(id as usize).map_or(0, |slot| slot.lanes)
    }

    /// Whether any barrier has arrivals.
    #[inline(always)]
    pub(crate) fn is_busy(&self) -> bool {
        self.busy != 0
    }
}

/// Opens the barriers whose threads have all arrived; true if one opened.
pub(crate) fn open_ready(b: &mut Block, warps: &mut [Warp]) -> bool {
    let live: u32 = warps.iter().map(|w| (!w.dead).count_ones()).sum();
    let mut opened = false;
    for id in 0..BARRIERS as u32 {
        if b.barriers.busy >> id & 1 == 0 {
            continue;
        }
        let slot = b.barriers.slots[id as usize];
        let complete = match slot.wanted {
            Some(wanted) => slot.threads >= wanted,
            None => slot.lanes >= live,
        };
        if complete {
            open(b, warps, id, slot);
            opened = true;
        }
    }
    opened
}

fn open(b: &mut Block, warps: &mut [Warp], id: u32, slot: Slot) {
    b.barriers.slots[id as usize] = Slot::default();
    b.barriers.busy &= !(1 << id);
    if b.checks && slot.wanted.is_none() {
        b.shadow.meet_all();
    }
    for w in warps {
        let mut left = false;
        for index in 0..w.groups.len() {
            let group = w.groups[index];
            if group.state != (State::Parked { key: id }) {
                continue;
            }
            deliver_result(b, w, group.pc, group.mask, slot);
            w.groups[index].pc += 1;
            w.groups[index].state = State::Ready;
            left = true;
        }
        if left && b.checks && slot.wanted.is_some() {
            b.shadow.barrier_leave(w.index, id);
        }
    }
    b.cluster.progress();
}

/// Gives lanes at a reducing barrier their result.
fn deliver_result(b: &Block, w: &mut Warp, pc: u32, mask: u32, slot: Slot) {
    let inst = &b.env.code.insts[pc as usize];
    debug_assert!(slot.wanted.is_some() == (inst.target & BARRIER_COUNTED != 0));
    w.mask = mask;
    let holds = |yes: bool| if yes { ALL } else { 0 };
    match inst.target >> BARRIER_REDUCE_SHIFT & 3 {
        REDUCE_AND => w.set_pred(inst.dst.0, holds(slot.yes == slot.lanes)),
        REDUCE_OR => w.set_pred(inst.dst.0, holds(slot.yes > 0)),
        REDUCE_POPC => w.set_words(inst.dst, [slot.yes; 32]),
        _ => {}
    }
}
