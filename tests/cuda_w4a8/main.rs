//! W4A8 on the device against the CPU, bit for bit.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/device.rs"]
mod device;
#[path = "../common/w4a8.rs"]
mod weights;

mod bad_input;
mod capture;
mod engine;
mod extremes;
mod few;
mod linear;
mod meter;
mod quantize;
mod variant;
