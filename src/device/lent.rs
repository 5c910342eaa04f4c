//! Device memory that is owned, or an engine's.

use super::{Address, Device};
use cudarc::driver::{CudaSlice, DevicePtr};
use std::mem::ManuallyDrop;
use std::ops::Deref;

/// Device memory that is freed when it is dropped, unless an engine has lent it. Both are ordered between streams alike.
#[derive(Debug)]
pub(crate) struct Memory<T> {
    slice: ManuallyDrop<CudaSlice<T>>,
    lent: bool,
}

impl<T> Memory<T> {
    /// Takes memory of an engine, with the device's stream as its home.
    ///
    /// # Safety
    /// There are `len` elements at `address` in memory of the device's context, in order with the device's stream, until this
    /// is dropped and the stream has passed what was put on it then.
    pub(crate) unsafe fn lent(device: &Device, address: Address<T>, len: usize) -> Self {
        // SAFETY: the caller's; what is made of it is never freed.
        let slice = unsafe { device.stream().upgrade_device_ptr(address.get(), len) };
        Memory { slice: ManuallyDrop::new(slice), lent: true }
    }

    /// Where it begins. Orders nothing.
    pub(crate) fn address(&self) -> Address<T> {
        // the home is in order with itself
        Address::new(self.slice.device_ptr(self.slice.stream()).0)
    }
}

impl<T> From<CudaSlice<T>> for Memory<T> {
    fn from(slice: CudaSlice<T>) -> Self {
        Memory { slice: ManuallyDrop::new(slice), lent: false }
    }
}

impl<T: cudarc::driver::DeviceRepr> Clone for Memory<T> {
    /// Copies it into memory that is owned.
    fn clone(&self) -> Self {
        CudaSlice::clone(&self.slice).into()
    }
}

impl<T> Deref for Memory<T> {
    type Target = CudaSlice<T>;

    fn deref(&self) -> &CudaSlice<T> {
        &self.slice
    }
}

impl<T> Drop for Memory<T> {
    fn drop(&mut self) {
        // SAFETY: nothing uses the field after this.
        let slice = unsafe { ManuallyDrop::take(&mut self.slice) };
        match self.lent {
            // the home waits for every stream, and the memory stays
            true => drop(slice.leak()),
            false => drop(slice),
        }
    }
}
