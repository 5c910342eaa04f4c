//! Functions over tensors of a CUDA device, in its primary context and on the stream that TVM FFI's environment has for it.

mod attention;
mod by_input;
mod linear;
mod sparse_mlp;

pub(super) use attention::{cuda_attend, cuda_attend_scratch, cuda_write_kv};
pub(super) use by_input::{cuda_by_input, cuda_by_input_four_bit, cuda_by_input_four_bit_scratch};
pub(super) use linear::{cuda_linear, cuda_linear_scratch};
pub(super) use sparse_mlp::{cuda_sparse_mlp, cuda_sparse_mlp_scratch};

use super::call::Arguments;
use super::functions::Returned;
use super::process::find;
use super::tensor::{DlDataType, U8};
use crate::CUstream_st;
use crate::arguments::{MorayBytes, MorayBytesMut};
#[cfg(not(feature = "cuda-device"))]
use crate::cuda::no_device::keeping_current;
use crate::cuda::of_number;
use crate::status::Outcome;
#[cfg(feature = "cuda-device")]
use moray::device::keeping_current;
use std::ffi::c_void;

/// `kDLCUDA`.
const CUDA: i32 = 2;

pub(super) const NONE: MorayBytesMut = MorayBytesMut { data: std::ptr::null_mut(), bytes: 0 };

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

/// Bytes to be written, or none.
///
/// # Safety
/// As [`Arguments::tensor`].
unsafe fn bytes(arguments: &mut Arguments<'_>, what: &'static str) -> Outcome<MorayBytesMut> {
    // SAFETY: the caller's.
    let found = unsafe { arguments.optional(what)? };
    Ok(found.map(|rows| rows.of(what, U8)).transpose()?.map_or(NONE, |rows| rows.write()))
}

/// Elements of a type and shape to be read, or none.
///
/// # Safety
/// As [`Arguments::tensor`].
unsafe fn rows(
    arguments: &mut Arguments<'_>,
    what: &'static str,
    dtype: DlDataType,
    shape: &[usize],
) -> Outcome<MorayBytes> {
    // SAFETY: the caller's.
    let found = unsafe { arguments.optional(what)? };
    let checked = found.map(|rows| rows.of(what, dtype)?.shaped(what, shape)).transpose()?;
    Ok(checked.map_or(MorayBytes::NONE, |rows| rows.read()))
}

/// `(device)`
pub(super) unsafe fn cuda_load_kernels(arguments: &mut Arguments<'_>) -> Returned {
    let number = arguments.size("device")?;
    arguments.end()?;
    let device = &of_number(number)?.device;
    keeping_current(|| device.load_kernels())?;
    Ok(None)
}
