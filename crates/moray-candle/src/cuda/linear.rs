//! Linear layers on a device.

use std::sync::Arc;

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::CudaStorage;
use candle_core::cuda_backend::cudarc::driver::CudaSlice;
use candle_core::{Device, DeviceLocation, Error, Result, Shape};
use moray::w4a8::cuda::{Epilogue, Weight, linear};
use moray::w4a8::{ActScales, PackedWeight};

use super::{Buffers, Element, Resident, device, result, storage};
use crate::rows::{Argument, with_float};

/// A packed weight and a bias in memory of a device.
#[derive(Debug, Clone)]
pub(crate) struct Linear {
    weight: Arc<Resident<Weight>>,
    bias: Option<Arc<Resident<CudaSlice<f32>>>>,
}

impl Linear {
    pub(crate) fn upload(weight: &PackedWeight, bias: Option<&[f32]>, to: &Device) -> Result<Self> {
        let weight = Resident::new(device(to)?, |device| Weight::upload(device, weight))?;
        let plain = Linear { weight: Arc::new(weight), bias: None };
        bias.map_or(Ok(plain.clone()), |bias| plain.with_bias(bias, to))
    }

    pub(crate) fn with_bias(self, bias: &[f32], to: &Device) -> Result<Self> {
        let bias = Resident::new(device(to)?, |device| device.upload(bias))?;
        Ok(Linear { bias: Some(Arc::new(bias)), ..self })
    }

    pub(crate) fn n(&self) -> usize {
        self.weight.held().n()
    }

    pub(crate) fn location(&self) -> DeviceLocation {
        self.weight.location()
    }

    pub(crate) fn run(
        &self,
        buffers: &Buffers,
        scales: ActScales,
        x: Argument<'_, CudaStorage>,
        residual: Option<Argument<'_, CudaStorage>>,
    ) -> Result<(CudaStorage, Shape)> {
        with_float!(x, E => self.multiply::<E>(buffers, scales, x, residual))
    }

    fn multiply<E: Element>(
        &self,
        buffers: &Buffers,
        scales: ActScales,
        x: Argument<'_, CudaStorage>,
        residual: Option<Argument<'_, CudaStorage>>,
    ) -> Result<(CudaStorage, Shape)> {
        let (weight, device) = (self.weight.held(), self.weight.with_stream_of(&x)?);
        let (n, k) = (weight.n(), weight.k());
        let (m, shape) = (x.rows(k)?, x.with_last(n));
        if let Some(residual) = &residual {
            residual.check_shape(&shape)?;
        }
        let residual = residual.map(|residual| residual.in_rows::<E>()).transpose()?;
        let residual = residual.as_ref().map(|residual| residual.view()).transpose()?;
        let on = x.storage.device();
        // SAFETY: the product writes all of it, or there is nothing to be read.
        let mut y = unsafe { result::<E>(on, m * n)? };
        if m > 0 {
            let rows = x.in_rows::<E>()?;
            let (x, bias) = (rows.view()?, self.bias.as_ref().map(|bias| bias.held()));
            let epilogue = Epilogue { bias, residual: residual.as_ref() };
            let run = |activations: &mut moray::w4a8::cuda::Activations, workspace: &mut _| {
                activations.set_scales(scales);
                activations.quantize(&device, &x, m, k)?;
                linear(&device, weight, activations, epilogue, &mut y.as_view_mut(), workspace)
            };
            buffers.with_product(&device, m, k, run).map_err(Error::wrap)?;
        }
        Ok((storage(y, on), shape))
    }
}
