//! Memory of a device, with the one error that a program may want to act on.

use super::held::Held;
use super::{Device, call};
use crate::error::{Error, Result, product};
use cudarc::driver::result::{memcpy_dtod_async, memcpy_dtoh_async, memcpy_htod_async, memset_d8_async};
use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaSlice, DevicePtr, DevicePtrMut, DeviceRepr, DeviceSlice, DriverError, ValidAsZeroBits};

impl Device {
    /// Allocates `len` zeros.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if they do not fit, [`Error::Shape`] if no memory can hold them, [`Error::Driver`] for any other refusal.
    pub fn zeros<T: DeviceRepr + ValidAsZeroBits>(&self, len: usize) -> Result<CudaSlice<T>> {
        product("len", &[len, size_of::<T>()])?;
        // the driver takes no allocation of 0 bytes
        self.stream().alloc_zeros(len.max(1)).map_err(allocation::<T>(len))
    }

    /// Allocates memory for `host` and copies it there.
    ///
    /// # Errors
    /// As [`Device::zeros`].
    pub fn upload<T: DeviceRepr>(&self, host: &[T]) -> Result<CudaSlice<T>> {
        self.stream().clone_htod(host).map_err(allocation::<T>(host.len()))
    }

    /// Copies `host` over device memory.
    ///
    /// # Errors
    /// [`Error::Length`] unless both are as long, [`Error::Driver`] if the driver refuses.
    pub fn upload_into<T: DeviceRepr, S: DevicePtrMut<T>>(&self, host: &[T], to: &mut S) -> Result<()> {
        crate::error::check_len("to", host.len(), to.len())?;
        let mut held = Held::new(self);
        let address = held.write("to", to)?;
        self.context().bind_to_thread().map_err(call("bind the context"))?;
        // SAFETY: the memory is as long as `host`, and held; a copy from memory that is not pinned has read it when the call returns.
        held.launch(|stream| unsafe { memcpy_htod_async(address, host, stream) }.map_err(call("copy to the device")))
    }

    /// Clears device memory.
    ///
    /// # Errors
    /// [`Error::Driver`] if the driver refuses.
    pub fn clear<T: DeviceRepr + ValidAsZeroBits, S: DevicePtrMut<T>>(&self, memory: &mut S) -> Result<()> {
        let (bytes, mut held) = (memory.num_bytes(), Held::new(self));
        let address = held.write("memory", memory)?;
        self.context().bind_to_thread().map_err(call("bind the context"))?;
        // SAFETY: the memory is so many bytes, for which 0 is a value, and held.
        held.launch(|stream| unsafe { memset_d8_async(address, 0, bytes, stream) }.map_err(call("clear memory")))
    }

    /// Copies device memory over other device memory, on the stream.
    ///
    /// # Errors
    /// [`Error::Length`] unless both are as long, [`Error::Driver`] if the driver refuses.
    pub fn copy<T: DeviceRepr>(&self, from: &CudaSlice<T>, to: &mut CudaSlice<T>) -> Result<()> {
        crate::error::check_len("to", from.len(), to.len())?;
        let (bytes, mut held) = (from.num_bytes(), Held::new(self));
        let (from, to) = (held.read("from", from)?, held.write("to", to)?);
        self.context().bind_to_thread().map_err(call("bind the context"))?;
        // SAFETY: both are so many bytes of the context, and held.
        held.launch(|stream| unsafe { memcpy_dtod_async(to, from, bytes, stream) }.map_err(call("copy on the device")))
    }

    /// Copies device memory to the host and waits for it.
    ///
    /// # Errors
    /// [`Error::Driver`] if the copy, or a kernel before it, fails.
    pub fn download<T: DeviceRepr + Default + Clone, S: DevicePtr<T>>(&self, device: &S) -> Result<Vec<T>> {
        let mut host = vec![T::default(); device.len()];
        self.download_into(device, &mut host[..])?;
        Ok(host)
    }

    /// Copies device memory over `host` and waits for it.
    ///
    /// # Errors
    /// [`Error::Length`] unless both are as long, [`Error::Driver`] as [`Device::download`].
    pub fn download_into<T: DeviceRepr, S: DevicePtr<T>>(&self, device: &S, host: &mut [T]) -> Result<()> {
        crate::error::check_len("host", device.len(), host.len())?;
        let mut held = Held::new(self);
        let address = held.read("device", device)?;
        self.context().bind_to_thread().map_err(call("bind the context"))?;
        // SAFETY: the memory is as long as `host`, and held; `host` is borrowed until the stream has passed the copy.
        held.launch(|stream| unsafe { memcpy_dtoh_async(host, address, stream) }.map_err(call("copy to the host")))?;
        self.synchronize()
    }
}

fn allocation<T>(len: usize) -> impl Fn(DriverError) -> Error {
    move |error| match error.0 {
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => Error::OutOfMemory { bytes: len * size_of::<T>() },
        _ => call("allocate")(error),
    }
}

/// Checks that memory belongs to the device's context.
///
/// # Errors
/// [`Error::Unsupported`] for that of another.
pub(crate) fn check_context<T>(what: &'static str, device: &Device, slice: &impl DeviceSlice<T>) -> Result<()> {
    match **slice.stream().context() == **device.context() {
        true => Ok(()),
        false => {
            Err(Error::Unsupported { what, expected: "memory of the device's context", got: "that of another".into() })
        }
    }
}
