//! A CUDA driver that runs PTX on the CPU.

mod driver;
pub mod machine;
