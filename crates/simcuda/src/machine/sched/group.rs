//! Groups: the lanes of a warp that stand at the same instruction.
//!
//! The group with the lowest instruction runs, so that lanes meet again where branches join. A group that reaches another
//! joins it.

use super::super::exec::Warp;

/// Wait key of `barrier.cluster.wait`.
pub(crate) const CLUSTER_KEY: u32 = u32::MAX;

/// Why a group stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Ready,
    /// Waits at its instruction for these lanes.
    Gather {
        members: u32,
    },
    /// Has arrived at the barrier of this key.
    Parked {
        key: u32,
    },
}

/// Lanes at one instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    pub pc: u32,
    pub mask: u32,
    pub state: State,
}

impl Warp {
    /// Adds a group; two that gather at the same instruction become one that looks again.
    pub(crate) fn add_group(&mut self, pc: u32, mask: u32, state: State) {
        if mask == 0 {
            return;
        }
        if !matches!(state, State::Parked { .. })
            && let Some(same) = self.groups.iter_mut().find(|g| g.pc == pc && !matches!(g.state, State::Parked { .. }))
        {
            same.mask |= mask;
            same.state = State::Ready;
            return;
        }
        self.groups.push(Group { pc, mask, state });
    }

    /// Makes the lowest ready group the running one; false if none is ready.
    pub(crate) fn select(&mut self) -> bool {
        let ready = self.groups.iter().enumerate().filter(|(_, g)| g.state == State::Ready);
        let Some((index, _)) = ready.min_by_key(|(_, g)| g.pc) else {
            self.active = 0;
            return false;
        };
        self.take(index);
        true
    }

    /// Makes the ready group that has waited longest the running one, if there is one beside the current.
    pub(crate) fn rotate(&mut self) {
        if let Some(index) = self.groups.iter().position(|g| g.state == State::Ready) {
            let (pc, active) = (self.pc, self.active);
            self.take(index);
            self.add_group(pc, active, State::Ready);
            self.find_limit();
        }
    }

    fn take(&mut self, index: usize) {
        let group = self.groups.remove(index);
        (self.pc, self.active) = (group.pc, group.mask);
        self.join();
    }

    /// Takes in the groups at the current instruction and finds the next to meet.
    pub(crate) fn join(&mut self) {
        let pc = self.pc;
        let mut joined = 0;
        self.groups.retain(|g| {
            let here = g.pc == pc && !matches!(g.state, State::Parked { .. });
            joined |= if here { g.mask } else { 0 };
            !here
        });
        self.active |= joined;
        self.find_limit();
    }

    /// The lowest instruction ahead where another group stands.
    pub(crate) fn find_limit(&mut self) {
        let ahead = self.groups.iter().filter(|g| g.pc > self.pc && !matches!(g.state, State::Parked { .. }));
        self.limit = ahead.map(|g| g.pc).min().unwrap_or(u32::MAX);
    }

    /// Lets gathering groups look again, after lanes ended.
    pub(crate) fn recheck(&mut self) {
        for group in self.groups.iter_mut().filter(|g| matches!(g.state, State::Gather { .. })) {
            group.state = State::Ready;
        }
    }

    /// Whether the warp has no live lanes.
    pub(crate) fn is_done(&self) -> bool {
        self.active == 0 && self.groups.is_empty()
    }
}
