//! Linear layers over tensors of a CUDA device.

use super::{CUDA, NONE, bytes, rows, stream};
use crate::arguments::MorayBytes;
#[cfg(feature = "cuda-w4a8")]
use crate::cuda::call::{launch, prepare};
#[cfg(not(feature = "cuda-w4a8"))]
use crate::cuda::no_operation::{launch, prepare};
use crate::cuda::of_number;
use crate::tvm_ffi::call::Arguments;
use crate::tvm_ffi::functions::Returned;
use crate::tvm_ffi::tensor::{F32, I64};
use crate::{
    MORAY_LAYOUT_VERSION, MORAY_SOURCE_PLAIN, MorayCudaActivations, MorayCudaLinear, MorayCudaQuantize,
    MorayCudaWeight, MorayDtype, MorayFormat, MoraySections,
};

fn quantization(x: MorayBytes, dtype: MorayDtype, out: MorayCudaActivations) -> MorayCudaQuantize {
    MorayCudaQuantize {
        struct_size: size_of::<MorayCudaQuantize>() as u32,
        source: MORAY_SOURCE_PLAIN,
        dtype,
        activation: 0,
        eps: 0.0,
        x,
        norm_weight: MorayBytes::NONE,
        out,
    }
}

fn product(n: usize, format: MorayFormat, sections: MoraySections, x: MorayCudaActivations) -> MorayCudaLinear {
    MorayCudaLinear {
        struct_size: size_of::<MorayCudaLinear>() as u32,
        dtype: crate::MORAY_F32,
        weight: MorayCudaWeight { n, k: x.k, format, layout_version: MORAY_LAYOUT_VERSION, sections },
        x,
        bias: MorayBytes::NONE,
        residual: MorayBytes::NONE,
        y: NONE,
        workspace: NONE,
    }
}

/// `(sizes: i64 [2] of the CPU, m, n, k, format.., act_scales, device)`
pub(in crate::tvm_ffi) unsafe fn cuda_linear_scratch(arguments: &mut Arguments<'_>) -> Returned {
    // SAFETY: the caller's.
    let out = unsafe { arguments.tensor("sizes")? }.of("sizes", I64)?.shaped("sizes", &[2])?;
    let (m, n, k) = (arguments.size("m")?, arguments.size("n")?, arguments.size("k")?);
    // SAFETY: the caller's.
    let (format, scales) = unsafe { (arguments.format()?, arguments.act_scales()?) };
    let cuda = of_number(arguments.size("device")?)?;
    arguments.end()?;
    let tokens = MorayCudaActivations { m, k, scales, memory: NONE };
    let none = MorayBytes::NONE;
    let sections = MoraySections { codes: none, channel: none, group: none, offset: none };
    let sizes = [
        prepare(cuda, &quantization(none, crate::MORAY_F32, tokens))?,
        prepare(cuda, &product(n, format, sections, tokens))?,
    ];
    // SAFETY: the caller's.
    unsafe { out.write().write::<i64>("sizes")? }.copy_from_slice(&sizes.map(|size| size as i64));
    Ok(None)
}

/// `(y, x, codes, channel, group, offset, tokens, workspace, bias, residual, format.., act_scales)`
pub(in crate::tvm_ffi) unsafe fn cuda_linear(arguments: &mut Arguments<'_>) -> Returned {
    arguments.expect_device(CUDA);
    // SAFETY: the caller's.
    let (y, x) = unsafe { (arguments.tensor("y")?, arguments.tensor("x")?) };
    let ([m, n], [_, k]) = (y.matrix("y")?, x.matrix("x")?);
    let x = x.shaped("x", &[m, k])?;
    // SAFETY: the caller's.
    let sections = unsafe { arguments.sections()? };
    // SAFETY: the caller's.
    let (tokens, workspace) = unsafe { (bytes(arguments, "tokens")?, bytes(arguments, "workspace")?) };
    // SAFETY: the caller's.
    let bias = unsafe { rows(arguments, "bias", F32, &[n])? };
    // SAFETY: the caller's.
    let residual = unsafe { rows(arguments, "residual", y.dtype, &[m, n])? };
    // SAFETY: the caller's.
    let (format, scales) = unsafe { (arguments.format()?, arguments.act_scales()?) };
    arguments.end()?;
    if m == 0 {
        return Ok(None);
    }
    let (cuda, stream) = (of_number(y.device_id)?, stream(y.device_id));
    let tokens = MorayCudaActivations { m, k, scales, memory: tokens };
    let quantize = quantization(x.read(), x.float("x")?, tokens);
    let linear = product(n, format, sections, tokens);
    let linear = MorayCudaLinear { dtype: y.float("y")?, bias, residual, y: y.write(), workspace, ..linear };
    // SAFETY: the caller's.
    unsafe {
        launch(cuda, stream, &quantize)?;
        launch(cuda, stream, &linear)?;
    }
    Ok(None)
}
