//! Products by input on a CUDA device against the CPU's bits, and their own promises.

mod bad_input;
#[path = "../input_sparse/case.rs"]
#[allow(dead_code)]
mod case;
#[path = "../common/mod.rs"]
mod common;
#[path = "../common/device.rs"]
mod device;
mod exact;
mod four_bit;
mod meter;
#[path = "../common/w4a8.rs"]
mod w4a8;
