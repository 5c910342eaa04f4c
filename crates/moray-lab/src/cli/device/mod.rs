//! Where `moray generate` runs besides the CPU.

#[cfg(feature = "cuda")]
pub(super) mod cuda;
#[cfg(not(feature = "cuda"))]
pub(super) mod no_cuda;
