//! Events: marks in streams, with the time at which they were reached.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::capture::Capture;
use super::context::Context;
use super::record::Record;
use super::schedule::Mark;
use crate::driver::codes::{Code, Result};
use crate::driver::registry::lock;

pub(crate) const DISABLE_TIMING: u32 = 2;

/// What an event was last recorded into.
#[derive(Clone, Debug)]
pub(crate) enum Recorded {
    Never,
    /// A position in a stream.
    Stream(Mark),
    /// Nodes of a capture.
    Capture(Arc<Capture>, Vec<usize>),
}

#[derive(Debug)]
struct State {
    recorded: Recorded,
    /// Counts records.
    generation: u64,
}

/// One event.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) context: Arc<Context>,
    flags: u32,
    state: Mutex<State>,
    /// Shared with the work that completes it.
    pub(crate) record: Arc<Record>,
}

impl Event {
    pub(crate) fn new(context: Arc<Context>, flags: u32) -> Self {
        let state = State { recorded: Recorded::Never, generation: 0 };
        Self { context, flags, state: Mutex::new(state), record: Arc::default() }
    }

    pub(crate) fn recorded(&self) -> Recorded {
        lock(&self.state).recorded.clone()
    }

    /// Starts a record and returns its number.
    pub(crate) fn begin_record(&self) -> u64 {
        let mut state = lock(&self.state);
        state.generation += 1;
        state.generation
    }

    pub(crate) fn set_recorded(&self, recorded: Recorded) {
        lock(&self.state).recorded = recorded;
    }

    /// Tells when the last record was reached; `CUDA_ERROR_NOT_READY` before that.
    pub(crate) fn reached_at(&self) -> Result<Instant> {
        let state = lock(&self.state);
        if self.flags & DISABLE_TIMING != 0 || matches!(state.recorded, Recorded::Never) {
            return Err(Code::INVALID_HANDLE.into());
        }
        self.record.reached_at(state.generation).ok_or_else(|| Code::NOT_READY.into())
    }
}
