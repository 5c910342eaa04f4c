//! A weight and a bias in memory of a device.

use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::CudaSlice;
use candle_core::{Device, DeviceLocation, Result};

use super::{Resident, device};
use crate::place::OnCuda;

/// A weight that a device can have.
pub(crate) trait Upload: Sized {
    /// The same on the CPU.
    type Host;

    fn upload(device: &moray::Device, weight: &Self::Host) -> moray::Result<Self>;

    /// Output features.
    fn n(&self) -> usize;
}

impl Upload for moray::w4a8::cuda::Weight {
    type Host = moray::w4a8::PackedWeight;

    fn upload(device: &moray::Device, weight: &Self::Host) -> moray::Result<Self> {
        Self::upload(device, weight)
    }

    fn n(&self) -> usize {
        self.n()
    }
}

impl Upload for moray::input_sparse::cuda::Weight {
    type Host = moray::input_sparse::Weight;

    fn upload(device: &moray::Device, weight: &Self::Host) -> moray::Result<Self> {
        Self::upload(device, weight)
    }

    fn n(&self) -> usize {
        self.n()
    }
}

/// Both, which clones share.
#[derive(Debug)]
pub(crate) struct Biased<W> {
    pub(super) weight: Arc<Resident<W>>,
    pub(super) bias: Option<Arc<Resident<CudaSlice<f32>>>>,
}

impl<W> Clone for Biased<W> {
    fn clone(&self) -> Self {
        Biased { weight: self.weight.clone(), bias: self.bias.clone() }
    }
}

impl<W: Upload> OnCuda for Biased<W> {
    type Weight = W::Host;

    fn upload(weight: &W::Host, bias: Option<&[f32]>, to: &Device) -> Result<Self> {
        let weight = Resident::new(device(to)?, |device| W::upload(device, weight))?;
        let plain = Biased { weight: Arc::new(weight), bias: None };
        bias.map_or(Ok(plain.clone()), |bias| plain.with_bias(bias, to))
    }

    fn with_bias(self, bias: &[f32], to: &Device) -> Result<Self> {
        let bias = Resident::new(device(to)?, |device| device.upload(bias))?;
        Ok(Biased { bias: Some(Arc::new(bias)), ..self })
    }

    fn n(&self) -> usize {
        self.weight.held().n()
    }

    fn location(&self) -> DeviceLocation {
        self.weight.location()
    }
}
