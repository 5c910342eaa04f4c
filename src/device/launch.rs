//! The one place that starts kernels.

use crate::error::{Error, Result};
use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{CudaFunction, DriverError};
use std::ffi::c_void;

/// Starts `grid` × `block` threads of a kernel on a stream.
///
/// # Safety
/// `args` are pointers to values of the kernel's parameters, one each, of their sizes and alignments; device pointers
/// among them are valid for what the kernel reads and writes, until the stream has passed it; `stream` and `function`
/// belong to the current context.
pub(crate) unsafe fn launch_raw(
    kernel: &'static str,
    function: &CudaFunction,
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u32,
    stream: sys::CUstream,
    args: &mut [*mut c_void],
) -> Result<()> {
    // SAFETY: the caller's; the driver copies the arguments before it returns.
    let code = unsafe {
        sys::cuLaunchKernel(
            raw(function),
            grid[0],
            grid[1],
            grid[2],
            block[0],
            block[1],
            block[2],
            shared_bytes,
            stream,
            args.as_mut_ptr(),
            std::ptr::null_mut(),
        )
    };
    match code {
        CUresult::CUDA_SUCCESS => Ok(()),
        code => Err(Error::Launch { kernel, message: describe(code) }),
    }
}

/// The driver's handle of a function.
fn raw(function: &CudaFunction) -> sys::CUfunction {
    function.cu_function()
}

/// Turns a refused driver call into an error that names it.
pub(crate) fn call(what: &'static str) -> impl Fn(DriverError) -> Error {
    move |error| Error::Driver { call: what, message: describe(error.0) }
}

/// The driver's name of a code, or its number.
pub(crate) fn describe(code: CUresult) -> String {
    let error = DriverError(code);
    match (error.error_name(), error.error_string()) {
        (Ok(name), Ok(text)) => format!("{} ({})", name.to_string_lossy(), text.to_string_lossy()),
        _ => format!("{code:?}"),
    }
}
