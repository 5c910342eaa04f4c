//! Sparse MLP by addresses, whole and by its parts, for engines that own their memory and their stream: what the safe functions
//! of [`super`] fill in.
//!
//! [`Mlp`] is the whole call. Its parts are calls of their own, so that an engine can put something between them, or select by
//! a rule of its own:
//!
//! | call | computes |
//! |---|---|
//! | [`MlpGateUp`], [`MlpDown`] | what a whole call begins and ends with, all that kernels need in between in one workspace |
//! | [`SelectMask`] | masks from scores above a threshold, or the k highest |
//! | [`Union`] | the list of neurons that any mask keeps |
//! | [`MaskValues`] | values where a mask keeps them and zeros elsewhere; widens f16 and bf16 |
//! | [`QuantizeRows`], [`FillOperand`] | activations as the kernels of few, and of many, tokens take them |
//! | [`GateUp`] | act(gate·x) and its product with up·x, for the neurons of a list |
//! | [`Down`] | rows of down times the products, with bias and residual |
//! | [`ObserveStatistic`], [`SelectStatistic`] | the prompt statistic of GRIFFIN and TDA, and masks from it |
//!
//! Lists, counts and masks are read by the kernels, so a captured call replays with others; kernels stay inside the weights
//! whatever they hold.
//!
//! # Example
//! ```no_run
//! use moray::Device;
//! use moray::device::{Address, ElementKind, RawCall};
//! use moray::sparse_mlp::cuda::RowFormat;
//! use moray::sparse_mlp::cuda::raw::{DownMatrix, List, Matrix, Mlp, Plan, Selection, Weights};
//! use moray::sparse_mlp::{Activation, Shape};
//!
//! # fn main() -> moray::Result<()> {
//! let device = Device::new(0)?;
//! let shape = Shape { d_model: 4096, d_ff: 14336, activation: Activation::Silu };
//! let plan = Plan::new(RowFormat::F16, shape, 8, device.multiprocessors() as usize)?;
//! println!("{} bytes of scratch", plan.workspace_bytes());
//! let weights = Weights {
//!     gate: Matrix::of_16_bits(Address::new(0x7f00_0000_0000)), // f16 [d_ff, d_model]
//!     up: Matrix::of_16_bits(Address::new(0x7f08_0000_0000)),
//!     down: DownMatrix::of_16_bits(Address::new(0x7f10_0000_0000)), // transposed: f16 [d_ff, d_model]
//! };
//! let list = List { list: Address::new(0x7f20_0000_0000), count: Address::new(0x7f20_0010_0000) };
//! let call = Mlp {
//!     plan,
//!     weights,
//!     tokens: 1,
//!     x: Address::new(0x7f20_0020_0000),
//!     x_type: ElementKind::F16,
//!     selection: Selection::List(list),
//!     residual: None,
//!     y: Address::new(0x7f20_0030_0000),
//!     y_type: ElementKind::F16,
//!     kept: list,
//!     together: None,
//!     workspace: Address::new(0x7f20_0040_0000),
//!     workspace_bytes: plan.workspace_bytes(),
//! };
//! // SAFETY: the engine has this memory, and its stream is of the device's context.
//! unsafe { call.launch(&device, device.raw_stream())? };
//! # Ok(())
//! # }
//! ```

mod activations;
mod arrivals;
mod combine;
mod down;
mod fill_operand;
mod gate_up;
mod list;
mod mask_values;
mod matrix;
mod maxima;
mod mlp;
mod mlp_down;
mod mlp_gate_up;
mod neurons;
mod observe;
mod output;
mod plan;
mod quantize;
mod select;
mod selection;
mod union;
mod whole;

pub use activations::{Activations, Codes, Operand};
pub use arrivals::Arrivals;
pub use down::Down;
pub use fill_operand::FillOperand;
pub use gate_up::GateUp;
pub use list::List;
pub use mask_values::MaskValues;
pub use matrix::{DownMatrix, Matrix, Weights};
pub use maxima::Maxima;
pub use mlp::Mlp;
pub use mlp_down::MlpDown;
pub use mlp_gate_up::MlpGateUp;
pub use neurons::Neurons;
pub use observe::ObserveStatistic;
pub use output::Output;
pub use plan::{Plan, Sections};
pub use quantize::QuantizeRows;
pub use select::{SelectMask, SelectStatistic};
pub use selection::{Score, Selection};
pub use union::Union;

use super::MAX_TOKENS;
use crate::error::{Error, Result};

/// The largest d_model and d_ff.
const MAX_WIDTH: usize = 1 << 24;

fn check_tokens(got: usize) -> Result<()> {
    match got > MAX_TOKENS {
        true => Err(Error::Shape { what: "tokens", expected: "at most 512", got }),
        false => Ok(()),
    }
}

/// Checks a number of values in each row, and the elements from one row to the next.
fn check_width(what: &'static str, n: usize, stride: usize) -> Result<()> {
    if n == 0 || n > MAX_WIDTH {
        return Err(Error::Shape { what, expected: "1 to 2^24", got: n });
    }
    match stride < n || stride > u32::MAX as usize {
        true => Err(Error::Shape { what: "stride", expected: "at least a row's values, below 2^32", got: stride }),
        false => Ok(()),
    }
}
