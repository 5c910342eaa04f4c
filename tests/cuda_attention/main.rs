//! Attention on a CUDA device against its definition in f64, the CPU's bits and its own promises.

mod bad_input;
#[path = "../attention/case.rs"]
#[allow(dead_code)] // the CPU's tests use the rest
mod case;
#[path = "../common/device.rs"]
mod device;
mod exact;
mod meter;
mod oracle;
mod raw;
mod run;
mod write;
mod write_attend;
