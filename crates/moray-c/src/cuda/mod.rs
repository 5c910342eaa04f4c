//! A CUDA device: an engine's context, and the operations on its streams and its memory.

mod activations;
#[cfg(feature = "cuda-device")]
mod call;
mod device;
#[cfg(feature = "cuda-device")]
mod fill;
#[cfg(feature = "cuda-device")]
#[cfg_attr(not(feature = "cuda"), allow(dead_code))] // one operation does not use all of it
mod lent;
mod linear;
#[cfg(not(feature = "cuda-device"))]
mod no_device;
#[cfg(not(feature = "cuda"))]
mod no_operation;
mod norm;

pub use activations::*;
pub use device::*;
pub use linear::*;
pub use norm::*;

#[cfg(feature = "cuda-device")]
pub(crate) use call::place;
#[cfg(not(feature = "cuda-device"))]
pub(crate) use no_device::place;
