//! The CUDA device: a context, a stream, and every kernel of the crate, loaded once.
//!
//! Nothing here needs a driver to build. [`Device::new`] looks for one and returns a typed error where it, the kernels or an
//! architecture that they were built for is missing. Operations on a device use its stream, allocate nothing after their
//! set-up and synchronise nothing, so they can be captured in a graph.
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
mod arguments;
mod buffer;
mod driver;
mod element;
mod kernels;
mod launch;
mod memory;
mod raw_call;

pub use address::Address;
pub(crate) use address::or_null;
pub(crate) use arguments::Arguments;
pub use buffer::{Access, Buffer};
pub(crate) use buffer::{product, strided};
pub use cudarc;
pub use element::{DeviceElement, ElementKind};
pub(crate) use kernels::ModuleKernels;
pub(crate) use launch::{call, launch_raw};
pub(crate) use memory::{check_context, input, output};
pub use raw_call::RawCall;
pub(crate) use raw_call::{Enqueue, Queue};

use crate::error::{Error, Result};
use cudarc::driver::sys::{CUdevice_attribute as Attribute, CUfunction_attribute_enum, CUresult, CUstream};
use cudarc::driver::{CudaContext, CudaFunction, CudaStream};
use cudarc::nvrtc::Ptx;
use kernels::{HINT, KERNELS, MODULES};
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Arc;

/// The oldest architecture with kernels.
const OLDEST_CAPABILITY: (u32, u32) = (8, 0);

/// Shared memory that a kernel may use without asking.
const PLAIN_SHARED_BYTES: u32 = 48 * 1024;

/// A CUDA device with its kernels: the handle that every device operation takes. Clones share everything.
#[derive(Clone)]
pub struct Device {
    inner: Arc<Inner>,
    stream: Arc<CudaStream>,
}

struct Inner {
    context: Arc<CudaContext>,
    name: String,
    capability: (u32, u32),
    multiprocessors: u32,
    /// Shared memory that a block may ask for.
    shared_bytes: u32,
    /// Every kernel, by module and symbol.
    functions: HashMap<(&'static str, &'static str), CudaFunction>,
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Inner { name, capability, .. } = &*self.inner;
        f.debug_struct("Device").field("name", name).field("capability", capability).finish_non_exhaustive()
    }
}

impl Device {
    /// Opens a device by its number, with a stream of its own, and loads every kernel.
    ///
    /// # Errors
    /// [`Error::KernelsNotBuilt`] if the crate was built without a CUDA compiler, [`Error::DriverAbsent`] and
    /// [`Error::DriverTooOld`] for the driver, [`Error::UnsupportedArchitecture`] for a GPU without kernels,
    /// [`Error::Driver`] for any other refusal, such as a number that is no device.
    pub fn new(ordinal: usize) -> Result<Self> {
        check_kernels(HINT)?;
        driver::probe()?;
        let context = CudaContext::new(ordinal).map_err(call("open the device"))?;
        // SAFETY: memory of this context is only used on the one stream made below, so nothing has to be ordered by
        // events; they could not be recorded in a capture.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().map_err(call("create a stream"))?;
        Self::with_stream(stream)
    }

    /// Takes an engine's context and stream, and loads every kernel.
    ///
    /// # Errors
    /// As [`Device::new`].
    pub fn with_stream(stream: Arc<CudaStream>) -> Result<Self> {
        check_kernels(HINT)?;
        let context = stream.context().clone();
        let attribute = |attribute| context.attribute(attribute).map(|v| v as u32).map_err(call("read an attribute"));
        let capability = (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        );
        if capability < OLDEST_CAPABILITY {
            return Err(unsupported(capability));
        }
        let inner = Inner {
            name: context.name().map_err(call("read the device's name"))?,
            capability,
            multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            shared_bytes: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            functions: load(&context, capability)?,
            context,
        };
        Ok(Self { inner: Arc::new(inner), stream })
    }

    /// The same device and kernels with another stream of its context.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a stream of another context.
    pub fn on_stream(&self, stream: Arc<CudaStream>) -> Result<Self> {
        match **stream.context() == *self.inner.context {
            true => Ok(Self { inner: self.inner.clone(), stream }),
            false => Err(Error::Unsupported {
                what: "stream",
                expected: "a stream of the device's context",
                got: "one of another".into(),
            }),
        }
    }

