//! Operations among the lanes of a warp.

use super::undefined::Spread;
use super::{ALL, Block, Flow, Inst, Isa, LANES, Op, Slot, Warp};

/// Waits until all live lanes of `members` are at this instruction; `Some` is what to return meanwhile.
#[inline(always)]
pub(super) fn gather(w: &mut Warp, members: u32) -> Option<Flow> {
    if members & !w.dead & !w.mask == 0 {
        return None;
    }
    w.members = members;
    Some(Flow::Gather)
}

/// Members as the leader's lane of a mask operand.
#[inline(always)]
pub(super) fn members(w: &Warp, slot: Slot) -> u32 {
    w.words(slot)[w.leader()]
}

/// `shfl.sync` modes.
pub(crate) const UP: u8 = 0;
pub(crate) const DOWN: u8 = 1;
pub(crate) const BUTTERFLY: u8 = 2;
pub(crate) const INDEX: u8 = 3;

/// `shfl.sync`: value `a`, lane `b`, clamp and segment `c`, members in list entry `extra`; predicate `target` if not 0.
pub(crate) struct Shuffle<const MODE: u8>;

impl<const MODE: u8> Op for Shuffle<MODE> {
    const SPREAD: Spread = Spread::Move(1);

    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, b: &mut Block, i: &Inst) -> Flow {
        let members = members(w, b.slot(i.extra));
        if let Some(flow) = gather(w, members) {
            return flow;
        }
        let (a, by, clamp) = (w.words(i.a), w.words(i.b), w.words(i.c));
        if MODE == BUTTERFLY && clamp == [31; LANES] && by == [by[0]; LANES] {
            // Over the whole warp every source is inside.
            let d = exchange(&a, by[0] & 31);
            return finish(w, b, i, &d, ALL);
        }
        let (mut d, mut inside) = ([0; LANES], 0u32);
        for lane in 0..LANES as u32 {
            let (by, clamp) = (by[lane as usize] & 31, clamp[lane as usize]);
            let (limit, segment) = (clamp & 31, clamp >> 8 & 31);
            let highest = lane & segment | limit & !segment;
            let lowest = lane & segment;
            let from = match MODE {
                UP => lane.wrapping_sub(by),
                DOWN => lane + by,
                BUTTERFLY => lane ^ by,
                _ => lowest | by & !segment,
            };
            let ok = if MODE == UP { from as i32 >= highest as i32 } else { from <= highest };
            let from = if ok { from } else { lane };
            d[lane as usize] = a[from as usize & 31];
            inside |= u32::from(ok) << lane;
        }
        finish(w, b, i, &d, inside)
    }
}

/// Writes a shuffle's result, and its predicate if it has one.
#[inline(always)]
fn finish(w: &mut Warp, b: &mut Block, i: &Inst, d: &[u32; LANES], inside: u32) -> Flow {
    w.set_words(i.dst, *d);
    if i.target != 0 {
        w.set_pred(i.target, inside);
    }
    if b.checks {
        b.shadow.clocks.step(w.index as usize);
    }
    Flow::Next
}

/// Each lane's value of the lane whose number differs by `by`; powers of two are spelled out, so that they become shuffles
/// of whole vectors.
#[inline(always)]
fn exchange(a: &[u32; LANES], by: u32) -> [u32; LANES] {
    match by {
        16 => swapped::<16>(a),
        8 => swapped::<8>(a),
        4 => swapped::<4>(a),
        2 => swapped::<2>(a),
        1 => swapped::<1>(a),
        by => std::array::from_fn(|lane| a[(lane ^ by as usize) & 31]),
    }
}

#[inline(always)]
fn swapped<const BY: usize>(a: &[u32; LANES]) -> [u32; LANES] {
    let mut d = [0; LANES];
    for lane in 0..LANES {
        d[lane] = a[lane ^ BY];
    }
    d
}

/// `vote.sync` modes.
pub(crate) const VOTE_ALL: u8 = 0;
pub(crate) const VOTE_ANY: u8 = 1;
pub(crate) const VOTE_UNI: u8 = 2;
pub(crate) const BALLOT: u8 = 3;

/// `vote.sync`: predicate `a` (negated if `extra` is 1), members `b`; result is predicate or word `dst`.
pub(crate) struct Vote<const MODE: u8>;

