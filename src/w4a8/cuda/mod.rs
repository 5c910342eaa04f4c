//! W4A8 on a CUDA device, with the CPU's bits.

use crate::device::ModuleKernels;

/// Every kernel of the operation.
pub(crate) const KERNELS: &[ModuleKernels] = &[(
    "w4a8/quantize",
    &[
        "w4a8_quantize_f32",
        "w4a8_quantize_f16",
        "w4a8_quantize_bf16",
        "w4a8_quantize_rms_norm_f32",
        "w4a8_quantize_rms_norm_f16",
        "w4a8_quantize_rms_norm_bf16",
        "w4a8_quantize_swiglu_f32",
        "w4a8_quantize_swiglu_f16",
        "w4a8_quantize_swiglu_bf16",
    ],
)];
