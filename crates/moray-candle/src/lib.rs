//! moray's kernels as [candle](https://github.com/huggingface/candle) operations.
//!
//! | type | what it computes | on |
//! |---|---|---|
//! | [`QuantizedLinear`] | y = x · wᵀ + bias (+ residual), w in codes of 4 or 8 bits, x in int8; a [`candle_nn::Module`] | CPU, CUDA |
//! | [`SparseMlp`] | down · (act(gate · x) ⊙ (up · x)), of the neurons of a [`Selection`] only; a [`candle_nn::Module`] | CPU, CUDA |
//! | [`InputSparseLinear`] | y = x · wᵀ + bias over the inputs above a threshold; a [`candle_nn::Module`] | CPU, CUDA |
//! | [`Attention`] | softmax(q · kᵀ) · v over a KV cache of its own, of the heads that run | CPU, CUDA |
//!
//! Tensors are f32, f16 or bf16, and results have their type. Inputs may have any strides and offsets: what does not lie in rows is
//! gathered first. What is wrong with a call is an error that names the argument, what was expected and what was found. There are no
//! gradients: a backward pass through an operation is an error.
//!
//! Operations share a [`Runtime`], which is a team of threads and the buffers that calls use again.
//!
//! # CUDA
//! With the feature `cuda`, a layer that is made from tensors on a CUDA device, or that `to_device` takes there, works on candle's storages
//! and on the stream of candle's device. Its weights are there alone. A tensor that is not where the layer is, is refused by name.
//!
//! A call allocates its result by candle, and what it works in once for a stream. It waits for nothing but for what it reads of lists, masks
//! and factors on a device, which are better on the CPU. `Device::new_cuda` has a stream for each thread: layers may be called from any
//! thread, while a tensor is handed to another one after a [`candle_core::Device::synchronize`] in its own, as candle's own operations
//! need too.
//!
//! # Example
//! ```
//! use candle_core::quantized::{GgmlDType, QTensor};
//! use candle_core::{Device, Tensor};
//! use candle_nn::Module;
//! use moray_candle::{QuantizedLinear, Runtime};
//!
//! let runtime = Runtime::detect();
//! let w = Tensor::randn(0f32, 1.0, (48, 64), &Device::Cpu)?;
//! let blocks = QTensor::quantize(&w, GgmlDType::Q4_1)?; // as a GGUF file has them
//! let linear = QuantizedLinear::from_qtensor(&runtime, &blocks)?;
//!
//! let x = Tensor::randn(0f32, 1.0, (2, 3, 64), &Device::Cpu)?;
//! let y = linear.forward(&x)?;
//! assert_eq!(y.dims(), [2, 3, 48]);
//! # Ok::<(), candle_core::Error>(())
//! ```

mod attention;
mod by_input;
#[cfg_attr(not(feature = "cuda"), path = "no_cuda.rs")]
mod cuda;
mod linear;
mod place;
mod pool;
mod rows;
mod runtime;
mod selection;
mod sparse_mlp;
mod weight;

pub use attention::Attention;
pub use by_input::InputSparseLinear;
pub use linear::QuantizedLinear;
/// The library whose kernels run.
pub use moray;
pub use runtime::Runtime;
pub use selection::Selection;
pub use sparse_mlp::SparseMlp;

/// The README's program runs as it stands there.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
