//! The forward pass against its definition in f64, and the bit-for-bit promises, on tiny random models.

#[path = "../common/mod.rs"]
mod common;

mod above_inputs;
mod bad_input;
mod definition;
mod exact;
mod oracle;
mod plain;
mod policies;
mod sampler;
