//! Kernels for LLM inference that does less work: W4A8 GEMM, gather-style sparse MLP, head-skipping attention.
//!
//! Engines link it and keep their own memory, streams and schedule: an operation allocates nothing, waits for nothing, and can
//! be captured in a graph. The CPU backend needs nothing but Rust; it is the definition that CUDA devices are held to.
//!
//! | module | what it computes | begin with |
//! |---|---|---|
//! | [`w4a8`] | y = x · wᵀ, w in codes of 4 or 8 bits, x in int8 | [`quantize`](w4a8::quantize()), [`PackedWeight`](w4a8::PackedWeight), [`Activations`](w4a8::Activations), [`linear`](w4a8::linear()) |
//! | [`sparse_mlp`] | down · (act(gate · x) ⊙ (up · x)), of selected neurons only | [`Weights`](sparse_mlp::Weights), [`Selection`](sparse_mlp::Selection), [`forward`](sparse_mlp::forward()) |
//! | [`input_sparse`] | y = x · wᵀ over the inputs above a threshold | [`Weight`](input_sparse::Weight), [`linear`](input_sparse::linear()) |
//! | [`attention`] | softmax(q · kᵀ) · v over a KV cache, of the heads that run | [`KvCache`](attention::KvCache), [`write_kv`](attention::write_kv()), [`attend`](attention::attend()) |
//! | [`policy`] | which neurons and heads are computed | [`Policy`](policy::Policy), [`TABLE`](policy::TABLE) |
//! | [`llama`] | a reference forward pass over all of these | [`Model`](llama::Model), [`Session`](llama::Session), [`Backend`](llama::Backend) |
//!
//! A call takes a [`Cpu`], which is an instruction set and a team of threads, or a `Device`, which is a CUDA context and a
//! stream; each operation's module `cuda` is its twin on the device, and calls it by addresses too. What is wrong with a
//! call is an [`Error`] that says what was expected and what was found.
//!
//! # On the CPU
//! ```
//! use moray::Cpu;
//! use moray::w4a8::{Activations, Epilogue, Format, Offset, PackedWeight, linear, quantize};
//!
//! let (m, n, k) = (3, 256, 512);
//! let (w, x) = (vec![0.5f32; n * k], vec![1.0f32; m * k]);
//!
//! // once, when the model is loaded
//! let cpu = Cpu::detect();
//! let weight = PackedWeight::pack(&quantize(&w, n, k, Format::per_group(64, Offset::F16))?);
//!
//! // for every batch of tokens; the buffers are used again
//! let mut activations = Activations::with_capacity(m, k);
//! let mut y = vec![0.0f32; m * n];
//! activations.quantize(&cpu, &x, m, k)?;
//! linear(&cpu, &weight, &activations, Epilogue::default(), &mut y)?;
//! assert!(y.iter().all(|y| (y / 256.0 - 1.0).abs() < 0.01));
//! # Ok::<(), moray::Error>(())
//! ```
//!
//! # On a CUDA device
//! With the engine's context and stream and buffers of its own as cudarc 0.19 has them, captured once and replayed:
//! ```no_run
//! # #[cfg(all(feature = "cuda-w4a8", feature = "cudarc-0_19"))]
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use moray::Device;
//! use moray::device::cudarc::driver::{CudaContext, sys};
//! use moray::w4a8::{Format, Offset, PackedWeight, cuda, quantize};
//!
//! let stream = CudaContext::new(0)?.new_stream()?;
//! let device = Device::with_stream(stream.clone())?;
//!
//! // once, when the model is loaded
//! let (m, n, k) = (8, 4096, 4096);
//! let packed = PackedWeight::pack(&quantize(&vec![0.5; n * k], n, k, Format::per_group(64, Offset::F16))?);
//! let weight = cuda::Weight::upload(&device, &packed)?;
//! let mut activations = cuda::Activations::with_capacity(&device, m, k)?;
//! let mut workspace = cuda::Workspace::new(&device)?;
//!
//! let mut x = stream.alloc_zeros::<f32>(m * k)?;
//! let mut y = stream.alloc_zeros::<f32>(m * n)?;
//! stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
//! activations.quantize(&device, &x.as_view(), m, k)?;
//! let epilogue = cuda::Epilogue::default();
//! cuda::linear(&device, &weight, &activations, epilogue, &mut y.as_view_mut(), &mut workspace)?;
//! let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
//! let graph = stream.end_capture(flags)?.ok_or("nothing was captured")?;
//!
//! // for every batch of tokens
//! stream.memcpy_htod(&vec![1.0; m * k], &mut x)?;
//! graph.launch()?;
//! let host = stream.clone_dtoh(&y)?;
//! # drop(host);
//! # Ok(())
//! # }
//! # #[cfg(not(all(feature = "cuda-w4a8", feature = "cudarc-0_19")))]
//! # fn main() {}
//! ```
//!
//! An engine with another binding, or none, has the raw calls of each operation: addresses as numbers, and context and stream by the
//! driver's handles ([`Device::from_raw`](https://docs.rs/moray/latest/moray/struct.Device.html#method.from_raw)).
//!
//! # Building for CUDA
//! The feature `cuda` builds every operation for the device and the forward pass; `cuda-w4a8`, `cuda-sparse-mlp`,
//! `cuda-input-sparse` and `cuda-attention` build one operation's raw calls, beside which `cudarc-0_19`, which is part of `cuda`, has its safe functions.
//! Without that feature nothing public names a type of cudarc. nvcc compiles the kernels, for the architectures of `MORAY_CUDA_ARCHS` (`9.0a`,
//! `sm_80,compute_80`) or all; without it the crate builds, and opening a device says what is missing. If cudarc's build script
//! does not know your toolkit ("Unsupported cuda toolkit version"), set `CUDARC_CUDA_VERSION=13000`, which chooses bindings only.

mod activation;
pub mod attention;
mod column_sums;
pub mod cpu;
#[cfg(feature = "cuda-device")]
#[cfg_attr(not(feature = "cuda"), allow(dead_code, unused_imports, unused_macros))]
// one operation does not use all of it
pub mod device;
pub mod element;
pub mod error;
pub mod input_sparse;
mod int8;
pub mod llama;
mod memory;
mod norm;
pub mod policy;
mod simd;
pub mod sparse_mlp;
pub mod threads;
pub mod w4a8;

pub use cpu::{Cpu, Isa};
#[cfg(feature = "cuda-device")]
pub use device::Device;
pub use element::DenseType;
pub use error::{Error, Result};

/// The programs of the README and of the pages of `docs` run as they stand there.
#[cfg(doctest)]
mod documents {
    #[doc = include_str!("../README.md")]
    struct Readme;
    #[doc = include_str!("../docs/rust.md")]
    struct Rust;
    #[doc = include_str!("../docs/w4a8.md")]
    struct W4a8;
    #[doc = include_str!("../docs/sparse-mlp.md")]
    struct SparseMlp;
    #[doc = include_str!("../docs/inputs.md")]
    struct Inputs;
    #[doc = include_str!("../docs/attention.md")]
    struct Attention;
}
