//! The inner loop: runs one warp.

use super::super::exec::{Block, Code, Flow, Inst, Warp, undefined};
use super::super::meter::Class;
use super::group::State;

/// Backward branches that a group takes before another one gets its turn.
const TURNS: u32 = 16;

/// Why a warp stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// All lanes have ended.
    Done,
    /// Every group waits.
    Blocked,
    /// Polls for something that others must do.
    Yielded,
    /// Out of steps.
    Quantum,
    /// Goes on, but its values are now followed where nothing wrote them, or no longer.
    Switched,
    /// See [`Block::note`]; `Warp::pc` is the instruction.
    Fault,
}

/// Runs a warp until it stops, at most `steps` instructions.
#[inline(never)]
pub(crate) fn run(w: &mut Warp, b: &mut Block, steps: &mut u32) -> Stop {
    if w.active == 0 && !w.select() {
        return if w.groups.is_empty() { Stop::Done } else { Stop::Blocked };
    }
    w.drop_idle_twins();
    loop {
        let stop = if w.undefined.is_some() { follow::<true>(w, b, steps) } else { follow::<false>(w, b, steps) };
        if stop != Stop::Switched {
            return stop;
        }
    }
}

/// Runs a warp whose registers hold undefined bits, or none.
#[inline(always)]
fn follow<const UNDEFINED: bool>(w: &mut Warp, b: &mut Block, steps: &mut u32) -> Stop {
    let code: *const Code = &*b.env.code;
    // SAFETY: `env` keeps the code for as long as the block, and nothing writes it.
    let (insts, counts) = unsafe { ((*code).insts.as_slice(), b.counts.as_mut_ptr()) };
    let (mut pc, mut active, mut left) = (w.pc, w.active, *steps);
    loop {
        if left == 0 {
            (w.pc, w.active, *steps) = (pc, active, left);
            return Stop::Quantum;
        }
        left -= 1;
        debug_assert!((pc as usize) < insts.len());
        // SAFETY: the decoder ends every function with an exit and checks branch targets; counts has as many entries.
        let inst = unsafe {
            *counts.add(pc as usize) += 1;
            insts.get_unchecked(pc as usize)
        };
        let mask = active & (w.pred(inst.guard) ^ inst.guard_flip);
        if UNDEFINED {
            (w.mask, w.pc) = (mask, pc);
            if !undefined::before(w, b, inst, active) {
                (w.active, *steps) = (active, left);
                return Stop::Fault;
            }
        }
        if mask != 0 {
            (w.mask, w.pc) = (mask, pc);
            // SAFETY: the decoder chose a handler that this processor can run.
            let flow = unsafe { (inst.run)(w, b, inst) };
            if UNDEFINED {
                undefined::after(w, b, inst, flow);
            }
            if flow == Flow::Jump && mask == active && w.groups.is_empty() {
                pc = inst.target;
                continue;
            }
            if flow != Flow::Next {
                (w.pc, w.active) = (pc, active);
                // SAFETY: as above.
                if let Some(stop) = leave(w, b, unsafe { &*code }, inst, flow, mask) {
                    *steps = left;
                    return stop;
                }
                (pc, active) = (w.pc, w.active);
                continue;
            }
        }
        pc += 1;
        if pc >= w.limit {
            (w.pc, w.active) = (pc, active);
            meet(w);
            (pc, active) = (w.pc, w.active);
        }
    }
}

/// The running group has reached or passed the place of another.
fn meet(w: &mut Warp) {
    if w.pc == w.limit {
        w.join();
    } else {
        w.add_group(w.pc, w.active, State::Ready);
        w.select();
    }
}

/// Handles everything but going on to the next instruction; `Some` stops the warp.
#[cold]
fn leave(w: &mut Warp, b: &mut Block, code: &Code, inst: &Inst, flow: Flow, mask: u32) -> Option<Stop> {
    let (pc, active) = (w.pc, w.active);
    let rest = active & !mask;
    match flow {
        Flow::Next => w.pc = pc + 1,
        Flow::Jump => jump(w, inst.target, mask),
        Flow::JumpTo => {
            let taken = w.mask;
            w.add_group(pc, mask & !taken, State::Ready);
            w.add_group(pc + 1, rest, State::Ready);
            w.add_group(w.jump, taken, State::Ready);
            w.select();
        }
        Flow::Exit => {
            w.dead |= mask;
            w.recheck();
            w.add_group(pc + 1, rest, State::Ready);
            return stop_unless_ready(w);
        }
        Flow::Gather => {
            w.add_group(pc + 1, rest, State::Ready);
            w.add_group(pc, mask, State::Gather { members: w.members });
            if code.classes[pc as usize] == Class::WarpBarrier {
                pass_warp_barrier(w, code);
            }
            return stop_unless_ready(w);
        }
        Flow::Park => {
            w.add_group(pc + 1, rest, State::Ready);
            w.add_group(pc, mask, State::Parked { key: w.jump });
            return stop_unless_ready(w);
        }
        Flow::Yield | Flow::Undefined => {
            w.pc = pc + 1;
            if w.pc >= w.limit {
                meet(w);
            }
            return Some(if flow == Flow::Yield { Stop::Yielded } else { Stop::Switched });
        }
        Flow::Fault => {
            let _ = b;
            return Some(Stop::Fault);
        }
    }
    None
}

fn stop_unless_ready(w: &mut Warp) -> Option<Stop> {
    if w.select() {
        None
    } else if w.groups.is_empty() {
        Some(Stop::Done)
    } else {
        Some(Stop::Blocked)
    }
}

/// Lanes of `mask` go to `target`.
fn jump(w: &mut Warp, target: u32, mask: u32) {
    let (pc, active) = (w.pc, w.active);
    if mask != active {
        w.add_group(pc + 1, active & !mask, State::Ready);
        w.add_group(target, mask, State::Ready);
        w.select();
        return;
    }
    w.pc = target;
    if target <= pc {
        w.turns += 1;
        if w.turns.is_multiple_of(TURNS) {
            w.rotate();
            return;
        }
    }
    // Forward jumps may pass another group, which then goes first.
    if target > w.limit {
        w.add_group(target, active, State::Ready);
        w.select();
    } else {
        w.join();
    }
}

/// Groups that wait at warp barriers of the same members pass together once they are complete, wherever they stand.
fn pass_warp_barrier(w: &mut Warp, code: &Code) {
    let members = w.members;
    let waits = |g: &super::group::Group| {
        g.state == State::Gather { members } && code.classes[g.pc as usize] == Class::WarpBarrier
    };
    let here = w.groups.iter().filter(|g| waits(g)).fold(0, |mask, g| mask | g.mask);
    if members & !w.dead & !here != 0 {
        return;
    }
    for group in w.groups.iter_mut().filter(|g| waits(g)) {
        group.pc += 1;
        group.state = State::Ready;
    }
}
