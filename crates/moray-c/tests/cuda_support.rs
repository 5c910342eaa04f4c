//! The answers of a library with CUDA kernels: the tests of `support.rs`, in which devices answer too.

#[path = "support.rs"]
mod support;
