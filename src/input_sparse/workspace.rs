//! What a call works in.

use crate::column_sums::{OwnSlots, SlotList, SplitSums};
use crate::w4a8::Activations;

/// The kept inputs of a call's tokens, and their int8 form where weights are integers. Buffers grow to the largest call seen and
/// are then reused.
#[derive(Debug, Clone, Default)]
pub struct Workspace {
    /// Inputs that are read, increasing.
    pub(super) kept: List,
    /// f32 \[M, kept\]: of each token, 0 for what it drops.
    pub(super) x: Vec<f32>,
    /// Sums in floating point.
    pub(super) split: SplitSums,
    /// The kept inputs in int8 \[M, K\], of which the first are used.
    pub(super) codes: Vec<i8>,
    /// In the order of the slots, \[M, K\] and some more, and the sums of each run, \[M, K/32\].
    pub(super) slot_codes: Vec<i8>,
    pub(super) sums: Vec<i32>,
    /// The input of each slot, and the slots of each group.
    pub(super) slots: SlotList,
    /// One token's slots in 4 bits, for each thread.
    pub(super) members: Vec<OwnSlots>,
    /// Inputs that each of them has room for.
    pub(super) member_inputs: usize,
    /// Calls of one token in 4 bits so far.
    pub(super) calls: u64,
    /// The number of the last call if it was one of those; 0 where `kept` is the last call's.
    pub(super) by_members: u64,
    /// The int8 form of a call's inputs.
    pub(crate) int8: Activations,
}

/// Inputs in a buffer that grows to the largest call seen; what was in it is not cleared.
#[derive(Debug, Clone, Default)]
pub(super) struct List {
    /// The first [`List::len`] are in use.
    inputs: Vec<u32>,
    len: usize,
}

impl List {
    /// Empties the list, and gives room for so many.
    pub(super) fn room(&mut self, inputs: usize) -> &mut [u32] {
        self.len = 0;
        if self.inputs.len() < inputs {
            self.inputs.resize(inputs, 0);
        }
        &mut self.inputs
    }

    /// Takes the first of what the room holds now.
    pub(super) fn take(&mut self, len: usize) {
        assert!(len <= self.inputs.len());
        self.len = len;
    }
}

impl std::ops::Deref for List {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        &self.inputs[..self.len]
    }
}

impl Workspace {
    /// Allocates for up to M tokens of K features in int8.
    pub fn with_capacity(m: usize, k: usize) -> Self {
        Workspace { int8: Activations::with_capacity(m, k), ..Workspace::default() }
    }

    /// The inputs that the last call read, increasing.
    pub fn kept(&self) -> &[u32] {
        self.members.iter().find_map(|own| own.kept_in(self.by_members)).unwrap_or(&self.kept)
    }

    /// Makes room for one token's slots on each of so many threads, and counts the call that takes it.
    pub(super) fn call_of_members(&mut self, threads: usize, k: usize) {
        if self.members.len() < threads || self.member_inputs < k {
            self.member_inputs = k.max(self.member_inputs);
            self.members = vec![OwnSlots::with_capacity(self.member_inputs); threads.max(self.members.len())];
        }
        self.calls += 1;
        self.by_members = self.calls;
    }
}
