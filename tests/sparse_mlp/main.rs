//! The sparse MLP against its definition: every weight form, selection, instruction set and ragged shape.

#[path = "../common/mod.rs"]
mod common;

mod bad_input;
mod case;
mod dense;
mod exact;
mod gathered;
mod oracle;
mod packed_rows;
mod selection;
mod stored;
