//! Products over the inputs above a threshold against their definition: every weight type, instruction set and ragged shape.

#[path = "../common/mod.rs"]
mod common;

mod bad_input;
mod case;
mod float;
mod four_bit;

#[path = "../common/w4a8.rs"]
mod w4a8;
