//! The stream of a device that moray opens.

use super::call;
use super::context::id;
use crate::error::Result;
use cudarc::driver::result::stream::{StreamKind, create};
use cudarc::driver::{CudaContext, CudaStream};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// A stream that was made here.
struct Made {
    context: u64,
    /// The driver's handle.
    handle: usize,
    /// Counts the memory and devices that still use it.
    users: Weak<CudaStream>,
}

/// Returns a stream that cudarc does not count among those of its context, which stays one of a single stream: until
/// [`CudaContext::new_stream`] makes a second, which waits for all work before it, no use of memory is recorded, none waits,
/// and the stream can be captured.
///
/// A borrowed stream is not destroyed with its last user, which can be memory; so streams without users are handed out again,
/// and the driver destroys them with their context.
///
/// # Errors
/// [`crate::Error::Driver`] if the driver makes none.
pub(super) fn open(context: &Arc<CudaContext>) -> Result<Arc<CudaStream>> {
    static MADE: Mutex<Vec<Made>> = Mutex::new(Vec::new());
    let id = id(context)?;
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    let free = made.iter().position(|stream| stream.context == id && stream.users.strong_count() == 0);
    let handle = match free {
        Some(index) => made.swap_remove(index).handle,
        None => {
            context.bind_to_thread().map_err(call("bind the context"))?;
            create(StreamKind::NonBlocking).map_err(call("create a stream"))? as usize
        }
    };
    // SAFETY: the stream belongs to the context, whose number no other has, and is never destroyed; nothing else uses it.
    let stream = unsafe { context.wrap_borrowed_stream(handle as _) };
    made.push(Made { context: id, handle, users: Arc::downgrade(&stream) });
    Ok(stream)
}
