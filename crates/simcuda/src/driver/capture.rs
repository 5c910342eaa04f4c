//! Stream capture: work becomes graph nodes, and what would break out of the capture is refused.

use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};

use super::abi::{Out, api};
use super::codes::{Code, Result};
use super::context::Context;
use super::graph::{Graph, Node};
use super::registry::{fresh_id, lock};
use super::state::{self, Driver};
use super::stream::{self, Stream};
use super::work::Work;

/// Which calls a capture forbids: `CUstreamCaptureMode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Global,
    ThreadLocal,
    Relaxed,
}

impl Mode {
    fn from_number(number: i32) -> Result<Self> {
        match number {
            0 => Ok(Self::Global),
            1 => Ok(Self::ThreadLocal),
            2 => Ok(Self::Relaxed),
            _ => Err(Code::INVALID_VALUE.into()),
        }
    }
}

thread_local! {
    static THREAD_MODE: Cell<Mode> = const { Cell::new(Mode::Global) };
}

/// What has been captured so far.
#[derive(Default)]
struct Recording {
    nodes: Vec<Node>,
    /// The nodes that the next node of each stream comes after.
    tips: HashMap<usize, Vec<usize>>,
    allocations: Vec<u64>,
}

/// One capture, over every stream that joined it.
pub(super) struct Capture {
    id: u64,
    mode: Mode,
    origin: usize,
    thread: ThreadId,
    invalid: AtomicBool,
    recording: Mutex<Recording>,
}

impl fmt::Debug for Capture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Capture").field("id", &self.id).field("mode", &self.mode).finish_non_exhaustive()
    }
}

impl Capture {
    /// Makes every later call of the capture fail until it is ended.
    pub(super) fn invalidate(&self) {
        self.invalid.store(true, Ordering::Release);
    }

    fn is_invalid(&self) -> bool {
        self.invalid.load(Ordering::Acquire)
    }

    fn check(&self) -> Result<()> {
        if self.is_invalid() { Err(Code::STREAM_CAPTURE_INVALIDATED.into()) } else { Ok(()) }
    }

    /// Adds a node behind a stream's tips and returns its index.
    pub(super) fn add(&self, stream: usize, work: Work) -> Result<usize> {
        self.check()?;
        let mut recording = lock(&self.recording);
        let index = recording.nodes.len();
        let after = recording.tips.insert(stream, vec![index]).unwrap_or_default();
        recording.nodes.push(Node { handle: fresh_id(), work, after });
        Ok(index)
    }

    /// Notes memory that the graph will own.
    pub(super) fn own(&self, ptr: u64) {
        lock(&self.recording).allocations.push(ptr);
    }

    /// Tells whether `ptr` was allocated in this capture.
    pub(super) fn owns(&self, ptr: u64) -> bool {
        lock(&self.recording).allocations.contains(&ptr)
    }

    /// Tells which nodes a stream's next node would come after.
    pub(super) fn tips(&self, stream: usize) -> Result<Vec<usize>> {
        self.check()?;
        Ok(lock(&self.recording).tips.get(&stream).cloned().unwrap_or_default())
    }

    /// Makes the graph of what was captured; `CUDA_ERROR_STREAM_CAPTURE_UNJOINED` if the first stream does not come after
    /// everything.
    fn finish(&self, driver: &Driver) -> Result<Graph> {
        let mut recording = lock(&self.recording);
        let mut joined = vec![false; recording.nodes.len()];
        let mut pending = recording.tips.get(&self.origin).cloned().unwrap_or_default();
        while let Some(node) = pending.pop() {
            if !std::mem::replace(&mut joined[node], true) {
                pending.extend(&recording.nodes[node].after);
            }
        }
        let (nodes, allocations) = (std::mem::take(&mut recording.nodes), std::mem::take(&mut recording.allocations));
        let graph = Graph::new(driver, nodes, allocations);
        if joined.contains(&false) {
            return Err(
                Code::STREAM_CAPTURE_UNJOINED.because("expected every captured stream to be joined to the first")
            );
        }
        Ok(graph)
    }
}

