//! The forward pass on the device against the CPU's, on tiny random models.

#[path = "../llama/above_inputs.rs"]
mod above_inputs;
#[path = "../common/mod.rs"]
mod common;
#[path = "../llama/definition.rs"]
#[allow(dead_code)]
mod definition;
#[path = "../common/device.rs"]
mod device;
#[path = "../llama/plain.rs"]
mod plain;

mod bad_input;
mod decoder;
mod exact;
mod near;
mod neurons;
mod raw;
mod recompute;
mod sampling;
