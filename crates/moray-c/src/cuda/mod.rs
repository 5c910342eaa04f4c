//! A CUDA device: an engine's context, and the operations on its streams and its memory.

mod activations;
mod attention;
mod by_input;
#[cfg(feature = "cuda-device")]
pub(crate) mod call;
mod device;
#[cfg(feature = "cuda-device")]
mod fill;
#[cfg(feature = "cuda-device")]
#[cfg_attr(not(feature = "cuda"), allow(dead_code))] // one operation does not use all of it
mod lent;
mod linear;
mod mlp;
mod mlp_parts;
#[cfg(not(feature = "cuda-device"))]
pub(crate) mod no_device;
#[cfg(not(feature = "cuda"))]
#[cfg_attr(feature = "cuda-device", allow(dead_code))] // operations that there are do not use it
pub(crate) mod no_operation;
mod norm;
mod product;
mod select;
mod selection;
mod write_attend;

pub use activations::*;
pub use attention::*;
pub use by_input::*;
pub use device::*;
pub use linear::*;
pub use mlp::*;
pub use mlp_parts::*;
pub use norm::*;
pub use product::*;
pub use select::*;
pub use selection::*;
pub use write_attend::*;

#[cfg(feature = "cuda-device")]
pub(crate) use call::place;
#[cfg(not(feature = "cuda-device"))]
pub(crate) use no_device::place;
