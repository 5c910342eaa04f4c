//! What captures forbid, and how a stream comes into one.

use std::cell::Cell;
use std::sync::Arc;
use std::thread;

use super::codes::{Code, Result};
use super::object::capture::{Capture, Mode};
use super::object::context::Context;
use super::object::stream::Stream;
use super::registry::lock;
use super::state::Driver;

thread_local! {
    static THREAD_MODE: Cell<Mode> = const { Cell::new(Mode::Global) };
}

/// Sets which captures of others this thread heeds, and returns what it was.
pub(crate) fn exchange_thread_mode(mode: Mode) -> Mode {
    THREAD_MODE.replace(mode)
}

impl Driver {
    /// Takes a stream into the capture that an event belongs to, or merges the event's nodes into its tips.
    pub(crate) fn join_capture(
        &self,
        stream: &Stream,
        own: Option<Arc<Capture>>,
        capture: &Arc<Capture>,
        nodes: &[usize],
    ) -> Result<()> {
        if !lock(&self.captures).iter().any(|active| active.id == capture.id) {
            return Err(Code::CAPTURED_EVENT.because("the event was recorded in a capture that has ended"));
        }
        capture.check()?;
        match own {
            Some(own) if own.id != capture.id => {
                own.invalidate();
                capture.invalidate();
                return Err(Code::STREAM_CAPTURE_MERGE.because("the event belongs to another capture"));
            }
            Some(_) => {}
            None if stream.is_default() => {
                capture.invalidate();
                return Err(Code::STREAM_CAPTURE_IMPLICIT.because("the default stream cannot join a capture"));
            }
            None => *lock(&stream.capture) = Some(capture.clone()),
        }
        capture.join(stream.handle, nodes);
        Ok(())
    }

    /// Refuses a call that may wait for other work while a capture forbids that, and invalidates the capture.
    pub(crate) fn refuse_unsafe_call(&self) -> Result<()> {
        let thread_mode = THREAD_MODE.get();
        let here = thread::current().id();
        let captures = lock(&self.captures);
        let forbids = |capture: &&Arc<Capture>| match thread_mode {
            Mode::Relaxed => false,
            Mode::ThreadLocal => capture.thread == here && capture.mode != Mode::Relaxed,
            Mode::Global => capture.mode == Mode::Global || capture.thread == here && capture.mode == Mode::ThreadLocal,
        };
        match captures.iter().find(forbids) {
            Some(capture) => {
                capture.invalidate();
                Err(Code::STREAM_CAPTURE_UNSUPPORTED
                    .because("the call may wait for other work, which a capture does not allow"))
            }
            None => Ok(()),
        }
    }

    /// Refuses work on the default stream while a stream that it would wait for is captured.
    pub(crate) fn refuse_implicit_wait(&self, context: &Context) -> Result<()> {
        if lock(&self.captures).is_empty() {
            return Ok(());
        }
        let streams = self.streams.all();
        let waited = streams.iter().filter(|s| s.is_blocking() && s.context.handle == context.handle);
        match waited.filter_map(|s| s.active_capture()).next() {
            Some(capture) => {
                capture.invalidate();
                Err(Code::STREAM_CAPTURE_IMPLICIT.because("the default stream would wait for a captured stream"))
            }
            None => Ok(()),
        }
    }
}
