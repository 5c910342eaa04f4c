//! The decoder: statements to [`Inst`]s with their operands' slots and their handlers.

mod asynchronous;
mod bits;
mod builder;
mod compare;
mod convert;
mod copies;
mod flatten;
mod float;
mod flow;
mod half;
mod halves;
mod int;
mod layout;
mod memory;
mod opcode;
mod operand;
mod registers;
mod sync;
mod tensor;
mod wmma;

pub(crate) use builder::decode;
pub(crate) use layout::{Symbol, Symbols, align_up};

/// Why an instruction was not decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Not PTX: the module is refused.
    Malformed(String),
    /// PTX that the machine does not have: the kernel is refused when it reaches the instruction.
    Unsupported(String),
}

type Result<T> = std::result::Result<T, Refusal>;

fn malformed<T>(message: impl Into<String>) -> Result<T> {
    Err(Refusal::Malformed(message.into()))
}

fn unsupported<T>(message: impl Into<String>) -> Result<T> {
    Err(Refusal::Unsupported(message.into()))
}
