//! Sparse MLP: y = down(act(gate·x) ⊙ (up·x)) over selected neurons only.
//!
//! A neuron is three contiguous rows: gate\[j, :\], up\[j, :\] and down transposed\[j, :\], in `f32`, `f16`, `bf16` or 4 bits
//! ([`Weights`]). Which neurons a call computes is data ([`Selection`]): a list, masks, a threshold, an exact top-k, a
//! union list with masks. Policies ([`crate::policy`]) only produce selections; [`forward`] only consumes them.
//!
//! The way of a call: inputs (quantized to int8 for 4-bit weights) → gate and up rows, 16 neurons at a time → selection,
//! where it depends on values → product, quantized again → rows of down, a chunk of columns at a time. At most three
//! barriers, and one more for each token-parallel step of a large batch.
//!
//! [`gate_up`], [`select`] and [`down`] are that way's parts, for engines that put something between them or have threads of their own.
//!
//! # Source
//! Dynamic activation: TDA (arXiv 2408.11393), GRIFFIN, CATS, TEAL, WINA; W4A8: the group forms of [`crate::w4a8`].

#[cfg(feature = "cuda-sparse-mlp")]
pub mod cuda;
mod elementwise;
mod forward;
mod four_bit;
mod gathered;
mod parts;
mod project;
mod rows;
mod select;
mod weights;
mod workspace;

pub use crate::activation::{Activation, activate_product};
pub(crate) use elementwise::check_finite;
pub use forward::{bytes_read, forward};
pub use gathered::Gathered;
pub use parts::{Gate, Input, down, gate_up, select};
pub use select::{IndexList, NeuronList, Score, ScoreOn, Selection, TokenMasks, list_from_mask, mask_from_list};
pub use weights::{Matrix, Shape, WeightElement, Weights};
pub use workspace::Workspace;
