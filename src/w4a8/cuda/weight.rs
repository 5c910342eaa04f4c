//! A packed weight on the device.

use crate::device::{Device, check_context};
use crate::error::Result;
use crate::w4a8::{Format, PackedView, Sections};
use cudarc::driver::{CudaSlice, DevicePtr};

/// A packed weight matrix in device memory: its tiles and scales as they are on the host.
#[derive(Debug, Clone)]
pub struct Weight {
    n: usize,
    k: usize,
    format: Format,
    bytes: usize,
    /// None for those that the format does not have.
    sections: Sections<Option<CudaSlice<u8>>>,
}

impl Weight {
    /// Copies a packed weight to the device.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`] if it does not fit, [`crate::Error::Driver`] for any other refusal.
    pub fn upload<'w>(device: &Device, weight: impl Into<PackedView<'w>>) -> Result<Self> {
        let weight = weight.into();
        let copy = |bytes: &[u8]| (!bytes.is_empty()).then(|| device.upload(bytes)).transpose();
        Ok(Weight {
            n: weight.n(),
            k: weight.k(),
            format: weight.format(),
            bytes: weight.bytes(),
            sections: weight.sections().try_map(copy)?,
        })
    }

    /// Output features N.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Input features K.
    pub fn k(&self) -> usize {
        self.k
    }

    /// How codes become numbers.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Bytes of codes and scales, all of which one multiplication reads.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Checks that the weight lies on a device.
    pub(super) fn check(&self, device: &Device) -> Result<()> {
        self.sections.codes.iter().try_for_each(|codes| check_context("weight", device, codes))
    }

    /// The device pointers of the sections; 0 for what the format does not have.
    pub fn pointers(&self, device: &Device) -> Sections<u64> {
        let pointer = |section: &Option<CudaSlice<u8>>| {
            section.as_ref().map_or(0, |section| section.device_ptr(device.stream()).0)
        };
        self.sections.as_ref().map(pointer)
    }
}
