//! A reference LLaMA forward pass over the operations of this crate: it proves them end to end on real models.
//!
//! The pass is written once ([`Model::forward`], [`Layer::attention`], [`Layer::mlp`]), over the primitives of a [`Backend`];
//! [`crate::Cpu`] is one. It takes weights in memory; reading model files is not its business.
//!
//! x₀ = embedding\[token\]; in every layer x ← x + o(attention(rope(qkv(rmsnorm(x))))), x ← x + mlp(rmsnorm(x)); logits =
//! lm_head(rmsnorm(x)).
//!
//! # Source
//! LLaMA (arXiv 2302.13971); grouped-query attention (arXiv 2305.13245); RoPE (arXiv 2104.09864), pairs (i, i + head_dim/2).

mod backend;
mod config;
mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod dense;
mod forward;
mod gathers;
mod kept_inputs;
mod layer;
mod linear;
mod mlp;
mod preview;
mod reading;
mod recompute;
mod sampler;
mod session;
mod settings;

pub use crate::element::DenseType;
pub use crate::norm::rms_norm;
pub use backend::{Backend, Input, LinearCall, MlpCall, Norm, WholeMlpCall};
pub use config::Config;
pub use cpu::CpuWork;
pub use dense::DenseWeight;
pub use forward::{LogitRows, Model, Sequence};
pub use layer::{Buffers, Layer, MatrixInputs, Pass};
pub use linear::{Linear, QkNorm, Weight};
pub use mlp::Mlp;
pub use preview::Preview;
pub use recompute::Recompute;
pub use sampler::{Sampler, Sampling};
pub use session::Session;
pub use settings::Settings;
