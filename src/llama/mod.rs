//! A reference LLaMA forward pass over the operations of this crate: it proves them end to end on real models.
//!
//! The pass is written once ([`Model::forward`]), generic over a small [`Backend`] of fused operations; [`crate::Cpu`] is
//! one. It takes weights in memory; reading model files is not its business.
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
mod linear;
mod mlp;
mod norm;
mod sampler;
mod settings;
mod shared;

pub use backend::{Backend, Layer, SessionState};
pub use config::Config;
pub use cpu::CpuState;
pub use dense::{DenseType, DenseWeight};
pub use forward::{LogitRows, Model, Sequence, Session};
pub use linear::{Linear, Weight};
pub use mlp::Mlp;
pub use norm::rms_norm;
pub use sampler::{Sampler, Sampling};
pub use settings::Settings;
