//! Products by input by addresses, for engines that own their memory and their stream: what the safe function of [`super`] fills in.
//!
//! # Example
//! ```no_run
//! use moray::Device;
//! use moray::device::{Address, ElementKind, RawCall};
//! use moray::input_sparse::cuda::raw::Linear;
//!
//! # fn main() -> moray::Result<()> {
//! let device = Device::new(0)?;
//! let call = Linear {
//!     w: Address::new(0x7f00_0000_0000), // bf16 [k, n]
//!     element: ElementKind::Bf16,
//!     row_bytes: 2 * 11008,
//!     x: Address::new(0x7f10_0000_0000),
//!     threshold: 0.25,
//!     bias: None,
//!     residual: None,
//!     y: Address::new(0x7f10_0010_0000),
//!     m: 1,
//!     n: 11008,
//!     k: 4096,
//! };
//! // SAFETY: the engine has this memory, and its stream is of the device's context.
//! unsafe { call.launch(&device, device.raw_stream())? };
//! # Ok(())
//! # }
//! ```

mod four_bit;
mod linear;

pub use four_bit::FourBit;
pub use linear::Linear;

use crate::error::{Error, Result};

/// Tokens that read the union of what they keep.
const TOKENS: usize = 8;

/// Checks M, N and K, and the threshold.
fn check_call((m, n, k): (usize, usize, usize), threshold: f32) -> Result<()> {
    if m > TOKENS * 0xffff {
        return Err(Error::Shape { what: "m", expected: "0 to 524280", got: m });
    }
    for (what, got) in [("n", n), ("k", k)] {
        if !(1..=1 << 30).contains(&got) {
            return Err(Error::Shape { what, expected: "1 to 2^30", got });
        }
    }
    if threshold.is_finite() && threshold >= 0.0 {
        return Ok(());
    }
    Err(Error::Value { what: "threshold", expected: "a finite number of at least 0", got: threshold })
}