/// Takes a stream into the capture that an event belongs to, or merges the event's nodes into its tips.
pub(super) fn join(
    driver: &Driver,
    stream: &Arc<Stream>,
    own: Option<Arc<Capture>>,
    capture: &Arc<Capture>,
    nodes: &[usize],
) -> Result<()> {
    if !lock(&driver.captures).iter().any(|active| active.id == capture.id) {
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
    let mut recording = lock(&capture.recording);
    let tips = recording.tips.entry(stream.handle).or_default();
    tips.extend(nodes);
    tips.sort_unstable();
    tips.dedup();
    Ok(())
}

/// Refuses a call that may wait for other work while a capture forbids that, and invalidates the capture.
pub(super) fn refuse_unsafe_call(driver: &Driver) -> Result<()> {
    let thread_mode = THREAD_MODE.get();
    let here = thread::current().id();
    let captures = lock(&driver.captures);
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
pub(super) fn refuse_implicit_wait(driver: &Driver, context: &Context) -> Result<()> {
    if lock(&driver.captures).is_empty() {
        return Ok(());
    }
    let streams = driver.streams.all();
    let waited = streams.iter().filter(|s| s.is_blocking() && s.context.handle == context.handle);
    match waited.filter_map(|s| s.active_capture()).next() {
        Some(capture) => {
            capture.invalidate();
            Err(Code::STREAM_CAPTURE_IMPLICIT.because("the default stream would wait for a captured stream"))
        }
        None => Ok(()),
    }
}

fn begin(handle: usize, mode: Mode) -> Result<()> {
    let (driver, stream) = stream::find(handle)?;
    if stream.is_default() {
        return Err(Code::STREAM_CAPTURE_UNSUPPORTED.because("the default stream cannot be captured"));
    }
    let mut slot = lock(&stream.capture);
    if slot.is_some() {
        return Err(Code::ILLEGAL_STATE.because("the stream is being captured already"));
    }
    let capture = Arc::new(Capture {
        id: fresh_id() as u64,
        mode,
        origin: stream.handle,
        thread: thread::current().id(),
        invalid: AtomicBool::new(false),
        recording: Mutex::default(),
    });
    lock(&driver.captures).push(capture.clone());
    *slot = Some(capture);
    Ok(())
}

/// Ends a capture: every stream leaves it, and the graph is made if nothing went wrong.
fn end(handle: usize) -> Result<usize> {
    let (driver, stream) = stream::find(handle)?;
    let capture =
        stream.active_capture().ok_or_else(|| Code::ILLEGAL_STATE.because("the stream is not being captured"))?;
    if capture.origin != stream.handle {
        capture.invalidate();
        return Err(Code::STREAM_CAPTURE_UNMATCHED.because("the capture was begun in another stream"));
    }
    if capture.mode != Mode::Relaxed && capture.thread != thread::current().id() {
        return Err(Code::STREAM_CAPTURE_WRONG_THREAD.because("the capture was begun by another thread"));
    }
    lock(&driver.captures).retain(|active| active.id != capture.id);
    for member in driver.streams.all() {
        let mut slot = lock(&member.capture);
        if slot.as_ref().is_some_and(|active| active.id == capture.id) {
            *slot = None;
        }
    }
    let graph = capture.finish(driver);
    capture.check()?;
    let graph = Arc::new(graph?);
    driver.graphs.insert(graph.handle, graph.clone());
    Ok(graph.handle)
}

/// `CUstreamCaptureStatus` and the capture's id.
fn status(handle: usize) -> Result<(i32, u64)> {
    let (driver, stream) = stream::find(handle)?;
    if stream.is_default() {
        refuse_implicit_wait(driver, &stream.context)?;
    }
    Ok(match stream.active_capture() {
        None => (0, 0),
        Some(capture) if capture.is_invalid() => (2, capture.id),
        Some(capture) => (1, capture.id),
    })
}

api! {
    fn cuStreamBeginCapture_v2(stream: usize, mode: i32) {
        begin(stream, Mode::from_number(mode)?)
    }

    fn cuStreamEndCapture(stream: usize, graph: Out<usize>) {
        graph.set(0)?;
        graph.set(end(stream)?)
    }

    fn cuStreamIsCapturing(stream: usize, out: Out<i32>) {
        out.set(status(stream)?.0)
    }

    fn cuStreamGetCaptureInfo(stream: usize, out: Out<i32>, id: Out<u64>) {
        let (status, capture) = status(stream)?;
        out.set(status)?;
        id.set_if_wanted(capture);
        Ok(())
    }

    fn cuThreadExchangeStreamCaptureMode(mode: Out<i32>) {
        state::driver()?;
        let before = THREAD_MODE.replace(Mode::from_number(mode.get()?)?);
        mode.set(before as i32)
    }
}
