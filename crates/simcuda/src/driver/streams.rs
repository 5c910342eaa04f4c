//! How streams are found, and how work and waits go into them.

use std::sync::Arc;
use std::thread;

use super::codes::{Code, Result};
use super::current::current;
use super::object::context::Context;
use super::object::schedule::Mark;
use super::object::stream::{Stream, default_handle};
use super::object::work::Work;
use super::registry::{fresh_id, lock};
use super::state::{Driver, driver};

/// The handles by which CUDA names a context's and a thread's default stream.
const LEGACY: usize = 1;
pub(crate) const PER_THREAD: usize = 2;

/// Finds a stream by the handle a caller gave, CUDA's special ones included, and checks that its context lives.
pub(crate) fn find(handle: usize) -> Result<(&'static Driver, Arc<Stream>)> {
    match handle {
        0 | LEGACY => {
            let (driver, context) = current()?;
            Ok((driver, driver.streams.get(default_handle(&context))?))
        }
        PER_THREAD => {
            let (driver, context) = current()?;
            let mut streams = lock(&driver.thread_streams);
            let key = (context.handle, thread::current().id());
            let stream = streams.entry(key).or_insert_with(|| driver.open_stream(fresh_id(), &context, 0, 0));
            Ok((driver, stream.clone()))
        }
        _ => {
            let driver = driver()?;
            let stream = driver.streams.get(handle)?;
            stream.context.check()?;
            Ok((driver, stream))
        }
    }
}

impl Driver {
    pub(crate) fn open_stream(&self, handle: usize, context: &Arc<Context>, flags: u32, priority: i32) -> Arc<Stream> {
        let stream = Arc::new(Stream::new(handle, context, flags, priority));
        self.scheduler.open(handle);
        self.streams.insert(handle, stream.clone());
        stream
    }

    /// Submits work to a stream, or adds it to the stream's capture.
    pub(crate) fn enqueue(&self, stream: &Stream, work: Work) -> Result<()> {
        match stream.active_capture() {
            Some(capture) => capture.add(stream.handle, work).map(drop),
            None => self.submit(stream, work, Vec::new()).map(drop),
        }
    }

    /// Submits work to run after the stream's earlier work and after `waits`.
    pub(crate) fn submit(&self, stream: &Stream, work: Work, mut waits: Vec<Mark>) -> Result<Mark> {
        if stream.is_default() {
            self.refuse_implicit_wait(&stream.context)?;
            // The default stream waits for every blocking stream of its context …
            let others = self.streams.all();
            let others = others.iter().filter(|s| s.is_blocking() && s.context.handle == stream.context.handle);
            waits.extend(others.filter_map(|s| self.scheduler.pending(s.handle)).filter(|m| m.0 != stream.handle));
        } else if stream.is_blocking() {
            // … and they wait for it.
            waits.extend(self.scheduler.pending(default_handle(&stream.context)));
        }
        Ok(self.scheduler.submit(stream.handle, &stream.context, work, waits))
    }

    /// The mark behind a stream's work and, for the default stream, behind what it waits for. Refused in a capture.
    pub(crate) fn end_mark(&self, stream: &Stream) -> Result<Mark> {
        if let Some(capture) = stream.active_capture() {
            capture.invalidate();
            return Err(Code::STREAM_CAPTURE_UNSUPPORTED.because("a captured stream cannot be waited for"));
        }
        self.refuse_unsafe_call()?;
        if stream.is_default() {
            self.submit(stream, Work::Nothing, Vec::new())
        } else {
            Ok(self.scheduler.last(stream.handle))
        }
    }
}
