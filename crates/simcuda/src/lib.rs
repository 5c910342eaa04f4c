//! A CUDA driver that runs PTX on the CPU.
//!
//! Built as a shared library, the crate is a `libcuda.so.1`: programs load it instead of the real driver and run
//! unmodified. Its settings, its order of asynchronous work, its error codes and what it does not cover are described in the
//! package's README. As a Rust library it offers the [`machine`] below the driver.

mod driver;
pub mod machine;
