//! The CUDA device: a context, a stream, and the kernels of the crate, loaded once in a context.
//!
//! Nothing here needs a driver to build. [`Device::probe`] and [`Device::new`] look for one and return a typed error where it,
//! the kernels or an architecture that they were built for is missing. Operations on a device use its stream, allocate nothing
//! after their set-up and synchronise nothing, so they can be captured in a graph.
//!
//! # Streams
//! Safe calls are right on any stream and whatever is dropped when: a call that uses memory of another stream is ordered with
//! it, see [`Device::on_stream`]. As long as a device is used on its own stream alone, that costs nothing.
//!
//! # Example
//! ```
//! use moray::{Device, Error};
//!
//! match Device::new(0) {
//!     Ok(device) => println!("{} ({:?})", device.name(), device.capability()),
//!     Err(Error::DriverAbsent { message }) => println!("no CUDA here: {message}"),
//!     Err(error) => println!("{error}"),
//! }
//! ```

mod address;
mod architectures;
#[cfg(feature = "cudarc-0_19")]
mod arguments;
mod buffer;
mod context;
#[cfg(feature = "cudarc-0_19")]
mod cudarc_0_19;
mod driver;
mod element;
#[cfg(feature = "cudarc-0_19")]
mod held;
mod kernels;
mod launch;
#[cfg(all(feature = "cuda-w4a8", feature = "cudarc-0_19"))]
mod lent;
#[cfg(feature = "cudarc-0_19")]
mod memory;
mod raw_call;
mod reach;
mod stream;

pub use address::Address;
pub(crate) use address::or_null;
#[cfg(feature = "cudarc-0_19")]
pub(crate) use arguments::Arguments;
pub use buffer::{Access, Buffer};
pub(crate) use buffer::{product, strided};
pub use context::keeping_current;
#[cfg(feature = "cudarc-0_19")]
pub use cudarc;
#[cfg(feature = "cudarc-0_19")]
pub use cudarc_0_19::DeviceElement;
pub use element::ElementKind;
pub(crate) use kernels::{Kernel, Module, images, layout};
pub(crate) use launch::{Grid, call, launch_raw};
#[cfg(all(feature = "cuda-w4a8", feature = "cudarc-0_19"))]
pub(crate) use lent::Memory;
#[cfg(feature = "cudarc-0_19")]
pub(crate) use memory::check_context;
pub use raw_call::RawCall;
pub(crate) use raw_call::{Enqueue, Queue};

use crate::error::{Error, Result};
use context::Context;
use cudarc::driver::sys::CUstream;
use cudarc::driver::{CudaContext, CudaStream};
use kernels::MODULES;
use kernels::images::HINT;
use std::ffi::c_void;
use std::sync::Arc;

/// The driver's handle of a context, `CUcontext` in whatever binding an engine has it from.
pub type ContextHandle = *mut c_void;

/// The driver's handle of a stream, `CUstream` in whatever binding an engine has it from; null is the context's default stream.
pub type StreamHandle = *mut c_void;

/// A CUDA device with its kernels: the handle that every device operation takes. Clones share everything.
#[derive(Clone)]
pub struct Device {
    shared: Arc<Context>,
    stream: Arc<CudaStream>,
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Context { name, capability, .. } = &*self.shared;
        f.debug_struct("Device").field("name", name).field("capability", capability).finish_non_exhaustive()
    }
}

impl Device {
    /// Looks for what [`Device::new`] needs before there is a GPU to speak of: kernels in this build, a driver, and one that is
    /// new enough. For engines whose own binding panics without a driver.
    ///
    /// # Errors
    /// [`Error::KernelsNotBuilt`] if the crate was built without a CUDA compiler, [`Error::DriverAbsent`] and
    /// [`Error::DriverTooOld`] for the driver.
    ///
    /// # Example
    /// ```
    /// match moray::Device::probe() {
    ///     Ok(()) => println!("the driver may be called"),
    ///     Err(error) => println!("on the CPU, then: {error}"),
    /// }
    /// ```
    pub fn probe() -> Result<()> {
        check_kernels(HINT)?;
        driver::probe()
    }

    /// Opens a device by its number, with a stream of its own. Devices that are open at once share their kernels.
    ///
    /// With the feature `cudarc-0_19`: the context stays one of a single stream for cudarc until `CudaContext::new_stream` makes
    /// another. What a program puts on `CudaContext::default_stream` with cudarc's own calls, rather than with a device on that
    /// stream, cudarc does not order with this one.
    ///
    /// # Errors
    /// As [`Device::probe`]; [`Error::UnsupportedArchitecture`] for a GPU without kernels, [`Error::Driver`] for any other
    /// refusal, such as a number that is no device.
    pub fn new(ordinal: usize) -> Result<Self> {
        Self::probe()?;
        let context = CudaContext::new(ordinal).map_err(call("open the device"))?;
        let shared = Context::of(&context)?;
        Ok(Self { shared, stream: stream::open(&context)? })
    }

