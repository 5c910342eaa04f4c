//! Sparse MLP on a CUDA device: the operations of [`super`], with weights and selections resident on the device.
//!
//! [`forward`] computes the selected neurons of up to [`MAX_TOKENS`] tokens. Lists, counts and masks are read by the kernels, so a captured
//! graph replays with other selections; the policies that look at values ([`Selection::Threshold`], [`Selection::TopK`], the
//! [`PromptStatistic`]) make them there. Calls check their arguments, then launch; they allocate nothing and wait for nothing.
//!
//! # Precision and determinism
//! Selections have the CPU's bits for the same values, and so has the prompt statistic. Projections are f32 sums of products
//! of 16-bit weights and f32 activations, or exact integer sums within 32 products of 4-bit weights and int8 activations;
//! their order is fixed, whichever block comes last, and differs from the CPU's. Calls of more than 8 tokens run on the matrix units: there
//! an activation is two f16 (or three bf16) whose sum it is to 23 bits, and the integer sums of gate and up have the CPU's order.
//! A token's result does not depend on the other tokens, except through a list that they share and through which of the two
//! ways their number takes.
//!
//! # Example
//! ```
//! use half::f16;
//! use moray::sparse_mlp::cuda::{NeuronList, Selection, Weights, Workspace, forward};
//! use moray::sparse_mlp::{Activation, IndexList, Shape, Weights as HostWeights};
//! use moray::{Device, Error};
//!
//! # fn main() -> moray::Result<()> {
//! let device = match Device::new(0) {
//!     Ok(device) => device,
//!     Err(Error::DriverAbsent { .. } | Error::KernelsNotBuilt { .. }) => return Ok(()),
//!     Err(error) => return Err(error),
//! };
//! let shape = Shape { d_model: 8, d_ff: 4, activation: Activation::Relu };
//! let ones = vec![f16::ONE; 32];
//! let weights = Weights::upload(&device, &HostWeights::new(shape, &ones, &ones, &ones)?)?;
//! let mut workspace = Workspace::new(&device, &weights, 1)?;
//! let mut kept = NeuronList::new(&device, 4)?;
//! kept.set(&device, IndexList::new(&[0, 2, 3], 4)?)?;
//!
//! let x = device.upload(&[0.5f32; 8])?;
//! let mut y = device.zeros::<f32>(8)?;
//! forward(&device, &weights, &x, 1, &Selection::List(&kept), None, &mut y, &mut workspace)?;
//! assert_eq!(device.download(&y)?, [3.0 * 4.0 * 4.0; 8]); // three neurons of gate 4 and up 4
//! # Ok(())
//! # }
//! ```

#[cfg(feature = "cudarc-0_19")]
mod forward;
mod keep;
mod mirror;
mod packed;
pub mod raw;
mod row_format;
#[cfg(feature = "cudarc-0_19")]
mod selection;
#[cfg(feature = "cudarc-0_19")]
mod statistic;
mod variant;
#[cfg(feature = "cudarc-0_19")]
mod weights;
#[cfg(feature = "cudarc-0_19")]
mod workspace;

#[cfg(feature = "cudarc-0_19")]
pub use forward::forward;
pub use keep::{Keep, mask_words};
pub(crate) use mirror::MODULES;
pub use packed::{PackedRows, PackedWeights};
pub use row_format::RowFormat;
#[cfg(feature = "cudarc-0_19")]
pub use selection::{NeuronList, Score, Selection, select_mask, upload_masks};
#[cfg(feature = "cudarc-0_19")]
pub use statistic::PromptStatistic;
#[cfg(feature = "cudarc-0_19")]
pub use weights::Weights;
#[cfg(feature = "cudarc-0_19")]
pub use workspace::Workspace;

/// Most tokens of a call.
pub const MAX_TOKENS: usize = 512;
