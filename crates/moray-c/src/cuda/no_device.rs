//! What stands for the device in a library that was built without it.

use crate::supports::MorayQuery;
use moray::{Error, Result};
use std::ffi::c_void;

/// What to do about it.
const HINT: &str = "expected a library with the feature cuda of moray-c, got one without";

/// None: nothing makes one.
#[derive(Debug)]
pub(crate) struct Device(());

impl Device {
    pub(crate) fn probe() -> Result<()> {
        Err(Error::KernelsNotBuilt { hint: HINT })
    }

    /// # Safety
    /// None is needed; there is for a device.
    pub(crate) unsafe fn from_raw(_: *mut c_void, _: *mut c_void) -> Result<Self> {
        Self::probe().map(|()| Device(()))
    }

    pub(crate) fn new(_: usize) -> Result<Self> {
        Self::probe().map(|()| Device(()))
    }

    pub(crate) fn capability(&self) -> (u32, u32) {
        (0, 0)
    }

    pub(crate) fn multiprocessors(&self) -> u32 {
        0
    }

    pub(crate) fn load_kernels(&self) -> Result<()> {
        Self::probe()
    }
}

/// As of a device.
pub(crate) fn keeping_current<R>(work: impl FnOnce() -> R) -> R {
    work()
}

/// Why an operation does not run on a device.
pub(crate) fn place(_: &MorayQuery) -> std::result::Result<String, String> {
    Err("arch: expected a CPU, as this library is built without CUDA".into())
}
