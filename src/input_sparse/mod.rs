//! Sparsity of inputs: y = x · wᵀ over the inputs that are large enough, with weights that are held by input.
//!
//! y\[m, n\] = Σ x\[m, k\] · w\[n, k\] over the k whose |x\[m, k\]| is above a threshold (+ bias + residual). The numbers of one input,
//! w\[:, k\], lie next to each other ([`Weight`]), so those of an input that no token of a call keeps are not read: bytes fall
//! with what is kept. What is kept is decided from x in the call itself; there is no list to make, to pass or to hold.
//!
//! An input is kept unless |x| ≤ threshold, so NaN is kept and makes its own token NaN; a threshold of 0 drops zeros only, which
//! changes no result. Up to 8 tokens read the inputs that any of them keeps, with 0 for those a token drops; more
//! tokens read all, in tiles, at the speed of a dense product.
//!
//! K is cut in four: the inputs from ⌊s · K/4⌋ on, s = 0 to 3. The sum of each is an f32 chain of fused multiply-adds over its kept k
//! in increasing order, and the four are added in order: the result is the same bit for bit for every number of tokens in a call,
//! every instruction set and every number of threads. [`linear_reference`] is the definition.
//!
//! With weights in 4 bits, x is quantized to int8 first, with one scale for each token over all of its inputs, so that codes are those
//! of the dense product; those of dropped inputs are then 0. Products and sums are exact in int32 inside a group and combined in f32 by
//! runs of K: the result is that of [`crate::w4a8::linear`] with the same codes, bit for bit, and a threshold of 0 changes nothing.
//!
//! # Source
//! TEAL: training-free activation sparsity (arXiv 2408.14690).

#[cfg(feature = "cuda-input-sparse")]
pub mod cuda;
mod forward;
mod four_bit;
mod kept;
mod reference;
mod weight;
mod workspace;

pub use forward::{linear, linear_rows};
pub use reference::linear_reference;
#[cfg(feature = "cuda-input-sparse")]
pub use weight::FourBitRows;
pub use weight::Weight;
pub use workspace::Workspace;
