//! Operations by addresses: what every raw call offers.

use super::{Buffer, Device, Grid, Kernel, StreamHandle, keeping_current};
use crate::error::Result;
use cudarc::driver::sys::CUstream;

/// An operation over device memory that its caller owns: plain sizes, formats and [`super::Address`]es.
///
/// A call allocates nothing, waits for nothing, runs on the caller's stream and can be captured in a graph. The safe functions
/// of this crate fill in the same calls from memory that they hold.
///
/// Implemented by the raw calls of this crate alone.
pub trait RawCall: Enqueue {
    /// Checks sizes, formats, alignments and that what is needed is there: all that can be known without the memory.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] for sizes that no kernel takes and for rows of V that would be written over rows of K,
    /// [`crate::Error::Misaligned`] for an address that is null or not aligned as [`RawCall::buffers`] says, [`crate::Error::Length`] for a workspace that is too small,
    /// [`crate::Error::Unsupported`] for what this device has no kernel for.
    fn check(&self, device: &Device) -> Result<()> {
        self.check_sizes(device)?;
        let mut result = Ok(());
        self.name_buffers(device, &mut |buffer| {
            if result.is_ok() {
                result = buffer.check();
            }
        });
        result?;
        self.check_addresses()
    }

    /// Names every buffer that the call's kernels touch on this device, with its size and alignment. Sizes that
    /// [`RawCall::check`] refuses give sizes without meaning.
    fn buffers(&self, device: &Device) -> Vec<Buffer> {
        let mut buffers = Vec::new();
        self.visit_buffers(device, &mut |buffer| buffers.push(buffer));
        buffers
    }

    /// Shows what [`RawCall::buffers`] returns, one after the other, and allocates nothing.
    fn visit_buffers(&self, device: &Device, visit: &mut dyn FnMut(Buffer)) {
        self.name_buffers(device, visit);
    }

    /// Loads the kernels that the call starts, which a capture cannot: for each kind and size of call that will be captured, once
    /// in a context.
    ///
    /// # Errors
    /// Those of [`RawCall::check`] but for addresses, and those of loading a kernel.
    fn prepare(&self, device: &Device) -> Result<()> {
        self.check_sizes(device)?;
        keeping_current(|| self.enqueue(&Queue { device, stream: None }))
    }

    /// Puts the call's kernels on a stream. The context that is current to the thread is so afterwards.
    ///
    /// # Errors
    /// Those of [`RawCall::check`], before any launch; [`crate::Error::Launch`] if the driver refuses a kernel.
    ///
    /// # Safety
    /// `stream` belongs to the device's context. Until it has passed the call, each of [`RawCall::buffers`] is memory of that
    /// context, nothing else writes those that are read, and nothing else uses those that are written. Numbers that kernels
    /// find in them (slots, rows, pages) name what is there, as the fields say.
    unsafe fn launch(&self, device: &Device, stream: StreamHandle) -> Result<()> {
        self.check(device)?;
        keeping_current(|| self.enqueue(&Queue { device, stream: Some(stream.cast()) }))
    }
}

impl<C: Enqueue> RawCall for C {}

/// What an operation says of a call; sealed, since [`super::Arguments`] relies on it.
pub trait Enqueue {
    /// Checks all but addresses.
    #[doc(hidden)]
    fn check_sizes(&self, device: &Device) -> Result<()>;

    /// Checks addresses against each other, of which each by itself has been checked.
    #[doc(hidden)]
    fn check_addresses(&self) -> Result<()> {
        Ok(())
    }

    /// Shows each buffer; none that kernels touch is left out.
    #[doc(hidden)]
    fn name_buffers(&self, device: &Device, show: &mut dyn FnMut(Buffer));

    /// Starts the kernels of a call that has been checked.
    #[doc(hidden)]
    fn enqueue(&self, queue: &Queue<'_>) -> Result<()>;
}

/// Where the kernels of one call go. There is one with a stream only where somebody has promised what [`RawCall::launch`] asks
/// for, which is why starting a kernel on it is safe.
#[derive(Debug)]
pub struct Queue<'a> {
    device: &'a Device,
    /// None: kernels are loaded and not started.
    stream: Option<CUstream>,
}

impl<'a> Queue<'a> {
    /// A queue on the device's own stream.
    ///
    /// # Safety
    /// As [`RawCall::launch`], for the call that will be enqueued.
    pub(super) unsafe fn on_stream_of(device: &'a Device) -> Self {
        Queue { device, stream: Some(device.stream.cu_stream()) }
    }

    /// The device.
    pub(crate) fn device(&self) -> &'a Device {
        self.device
    }

    /// Starts so many blocks of a kernel.
    pub(crate) fn launch<P: Copy>(&self, kernel: Kernel<P>, grid: [u32; 3], params: P) -> Result<()> {
        self.start(kernel, Grid { blocks: grid, together: false }, params)
    }

    /// Starts so many blocks of a kernel that wait for each other.
    #[cfg(any(feature = "cuda-sparse-mlp", feature = "cuda-w4a8"))]
    pub(crate) fn launch_together<P: Copy>(&self, kernel: Kernel<P>, grid: [u32; 3], params: P) -> Result<()> {
        self.start(kernel, Grid { blocks: grid, together: true }, params)
    }

    fn start<P: Copy>(&self, kernel: Kernel<P>, grid: Grid, params: P) -> Result<()> {
        let Some(stream) = self.stream else {
            return self.device.shared.function(kernel.module, kernel.symbol).map(drop);
        };
        // SAFETY: promised where this queue was made.
        unsafe { self.device.launch(stream, kernel, grid, params) }
    }
}
