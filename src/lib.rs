//! Kernels for LLM inference that does less work: W4A8 GEMM, gather-style sparse MLP, head-skipping attention.

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
