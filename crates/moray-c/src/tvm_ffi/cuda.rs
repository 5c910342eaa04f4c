//! Functions over tensors of a CUDA device, in its primary context and on the stream that TVM FFI's environment has for it.

use super::call::Arguments;
use super::functions::Returned;
use super::process::find;
use super::tensor::{F32, I64, U8};
use crate::arguments::{MorayBytes, MorayBytesMut};
#[cfg(feature = "cuda-w4a8")]
use crate::cuda::call::{launch, prepare};
#[cfg(not(feature = "cuda-w4a8"))]
use crate::cuda::no_operation::{launch, prepare};
use crate::cuda::of_number;
use crate::status::Outcome;
use crate::{
    CUstream_st, MORAY_LAYOUT_VERSION, MORAY_SOURCE_PLAIN, MorayCudaActivations, MorayCudaLinear, MorayCudaQuantize,
    MorayCudaWeight, MorayDtype, MorayFormat, MoraySections,
};
use std::ffi::c_void;

/// `kDLCUDA`.
const CUDA: i32 = 2;

const NONE: MorayBytesMut = MorayBytesMut { data: std::ptr::null_mut(), bytes: 0 };

/// The stream of a device, null for its default stream.
fn stream(number: usize) -> *mut CUstream_st {
    type GetStream = unsafe extern "C" fn(device_type: i32, device_id: i32) -> *mut c_void;
    let function = find(c"TVMFFIEnvGetStream");
    if function.is_null() {
        return std::ptr::null_mut();
    }
    // SAFETY: the type is that of `tvm/ffi/extra/c_env_api.h`.
    let get = unsafe { std::mem::transmute::<*mut c_void, GetStream>(function) };
    // SAFETY: it takes any numbers.
    unsafe { get(CUDA, number as i32) }.cast()
}

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
pub(super) unsafe fn cuda_linear_scratch(arguments: &mut Arguments<'_>) -> Returned {
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
pub(super) unsafe fn cuda_linear(arguments: &mut Arguments<'_>) -> Returned {
    arguments.expect_device(CUDA);
    // SAFETY: the caller's.
    let (y, x) = unsafe { (arguments.tensor("y")?, arguments.tensor("x")?) };
    let ([m, n], [_, k]) = (y.matrix("y")?, x.matrix("x")?);
    let x = x.shaped("x", &[m, k])?;
    // SAFETY: the caller's.
    let sections = unsafe { arguments.sections()? };
    let mut bytes = |what| -> Outcome<MorayBytesMut> {
        // SAFETY: the caller's.
        let found = unsafe { arguments.optional(what)? };
        Ok(found.map(|rows| rows.of(what, U8)).transpose()?.map_or(NONE, |rows| rows.write()))
    };
    let (tokens, workspace) = (bytes("tokens")?, bytes("workspace")?);
    let mut rows = |what, dtype, shape: &[usize]| -> Outcome<MorayBytes> {
        // SAFETY: the caller's.
        let found = unsafe { arguments.optional(what)? };
        let checked = found.map(|rows| rows.of(what, dtype)?.shaped(what, shape)).transpose()?;
        Ok(checked.map_or(MorayBytes::NONE, |rows| rows.read()))
    };
    let (bias, residual) = (rows("bias", F32, &[n])?, rows("residual", y.dtype, &[m, n])?);
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