impl<const MODE: u8> Op for Vote<MODE> {
    const SPREAD: Spread = Spread::Warp { source_is_predicate: true, result_is_predicate: MODE != BALLOT };

    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, b: &mut Block, i: &Inst) -> Flow {
        let members = members(w, i.b);
        if let Some(flow) = gather(w, members) {
            return flow;
        }
        let voters = members & w.mask;
        let yes = (w.pred(i.a.0) ^ if i.extra == 1 { ALL } else { 0 }) & voters;
        match MODE {
            BALLOT => w.set_words(i.dst, [yes; LANES]),
            VOTE_ALL => w.set_pred(i.dst.0, if yes == voters { ALL } else { 0 }),
            VOTE_ANY => w.set_pred(i.dst.0, if yes != 0 { ALL } else { 0 }),
            _ => w.set_pred(i.dst.0, if yes == 0 || yes == voters { ALL } else { 0 }),
        }
        if b.checks {
            b.shadow.clocks.step(w.index as usize);
        }
        Flow::Next
    }
}

/// `match.sync`: value `a` (64 bits if `DOUBLE`), members `b`; word `dst`, and with `ALL_SAME` predicate `target`.
pub(crate) struct Match<const DOUBLE: bool, const ALL_SAME: bool>;

impl<const DOUBLE: bool, const ALL_SAME: bool> Op for Match<DOUBLE, ALL_SAME> {
    const SPREAD: Spread = Spread::Warp { source_is_predicate: false, result_is_predicate: false };

    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, _: &mut Block, i: &Inst) -> Flow {
        let members = members(w, i.b);
        if let Some(flow) = gather(w, members) {
            return flow;
        }
        let values = if DOUBLE { w.doubles(i.a) } else { w.words(i.a).map(u64::from) };
        let same = |lane: usize| {
            w.lanes()
                .filter(|&other| members >> other & 1 == 1 && values[other] == values[lane])
                .fold(0u32, |m, l| m | 1 << l)
        };
        let mut d = [0; LANES];
        w.lanes().for_each(|lane| d[lane] = same(lane));
        if ALL_SAME {
            let all = d[w.leader()] == members & w.mask;
            d = [if all { members & w.mask } else { 0 }; LANES];
            if i.target != 0 {
                w.set_pred(i.target, if all { ALL } else { 0 });
            }
        }
        w.set_words(i.dst, d);
        Flow::Next
    }
}

/// `redux.sync` operators, in `extra`.
pub(crate) const REDUX_ADD: u32 = 0;
pub(crate) const REDUX_MIN_UNSIGNED: u32 = 1;
pub(crate) const REDUX_MAX_UNSIGNED: u32 = 2;
pub(crate) const REDUX_MIN_SIGNED: u32 = 3;
pub(crate) const REDUX_MAX_SIGNED: u32 = 4;
pub(crate) const REDUX_AND: u32 = 5;
pub(crate) const REDUX_OR: u32 = 6;

/// `redux.sync`: value `a`, members `b`.
pub(crate) struct Redux;

impl Op for Redux {
    const SPREAD: Spread = Spread::Warp { source_is_predicate: false, result_is_predicate: false };

    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, _: &mut Block, i: &Inst) -> Flow {
        let members = members(w, i.b);
        if let Some(flow) = gather(w, members) {
            return flow;
        }
        let a = w.words(i.a);
        let combine = |x: u32, y: u32| match i.extra {
            REDUX_ADD => x.wrapping_add(y),
            REDUX_MIN_UNSIGNED => x.min(y),
            REDUX_MAX_UNSIGNED => x.max(y),
            REDUX_MIN_SIGNED => (x as i32).min(y as i32) as u32,
            REDUX_MAX_SIGNED => (x as i32).max(y as i32) as u32,
            REDUX_AND => x & y,
            REDUX_OR => x | y,
            _ => x ^ y,
        };
        let all = w.lanes().filter(|&lane| members >> lane & 1 == 1).map(|lane| a[lane]).reduce(combine);
        w.set_words(i.dst, [all.unwrap_or(0); LANES]);
        Flow::Next
    }
}

/// `activemask`
pub(crate) struct ActiveMask;

impl Op for ActiveMask {
    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, _: &mut Block, i: &Inst) -> Flow {
        w.set_words(i.dst, [w.mask; LANES]);
        Flow::Next
    }
}

/// `elect.sync`: members `a`; leader's lane into `dst`, who it is into predicate `target`.
pub(crate) struct Elect;

impl Op for Elect {
    const SPREAD: Spread = Spread::WordAndPredicate;

    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, _: &mut Block, i: &Inst) -> Flow {
        let members = members(w, i.a);
        if let Some(flow) = gather(w, members) {
            return flow;
        }
        let leader = (members & w.mask).trailing_zeros() & 31;
        w.set_words(i.dst, [leader; LANES]);
        w.set_pred(i.target, 1 << leader);
        Flow::Next
    }
}
