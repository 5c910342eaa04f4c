//! Streams.

use std::sync::{Arc, Mutex};
use std::thread;

use super::abi::{HostCall, Out, api};
use super::capture::{self, Capture};
use super::codes::{Code, Result};
use super::context::{self, Context};
use super::registry::{fresh_id, lock};
use super::schedule::Mark;
use super::state::{self, Driver};
use super::work::Work;

/// The most urgent priority; 0 is the least.
pub(super) const GREATEST_PRIORITY: i32 = -5;

const NON_BLOCKING: u32 = 1;
/// The handles by which CUDA names a context's and a thread's default stream.
const LEGACY: usize = 1;
const PER_THREAD: usize = 2;

/// One stream.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) handle: usize,
    pub(super) context: Arc<Context>,
    flags: u32,
    priority: i32,
    pub(super) capture: Mutex<Option<Arc<Capture>>>,
}

/// The handle of a context's default stream; ids are 16 apart, so no other object has it.
fn default_handle(context: &Context) -> usize {
    context.handle + 1
}

fn create(driver: &Driver, handle: usize, context: &Arc<Context>, flags: u32, priority: i32) -> Arc<Stream> {
    let priority = priority.clamp(GREATEST_PRIORITY, 0);
    let stream = Arc::new(Stream { handle, context: context.clone(), flags, priority, capture: Mutex::new(None) });
    driver.scheduler.open(handle);
    driver.streams.insert(handle, stream.clone());
    stream
}

/// Adds the default stream of a new context.
pub(super) fn add_default(driver: &Driver, context: &Arc<Context>) {
    create(driver, default_handle(context), context, 0, 0);
}

/// Finds a stream by the handle a caller gave, CUDA's special ones included, and checks that its context lives.
pub(super) fn find(handle: usize) -> Result<(&'static Driver, Arc<Stream>)> {
    match handle {
        0 | LEGACY => {
            let (driver, context) = context::current()?;
            Ok((driver, driver.streams.get(default_handle(&context))?))
        }
        PER_THREAD => {
            let (driver, context) = context::current()?;
            let mut streams = lock(&driver.thread_streams);
            let key = (context.handle, thread::current().id());
            Ok((driver, streams.entry(key).or_insert_with(|| create(driver, fresh_id(), &context, 0, 0)).clone()))
        }
        _ => {
            let driver = state::driver()?;
            let stream = driver.streams.get(handle)?;
            stream.context.check()?;
            Ok((driver, stream))
        }
    }
}

impl Stream {
    pub(super) fn is_default(&self) -> bool {
        self.handle == default_handle(&self.context)
    }

    pub(super) fn is_blocking(&self) -> bool {
        self.flags & NON_BLOCKING == 0
    }

    /// The capture that this stream belongs to, if any.
    pub(super) fn active_capture(&self) -> Option<Arc<Capture>> {
        lock(&self.capture).clone()
    }

    /// Submits work, or adds it to the capture.
    pub(super) fn enqueue(&self, driver: &Driver, work: Work) -> Result<()> {
        match self.active_capture() {
            Some(capture) => capture.add(self.handle, work).map(drop),
            None => self.submit(driver, work, Vec::new()).map(drop),
        }
    }

    /// Submits work to run after this stream's earlier work and after `waits`.
    pub(super) fn submit(&self, driver: &Driver, work: Work, mut waits: Vec<Mark>) -> Result<Mark> {
        if self.is_default() {
            capture::refuse_implicit_wait(driver, &self.context)?;
            // The default stream waits for every blocking stream of its context …
            let others = driver.streams.all();
            let others = others.iter().filter(|s| s.is_blocking() && s.context.handle == self.context.handle);
            waits.extend(others.filter_map(|s| driver.scheduler.pending(s.handle)).filter(|m| m.0 != self.handle));
        } else if self.is_blocking() {
            // … and they wait for it.
            waits.extend(driver.scheduler.pending(default_handle(&self.context)));
        }
        Ok(driver.scheduler.submit(driver, self.handle, &self.context, work, waits))
    }

    /// The mark behind this stream's work and, for the default stream, behind what it waits for. Refused in a capture.
    fn end_mark(&self, driver: &Driver) -> Result<Mark> {
        if let Some(capture) = self.active_capture() {
            capture.invalidate();
            return Err(Code::STREAM_CAPTURE_UNSUPPORTED.because("a captured stream cannot be waited for"));
        }
        capture::refuse_unsafe_call(driver)?;
        if self.is_default() {
            self.submit(driver, Work::Nothing, Vec::new())
        } else {
            Ok(driver.scheduler.last(self.handle))
        }
    }

    /// Runs this stream's work to its end.
    fn synchronize(&self, driver: &Driver) -> Result<()> {
        driver.scheduler.run_to(driver, self.end_mark(driver)?);
        self.context.check()
    }
}

fn create_with(out: &Out<usize>, flags: u32, priority: i32) -> Result<()> {
    let (driver, context) = context::current()?;
    if flags & !NON_BLOCKING != 0 {
        return Err(Code::INVALID_VALUE.into());
    }
    out.set(create(driver, fresh_id(), &context, flags, priority).handle)
}

api! {
    fn cuStreamCreate(out: Out<usize>, flags: u32) {
        create_with(&out, flags, 0)
    }

    fn cuStreamCreateWithPriority(out: Out<usize>, flags: u32, priority: i32) {
        create_with(&out, flags, priority)
    }

    fn cuStreamDestroy_v2(handle: usize) {
        let driver = state::driver()?;
        if handle <= PER_THREAD || driver.streams.get(handle)?.is_default() {
            return Err(Code::INVALID_HANDLE.into());
        }
        let stream = driver.streams.remove(handle)?;
        if let Some(capture) = lock(&stream.capture).take() {
            capture.invalidate();
        }
        driver.scheduler.run_to(driver, driver.scheduler.last(handle));
        driver.scheduler.close(handle);
        stream.context.check()
    }

    fn cuStreamSynchronize(handle: usize) {
        let (driver, stream) = find(handle)?;
        stream.synchronize(driver)
    }

    fn cuStreamQuery(handle: usize) {
        let (driver, stream) = find(handle)?;
        driver.scheduler.query(driver, stream.end_mark(driver)?)?;
        stream.context.check()
    }

    fn cuStreamGetFlags(handle: usize, flags: Out<u32>) {
        flags.set(find(handle)?.1.flags)
    }

    fn cuStreamGetPriority(handle: usize, priority: Out<i32>) {
        priority.set(find(handle)?.1.priority)
    }

    fn cuStreamGetCtx(handle: usize, context: Out<usize>) {
        context.set(find(handle)?.1.context.handle)
    }

    fn cuStreamGetDevice(handle: usize, device: Out<i32>) {
        find(handle)?;
        device.set(0)
    }

    fn cuStreamGetId(handle: usize, id: Out<u64>) {
        id.set(find(handle)?.1.handle as u64)
    }

    fn cuStreamAttachMemAsync(handle: usize, ptr: u64, _bytes: usize, _flags: u32) {
        // Managed memory is visible everywhere here; only the arguments are checked.
        let (driver, _) = find(handle)?;
        driver.memory.allocation_of(ptr).map(drop).ok_or_else(|| Code::INVALID_VALUE.into())
    }

    fn cuLaunchHostFunc(handle: usize, function: Option<unsafe extern "C" fn(*mut std::ffi::c_void)>, argument: usize) {
        let (driver, stream) = find(handle)?;
        if function.is_none() {
            return Err(Code::INVALID_VALUE.into());
        }
        stream.enqueue(driver, Work::Host(HostCall { function, argument }))
    }
}
