//! A linear layer that reads the weights of its large inputs.

use candle_core::quantized::QTensor;
use candle_core::{CpuStorage, CudaStorage, CustomOp1, DType, Device, Error, Layout, Result, Shape, Tensor, bail};
use candle_nn::Module;
use moray::DenseType;
use moray::input_sparse::{Weight, linear};
use moray::w4a8::{Epilogue, Format};

use crate::place::Place;
use crate::rows::{Argument, check_location, host_f32};
use crate::weight::{from_blocks, from_numbers, matrix_dims};
use crate::{Runtime, cuda};

/// y = x · wᵀ (+ bias) over the inputs with |x| above a threshold, of which alone weights are read.
///
/// w\[N, K\] is held by input, in f32, f16, bf16 or 4 bits; with those of 4 bits x is quantized to int8. Up to 8 tokens read the weights of
/// the inputs that any of them keeps; more read all. Sums are those of [`moray::input_sparse`]: the same bits for every number of tokens in a
/// call, every number of threads and every device. y has the type of x; it is computed in f32. Clones share the weight.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_nn::Module;
/// use moray_candle::{InputSparseLinear, Runtime};
///
/// let w = Tensor::new(&[[1f32, 2.0, 3.0], [4.0, 5.0, 6.0]], &Device::Cpu)?;
/// let layer = InputSparseLinear::new(&Runtime::detect(), &w, 0.5)?;
/// let y = layer.forward(&Tensor::new(&[[1f32, 0.25, -1.0]], &Device::Cpu)?)?;
/// assert_eq!(y.to_vec2::<f32>()?, [[1.0 - 3.0, 4.0 - 6.0]]);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct InputSparseLinear {
    runtime: Runtime,
    place: Place<Weight, cuda::InputWeight>,
    threshold: f32,
}

impl InputSparseLinear {
    /// Copies a weight \[N, K\] in f32, f16 or bf16, by input. The layer is where the tensor is.
    ///
    /// # Errors
    /// For another type, for numbers that are not finite, and for a threshold that is not finite or below 0.
    pub fn new(runtime: &Runtime, weight: &Tensor, threshold: f32) -> Result<Self> {
        let (n, k) = matrix_dims("weight", weight.dims())?;
        let dtype = match weight.dtype() {
            DType::F32 => DenseType::F32,
            DType::F16 => DenseType::F16,
            DType::BF16 => DenseType::Bf16,
            got => bail!("weight: expected f32, f16 or bf16, got {}", got.as_str()),
        };
        let held = Weight::from_f32(&host_f32("weight", weight, &[n, k])?, n, k, dtype).map_err(Error::wrap)?;
        Self::of(runtime, held, threshold)?.to_device(weight.device())
    }

    /// Takes the blocks of a GGUF tensor \[N, K\] as they are: no number changes. The layer is where the tensor is.
    ///
    /// # Errors
    /// For blocks other than Q4_0 and Q4_1, and a threshold as [`InputSparseLinear::new`].
    pub fn from_qtensor(runtime: &Runtime, weight: &QTensor, threshold: f32) -> Result<Self> {
        let held = Weight::from_quantized(&from_blocks("weight", weight)?).map_err(Error::wrap)?;
        Self::of(runtime, held, threshold)?.to_device(&weight.device())
    }

    /// Rounds a weight \[N, K\] in floating point to nearest in a format of 4 bits with scales for channels or groups. The layer is where
    /// the tensor is.
    ///
    /// # Errors
    /// For another format, for weights that are not finite, and a threshold as [`InputSparseLinear::new`].
    pub fn quantize(runtime: &Runtime, weight: &Tensor, format: Format, threshold: f32) -> Result<Self> {
        let held = Weight::from_quantized(&from_numbers("weight", weight, format)?).map_err(Error::wrap)?;
        Self::of(runtime, held, threshold)?.to_device(weight.device())
    }

    fn of(runtime: &Runtime, weight: Weight, threshold: f32) -> Result<Self> {
        InputSparseLinear { runtime: runtime.clone(), place: Place::cpu(weight), threshold }.with_threshold(threshold)
    }

    /// Says above which size inputs are kept.
    ///
    /// # Errors
    /// Unless it is finite and at least 0.
    pub fn with_threshold(self, threshold: f32) -> Result<Self> {
        if !(threshold.is_finite() && threshold >= 0.0) {
            bail!("threshold: expected a finite number of at least 0, got {threshold}");
        }
        Ok(InputSparseLinear { threshold, ..self })
    }

    /// Adds a bias \[N\], in any floating type and from any device.
    ///
    /// # Errors
    /// For another shape.
    pub fn with_bias(self, bias: &Tensor) -> Result<Self> {
        let place = self.place.with_bias(bias)?;
        Ok(InputSparseLinear { place, runtime: self.runtime, threshold: self.threshold })
    }

    /// Copies the weight to a CUDA device, where inputs are from then on; a layer that is there stays. Waits until it is there.
    ///
    /// # Errors
    /// For another device, and without the feature `cuda`.
    pub fn to_device(self, device: &Device) -> Result<Self> {
        let place = self.place.to_device(device)?;
        Ok(InputSparseLinear { place, ..self })
    }

    fn multiply(&self, weight: &Weight, bias: Option<&[f32]>, x: Argument<'_>) -> Result<(CpuStorage, Shape)> {
        let (n, k) = (weight.n(), weight.k());
        let (m, shape) = (x.rows(k)?, x.with_last(n));
        let (values, mut y) = (x.elements::<f32>()?, vec![0.0; m * n]);
        let run = |workspace: &mut _| {
            let epilogue = Epilogue { bias, residual: None };
            linear(self.runtime.cpu(), weight, &values, self.threshold, epilogue, &mut y, workspace)
        };
        self.runtime.with_by_input(run).map_err(Error::wrap)?;
        Ok((CpuStorage::F32(y), shape))
    }
}

impl Module for InputSparseLinear {
    /// Multiplies x \[.., K\] in f32, f16 or bf16 and gives y \[.., N\].
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        check_location("x", self.place.location(), x)?;
        match x.dtype() {
            DType::F32 => x.apply_op1(self.clone()),
            // on a device candle converts nothing where there are no elements
            DType::F16 | DType::BF16 if x.elem_count() == 0 && x.device().is_cuda() => x.apply_op1(self.clone()),
            DType::F16 | DType::BF16 => x.to_dtype(DType::F32)?.apply_op1(self.clone())?.to_dtype(x.dtype()),
            got => bail!("x: expected f32, f16 or bf16, got {}", got.as_str()),
        }
    }
}

impl CustomOp1 for InputSparseLinear {
    fn name(&self) -> &'static str {
        "moray_by_input"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = Argument::new("x", (storage, layout));
        match &self.place {
            Place::Cpu { weight, bias } => self.multiply(weight, bias.as_deref(), x),
            Place::Cuda { .. } => Err(x.elsewhere(&self.place.location())),
        }
    }

    fn cuda_fwd(&self, storage: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let x = Argument::new("x", (storage, layout));
        match &self.place {
            Place::Cpu { .. } => Err(x.elsewhere(&self.place.location())),
            Place::Cuda { layer, .. } => layer.run(self.runtime.on_device(), self.threshold, x),
        }
    }
}
