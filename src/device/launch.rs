//! The one place that starts kernels.

use super::Kernel;
use crate::error::{Error, Result};
use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{CudaFunction, DriverError};
use std::ffi::c_void;

/// The blocks of a launch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grid {
    pub(crate) blocks: [u32; 3],
    /// Whether all are resident together, so that they may wait for each other: the driver refuses more than fit.
    pub(crate) together: bool,
}

/// Starts blocks of a kernel on a stream.
///
/// # Safety
/// `function` is the kernel's; it and `stream` belong to the current context. Device addresses in `params` are valid for what the
/// kernel reads and writes, until the stream has passed it.
pub(crate) unsafe fn launch_raw<P: Copy>(
    function: &CudaFunction,
    kernel: Kernel<P>,
    grid: Grid,
    stream: sys::CUstream,
    mut params: P,
) -> Result<()> {
    let Kernel { symbol, threads, shared_bytes, .. } = kernel;
    let mut args = [(&raw mut params).cast::<c_void>()];
    let [x, y, z] = grid.blocks;
    let (function, args, no_extra) = (raw(function), args.as_mut_ptr(), std::ptr::null_mut());
    // SAFETY: the kernel's one parameter is a `P`, as the compiler reported, and the driver copies it before it returns; the rest
    // is the caller's.
    let code = unsafe {
        match grid.together {
            false => sys::cuLaunchKernel(function, x, y, z, threads, 1, 1, shared_bytes, stream, args, no_extra),
            true => sys::cuLaunchCooperativeKernel(function, x, y, z, threads, 1, 1, shared_bytes, stream, args),
        }
    };
    match code {
        CUresult::CUDA_SUCCESS => Ok(()),
        code => Err(Error::Launch { kernel: symbol, message: describe(code) }),
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