    /// Takes a context's stream.
    fn opened(stream: Arc<CudaStream>) -> Result<Self> {
        check_kernels(HINT)?;
        Ok(Self { shared: Context::of(stream.context())?, stream })
    }

    /// Takes an engine's context and stream by the driver's handles. Neither is owned: both are as they were when the device
    /// is dropped.
    ///
    /// # Errors
    /// As [`Device::new`].
    ///
    /// # Safety
    /// `context` is a context and `stream` one of its streams, or null for its default stream. Both are there for as long as
    /// the device, its clones and what was allocated with them; kernels are unloaded with the last of them. Work that others
    /// put on the stream is ordered with this device's by the stream alone.
    pub unsafe fn from_raw(context: ContextHandle, stream: StreamHandle) -> Result<Self> {
        Self::probe()?;
        // SAFETY: the caller's.
        let context = unsafe { context::borrow(context.cast())? };
        // SAFETY: the caller's.
        Self::opened(unsafe { context.wrap_borrowed_stream(stream.cast()) })
    }

    /// The driver's name of the device.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Compute capability: major, minor.
    pub fn capability(&self) -> (u32, u32) {
        self.shared.capability
    }

    /// Streaming multiprocessors.
    pub fn multiprocessors(&self) -> u32 {
        self.shared.multiprocessors
    }

    /// Whether the blocks of a launch can be asked to be resident together.
    #[cfg(any(feature = "cuda-sparse-mlp", feature = "cuda-w4a8"))]
    pub(crate) fn launches_together(&self) -> bool {
        self.shared.launches_together
    }

    /// Bytes of shared memory that a block can have.
    pub fn shared_bytes(&self) -> usize {
        self.shared.shared_bytes as usize
    }

    /// The stream on which operations run.
    pub fn raw_stream(&self) -> StreamHandle {
        self.stream.cu_stream().cast()
    }

    /// Waits for everything that was put on the stream.
    ///
    /// # Errors
    /// [`Error::Driver`] with what a kernel before it did wrong.
    pub fn synchronize(&self) -> Result<()> {
        self.stream.synchronize().map_err(call("synchronise"))
    }

    /// Loads an operation's kernels, which a capture could not: whoever allocates what the operation needs calls it.
    ///
    /// # Errors
    /// [`Error::UnsupportedArchitecture`] if the kernels were not built for the device, [`Error::Driver`] if the driver does not load
    /// them.
    pub(crate) fn prepare(&self, modules: &[&Module]) -> Result<()> {
        self.shared.prepare(modules)
    }

    /// Loads every kernel of this build: for an engine whose first raw calls are in a capture, which cannot load any.
    ///
    /// # Errors
    /// [`Error::UnsupportedArchitecture`] if the kernels were not built for the device, [`Error::Driver`] if the driver does not load
    /// them.
    pub fn load_kernels(&self) -> Result<()> {
        MODULES.iter().try_for_each(|modules| self.prepare(modules))
    }

    /// Module and symbol of every kernel, sorted.
    pub fn kernels(&self) -> Vec<(&'static str, &'static str)> {
        let modules = MODULES.iter().copied().flatten();
        let mut kernels: Vec<_> =
            modules.flat_map(|module| module.symbols.iter().map(|symbol| (module.name, *symbol))).collect();
        kernels.sort_unstable();
        kernels
    }

    /// Starts blocks of a kernel on any stream of the context.
    ///
    /// # Safety
    /// `stream` is a stream of this device's context. Device addresses in `params` are valid for what the kernel reads and writes,
    /// until the stream has passed it.
    pub(crate) unsafe fn launch<P: Copy>(
        &self,
        stream: CUstream,
        kernel: Kernel<P>,
        grid: Grid,
        params: P,
    ) -> Result<()> {
        let function = self.shared.function(kernel.module, kernel.symbol)?;
        self.stream.context().bind_to_thread().map_err(call("bind the context"))?;
        // SAFETY: the caller's; the context is current.
        unsafe { launch_raw(function, kernel, grid, stream, params) }
    }
}

/// Checks that the build has kernels: it leaves a hint where it has none.
fn check_kernels(hint: &'static str) -> Result<()> {
    match hint.is_empty() {
        true => Ok(()),
        false => Err(Error::KernelsNotBuilt { hint }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn build_without_kernels_is_a_typed_error_that_says_how_to_build_them() {
        let hint = "expected nvcc, got none; run `cargo xtask toolkit`";
        assert_eq!(check_kernels(hint), Err(Error::KernelsNotBuilt { hint }));
        assert_eq!(check_kernels(""), Ok(()));
    }
}
