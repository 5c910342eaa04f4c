//! Models on the CUDA device.

#[path = "../../../../tests/common/device.rs"]
mod device;
mod eval;
mod generate;
