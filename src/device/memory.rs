//! Memory of a device, with the one error that a program may want to act on.

use super::{Device, call};
use crate::error::{Error, Result};
use cudarc::driver::sys::CUresult;
use cudarc::driver::{
    CudaSlice, DevicePtr, DevicePtrMut, DeviceRepr, DeviceSlice, DriverError, HostSlice, SyncOnDrop, ValidAsZeroBits,
};

/// What every buffer's address is a multiple of: the widest access of a kernel.
const ALIGNMENT: u64 = 16;

impl Device {
    /// Allocates `len` zeros.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if they do not fit, [`Error::Driver`] for any other refusal.
    pub fn zeros<T: DeviceRepr + ValidAsZeroBits>(&self, len: usize) -> Result<CudaSlice<T>> {
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

    /// Copies device memory over other device memory, on the stream.
    ///
    /// # Errors
    /// [`Error::Length`] unless both are as long, [`Error::Driver`] if the driver refuses.
    pub fn copy<T: DeviceRepr>(&self, from: &CudaSlice<T>, to: &mut CudaSlice<T>) -> Result<()> {
        crate::error::check_len("to", from.len(), to.len())?;
        self.stream().memcpy_dtod(from, to).map_err(call("copy on the device"))
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
        crate::error::check_len("host", device.len(), HostSlice::len(host))?;
        self.stream().memcpy_dtoh(device, host).map_err(call("copy to the host"))?;
        self.synchronize()
    }
}

fn allocation<T>(len: usize) -> impl Fn(DriverError) -> Error {
    move |error| match error.0 {
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => Error::OutOfMemory { bytes: len * size_of::<T>() },
        _ => call("allocate")(error),
    }
}

/// A device pointer whose buffer has been checked, and what tells the context's other streams of its use.
pub(crate) type Pointer<'a> = (u64, SyncOnDrop<'a>);

/// The pointer of a buffer that a kernel reads: `expected` elements of the device's context, 16-byte aligned.
///
/// # Errors
/// [`Error::Length`], [`Error::Misaligned`], or [`Error::Unsupported`] for memory of another context.
pub(crate) fn input<'a, T, S: DevicePtr<T>>(
    device: &'a Device,
    what: &'static str,
    expected: usize,
    slice: &'a S,
) -> Result<Pointer<'a>> {
    check(device, what, expected, slice)?;
    let pointer = slice.device_ptr(device.stream());
    check_aligned(what, pointer.0).map(|()| pointer)
}

/// The pointer of a buffer that a kernel writes, as [`input`].
///
/// # Errors
/// As [`input`].
pub(crate) fn output<'a, T, S: DevicePtrMut<T>>(
    device: &'a Device,
    what: &'static str,
    expected: usize,
    slice: &'a mut S,
) -> Result<Pointer<'a>> {
    check(device, what, expected, slice)?;
    let pointer = slice.device_ptr_mut(device.stream());
    check_aligned(what, pointer.0).map(|()| pointer)
}

fn check<T, S: DeviceSlice<T>>(device: &Device, what: &'static str, expected: usize, slice: &S) -> Result<()> {
    crate::error::check_len(what, expected, slice.len())?;
    check_context(what, device, slice)
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

/// Checks that an address is one from which kernels can read 16 bytes.
///
/// # Errors
/// [`Error::Misaligned`] for any other.
fn check_aligned(what: &'static str, address: u64) -> Result<()> {
    match address % ALIGNMENT {
        0 => Ok(()),
        _ => Err(Error::Misaligned { what, expected: ALIGNMENT, got: address }),
    }
}
