//! W4A8 against its definition: every mode, instruction set and ragged shape.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/w4a8.rs"]
mod weights;

mod bad_input;
mod case;
mod layout;
mod linear;
mod quantize;
