//! W4A8 on a CUDA device: the operations of [`crate::w4a8`] on device memory.
//!
//! Results have the CPU's bits. No call allocates or synchronises; all run on the device's stream.
//!
//! # Example
//! ```no_run
//! use moray::{Device, w4a8};
//!
//! let device = Device::new(0)?;
//! let (m, n, k) = (2, 48, 64);
//! let w: Vec<f32> = (0..n * k).map(|i| ((i * 37 % 101) as f32 - 50.0) / 100.0).collect();
//! let quantized = w4a8::quantize(&w, n, k, w4a8::Format::per_channel())?;
//!
//! let weight = w4a8::cuda::Weight::upload(&device, &w4a8::PackedWeight::pack(&quantized))?;
//! let mut activations = w4a8::cuda::Activations::with_capacity(&device, m, k)?;
//! let mut workspace = w4a8::cuda::Workspace::new(&device)?;
//! let x = device.upload(&vec![0.5f32; m * k])?;
//! let mut y = device.zeros::<f32>(m * n)?;
//! activations.quantize(&device, &x.as_view(), m, k)?;
//! let epilogue = w4a8::cuda::Epilogue::default();
//! w4a8::cuda::linear(&device, &weight, &activations, epilogue, &mut y.as_view_mut(), &mut workspace)?;
//! println!("{:?}", device.download(&y)?);
//! # Ok::<(), moray::Error>(())
//! ```

#[cfg(feature = "cudarc-0_19")]
mod activation;
#[cfg(feature = "cudarc-0_19")]
mod gemv;
#[cfg(feature = "cudarc-0_19")]
mod linear;
mod mirror;
pub mod raw;
#[cfg(feature = "cudarc-0_19")]
mod rows;
mod variant;
#[cfg(feature = "cudarc-0_19")]
mod weight;

#[cfg(feature = "cudarc-0_19")]
pub use activation::Activations;
#[cfg(feature = "cudarc-0_19")]
pub use gemv::{FewTokens, gated_few, is_few, is_pair, linear_few, mlp_few};
#[cfg(feature = "cudarc-0_19")]
pub use linear::{Epilogue, Workspace, linear, linear_with};
pub(crate) use mirror::MODULES;
#[cfg(feature = "cudarc-0_19")]
pub use rows::dequantize_rows;
pub use variant::{Architecture, Variant};
#[cfg(feature = "cudarc-0_19")]
pub use weight::Weight;
