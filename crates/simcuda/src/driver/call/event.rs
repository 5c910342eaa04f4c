//! Calls on events.

use std::sync::Arc;

use crate::driver::abi::{Out, api};
use crate::driver::codes::{Code, Result};
use crate::driver::current::current;
use crate::driver::object::event::{DISABLE_TIMING, Event, Recorded};
use crate::driver::object::schedule::Mark;
use crate::driver::object::work::Work;
use crate::driver::registry::fresh_id;
use crate::driver::state::{Driver, driver};
use crate::driver::streams;

const INTERPROCESS: u32 = 4;
const KNOWN_FLAGS: u32 = DISABLE_TIMING | INTERPROCESS | 1;

fn find(handle: usize) -> Result<(&'static Driver, Arc<Event>)> {
    let driver = driver()?;
    let event = driver.events.get(handle)?;
    event.context.check()?;
    Ok((driver, event))
}

/// Records an event behind the work of a stream.
pub(crate) fn record(event_handle: usize, stream_handle: usize) -> Result<()> {
    let (driver, event) = find(event_handle)?;
    let (_, stream) = streams::find(stream_handle)?;
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
            let mark = driver.submit(&stream, Work::Record(event.record.clone(), generation), Vec::new())?;
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
        Recorded::Stream(mark) => driver.refuse_unsafe_call().map(|()| Some(mark)),
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
    let (driver, stream) = streams::find(stream_handle)?;
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
            driver.submit(&stream, Work::Nothing, vec![mark]).map(drop)
        }
        (Some(capture), Recorded::Stream(_)) => {
            capture.invalidate();
            Err(Code::STREAM_CAPTURE_ISOLATION
                .because("a captured stream waits for an event recorded outside of its capture"))
        }
        (own, Recorded::Capture(capture, nodes)) => driver.join_capture(&stream, own, &capture, &nodes),
    }
}

api! {
    fn cuEventCreate(out: Out<usize>, flags: u32) {
        let (driver, context) = current()?;
        if flags & !KNOWN_FLAGS != 0 {
            return Err(Code::INVALID_VALUE.into());
        }
        if flags & INTERPROCESS != 0 {
            return Err(Code::NOT_SUPPORTED.because("events shared between processes"));
        }
        let handle = fresh_id();
        driver.events.insert(handle, Arc::new(Event::new(context, flags)));
        out.set(handle)
    }

    fn cuEventDestroy_v2(handle: usize) {
        // Work that records it or waits for it keeps what it needs.
        driver()?.events.remove(handle).map(drop)
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
        mark(driver, &event)?.map_or(Ok(()), |mark| driver.scheduler.query(mark))?;
        event.context.check()
    }

    fn cuEventSynchronize(handle: usize) {
        let (driver, event) = find(handle)?;
        if let Some(mark) = mark(driver, &event)? {
            driver.scheduler.run_to(mark);
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
