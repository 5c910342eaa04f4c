//! A gated MLP of which some neurons are computed.

use std::sync::Arc;

use candle_core::quantized::QTensor;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, DType, Device, DeviceLocation, Error, Layout, Result, Shape, Tensor, bail,
};
use candle_nn::Module;
use half::{bf16, f16};
use moray::sparse_mlp::{self as mlp, Activation, WeightElement, Weights, forward};
use moray::w4a8::{Format, QuantizedWeight};

use crate::rows::{Argument, Float, check_location, narrowed, stays, with_float};
use crate::selection::Resolved;
use crate::weight::{from_blocks, from_numbers, matrix_dims};
use crate::{Runtime, Selection, cuda};

/// y = down · (act(gate · x) ⊙ (up · x)) over the neurons of a [`Selection`], of which alone weights are read.
///
/// The weights, gate and up \[d_ff, d_model\] and down \[d_model, d_ff\], are held by neuron in f32, f16, bf16 or 4 bits; with those
/// of 4 bits x and the product are quantized to int8. Sums are those of [`moray::sparse_mlp`], or of its `cuda` on a device. y has the type
/// and the shape of x. Clones share the weights.
///
/// # Example
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use candle_nn::Module;
/// use moray_candle::moray::sparse_mlp::Activation;
/// use moray_candle::{Runtime, Selection, SparseMlp};
///
/// let (d_model, d_ff, cpu) = (8, 32, &Device::Cpu);
/// let gate = Tensor::randn(0f32, 1.0, (d_ff, d_model), cpu)?;
/// let up = Tensor::randn(0f32, 1.0, (d_ff, d_model), cpu)?;
/// let down = Tensor::randn(0f32, 1.0, (d_model, d_ff), cpu)?;
/// let mlp = SparseMlp::new(&Runtime::detect(), Activation::Silu, &gate, &up, &down)?;
///
/// let x = Tensor::randn(0f32, 1.0, (1, 4, d_model), cpu)?;
/// let all = mlp.forward(&x)?;
/// let some = mlp.forward_selected(&x, &Selection::top_k(24))?;
/// let first = mlp.forward_selected(&x, &Selection::List(Tensor::arange(0u32, 16, cpu)?))?;
/// assert_eq!((all.dims(), some.dims(), first.dims()), (x.dims(), x.dims(), x.dims()));
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct SparseMlp {
    runtime: Runtime,
    place: Place,
    selection: Selection,
}

/// Where the numbers are.
#[derive(Debug, Clone)]
enum Place {
    Cpu { weights: Arc<Weights>, four_bit: bool },
    Cuda(cuda::Mlp),
}

impl SparseMlp {
    /// Copies weights in f32, f16 or bf16, all three in the same. The layer is where the gate is.
    ///
    /// # Errors
    /// For shapes that do not go together, other types, and weights that are not finite.
    pub fn new(runtime: &Runtime, activation: Activation, gate: &Tensor, up: &Tensor, down: &Tensor) -> Result<Self> {
        let shape = shape(activation, gate.dims())?;
        let weights = match gate.dtype() {
            DType::F32 => dense::<f32>(shape, gate, up, down)?,
            DType::F16 => dense::<f16>(shape, gate, up, down)?,
            DType::BF16 => dense::<bf16>(shape, gate, up, down)?,
            got => bail!("gate: expected f32, f16 or bf16, got {}", got.as_str()),
        };
        Self::of(runtime, weights, false).to_device(gate.device())
    }

    /// Takes the blocks of GGUF tensors as they are: no number changes. The layer is where the gate is.
    ///
    /// # Errors
    /// For blocks other than Q4_0 and Q4_1, and shapes that do not go together.
    pub fn from_qtensors(
        runtime: &Runtime,
        activation: Activation,
        gate: &QTensor,
        up: &QTensor,
        down: &QTensor,
    ) -> Result<Self> {
        let shape = shape(activation, gate.shape().dims())?;
        let parts = [from_blocks("gate", gate)?, from_blocks("up", up)?, from_blocks("down", down)?];
        Self::from_quantized(runtime, shape, &parts)?.to_device(&gate.device())
    }

    /// Rounds weights in floating point to nearest in a format of 4 bits with scales for channels or groups. The layer is where the
    /// gate is.
    ///
    /// # Errors
    /// For another format, shapes that do not go together, and weights that are not finite.
    pub fn quantize(
        runtime: &Runtime,
        activation: Activation,
        gate: &Tensor,
        up: &Tensor,
        down: &Tensor,
        format: Format,
    ) -> Result<Self> {
        let shape = shape(activation, gate.dims())?;
        let part = |what, weight| from_numbers(what, weight, format);
        let parts = [part("gate", gate)?, part("up", up)?, part("down", down)?];
        Self::from_quantized(runtime, shape, &parts)?.to_device(gate.device())
    }

    fn from_quantized(runtime: &Runtime, shape: mlp::Shape, parts: &[QuantizedWeight; 3]) -> Result<Self> {
        let (by_neuron, [gate, up, down]) = ([shape.d_ff, shape.d_model], parts);
        let expected = [("gate", by_neuron), ("up", by_neuron), ("down", [shape.d_model, shape.d_ff])];
        for ((what, dims), part) in expected.into_iter().zip(parts) {
            if [part.n(), part.k()] != dims {
                bail!("{what}: expected the shape {dims:?}, got {:?}", [part.n(), part.k()]);
            }
        }
        Ok(Self::of(runtime, Weights::from_quantized(shape, gate, up, down).map_err(Error::wrap)?, true))
    }

