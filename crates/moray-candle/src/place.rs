//! Where a layer's weight and bias are.

use std::sync::Arc;

use candle_core::{Device, DeviceLocation, Result, Tensor};

use crate::rows::{host_f32, stays};

/// A weight with as many outputs as its bias has numbers.
pub(crate) trait Outputs {
    fn n(&self) -> usize;
}

impl Outputs for moray::w4a8::PackedWeight {
    fn n(&self) -> usize {
        self.n()
    }
}

impl Outputs for moray::input_sparse::Weight {
    fn n(&self) -> usize {
        self.n()
    }
}

/// A weight and a bias in memory of a CUDA device.
pub(crate) trait OnCuda: Sized + Clone {
    /// The weight on the CPU.
    type Weight;

    /// Copies both and waits until they are there.
    fn upload(weight: &Self::Weight, bias: Option<&[f32]>, to: &Device) -> Result<Self>;

    /// Has another bias.
    fn with_bias(self, bias: &[f32], to: &Device) -> Result<Self>;

    fn n(&self) -> usize;

    fn location(&self) -> DeviceLocation;
}

/// A weight and a bias on the CPU or on a CUDA device; clones share them.
#[derive(Debug)]
pub(crate) enum Place<W, C> {
    Cpu { weight: Arc<W>, bias: Option<Arc<[f32]>> },
    Cuda { layer: C, device: Device },
}

impl<W, C: Clone> Clone for Place<W, C> {
    fn clone(&self) -> Self {
        match self {
            Place::Cpu { weight, bias } => Place::Cpu { weight: weight.clone(), bias: bias.clone() },
            Place::Cuda { layer, device } => Place::Cuda { layer: layer.clone(), device: device.clone() },
        }
    }
}

impl<W: Outputs, C: OnCuda<Weight = W>> Place<W, C> {
    /// A weight on the CPU without a bias.
    pub(crate) fn cpu(weight: W) -> Self {
        Place::Cpu { weight: Arc::new(weight), bias: None }
    }

    pub(crate) fn location(&self) -> DeviceLocation {
        match self {
            Place::Cpu { .. } => DeviceLocation::Cpu,
            Place::Cuda { layer, .. } => layer.location(),
        }
    }

    /// Copies from the CPU to a device; what is on a device stays there.
    pub(crate) fn to_device(&self, device: &Device) -> Result<Self> {
        if let Place::Cpu { weight, bias } = self
            && !device.is_cpu()
        {
            let layer = C::upload(weight, bias.as_deref(), device)?;
            return Ok(Place::Cuda { layer, device: device.clone() });
        }
        stays(self.location(), device)?;
        Ok(self.clone())
    }

    /// Adds a bias \[N\], from wherever it is.
    pub(crate) fn with_bias(self, bias: &Tensor) -> Result<Self> {
        let bias = |n: usize| host_f32("bias", bias, &[n]);
        Ok(match self {
            Place::Cpu { weight, .. } => {
                let bias = bias(weight.n())?;
                Place::Cpu { weight, bias: Some(bias.into()) }
            }
            Place::Cuda { layer, device } => {
                let bias = bias(layer.n())?;
                Place::Cuda { layer: layer.with_bias(&bias, &device)?, device }
            }
        })
    }
}
