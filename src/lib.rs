//! Kernels for LLM inference that does less work: W4A8 GEMM, gather-style sparse MLP, head-skipping attention.
//!
//! # Building for CUDA
//! The feature `cuda` builds every operation for the device and the forward pass; `cuda-w4a8`, `cuda-sparse-mlp` and
//! `cuda-attention` build one operation. nvcc compiles the kernels, for the architectures of `MORAY_CUDA_ARCHS` (`9.0a`,
//! `sm_80,compute_80`) or all; without it the crate builds, and opening a device says what is missing. If cudarc's build script
//! does not know your toolkit ("Unsupported cuda toolkit version"), set `CUDARC_CUDA_VERSION=13000`, which chooses bindings only.

pub mod attention;
pub mod cpu;
#[cfg(feature = "cuda-device")]
#[cfg_attr(not(feature = "cuda"), allow(dead_code, unused_imports))] // one operation does not use all of it
pub mod device;
pub mod element;
pub mod error;
pub mod llama;
pub mod policy;
mod simd;
pub mod sparse_mlp;
pub mod threads;
pub mod w4a8;

pub use cpu::{Cpu, Isa};
#[cfg(feature = "cuda-device")]
pub use device::Device;
pub use error::{Error, Result};
