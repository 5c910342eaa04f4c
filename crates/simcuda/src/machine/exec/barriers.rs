//! A warp's part in barriers, and fences.

use super::super::sched::barrier::Arrival;
use super::super::sched::group::CLUSTER_KEY;
use super::sync::{gather, members};
use super::undefined::Spread;
use super::{ALL, Block, Flow, Inst, Isa, Op, Warp};

/// `bar.warp.sync`: members `a`.
pub(crate) struct WarpBarrier;

impl Op for WarpBarrier {
    const SPREAD: Spread = Spread::Sink;

    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, b: &mut Block, i: &Inst) -> Flow {
        let members = members(w, i.a);
        if let Some(flow) = gather(w, members) {
            return flow;
        }
        if b.checks {
            b.shadow.clocks.step(w.index as usize);
        }
        Flow::Next
    }
}

/// Bits of a barrier form's `target`.
pub(crate) const BARRIER_ALIGNED: u32 = 1;
pub(crate) const BARRIER_COUNTED: u32 = 2;
pub(crate) const BARRIER_ARRIVE: u32 = 4;
/// Reductions: and, or, popc in bits 4 and 5, none if 0.
pub(crate) const BARRIER_REDUCE_SHIFT: u32 = 4;
pub(crate) const REDUCE_AND: u32 = 1;
pub(crate) const REDUCE_OR: u32 = 2;
pub(crate) const REDUCE_POPC: u32 = 3;

/// Barriers of the block: number in `a`, count in `b`, predicate to reduce in `c` (negated if `extra` is 1).
pub(crate) struct BlockBarrier;

impl Op for BlockBarrier {
    const SPREAD: Spread = Spread::Barrier;

    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, b: &mut Block, i: &Inst) -> Flow {
        arrive(w, b, i)
    }
}

fn arrive(w: &mut Warp, b: &mut Block, i: &Inst) -> Flow {
    let aligned = i.target & BARRIER_ALIGNED != 0;
    if aligned
        && !w.loose
        && let Some(flow) = gather(w, ALL)
    {
        return flow;
    }
    let lane = w.leader();
    let (id, wanted) = (w.words(i.a)[lane], w.words(i.b)[lane]);
    let counted = i.target & BARRIER_COUNTED != 0;
    let lanes = w.mask.count_ones();
    let yes = if i.target >> BARRIER_REDUCE_SHIFT & 3 != 0 {
        (w.pred(i.c.0) ^ if i.extra == 1 { ALL } else { 0 }) & w.mask
    } else {
        0
    };
    let arrival = Arrival {
        // A counted barrier takes each warp that meets it aligned as a whole one.
        threads: if counted && aligned && w.full() { 32 } else { lanes },
        lanes,
        yes: yes.count_ones(),
        wanted: counted.then_some(wanted),
    };
    if let Err(message) = b.barriers.arrive(id, arrival) {
        return b.fault(super::super::error::FaultKind::DivergentBarrier, lane, None, message);
    }
    if b.checks && counted {
        // At other barriers the clocks of all warps meet when the barrier opens.
        b.shadow.barrier_arrive(w.index, id);
    }
    b.cluster.progress();
    w.jump = id;
    if i.target & BARRIER_ARRIVE != 0 { Flow::Next } else { Flow::Park }
}

/// `barrier.cluster`: `target` 0 arrives, 1 waits.
pub(crate) struct ClusterBarrier;

impl Op for ClusterBarrier {
    const SPREAD: Spread = Spread::Nothing;

    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, b: &mut Block, i: &Inst) -> Flow {
        if i.target == 0 {
            if b.checks {
                b.shadow.clocks.fence(w.index as usize);
            }
            w.cluster_phase = b.cluster.phase();
            b.cluster.arrive(w.mask.count_ones());
            return Flow::Next;
        }
        if b.cluster.phase() != w.cluster_phase {
            return Flow::Next;
        }
        w.jump = CLUSTER_KEY;
        Flow::Park
    }
}

/// Fences: order memory, and let the checker know.
pub(crate) struct Fence;

impl Op for Fence {
    const SPREAD: Spread = Spread::Nothing;

    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, b: &mut Block, _: &Inst) -> Flow {
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        if b.checks {
            b.shadow.clocks.fence(w.index as usize);
        }
        Flow::Next
    }
}

/// `fence.proxy.async`
pub(crate) struct ProxyFence;

impl Op for ProxyFence {
    const SPREAD: Spread = Spread::Nothing;

    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, b: &mut Block, _: &Inst) -> Flow {
        if b.checks {
            b.shadow.proxy_fence(w.index);
        }
        Flow::Next
    }
}
