//! Events: marks in streams, with the time at which they were reached.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::abi::{Out, api};
use super::capture::{self, Capture};
use super::codes::{Code, Result};
use super::context::{self, Context};
use super::registry::{fresh_id, lock};
use super::schedule::Mark;
use super::state::{self, Driver};
use super::stream;
use super::work::Work;

const DISABLE_TIMING: u32 = 2;
const INTERPROCESS: u32 = 4;
const KNOWN_FLAGS: u32 = 7;

/// What an event was last recorded into.
#[derive(Clone, Debug)]
pub(super) enum Recorded {
    Never,
    /// A position in a stream.
    Stream(Mark),
    /// Nodes of a capture.
    Capture(Arc<Capture>, Vec<usize>),
}

#[derive(Debug)]
struct State {
    recorded: Recorded,
    /// Counts records, so that an older one does not overwrite the time of a newer one.
    generation: u64,
    reached: Option<(u64, Instant)>,
}

/// One event.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) context: Arc<Context>,
    flags: u32,
    state: Mutex<State>,
}

impl Event {
    /// Notes that the n-th record has been reached.
    pub(super) fn complete(&self, generation: u64) {
        let mut state = lock(&self.state);
        if state.reached.is_none_or(|(reached, _)| reached <= generation) {
            state.reached = Some((generation, Instant::now()));
        }
    }

    pub(super) fn recorded(&self) -> Recorded {
        lock(&self.state).recorded.clone()
    }

    /// Starts a record and returns its number.
    fn begin_record(&self) -> u64 {
        let mut state = lock(&self.state);
        state.generation += 1;
        state.generation
    }

    fn set_recorded(&self, recorded: Recorded) {
        lock(&self.state).recorded = recorded;
    }

    /// Tells when the last record was reached; `CUDA_ERROR_NOT_READY` before that.
    fn reached_at(&self) -> Result<Instant> {
        let state = lock(&self.state);
        if self.flags & DISABLE_TIMING != 0 || matches!(state.recorded, Recorded::Never) {
            return Err(Code::INVALID_HANDLE.into());
        }
        match state.reached {
            Some((generation, at)) if generation == state.generation => Ok(at),
            _ => Err(Code::NOT_READY.into()),
        }
    }
}

fn find(handle: usize) -> Result<(&'static Driver, Arc<Event>)> {
    let driver = state::driver()?;
    let event = driver.events.get(handle)?;
    event.context.check()?;
    Ok((driver, event))
}

/// Records an event behind the work of a stream.
pub(super) fn record(event_handle: usize, stream_handle: usize) -> Result<()> {
    let (driver, event) = find(event_handle)?;
    let (_, stream) = stream::find(stream_handle)?;
    if stream.context.handle != event.context.handle {
        return Err(Code::INVALID_HANDLE.because("expected an event and a stream of one context"));
    }
    match stream.active_capture() {
        Some(capture) => {
            let nodes = capture.tips(stream.handle)?;
            event.set_recorded(Recorded::Capture(capture, nodes));
        }
        None => {
            let generation = event.begin_record();
            let mark = stream.submit(driver, Work::Record(event.clone(), generation), Vec::new())?;
            event.set_recorded(Recorded::Stream(mark));
        }
    }
    Ok(())
}

/// The mark that an event stands for, if it was ever recorded. Refused for an event recorded in a capture.
fn mark(driver: &Driver, event: &Event) -> Result<Option<Mark>> {
    match event.recorded() {
        Recorded::Never => Ok(None),
        Recorded::Capture(capture, _) => {
            capture.invalidate();
            Err(Code::CAPTURED_EVENT.because("expected an event recorded outside of a capture"))
        }
        Recorded::Stream(mark) => capture::refuse_unsafe_call(driver).map(|()| Some(mark)),
    }
}

fn elapsed(out: &Out<f32>, start: usize, end: usize) -> Result<()> {
    let (_, start) = find(start)?;
    let (_, end) = find(end)?;
    let (from, to) = (start.reached_at()?, end.reached_at()?);
    let seconds = match to.checked_duration_since(from) {
        Some(later) => later.as_secs_f64(),
        None => -from.duration_since(to).as_secs_f64(),
    };
    out.set((seconds * 1e3) as f32)
}

fn wait_in_stream(stream_handle: usize, event_handle: usize, flags: u32) -> Result<()> {
    let (driver, stream) = stream::find(stream_handle)?;
    let (_, event) = find(event_handle)?;
    match flags {
        0 => {}
        1 => return Err(Code::NOT_SUPPORTED.because("external event waits")),
        _ => return Err(Code::INVALID_VALUE.into()),
    }
    match (stream.active_capture(), event.recorded()) {
        (_, Recorded::Never) => Ok(()),
        (None, Recorded::Stream(mark)) => {
            if driver.scheduler.is_reached(mark) {
                return Ok(());
            }
            stream.submit(driver, Work::Nothing, vec![mark]).map(drop)
        }
        (Some(capture), Recorded::Stream(_)) => {
            capture.invalidate();
            Err(Code::STREAM_CAPTURE_ISOLATION
                .because("a captured stream waits for an event recorded outside of its capture"))
        }
        (own, Recorded::Capture(capture, nodes)) => capture::join(driver, &stream, own, &capture, &nodes),
    }
}

api! {
    fn cuEventCreate(out: Out<usize>, flags: u32) {
        let (driver, context) = context::current()?;
        if flags & !KNOWN_FLAGS != 0 {
            return Err(Code::INVALID_VALUE.into());
        }
        if flags & INTERPROCESS != 0 {
            return Err(Code::NOT_SUPPORTED.because("events shared between processes"));
        }
        let handle = fresh_id();
        let state = State { recorded: Recorded::Never, generation: 0, reached: None };
        driver.events.insert(handle, Arc::new(Event { context, flags, state: Mutex::new(state) }));
        out.set(handle)
    }

    fn cuEventDestroy_v2(handle: usize) {
        // Work that records it or waits for it keeps what it needs.
        state::driver()?.events.remove(handle).map(drop)
    }

    fn cuEventRecord(event: usize, stream: usize) {
        record(event, stream)
    }

    fn cuEventRecordWithFlags(event: usize, stream: usize, flags: u32) {
        match flags {
            0 => record(event, stream),
            1 => Err(Code::NOT_SUPPORTED.because("external event records")),
            _ => Err(Code::INVALID_VALUE.into()),
        }
    }

    fn cuEventQuery(handle: usize) {
        let (driver, event) = find(handle)?;
        mark(driver, &event)?.map_or(Ok(()), |mark| driver.scheduler.query(driver, mark))?;
        event.context.check()
    }

    fn cuEventSynchronize(handle: usize) {
        let (driver, event) = find(handle)?;
        if let Some(mark) = mark(driver, &event)? {
            driver.scheduler.run_to(driver, mark);
        }
        event.context.check()
    }

    fn cuEventElapsedTime(milliseconds: Out<f32>, start: usize, end: usize) {
        elapsed(&milliseconds, start, end)
    }

    fn cuEventElapsedTime_v2(milliseconds: Out<f32>, start: usize, end: usize) {
        elapsed(&milliseconds, start, end)
    }

    fn cuStreamWaitEvent(stream: usize, event: usize, flags: u32) {
        wait_in_stream(stream, event, flags)
    }
}
