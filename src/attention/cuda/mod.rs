//! Attention on a CUDA device: the operations of [`super`], with everything they read resident on the device.
//!
//! A layer calls [`write_kv`] (RoPE on q and k, K and V into the cache under a [`super::KvPolicy`]) and [`attend`] with the
//! same [`Call`], or [`write_attend`], which makes one launch of the two in a decode step. Spans and heads are read by the kernels, so a captured graph replays with other positions and other
//! selections: [`Spans::set`] and [`Spans::advance`] change them. Calls check their arguments, then launch; they allocate
//! nothing and wait for nothing.
//!
//! # Precision
//! K and the rotated q have the CPU's bits before they are rounded to the cache's type. Scores and sums are f32 from
//! tensor cores; q and the softmax weights are rounded to 16 bits (f16, also for int8 caches, or bf16) before they multiply.
//! Over f32 caches every operand is the sum of two tf32 numbers, and a product is off by 3 · 2⁻²² of itself at most.
//!
//! # Determinism
//! No float atomics. A prefill result depends on the cache up to a token's position only, a decode result also on
//! the workspace's split length; neither depends on the batch.
//!
//! # Example
//! ```
//! use moray::attention::cuda::{Call, Heads, KvCache, KvFormat, KvLayout, NewTokens, Projections, Spans, Workspace};
//! use moray::attention::cuda::{attend, write_attend, write_kv};
//! use moray::attention::{AttentionShape, KvPolicy, KvShape, Limits, Span};
//! use moray::{Device, Error};
//!
//! # fn main() -> moray::Result<()> {
//! let device = match Device::new(0) {
//!     Ok(device) => device,
//!     Err(Error::DriverAbsent { .. } | Error::KernelsNotBuilt { .. }) => return Ok(()),
//!     Err(error) => return Err(error),
//! };
//! let shape = AttentionShape::new(4, 2, 64)?;
//! let kv = KvShape { n_layers: 1, n_slots: 1, n_kv_heads: 2, head_dim: 64, capacity: 256 };
//! let mut cache = KvCache::new(&device, kv, KvFormat::F16, KvLayout::Contiguous, false)?;
//! let mut workspace = Workspace::new(&device, shape, Limits { max_rows: 3, max_spans: 1, capacity: 256 })?;
//! let mut spans = Spans::new(&device, 1)?;
//! spans.set(&device, &[Span { slot: 0, start: 0, len: 3 }])?;
//!
//! let qkv = device.upload(&[0.5f32; 3 * (4 + 2 * 2) * 64])?; // one projection: q, k, v side by side
//! let mut q = device.zeros::<f32>(3 * shape.q_elems())?;
//! let mut out = device.zeros::<f32>(3 * shape.q_elems())?;
//! let call = Call { shape, layer: 0, spans: &spans, heads: Heads::All };
//! let projections = Projections::fused(&qkv, &shape);
//! write_kv(&device, &call, KvPolicy::WriteAll, None, &projections, Some(&mut q), &mut cache)?;
//! attend(&device, &call, &q, &cache, &mut out, &mut workspace)?;
//! assert!(device.download(&out)?.iter().all(|&x| x == 0.5)); // every v is 0.5
//!
//! // the next token, in one launch
//! spans.set(&device, &[Span { slot: 0, start: 3, len: 1 }])?;
//! let call = Call { shape, layer: 0, spans: &spans, heads: Heads::All };
//! let tokens = NewTokens { policy: KvPolicy::WriteAll, rope: None, projections: &projections };
//! write_attend(&device, &call, tokens, &mut q, &mut cache, &mut out, &mut workspace)?;
//! assert!(device.download(&out)?[..shape.q_elems()].iter().all(|&x| x == 0.5));
//! # Ok(())
//! # }
//! ```

#[cfg(feature = "cudarc-0_19")]
mod attend;
#[cfg(feature = "cudarc-0_19")]
mod batch;
#[cfg(feature = "cudarc-0_19")]
mod kv_cache;
mod kv_format;
mod mirror;
pub mod raw;
#[cfg(feature = "cudarc-0_19")]
mod rewrite;
mod split;
mod variant;
#[cfg(feature = "cudarc-0_19")]
mod write;

#[cfg(feature = "cudarc-0_19")]
pub use attend::{NewTokens, Workspace, attend, write_attend};
#[cfg(feature = "cudarc-0_19")]
pub use batch::{Call, Heads, OwnedHeads, Spans};
#[cfg(feature = "cudarc-0_19")]
pub use kv_cache::{KvCache, KvLayout};
pub use kv_format::KvFormat;
pub(crate) use mirror::MODULES;
#[cfg(feature = "cudarc-0_19")]
pub use rewrite::{KvRows, KvToken, write_rows};
pub use split::Split;
#[cfg(feature = "cudarc-0_19")]
pub use write::{Projections, Rope, write_kv};

/// Largest `head_dim` of the kernels.
pub const MAX_HEAD_DIM: usize = 256;
/// Most query heads per KV head that the kernels take.
pub const MAX_GROUP: usize = 256;
