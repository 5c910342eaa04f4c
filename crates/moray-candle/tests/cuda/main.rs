//! The operations on a CUDA device against those on the CPU, or moray's own calls on the device where sums have another order there. A
//! machine without one has the simulated driver (`cargo xtask engines candle-cuda`).

mod attention;
mod by_input;
#[path = "../common/mod.rs"]
mod common;
mod linear;
mod sparse_mlp;
mod streams;
mod views;

use candle_core::Device;
use common::{FLOATS, assert_refused, bits, f32s, layouts, numbers, runtime, shared_views};
use moray_candle::moray;

/// A device with a stream of its own.
fn device() -> Device {
    Device::new_cuda_with_stream(0).unwrap()
}

/// moray on a candle device's stream.
fn moray_on(device: &Device) -> moray::Device {
    moray::Device::with_stream(device.as_cuda_device().unwrap().cuda_stream()).unwrap()
}