    /// The driver's name of the device.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Compute capability: major, minor.
    pub fn capability(&self) -> (u32, u32) {
        self.inner.capability
    }

    /// Streaming multiprocessors.
    pub fn multiprocessors(&self) -> u32 {
        self.inner.multiprocessors
    }

    /// Bytes of shared memory that a block can have.
    pub fn shared_bytes(&self) -> usize {
        self.inner.shared_bytes as usize
    }

    /// The context.
    pub fn context(&self) -> &Arc<CudaContext> {
        &self.inner.context
    }

    /// The stream on which operations run.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// Waits for everything that was put on the stream.
    ///
    /// # Errors
    /// [`Error::Driver`] with what a kernel before it did wrong.
    pub fn synchronize(&self) -> Result<()> {
        self.stream.synchronize().map_err(call("synchronise"))
    }

    /// Finds a kernel by module, as `w4a8/gemm`, and symbol.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a name that is in no table of kernels.
    pub fn function(&self, module: &'static str, symbol: &'static str) -> Result<&CudaFunction> {
        self.inner.functions.get(&(module, symbol)).ok_or_else(|| Error::Unsupported {
            what: "kernel",
            expected: "a kernel of this crate",
            got: format!("{module}: {symbol}"),
        })
    }

    /// Module and symbol of every kernel, sorted.
    pub fn kernels(&self) -> Vec<(&'static str, &'static str)> {
        let mut kernels: Vec<_> = self.inner.functions.keys().copied().collect();
        kernels.sort_unstable();
        kernels
    }

    /// Starts a kernel on any stream of the context: for raw entries.
    ///
    /// # Safety
    /// As [`launch_raw`], for the parameters of the kernel that `module` and `symbol` name; `stream` is a stream of this device's context.
    pub(crate) unsafe fn launch_on(
        &self,
        stream: CUstream,
        module: &'static str,
        symbol: &'static str,
        grid: [u32; 3],
        block: [u32; 3],
        shared_bytes: u32,
        args: &mut [*mut c_void],
    ) -> Result<()> {
        let function = self.function(module, symbol)?;
        self.inner.context.bind_to_thread().map_err(call("bind the context"))?;
        // SAFETY: the caller's; the context is current.
        unsafe { launch_raw(symbol, function, grid, block, shared_bytes, stream, args) }
    }
}

/// Checks that the build has kernels: it leaves a hint where it has none.
fn check_kernels(hint: &'static str) -> Result<()> {
    match hint.is_empty() {
        true => Ok(()),
        false => Err(Error::KernelsNotBuilt { hint }),
    }
}

fn unsupported(capability: (u32, u32)) -> Error {
    Error::UnsupportedArchitecture { expected: OLDEST_CAPABILITY, got: capability }
}

/// Loads every module and finds every kernel, so that nothing is loaded in a capture.
fn load(
    context: &Arc<CudaContext>,
    capability: (u32, u32),
) -> Result<HashMap<(&'static str, &'static str), CudaFunction>> {
    let mut functions = HashMap::new();
    for &(module, symbols) in KERNELS.iter().copied().flatten() {
        let Some((_, image)) = MODULES.iter().find(|(name, _)| *name == module) else {
            return Err(Error::Unsupported { what: "module", expected: "a source in kernels/", got: module.into() });
        };
        let loaded = context.load_module(Ptx::from_binary(image.to_vec())).map_err(|error| match error.0 {
            CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU | CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION => {
                unsupported(capability)
            }
            _ => call("load a module")(error),
        })?;
        for &symbol in symbols {
            let function = loaded.load_function(symbol).map_err(call(symbol))?;
            allow_shared_memory(context, &function)?;
            functions.insert((module, symbol), function);
        }
    }
    Ok(functions)
}

/// Lets a kernel use all the shared memory that its static part leaves of a block's.
fn allow_shared_memory(context: &CudaContext, function: &CudaFunction) -> Result<()> {
    let limit = context
        .attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)
        .map_err(call("read an attribute"))?;
    let fixed = function.shared_size_bytes().map_err(call("read a kernel's shared memory"))?;
    let dynamic = limit - fixed;
    if dynamic <= PLAIN_SHARED_BYTES as i32 {
        return Ok(());
    }
    let attribute = CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    function.set_attribute(attribute, dynamic).map_err(call("allow shared memory"))
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
