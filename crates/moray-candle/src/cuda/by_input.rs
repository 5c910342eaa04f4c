//! Products by input on a device.

use std::sync::Arc;

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::CudaStorage;
use candle_core::cuda_backend::cudarc::driver::CudaSlice;
use candle_core::{Device, DeviceLocation, Error, Result, Shape};
use moray::input_sparse;
use moray::input_sparse::cuda::{Weight, linear};

use super::{Buffers, Resident, device, result, storage};
use crate::rows::Argument;

/// A weight by input and a bias in memory of a device.
#[derive(Debug, Clone)]
pub(crate) struct InputWeight {
    weight: Arc<Resident<Weight>>,
    bias: Option<Arc<Resident<CudaSlice<f32>>>>,
}

impl InputWeight {
    pub(crate) fn upload(weight: &input_sparse::Weight, bias: Option<&[f32]>, to: &Device) -> Result<Self> {
        let weight = Resident::new(device(to)?, |device| Weight::upload(device, weight))?;
        let plain = InputWeight { weight: Arc::new(weight), bias: None };
        bias.map_or(Ok(plain.clone()), |bias| plain.with_bias(bias, to))
    }

    pub(crate) fn with_bias(self, bias: &[f32], to: &Device) -> Result<Self> {
        let bias = Resident::new(device(to)?, |device| device.upload(bias))?;
        Ok(InputWeight { bias: Some(Arc::new(bias)), ..self })
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
        threshold: f32,
        x: Argument<'_, CudaStorage>,
    ) -> Result<(CudaStorage, Shape)> {
        let (weight, device) = (self.weight.held(), self.weight.with_stream_of(&x)?);
        let (n, k) = (weight.n(), weight.k());
        let (m, shape, on) = (x.rows(k)?, x.with_last(n), x.storage.device());
        // SAFETY: the product writes all of it, or there is nothing to be read.
        let mut y = unsafe { result::<f32>(on, m * n)? };
        let rows = x.in_rows::<f32>()?;
        if m > 0 {
            let (x, bias) = (rows.view()?, self.bias.as_ref().map(|bias| bias.held().as_view()));
            let run = |workspace: &mut _| {
                linear(&device, weight, &x, threshold, bias.as_ref(), None, &mut y.as_view_mut(), workspace)
            };
            buffers.with_by_input(&device, [m, n, k], run).map_err(Error::wrap)?;
        }
        Ok((storage(y, on), shape))
    }
}