    fn of(runtime: &Runtime, weights: Weights, four_bit: bool) -> Self {
        let place = Place::Cpu { weights: Arc::new(weights), four_bit };
        SparseMlp { runtime: runtime.clone(), place, selection: Selection::All }
    }

    /// Copies the weights to a CUDA device, where inputs are from then on; a layer that is there stays. Waits until they are there.
    ///
    /// # Errors
    /// For another device, and without the feature `cuda`; for weights in f32, which devices do not take.
    pub fn to_device(self, device: &Device) -> Result<Self> {
        let place = match &self.place {
            Place::Cpu { weights, .. } if !device.is_cpu() => Place::Cuda(cuda::Mlp::upload(weights, device)?),
            place => {
                stays(self.location(), device)?;
                place.clone()
            }
        };
        Ok(SparseMlp { place, ..self })
    }

    /// Says which neurons [`Module::forward`] computes; all if nothing is said.
    pub fn with_selection(self, selection: Selection) -> Self {
        SparseMlp { selection, ..self }
    }

    /// The weights of a layer on the CPU.
    pub fn weights(&self) -> Option<&Weights> {
        match &self.place {
            Place::Cpu { weights, .. } => Some(weights),
            Place::Cuda(_) => None,
        }
    }

    fn location(&self) -> DeviceLocation {
        match &self.place {
            Place::Cpu { .. } => DeviceLocation::Cpu,
            Place::Cuda(mlp) => mlp.location(),
        }
    }

    fn shape(&self) -> mlp::Shape {
        match &self.place {
            Place::Cpu { weights, .. } => weights.shape(),
            Place::Cuda(mlp) => mlp.shape(),
        }
    }

    /// Computes y \[.., d_model\] of x \[.., d_model\] over these neurons.
    ///
    /// # Errors
    /// For a selection that does not fit x and the weights.
    pub fn forward_selected(&self, x: &Tensor, selection: &Selection) -> Result<Tensor> {
        check_location("x", self.location(), x)?;
        let selection = selection.resolve(x.dims(), self.shape().d_ff)?;
        x.apply_op1(Call { mlp: self.clone(), selection })
    }
}

impl Module for SparseMlp {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_selected(x, &self.selection)
    }
}

fn shape(activation: Activation, gate: &[usize]) -> Result<mlp::Shape> {
    let (d_ff, d_model) = matrix_dims("gate", gate)?;
    Ok(mlp::Shape { d_model, d_ff, activation })
}

fn dense<T: Float + WeightElement>(shape: mlp::Shape, gate: &Tensor, up: &Tensor, down: &Tensor) -> Result<Weights> {
    let mlp::Shape { d_model, d_ff, .. } = shape;
    let elements = |what: &'static str, tensor: &Tensor, dims: [usize; 2]| {
        if tensor.dims() != dims || tensor.dtype() != T::DTYPE {
            let (expected, got) = (T::DTYPE.as_str(), tensor.dtype().as_str());
            bail!("{what}: expected {expected} {dims:?}, got {got} {:?}", tensor.dims());
        }
        tensor.flatten_all()?.to_vec1::<T>()
    };
    let gate = elements("gate", gate, [d_ff, d_model])?;
    let up = elements("up", up, [d_ff, d_model])?;
    Weights::new(shape, &gate, &up, &elements("down", down, [d_model, d_ff])?).map_err(Error::wrap)
}

/// One call.
struct Call {
    mlp: SparseMlp,
    selection: Resolved,
}

impl Call {
    fn compute<E: Float>(&self, weights: &Weights, four_bit: bool, x: Argument<'_>) -> Result<(CpuStorage, Shape)> {
        let d_model = weights.shape().d_model;
        let (tokens, runtime) = (x.rows(d_model)?, &self.mlp.runtime);
        let selection = self.selection.view(tokens, weights.shape()).map_err(Error::wrap)?;
        let mut y = vec![0.0; tokens * d_model];
        if tokens > 0 {
            let values = x.widened::<E>()?;
            let run = |workspace: &mut mlp::Workspace| {
                forward(runtime.cpu(), weights, &values, &selection, None, &mut y, workspace)
            };
            runtime.with_mlp_workspace(weights, four_bit, tokens, run).map_err(Error::wrap)?;
        }
        Ok((narrowed::<E>(y), x.layout.shape().clone()))
    }
}

impl CustomOp1 for Call {
    fn name(&self) -> &'static str {
        "moray_sparse_mlp"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = Argument::new("x", (storage, layout));
        match &self.mlp.place {
            Place::Cpu { weights, four_bit } => with_float!(x, E => self.compute::<E>(weights, *four_bit, x)),
            Place::Cuda(_) => Err(x.elsewhere(&self.mlp.location())),
        }
    }

    fn cuda_fwd(&self, storage: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let x = Argument::new("x", (storage, layout));
        match &self.mlp.place {
            Place::Cpu { .. } => Err(x.elsewhere(&self.mlp.location())),
            Place::Cuda(mlp) => mlp.run(self.mlp.runtime.on_device(), &self.selection, x),
        }
    }
}
