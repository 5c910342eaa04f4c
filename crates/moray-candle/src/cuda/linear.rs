//! Linear layers on a device.

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::CudaStorage;
use candle_core::{Error, Result, Shape};
use moray::w4a8::ActScales;
use moray::w4a8::cuda::{Epilogue, Weight, linear};

use super::{Biased, Buffers, Element, result, storage};
use crate::rows::{Argument, with_float};

/// A packed weight and a bias in memory of a device.
pub(crate) type Linear = Biased<Weight>;

impl Linear {
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
