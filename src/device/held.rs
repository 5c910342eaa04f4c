//! The buffers of one call, ordered between streams.

use super::{Device, call, check_context};
use crate::error::{Error, Result};
use cudarc::driver::sys::{CUstream, CUstreamCaptureStatus};
use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut, SyncOnDrop};
use std::sync::Arc;

/// The addresses of a call's buffers, and what orders the call with the use of them on other streams: every safe call, and
/// every copy, takes its addresses from here and starts its work in [`Held::launch`].
///
/// Memory has a home, the stream that it was allocated on and that it is freed on.
///
/// | home | context | order |
/// |---|---|---|
/// | the call's stream | of one stream | the stream's own; nothing is recorded and nothing waits |
/// | any | of several streams, with event tracking | cudarc's events: the call waits for those that it must come after, and is recorded |
/// | another stream | of one stream, or opened twice | the call's stream waits for the home before, the home for the call's stream after |
/// | another stream | without event tracking | whoever turned it off has promised one |
///
/// cudarc keeps one event for the reads of a buffer, of which a later one would hide those on other streams; so a stream
/// waits for the event between its own read and the record.
///
/// A capture cannot wait for what was put on streams before it, and does not need to for memory of its own stream: none of its
/// calls wait, and memory of another stream is refused.
pub(super) struct Held<'a> {
    device: &'a Device,
    /// Whether cudarc orders the context's streams.
    managed: bool,
    /// Whether the stream is captured; asked for at most once, and only where it matters.
    captured: Option<bool>,
    reads: Vec<SyncOnDrop<'a>>,
    writes: Vec<SyncOnDrop<'a>>,
    /// Streams that wait for the call.
    homes: Vec<Arc<CudaStream>>,
}

impl<'a> Held<'a> {
    /// Begins a call on the device's stream.
    pub(super) fn new(device: &'a Device) -> Self {
        let managed = device.context().is_managing_stream_synchronization();
        Held { device, managed, captured: None, reads: Vec::new(), writes: Vec::new(), homes: Vec::new() }
    }

    /// The address of memory that the call reads.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for memory of another context, and in a capture for that of another stream.
    pub(super) fn read<T, S: DevicePtr<T>>(&mut self, what: &'static str, slice: &'a S) -> Result<u64> {
        check_context(what, self.device, slice)?;
        self.join(what, slice.stream())?;
        if self.managed && self.is_captured()? {
            return Ok(unordered(slice.device_ptr(&bystander(self.device))));
        }
        let (address, guard) = slice.device_ptr(self.device.stream());
        if self.managed {
            self.reads.push(guard);
        }
        Ok(address)
    }

    /// The address of memory that the call writes.
    ///
    /// # Errors
    /// As [`Held::read`].
    pub(super) fn write<T, S: DevicePtrMut<T>>(&mut self, what: &'static str, slice: &'a mut S) -> Result<u64> {
        check_context(what, self.device, slice)?;
        self.join(what, slice.stream())?;
        if self.managed && self.is_captured()? {
            return Ok(unordered(slice.device_ptr_mut(&bystander(self.device))));
        }
        let (address, guard) = slice.device_ptr_mut(self.device.stream());
        if self.managed {
            self.writes.push(guard);
        }
        Ok(address)
    }

    /// Starts the call's kernels, after which other streams may have the buffers again.
    ///
    /// # Errors
    /// Those of `start`.
    pub(super) fn launch(self, start: impl FnOnce(CUstream) -> Result<()>) -> Result<()> {
        start(self.device.stream().cu_stream())
    }

    /// Makes the call's stream wait for memory's home, where nothing else orders the two.
    fn join(&mut self, what: &'static str, home: &Arc<CudaStream>) -> Result<()> {
        let stream = self.device.stream();
        if home.cu_stream() == stream.cu_stream() {
            return Ok(());
        }
        let (theirs, ours) = (home.context(), stream.context());
        if !theirs.is_event_tracking() && !ours.is_event_tracking() {
            return Ok(());
        }
        if self.is_captured()? {
            let (expected, got) = ("memory of the stream that is captured", "that of another stream".into());
            return Err(Error::Unsupported { what, expected, got });
        }
        if Arc::ptr_eq(theirs, ours) && self.managed {
            return Ok(());
        }
        if !self.homes.contains(home) {
            stream.join(home).map_err(call("wait for another stream"))?;
            self.homes.push(home.clone());
        }
        Ok(())
    }

    fn is_captured(&mut self) -> Result<bool> {
        if let Some(captured) = self.captured {
            return Ok(captured);
        }
        let status = self.device.stream().capture_status().map_err(call("ask whether a stream is captured"))?;
        let captured = status != CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
        self.captured = Some(captured);
        Ok(captured)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let (stream, context) = (self.device.stream(), self.device.context());
        for read in &self.reads {
            if let SyncOnDrop::Record(Some((event, _))) = read {
                context.record_err(stream.wait(event));
            }
        }
        self.reads.clear();
        self.writes.clear();
        for home in &self.homes {
            context.record_err(home.join(stream));
        }
        // the context came to several streams during the call, which recorded nothing
        if !self.managed && context.is_managing_stream_synchronization() && self.is_captured() == Ok(false) {
            context.record_err(stream.synchronize());
        }
    }
}

/// A stream that is not captured and that nothing waits for: cudarc tells an address only to a stream that it lets wait.
fn bystander(device: &Device) -> Arc<CudaStream> {
    device.context().per_thread_stream()
}

/// The address alone: what is captured now runs when the graph does.
fn unordered((address, guard): (u64, SyncOnDrop<'_>)) -> u64 {
    std::mem::forget(guard);
    address
}
