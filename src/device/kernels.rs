//! The modules that the build embedded and the table of every kernel in them.

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// The kernels of one module: its name, as `w4a8/gemm`, and its symbols.
pub(crate) type ModuleKernels = (&'static str, &'static [&'static str]);

/// Every kernel of the crate; an operation adds the row of its own table.
pub(crate) const KERNELS: &[&[ModuleKernels]] = &[
    #[cfg(feature = "cuda-attention")]
    crate::attention::cuda::KERNELS,
    #[cfg(feature = "cuda")]
    crate::llama::cuda::KERNELS,
    #[cfg(feature = "cuda-sparse-mlp")]
    crate::sparse_mlp::cuda::KERNELS,
    #[cfg(feature = "cuda-w4a8")]
    crate::w4a8::cuda::KERNELS,
];
