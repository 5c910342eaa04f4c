//! Products by input on a CUDA device: the operation of [`super`], resident on the device.
//!
//! What is kept is decided by the kernel that multiplies, from x in device memory, so a captured graph replays with other
//! inputs. A result has the CPU's bits, whatever else is in the call. Calls check their arguments, then launch; they allocate nothing and wait for nothing.
//!
//! # Example
//! ```
//! use moray::input_sparse::Weight as HostWeight;
//! use moray::input_sparse::cuda::{Weight, Workspace, linear};
//! use moray::{DenseType, Device, Error};
//!
//! # fn main() -> moray::Result<()> {
//! let device = match Device::new(0) {
//!     Ok(device) => device,
//!     Err(Error::DriverAbsent { .. } | Error::KernelsNotBuilt { .. }) => return Ok(()),
//!     Err(error) => return Err(error),
//! };
//! let host = HostWeight::from_f32(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2, 3, DenseType::F16)?;
//! let weight = Weight::upload(&device, &host)?;
//! let x = device.upload(&[1.0f32, 0.25, -1.0])?;
//! let mut y = device.zeros::<f32>(2)?;
//! let mut workspace = Workspace::with_capacity(&device, 1, 2, 3)?;
//! linear(&device, &weight, &x.as_view(), 0.5, None, None, &mut y.as_view_mut(), &mut workspace)?;
//! assert_eq!(device.download(&y)?, [1.0 - 3.0, 4.0 - 6.0]);
//! # Ok(())
//! # }
//! ```

#[cfg(feature = "cudarc-0_19")]
mod linear;
mod mirror;
pub mod raw;
#[cfg(feature = "cudarc-0_19")]
mod weight;
#[cfg(feature = "cudarc-0_19")]
mod workspace;

#[cfg(feature = "cudarc-0_19")]
pub use linear::linear;
pub(crate) use mirror::MODULES;
#[cfg(feature = "cudarc-0_19")]
pub use weight::Weight;
#[cfg(feature = "cudarc-0_19")]
pub use workspace::Workspace;
