//! The elements of candle's storages in row-major order.

use std::borrow::Cow;

use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::cpu_backend::unary_map;
use candle_core::{CpuStorage, DType, Device, DeviceLocation, Error, Layout, Result, Shape, Tensor, WithDType, bail};
use half::{bf16, f16};
use moray::element::Element;

/// An element type that operations take: `f32`, `f16` or `bf16`.
pub(crate) trait Float: Element + WithDType {}
impl Float for f32 {}
impl Float for f16 {}
impl Float for bf16 {}

/// A place as errors name it.
pub(crate) fn location(of: &DeviceLocation) -> String {
    match of {
        DeviceLocation::Cpu => "the CPU".into(),
        DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    }
}

/// Checks that a tensor is where the weights are.
///
/// # Errors
/// Names both places where it is not.
pub(crate) fn check_location(what: &str, expected: DeviceLocation, tensor: &Tensor) -> Result<()> {
    let got = tensor.device().location();
    if got == expected {
        return Ok(());
    }
    bail!("{what}: expected a tensor on {}, where the layer is, got one on {}", location(&expected), location(&got))
}

/// Checks that a layer that is on a device, or that is asked back to the CPU, is asked to stay.
///
/// # Errors
/// Names both places where it is not.
pub(crate) fn stays(layer: DeviceLocation, device: &Device) -> Result<()> {
    let asked = device.location();
    if layer == asked {
        return Ok(());
    }
    bail!("device: expected {}, where the layer is, got {}", location(&layer), location(&asked))
}

/// An argument of an operation: its name and its elements.
pub(crate) struct Argument<'a, S = CpuStorage> {
    pub(crate) what: &'static str,
    pub(crate) storage: &'a S,
    pub(crate) layout: &'a Layout,
}

/// Calls `$f::<E>` for the element type of an argument, and refuses others by name.
macro_rules! with_float {
    ($argument:expr, $E:ident => $call:expr) => {
        match $argument.dtype() {
            candle_core::DType::F32 => {
                type $E = f32;
                $call
            }
            candle_core::DType::F16 => {
                type $E = half::f16;
                $call
            }
            candle_core::DType::BF16 => {
                type $E = half::bf16;
                $call
            }
            _ => Err($argument.dtype_error("f32, f16 or bf16")),
        }
    };
}
pub(crate) use with_float;

impl<'a, S: BackendStorage> Argument<'a, S> {
    pub(crate) fn new(what: &'static str, (storage, layout): (&'a S, &'a Layout)) -> Self {
        Argument { what, storage, layout }
    }

    pub(crate) fn dtype(&self) -> DType {
        self.storage.dtype()
    }

    /// The number of rows, whose width is the last dimension.
    ///
    /// # Errors
    /// Unless the last dimension is this.
    pub(crate) fn rows(&self, width: usize) -> Result<usize> {
        match self.layout.dims() {
            [rows @ .., last] if *last == width => Ok(rows.iter().product()),
            dims => bail!("{}: expected a last dimension of {width}, got the shape {dims:?}", self.what),
        }
    }

    /// The shape with another last dimension.
    pub(crate) fn with_last(&self, last: usize) -> Shape {
        let mut dims = self.layout.dims().to_vec();
        if let Some(width) = dims.last_mut() {
            *width = last;
        }
        Shape::from(dims)
    }

    /// Checks the type.
    pub(crate) fn check_dtype<T: WithDType>(&self) -> Result<()> {
        if self.dtype() == T::DTYPE { Ok(()) } else { Err(self.dtype_error(T::DTYPE.as_str())) }
    }

    /// Checks the shape.
    pub(crate) fn check_shape(&self, expected: &Shape) -> Result<()> {
        if self.layout.shape() != expected {
            bail!("{}: expected the shape {:?}, got {:?}", self.what, expected.dims(), self.layout.dims());
        }
        Ok(())
    }

    /// The refusal of an argument that is not where the layer is.
    pub(crate) fn elsewhere(&self, layer: &DeviceLocation) -> Error {
        let (expected, got) = (location(layer), location(&self.storage.device().location()));
        Error::Msg(format!("{}: expected a tensor on {expected}, where the layer is, got one on {got}", self.what)).bt()
    }

    /// Checks that the last two dimensions are these.
    pub(crate) fn heads(&self, heads: usize, head_dim: usize) -> Result<()> {
        match self.layout.dims() {
            [.., h, d] if (*h, *d) == (heads, head_dim) => Ok(()),
            dims => {
                bail!("{}: expected last dimensions of {heads} heads and {head_dim}, got the shape {dims:?}", self.what)
            }
        }
    }

    pub(crate) fn dtype_error(&self, expected: &str) -> Error {
        Error::Msg(format!("{}: expected {expected}, got {}", self.what, self.dtype().as_str())).bt()
    }
}

impl<'a> Argument<'a> {
    /// The elements in row-major order: borrowed where they lie so, gathered where not.
    ///
    /// # Errors
    /// Unless they have this type.
    pub(crate) fn elements<T: WithDType>(&self) -> Result<Cow<'a, [T]>> {
        self.check_dtype::<T>()?;
        let all = self.storage.as_slice::<T>()?;
        Ok(match self.layout.contiguous_offsets() {
            Some((start, end)) => Cow::Borrowed(&all[start..end]),
            None => Cow::Owned(unary_map(all, self.layout, |v| v)),
        })
    }

    /// The elements as f32, in row-major order.
    pub(crate) fn widened<E: Float>(&self) -> Result<Cow<'a, [f32]>> {
        if E::DTYPE == DType::F32 {
            return self.elements::<f32>();
        }
        Ok(Cow::Owned(self.elements::<E>()?.iter().map(|v| Element::to_f32(*v)).collect()))
    }
}

/// The storage of a result that was computed in f32.
pub(crate) fn narrowed<E: Float>(y: Vec<f32>) -> CpuStorage {
    match E::DTYPE {
        DType::F32 => CpuStorage::F32(y),
        _ => E::to_cpu_storage_owned(y.into_iter().map(<E as Element>::from_f32).collect()),
    }
}

/// A matrix or vector of weights as f32 on the host, wherever it is, with its name in errors.
///
/// # Errors
/// Unless it has this shape and is of floating point.
pub(crate) fn host_f32(what: &'static str, tensor: &Tensor, dims: &[usize]) -> Result<Vec<f32>> {
    if !tensor.dtype().is_float() {
        bail!("{what}: expected floating point, got {}", tensor.dtype().as_str());
    }
    if tensor.dims() != dims {
        bail!("{what}: expected the shape {dims:?}, got {:?}", tensor.dims());
    }
    tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
}
