//! The operations on candle's CUDA tensors: in their memory, on their stream.
//!
//! Memory that a call needs besides its operands comes from candle's allocator and from [`Buffers`]; nothing waits but what copies
//! weights, lists and masks from the host.

// what is allocated is written by a kernel before anything reads it
#![allow(unsafe_code)]

mod attention;
mod biased;
mod buffers;
mod by_input;
mod linear;
mod sparse_mlp;

use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaView};
use candle_core::cuda_backend::{CudaDType, CudaDevice, CudaStorage};
use candle_core::{Device, DeviceLocation, Error, Result, bail};
use moray::device::DeviceElement;

pub(crate) use attention::{Cache, Inputs};
use biased::Biased;
pub(crate) use buffers::Buffers;
pub(crate) use by_input::InputWeight;
pub(crate) use linear::Linear;
pub(crate) use sparse_mlp::Mlp;

use crate::rows::{Argument, Float, location};

/// An element type of operations on both sides.
pub(crate) trait Element: Float + CudaDType + DeviceElement {}
impl<E: Float + CudaDType + DeviceElement> Element for E {}

/// Where vectors of kernels begin: multiples of so many bytes.
const ALIGNMENT: usize = 16;

/// candle's stream of a thread, of which every thread has another one under this name.
const PER_THREAD: usize = 2;

/// The CUDA device that a layer is asked to go to.
///
/// # Errors
/// For a device of another kind.
pub(crate) fn device(to: &Device) -> Result<&CudaDevice> {
    match to {
        Device::Cuda(device) => Ok(device),
        other => bail!("device: expected a CUDA device, got {}", location(&other.location())),
    }
}

/// Something in memory of a device, which any thread and any stream of it may read.
#[derive(Debug)]
pub(crate) struct Resident<T> {
    device: moray::Device,
    location: DeviceLocation,
    held: T,
}

impl<T> Resident<T> {
    /// Puts something there and waits until it is.
    pub(crate) fn new(to: &CudaDevice, put: impl FnOnce(&moray::Device) -> moray::Result<T>) -> Result<Self> {
        let run = || {
            let device = moray::Device::with_stream(to.cuda_stream())?;
            let held = put(&device)?;
            device.synchronize()?;
            Ok(Resident { device, location: to.location(), held })
        };
        run().map_err(|error: moray::Error| Error::wrap(error))
    }

    /// The device with the stream of an argument.
    ///
    /// # Errors
    /// For an argument on another GPU.
    pub(crate) fn with_stream_of(&self, x: &Argument<'_, CudaStorage>) -> Result<moray::Device> {
        let got = x.storage.device().location();
        if got != self.location {
            bail!("{}: expected a tensor on {}, got one on {}", x.what, location(&self.location), location(&got));
        }
        self.device.on_stream(x.storage.device().cuda_stream()).map_err(Error::wrap)
    }

    pub(crate) fn held(&self) -> &T {
        &self.held
    }

    pub(crate) fn held_mut(&mut self) -> &mut T {
        &mut self.held
    }

    pub(crate) fn location(&self) -> DeviceLocation {
        self.location
    }
}

impl<T> Drop for Resident<T> {
    fn drop(&mut self) {
        // freed in the order of this thread's stream, which says nothing of what other threads' streams still read
        if self.device.raw_stream() as usize == PER_THREAD {
            // an error is one of a kernel's, which the next call reports
            let _ = self.device.context().synchronize();
        }
    }
}

/// The elements of an argument in row-major order, beginning where kernels take them.
pub(crate) enum Elements<'a, E> {
    InPlace(CudaView<'a, E>),
    Gathered(CudaStorage),
}

impl<E: Element> Elements<'_, E> {
    pub(crate) fn view(&self) -> Result<CudaView<'_, E>> {
        match self {
            Elements::InPlace(view) => Ok(view.slice(..)),
            Elements::Gathered(storage) => Ok(storage.as_cuda_slice::<E>()?.as_view()),
        }
    }
}

impl<'a> Argument<'a, CudaStorage> {
    /// The elements as kernels take them: in place where they lie so, gathered by candle's kernel where not.
    ///
    /// # Errors
    /// Unless they have this type.
    pub(crate) fn in_rows<E: Element>(&self) -> Result<Elements<'a, E>> {
        self.check_dtype::<E>()?;
        let whole = self.storage.as_cuda_slice::<E>()?;
        if let Some((start, end)) = self.layout.contiguous_offsets()
            && start * size_of::<E>() % ALIGNMENT == 0
        {
            return Ok(Elements::InPlace(whole.slice(start..end)));
        }
        // SAFETY: all of it is written by the copy.
        let mut gathered = unsafe { self.storage.device().alloc_uninit(self.layout.shape(), E::DTYPE)? };
        self.storage.copy_strided_src(&mut gathered, 0, self.layout)?;
        Ok(Elements::Gathered(gathered))
    }
}

/// Memory for a result on a device.
///
/// # Safety
/// Every element is written before the result is read.
pub(crate) unsafe fn result<E: Element>(device: &CudaDevice, elems: usize) -> Result<CudaSlice<E>> {
    // the driver takes no allocation of 0 bytes
    // SAFETY: the caller's.
    unsafe { device.alloc::<E>(elems.max(1)) }
}

/// A result as candle has it.
pub(crate) fn storage<E: Element>(slice: CudaSlice<E>, device: &CudaDevice) -> CudaStorage {
    CudaStorage::wrap_cuda_slice(slice, device.clone())
}
