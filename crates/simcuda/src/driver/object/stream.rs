//! Streams.

use std::sync::{Arc, Mutex};

use super::capture::Capture;
use super::context::Context;
use crate::driver::registry::lock;

/// The most urgent priority; 0 is the least.
pub(crate) const GREATEST_PRIORITY: i32 = -5;

pub(crate) const NON_BLOCKING: u32 = 1;

/// One stream.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) handle: usize,
    pub(crate) context: Arc<Context>,
    pub(crate) flags: u32,
    pub(crate) priority: i32,
    pub(crate) capture: Mutex<Option<Arc<Capture>>>,
}

/// The handle of a context's default stream; ids are 16 apart, so no other object has it.
pub(crate) fn default_handle(context: &Context) -> usize {
    context.handle + 1
}

impl Stream {
    pub(crate) fn new(handle: usize, context: &Arc<Context>, flags: u32, priority: i32) -> Self {
        let priority = priority.clamp(GREATEST_PRIORITY, 0);
        Self { handle, context: context.clone(), flags, priority, capture: Mutex::new(None) }
    }

    pub(crate) fn is_default(&self) -> bool {
        self.handle == default_handle(&self.context)
    }

    pub(crate) fn is_blocking(&self) -> bool {
        self.flags & NON_BLOCKING == 0
    }

    /// The capture that this stream belongs to, if any.
    pub(crate) fn active_capture(&self) -> Option<Arc<Capture>> {
        lock(&self.capture).clone()
    }
}
