//! moray's kernels as [candle](https://github.com/huggingface/candle) operations.
//!
//! | type | what it computes | on |
//! |---|---|---|
//! | [`QuantizedLinear`] | y = x · wᵀ + bias (+ residual), w in codes of 4 or 8 bits, x in int8; a [`candle_nn::Module`] | CPU |
//! | [`SparseMlp`] | down · (act(gate · x) ⊙ (up · x)), of the neurons of a [`Selection`] only; a [`candle_nn::Module`] | CPU |
//! | [`Attention`] | softmax(q · kᵀ) · v over a KV cache of its own, of the heads that run | CPU |
//!
//! Tensors are f32, f16 or bf16, and results have their type. Inputs may have any strides and offsets: what does not lie in rows is
//! gathered first. What is wrong with a call is an error that names the argument, what was expected and what was found. There are no
//! gradients: a backward pass through an operation is an error.
//!
//! Operations share a [`Runtime`], which is a team of threads and the buffers that calls use again. What is on a GPU stays with candle's
//! own operations: a tensor there is refused by name.
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
mod linear;
mod pool;
mod rows;
mod runtime;
mod selection;
mod sparse_mlp;
mod weight;

pub use attention::Attention;
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
