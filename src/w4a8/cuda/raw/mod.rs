//! The operation by addresses and a stream: for engines that own their memory.
//!
//! Everything else in [`super`] ends here, in [`RawCall::launch`](crate::device::RawCall::launch). A packed weight is its
//! sections: [`Format::section_bytes`] says how large they are, [`crate::w4a8::PackedWeight`] what is in them, and
//! [`super::Weight::lent`] takes them as a weight of the safe functions.

mod gemv;
mod linear;
mod pair;
mod product;
mod quantize;
mod rows;
mod tokens;

pub use gemv::Gemv;
pub use linear::Linear;
pub use pair::GemvPair;
pub use product::Product;
pub use quantize::{Quantize, Source};
pub use rows::Rows;
pub use tokens::Tokens;

use crate::activation::Activation;
use crate::device::{Address, Buffer};
use crate::error::{Error, Result};
use crate::w4a8::{Format, LAYOUT_VERSION, Sections};

/// The most blocks along a grid's second axis.
const MAX_GRID_Y: usize = 65_535;

/// What every address is a multiple of: the widest access of a kernel.
const ALIGNMENT: u64 = 16;

/// Checks the sizes of a packed weight.
pub(super) fn check_weight(format: Format, n: usize, k: usize, layout: u32) -> Result<()> {
    if layout != LAYOUT_VERSION {
        let got = format!("version {layout}");
        return Err(Error::Unsupported { what: "packed layout", expected: "the version that this build packs", got });
    }
    format.check(n, k)?;
    match n > 1 << 30 {
        true => Err(Error::Shape { what: "n", expected: "at most 2³⁰", got: n }),
        false => format.section_bytes(n, k).map(drop),
    }
}

/// How kernels are told the gate's nonlinearity.
fn activation_code(activation: Activation) -> u32 {
    match activation {
        Activation::Silu => 0,
        Activation::Relu => 1,
    }
}

/// Shows the sections that a format has.
fn name_sections(format: Format, n: usize, k: usize, weight: &Sections<Address>, show: &mut dyn FnMut(Buffer)) {
    let bytes = format.section_bytes(n, k).unwrap_or_default();
    for ((what, address), bytes) in Sections::<()>::NAMES.zip(*weight).zip(bytes).into_array() {
        show(Buffer::read(what, address, bytes).aligned(ALIGNMENT));
    }
}
