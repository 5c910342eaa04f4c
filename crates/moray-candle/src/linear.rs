//! A linear layer with weights in 4 or 8 bits and int8 activations.

use std::sync::Arc;

use candle_core::quantized::QTensor;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Error, Layout, Result, Shape, Tensor};
use candle_nn::Module;
use moray::w4a8::{ActScales, Epilogue, Format, PackedWeight, linear};

use crate::Runtime;
use crate::rows::{Argument, Float, host_f32, with_float};
use crate::weight::{from_blocks, from_numbers};

/// y = x · wᵀ (+ bias) (+ residual), with w\[N, K\] in codes of 4 or 8 bits and x\[.., K\] quantized to int8 as it comes.
///
/// Sums are those of [`moray::w4a8`]: the same bits for every number of tokens in a call and every number of threads. y has the type
/// of x. Clones share the weight.
///
/// # Example
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use candle_nn::Module;
/// use moray_candle::moray::w4a8::{Format, Offset};
/// use moray_candle::{QuantizedLinear, Runtime};
///
/// let w = Tensor::ones((32, 64), DType::F32, &Device::Cpu)?;
/// let bias = Tensor::full(0.5f32, 32, &Device::Cpu)?;
/// let format = Format::per_group(64, Offset::F16);
/// let linear = QuantizedLinear::quantize(&Runtime::detect(), &w, format)?.with_bias(&bias)?;
/// let y = linear.forward(&Tensor::ones((1, 64), DType::BF16, &Device::Cpu)?)?;
/// assert_eq!((y.dtype(), y.dims()), (DType::BF16, &[1, 32][..]));
/// assert_eq!(y.to_dtype(DType::F32)?.to_vec2::<f32>()?[0][0], 64.5);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct QuantizedLinear {
    runtime: Runtime,
    weight: Arc<PackedWeight>,
    bias: Option<Arc<[f32]>>,
    scales: ActScales,
}

impl QuantizedLinear {
    /// Takes a packed weight.
    pub fn new(runtime: &Runtime, weight: PackedWeight) -> Self {
        QuantizedLinear { runtime: runtime.clone(), weight: Arc::new(weight), bias: None, scales: ActScales::default() }
    }

    /// Takes the blocks of a GGUF tensor \[N, K\] as they are: no number changes.
    ///
    /// # Errors
    /// For blocks other than Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0, and for scales that are not finite. [`QTensor::dequantize`] and
    /// [`QuantizedLinear::quantize`] take others, which rounds their numbers once more.
    pub fn from_qtensor(runtime: &Runtime, weight: &QTensor) -> Result<Self> {
        Ok(Self::new(runtime, PackedWeight::pack(&from_blocks("weight", weight)?)))
    }

    /// Rounds a weight \[N, K\] in floating point to nearest in a format.
    ///
    /// # Errors
    /// Unless the weight is a matrix of finite numbers that the format takes: K a multiple of the group size and of 32.
    pub fn quantize(runtime: &Runtime, weight: &Tensor, format: Format) -> Result<Self> {
        Ok(Self::new(runtime, PackedWeight::pack(&from_numbers("weight", weight, format)?)))
    }

    /// Adds a bias \[N\], in any floating type.
    ///
    /// # Errors
    /// For another shape.
    pub fn with_bias(self, bias: &Tensor) -> Result<Self> {
        let bias = host_f32("bias", bias, &[self.weight.n()])?;
        Ok(QuantizedLinear { bias: Some(bias.into()), ..self })
    }

    /// Says how finely inputs are scaled: one scale for each token, or one for each 128 of its features, which costs less
    /// accuracy where some are large.
    pub fn with_scales(self, scales: ActScales) -> Self {
        QuantizedLinear { scales, ..self }
    }

    /// The weight.
    pub fn weight(&self) -> &PackedWeight {
        &self.weight
    }

    /// Computes y + residual, rounded once: `residual` has the shape of y and the type of x.
    ///
    /// # Errors
    /// As [`QuantizedLinear::forward`]; for a residual of another shape or type.
    pub fn forward_add(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        x.apply_op2(residual, self.clone())
    }

    fn multiply<E: Float>(&self, x: Argument<'_>, residual: Option<Argument<'_>>) -> Result<(CpuStorage, Shape)> {
        let (n, k) = (self.weight.n(), self.weight.k());
        let (m, shape) = (x.rows(k)?, x.with_last(n));
        if let Some(residual) = &residual {
            residual.check_shape(&shape)?;
        }
        let residual = residual.map(|residual| residual.elements::<E>()).transpose()?;
        let mut y = vec![<E as candle_core::WithDType>::from_f64(0.0); m * n];
        if m > 0 {
            let (cpu, x) = (self.runtime.cpu(), x.elements::<E>()?);
            let epilogue = Epilogue { bias: self.bias.as_deref(), residual: residual.as_deref() };
            let run = |activations: &mut moray::w4a8::Activations| {
                activations.set_scales(self.scales);
                activations.quantize(cpu, &x, m, k)?;
                linear(cpu, &*self.weight, activations, epilogue, &mut y)
            };
            self.runtime.with_activations(run).map_err(Error::wrap)?;
        }
        Ok((E::to_cpu_storage_owned(y), shape))
    }
}

impl Module for QuantizedLinear {
    /// Multiplies x \[.., K\] and gives y \[.., N\].
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.apply_op1(self.clone())
    }
}

impl CustomOp1 for QuantizedLinear {
    fn name(&self) -> &'static str {
        "moray_w4a8_linear"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = Argument::new("x", (storage, layout));
        with_float!(x, E => self.multiply::<E>(x, None))
    }
}

impl CustomOp2 for QuantizedLinear {
    fn name(&self) -> &'static str {
        "moray_w4a8_linear_add"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, residual) = (Argument::new("x", (s1, l1)), Argument::new("residual", (s2, l2)));
        with_float!(x, E => self.multiply::<E>(x, Some(residual)))
    }
}
