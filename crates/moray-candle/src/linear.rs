//! A linear layer with weights in 4 or 8 bits and int8 activations.

use candle_core::quantized::QTensor;
use candle_core::{CpuStorage, CudaStorage, CustomOp1, CustomOp2, Device, Error, Layout, Result, Shape, Tensor};
use candle_nn::Module;
use moray::w4a8::{ActScales, Epilogue, Format, PackedWeight, linear};

use crate::place::Place;
use crate::rows::{Argument, Float, check_location, with_float};
use crate::weight::{from_blocks, from_numbers};
use crate::{Runtime, cuda};

/// y = x · wᵀ (+ bias) (+ residual), with w\[N, K\] in codes of 4 or 8 bits and x\[.., K\] quantized to int8 as it comes.
///
/// Sums are those of [`moray::w4a8`]: the same bits for every number of tokens in a call, every number of threads and every device. y
/// has the type of x and is where the layer is: on the CPU, or on the CUDA device of [`QuantizedLinear::to_device`]. Clones share the
/// weight.
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
    place: Place<PackedWeight, cuda::Linear>,
    scales: ActScales,
}

impl QuantizedLinear {
    /// Takes a packed weight, on the CPU.
    pub fn new(runtime: &Runtime, weight: PackedWeight) -> Self {
        QuantizedLinear { runtime: runtime.clone(), place: Place::cpu(weight), scales: ActScales::default() }
    }

    /// Copies the weight to a CUDA device, where inputs are from then on; a layer that is there stays. Waits until it is there.
    ///
    /// # Errors
    /// For another device, and without the feature `cuda`.
    pub fn to_device(self, device: &Device) -> Result<Self> {
        let place = self.place.to_device(device)?;
        Ok(QuantizedLinear { place, ..self })
    }

    /// Takes the blocks of a GGUF tensor \[N, K\] as they are: no number changes. The layer is where the tensor is.
    ///
    /// # Errors
    /// For blocks other than Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0, and for scales that are not finite. [`QTensor::dequantize`] and
    /// [`QuantizedLinear::quantize`] take others, which rounds their numbers once more.
    pub fn from_qtensor(runtime: &Runtime, weight: &QTensor) -> Result<Self> {
        Self::new(runtime, PackedWeight::pack(&from_blocks("weight", weight)?)).to_device(&weight.device())
    }

    /// Rounds a weight \[N, K\] in floating point to nearest in a format. The layer is where the tensor is.
    ///
    /// # Errors
    /// Unless the weight is a matrix of finite numbers that the format takes: K a multiple of the group size and of 32.
    pub fn quantize(runtime: &Runtime, weight: &Tensor, format: Format) -> Result<Self> {
        Self::new(runtime, PackedWeight::pack(&from_numbers("weight", weight, format)?)).to_device(weight.device())
    }

    /// Adds a bias \[N\], in any floating type and from any device.
    ///
    /// # Errors
    /// For another shape.
    pub fn with_bias(self, bias: &Tensor) -> Result<Self> {
        let place = self.place.with_bias(bias)?;
        Ok(QuantizedLinear { place, runtime: self.runtime, scales: self.scales })
    }

    /// Says how finely inputs are scaled: one scale for each token, or one for each 128 of its features, which costs less
    /// accuracy where some are large.
    pub fn with_scales(self, scales: ActScales) -> Self {
        QuantizedLinear { scales, ..self }
    }

    /// The weight of a layer on the CPU.
    pub fn weight(&self) -> Option<&PackedWeight> {
        match &self.place {
            Place::Cpu { weight, .. } => Some(weight),
            Place::Cuda { .. } => None,
        }
    }

    /// Computes y + residual, rounded once: `residual` has the shape of y and the type of x.
    ///
    /// # Errors
    /// As [`QuantizedLinear::forward`]; for a residual of another shape or type.
    pub fn forward_add(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        check_location("x", self.place.location(), x)?;
        check_location("residual", self.place.location(), residual)?;
        x.apply_op2(residual, self.clone())
    }

    fn on_cpu(&self, x: Argument<'_>, residual: Option<Argument<'_>>) -> Result<(CpuStorage, Shape)> {
        match &self.place {
            Place::Cpu { weight, bias } => {
                with_float!(x, E => self.multiply::<E>(weight, bias.as_deref(), x, residual))
            }
            Place::Cuda { .. } => Err(x.elsewhere(&self.place.location())),
        }
    }

    fn on_cuda(
        &self,
        x: Argument<'_, CudaStorage>,
        residual: Option<Argument<'_, CudaStorage>>,
    ) -> Result<(CudaStorage, Shape)> {
        match &self.place {
            Place::Cpu { .. } => Err(x.elsewhere(&self.place.location())),
            Place::Cuda { layer, .. } => layer.run(self.runtime.on_device(), self.scales, x, residual),
        }
    }

    fn multiply<E: Float>(
        &self,
        weight: &PackedWeight,
        bias: Option<&[f32]>,
        x: Argument<'_>,
        residual: Option<Argument<'_>>,
    ) -> Result<(CpuStorage, Shape)> {
        let (n, k) = (weight.n(), weight.k());
        let (m, shape) = (x.rows(k)?, x.with_last(n));
        if let Some(residual) = &residual {
            residual.check_shape(&shape)?;
        }
        let residual = residual.map(|residual| residual.elements::<E>()).transpose()?;
        let mut y = vec![<E as candle_core::WithDType>::from_f64(0.0); m * n];
        if m > 0 {
            let (cpu, x) = (self.runtime.cpu(), x.elements::<E>()?);
            let epilogue = Epilogue { bias, residual: residual.as_deref() };
            let run = |activations: &mut moray::w4a8::Activations| {
                activations.set_scales(self.scales);
                activations.quantize(cpu, &x, m, k)?;
                linear(cpu, weight, activations, epilogue, &mut y)
            };
            self.runtime.with_activations(run).map_err(Error::wrap)?;
        }
        Ok((E::to_cpu_storage_owned(y), shape))
    }
}

impl Module for QuantizedLinear {
    /// Multiplies x \[.., K\] and gives y \[.., N\].
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        check_location("x", self.place.location(), x)?;
        x.apply_op1(self.clone())
    }
}

impl CustomOp1 for QuantizedLinear {
    fn name(&self) -> &'static str {
        "moray_w4a8_linear"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        self.on_cpu(Argument::new("x", (storage, layout)), None)
    }

    fn cuda_fwd(&self, storage: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        self.on_cuda(Argument::new("x", (storage, layout)), None)
    }
}

impl CustomOp2 for QuantizedLinear {
    fn name(&self) -> &'static str {
        "moray_w4a8_linear_add"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        self.on_cpu(Argument::new("x", (s1, l1)), Some(Argument::new("residual", (s2, l2))))
    }

    fn cuda_fwd(&self, s1: &CudaStorage, l1: &Layout, s2: &CudaStorage, l2: &Layout) -> Result<(CudaStorage, Shape)> {
        self.on_cuda(Argument::new("x", (s1, l1)), Some(Argument::new("residual", (s2, l2))))
    }
}
