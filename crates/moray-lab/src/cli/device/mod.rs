//! Where `moray generate` and `moray eval` run besides the CPU.

#[cfg(feature = "cuda")]
pub(super) mod cuda;
#[cfg(not(feature = "cuda"))]
pub(super) mod no_cuda;
#[cfg(not(feature = "cuda"))]
pub(super) use no_cuda as cuda;
