//! Stream capture: work becomes graph nodes.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};

use super::device::Device;
use super::graph::Graph;
use super::work::{Node, Work};
use crate::driver::codes::{Code, Result};
use crate::driver::registry::{fresh_id, lock};

/// Which calls a capture forbids: `CUstreamCaptureMode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Global,
    ThreadLocal,
    Relaxed,
}

impl Mode {
    /// Reads the number that CUDA gives a mode.
    pub(crate) fn from_number(number: i32) -> Result<Self> {
        match number {
            0 => Ok(Self::Global),
            1 => Ok(Self::ThreadLocal),
            2 => Ok(Self::Relaxed),
            _ => Err(Code::INVALID_VALUE.into()),
        }
    }
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
pub(crate) struct Capture {
    pub(crate) id: u64,
    pub(crate) mode: Mode,
    /// The stream that it began in.
    pub(crate) origin: usize,
    pub(crate) thread: ThreadId,
    invalid: AtomicBool,
    recording: Mutex<Recording>,
}

impl fmt::Debug for Capture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Capture").field("id", &self.id).field("mode", &self.mode).finish_non_exhaustive()
    }
}

impl Capture {
    /// Begins a capture in a stream, by this thread.
    pub(crate) fn new(mode: Mode, origin: usize) -> Self {
        Self {
            id: fresh_id() as u64,
            mode,
            origin,
            thread: thread::current().id(),
            invalid: AtomicBool::new(false),
            recording: Mutex::default(),
        }
    }

    /// Makes every later call of the capture fail until it is ended.
    pub(crate) fn invalidate(&self) {
        self.invalid.store(true, Ordering::Release);
    }

    pub(crate) fn is_invalid(&self) -> bool {
        self.invalid.load(Ordering::Acquire)
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.is_invalid() { Err(Code::STREAM_CAPTURE_INVALIDATED.into()) } else { Ok(()) }
    }

    /// Adds a node behind a stream's tips and returns its index.
    pub(crate) fn add(&self, stream: usize, work: Work) -> Result<usize> {
        self.check()?;
        let mut recording = lock(&self.recording);
        let index = recording.nodes.len();
        let after = recording.tips.insert(stream, vec![index]).unwrap_or_default();
        recording.nodes.push(Node { handle: fresh_id(), work, after });
        Ok(index)
    }

    /// Notes memory that the graph will own.
    pub(crate) fn own(&self, ptr: u64) {
        lock(&self.recording).allocations.push(ptr);
    }

    /// Tells whether `ptr` was allocated in this capture.
    pub(crate) fn owns(&self, ptr: u64) -> bool {
        lock(&self.recording).allocations.contains(&ptr)
    }

    /// Lets a stream's next node come after `nodes` too.
    pub(crate) fn join(&self, stream: usize, nodes: &[usize]) {
        let mut recording = lock(&self.recording);
        let tips = recording.tips.entry(stream).or_default();
        tips.extend(nodes);
        tips.sort_unstable();
        tips.dedup();
    }

    /// Tells which nodes a stream's next node would come after.
    pub(crate) fn tips(&self, stream: usize) -> Result<Vec<usize>> {
        self.check()?;
        Ok(lock(&self.recording).tips.get(&stream).cloned().unwrap_or_default())
    }

    /// Makes the graph of what was captured; `CUDA_ERROR_STREAM_CAPTURE_UNJOINED` if the first stream does not come after
    /// everything.
    pub(crate) fn finish(&self, device: &Arc<Device>) -> Result<Graph> {
        let mut recording = lock(&self.recording);
        let mut joined = vec![false; recording.nodes.len()];
        let mut pending = recording.tips.get(&self.origin).cloned().unwrap_or_default();
        while let Some(node) = pending.pop() {
            if !std::mem::replace(&mut joined[node], true) {
                pending.extend(&recording.nodes[node].after);
            }
        }
        let (nodes, allocations) = (std::mem::take(&mut recording.nodes), std::mem::take(&mut recording.allocations));
        let graph = Graph::new(device, nodes, allocations);
        if joined.contains(&false) {
            return Err(
                Code::STREAM_CAPTURE_UNJOINED.because("expected every captured stream to be joined to the first")
            );
        }
        Ok(graph)
    }
}
