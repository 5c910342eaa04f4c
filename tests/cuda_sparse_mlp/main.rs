//! The sparse MLP on a CUDA device against its definition in f64, the CPU's selections and its own promises.

mod bad_input;
#[path = "../common/mod.rs"]
mod common;
#[path = "../common/device.rs"]
mod device;
mod exact;
mod meter;
mod oracle;
mod random;
mod raw;
mod run;
mod select;
