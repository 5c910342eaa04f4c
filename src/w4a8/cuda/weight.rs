//! A packed weight on the device.

use super::variant::Format;
use crate::device::{Device, check_context};
use crate::error::Result;
use crate::w4a8::{GroupOffset, PackedWeight, pack::PackedScales};
use cudarc::driver::{CudaSlice, DevicePtr};

/// A packed weight matrix in device memory: its tiles and scales as they are on the host.
#[derive(Debug, Clone)]
pub struct Weight {
    n: usize,
    k: usize,
    format: Format,
    bytes: usize,
    codes: CudaSlice<u8>,
    /// f32 \[N/16\]\[16\].
    scale: Option<CudaSlice<f32>>,
    /// f16 or u8 \[N/16\]\[groups\]\[16\].
    group_scale: Option<CudaSlice<u8>>,
    /// f16 or u8 \[N/16\]\[groups\]\[16\].
    offset: Option<CudaSlice<u8>>,
}

impl Weight {
    /// Copies a packed weight to the device.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`] if it does not fit, [`crate::Error::Driver`] for any other refusal.
    pub fn upload(device: &Device, weight: &PackedWeight) -> Result<Self> {
        let (scale, group_scale, offset): (Option<&[f32]>, Option<&[u8]>, Option<&[u8]>) = match &weight.scales {
            PackedScales::PerChannel { scale } => (Some(scale), None, None),
            PackedScales::PerGroup { scale, offset, .. } => {
                let offset = match offset {
                    GroupOffset::Symmetric => None,
                    GroupOffset::F16(offset) => Some(bytemuck::cast_slice(offset)),
                    GroupOffset::ZeroPoint(points) => Some(&points[..]),
                };
                (None, Some(bytemuck::cast_slice(scale)), offset)
            }
            PackedScales::TwoLevel { group_scale, scale, .. } => (Some(scale), Some(group_scale), None),
            PackedScales::Qqq { group_scale, scale } => (Some(scale), Some(bytemuck::cast_slice(group_scale)), None),
        };
        let bytes = |host: Option<&[u8]>| host.map(|host| device.upload(host)).transpose();
        Ok(Weight {
            n: weight.n(),
            k: weight.k(),
            format: Format::of(weight),
            bytes: weight.bytes(),
            codes: device.upload(weight.codes())?,
            scale: scale.map(|scale| device.upload(scale)).transpose()?,
            group_scale: bytes(group_scale)?,
            offset: bytes(offset)?,
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

    /// The mode, as kernels know it.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Bytes of codes and scales, all of which one multiplication reads.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Checks that the weight lies on a device.
    pub(super) fn check(&self, device: &Device) -> Result<()> {
        check_context("weight", device, &self.codes)
    }

    /// The device pointers of codes, scale, group_scale and offset; 0 for what the format does not have.
    pub fn pointers(&self, device: &Device) -> [u64; 4] {
        fn pointer<T>(device: &Device, slice: &Option<CudaSlice<T>>) -> u64 {
            slice.as_ref().map_or(0, |slice| slice.device_ptr(device.stream()).0)
        }
        [
            self.codes.device_ptr(device.stream()).0,
            pointer(device, &self.scale),
            pointer(device, &self.group_scale),
            pointer(device, &self.offset),
        ]
    }
}
