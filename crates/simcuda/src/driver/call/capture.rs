//! Calls that begin, end and ask about captures.

use std::sync::Arc;
use std::thread;

use crate::driver::abi::{Out, api};
use crate::driver::captures::exchange_thread_mode;
use crate::driver::codes::{Code, Result};
use crate::driver::object::capture::{Capture, Mode};
use crate::driver::registry::lock;
use crate::driver::state::driver;
use crate::driver::streams;

fn begin(handle: usize, mode: Mode) -> Result<()> {
    let (driver, stream) = streams::find(handle)?;
    if stream.is_default() {
        return Err(Code::STREAM_CAPTURE_UNSUPPORTED.because("the default stream cannot be captured"));
    }
    let mut slot = lock(&stream.capture);
    if slot.is_some() {
        return Err(Code::ILLEGAL_STATE.because("the stream is being captured already"));
    }
    let capture = Arc::new(Capture::new(mode, stream.handle));
    lock(&driver.captures).push(capture.clone());
    *slot = Some(capture);
    Ok(())
}

/// Ends a capture: every stream leaves it, and the graph is made if nothing went wrong.
fn end(handle: usize) -> Result<usize> {
    let (driver, stream) = streams::find(handle)?;
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
    let graph = capture.finish(&driver.device);
    capture.check()?;
    let graph = Arc::new(graph?);
    driver.graphs.insert(graph.handle, graph.clone());
    Ok(graph.handle)
}

/// `CUstreamCaptureStatus` and the capture's id.
fn status(handle: usize) -> Result<(i32, u64)> {
    let (driver, stream) = streams::find(handle)?;
    if stream.is_default() {
        driver.refuse_implicit_wait(&stream.context)?;
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
        driver()?;
        let before = exchange_thread_mode(Mode::from_number(mode.get()?)?);
        mode.set(before as i32)
    }
}
