//! What a forward pass needs besides the operations, by addresses, for engines that own their memory and their stream: RMSNorm,
//! 16- and 32-bit matrices, the embedding, the activation of a whole MLP, rows moved between types, and the choice of tokens.
//!
//! # Example
//! ```no_run
//! use moray::Device;
//! use moray::device::{Address, RawCall};
//! use moray::llama::cuda::raw::RmsNorm;
//!
//! # fn main() -> moray::Result<()> {
//! let device = Device::new(0)?;
//! let call = RmsNorm {
//!     x: Address::new(0x7f00_0000_0000), // f32 [m, k]
//!     x_rows: 8,
//!     x_stride: 4096,
//!     rows: None,
//!     weight: Address::new(0x7f00_0100_0000),
//!     eps: 1e-5,
//!     m: 8,
//!     heads: 1,
//!     k: 4096,
//!     y: Address::new(0x7f00_0200_0000),
//!     y_stride: 4096,
//! };
//! // SAFETY: the engine has this memory, and its stream is of the device's context.
//! unsafe { call.launch(&device, device.raw_stream())? };
//! # Ok(())
//! # }
//! ```

mod activate;
mod argmax;
mod dense;
mod embed;
mod move_rows;
mod rms_norm;
mod sample;

pub use activate::Activate;
pub use argmax::Argmax;
pub use dense::Dense;
pub use embed::Embed;
pub use move_rows::MoveRows;
pub use rms_norm::RmsNorm;
pub use sample::{Sample, SamplerRecord};

use crate::device::Device;
use crate::error::{Error, Result};

/// The most blocks along a grid's second axis.
const MAX_GRID_Y: usize = 65_535;

fn check_rows(what: &'static str, got: usize) -> Result<()> {
    match got {
        1..=MAX_GRID_Y => Ok(()),
        _ => Err(Error::Shape { what, expected: "1 to 65535", got }),
    }
}

/// Words of what the blocks of a row of logits tell each other: `Room` in kernels/llama/sampling.cu.
const ROOM_WORDS: usize = 3841;

/// The blocks that share a row of logits: each has a multiprocessor to itself, and 1024 logits or more.
fn blocks_of_row(device: &Device, rows: usize, vocab: usize) -> u32 {
    /// What a [`ROOM_WORDS`] has places for.
    const MOST: usize = 256;
    let multiprocessors = device.multiprocessors() as usize;
    vocab.div_ceil(1024).min(multiprocessors / rows).clamp(1, MOST) as u32
}

fn check_width(what: &'static str, got: usize) -> Result<()> {
    match got {
        1..=0x4000_0000 => Ok(()),
        _ => Err(Error::Shape { what, expected: "1 to 2^30", got }),
    }
}
