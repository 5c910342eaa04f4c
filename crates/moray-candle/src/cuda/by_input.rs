//! Products by input on a device.

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::{CudaDevice, CudaStorage};
use candle_core::{Error, Result, Shape};
use moray::input_sparse::cuda::{Weight, linear};

use super::{Biased, Buffers, Element, result, storage};
use crate::rows::{Argument, with_float};

/// A weight by input and a bias in memory of a device.
pub(crate) type InputWeight = Biased<Weight>;

impl InputWeight {
    pub(crate) fn run(
        &self,
        buffers: &Buffers,
        threshold: f32,
        x: Argument<'_, CudaStorage>,
    ) -> Result<(CudaStorage, Shape)> {
        let (weight, device) = (self.weight.held(), self.weight.with_stream_of(&x)?);
        let (n, k) = (weight.n(), weight.k());
        let (m, shape, on) = (x.rows(k)?, x.with_last(n), x.storage.device());
        if m == 0 {
            return with_float!(x, E => nothing::<E>(on, shape));
        }
        // SAFETY: the product writes all of it.
        let mut y = unsafe { result::<f32>(on, m * n)? };
        let rows = x.in_rows::<f32>()?;
        let (x, bias) = (rows.view()?, self.bias.as_ref().map(|bias| bias.held().as_view()));
        let run = |workspace: &mut _| {
            linear(&device, weight, &x, threshold, bias.as_ref(), None, &mut y.as_view_mut(), workspace)
        };
        buffers.with_by_input(&device, [m, n, k], run).map_err(Error::wrap)?;
        Ok((storage(y, on), shape))
    }
}

/// The result of no tokens.
fn nothing<E: Element>(device: &CudaDevice, shape: Shape) -> Result<(CudaStorage, Shape)> {
    // SAFETY: there is nothing to be read.
    Ok((storage(unsafe { result::<E>(device, 0)? }, device), shape))
}
