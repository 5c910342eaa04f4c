//! Whether there is a driver to call, before anything that would panic without it.

use crate::error::{Error, Result};

/// The oldest driver interface that the kernels and graphs need: CUDA 12.0.
const OLDEST: i32 = 12_000;

#[cfg(not(windows))]
const NAMES: [&str; 2] = ["libcuda.so.1", "libcuda.so"];
#[cfg(windows)]
const NAMES: [&str; 1] = ["nvcuda.dll"];

/// Loads the driver and asks for its version.
pub(super) fn probe() -> Result<()> {
    let mut reason = String::new();
    for name in NAMES {
        // SAFETY: the driver's own initialisers are all that runs; the library stays loaded, as its bindings will load it
        // again.
        match unsafe { libloading::Library::new(name) } {
            Ok(library) => return version(&std::mem::ManuallyDrop::new(library)),
            // the error's own text is only that loading failed; its source has the loader's words
            Err(error) if reason.is_empty() => {
                reason = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            }
            Err(_) => {}
        }
    }
    Err(Error::DriverAbsent { message: reason })
}

fn version(library: &libloading::Library) -> Result<()> {
    type GetVersion = unsafe extern "C" fn(*mut i32) -> i32;
    // SAFETY: the function's type is the driver interface's.
    let ask = unsafe { library.get::<GetVersion>(b"cuDriverGetVersion\0") };
    let ask = ask.map_err(|error| Error::DriverAbsent { message: error.to_string() })?;
    let mut version = 0;
    // SAFETY: it writes one integer and may be called before cuInit.
    let code = unsafe { ask(&mut version) };
    match code == 0 && version >= OLDEST {
        true => Ok(()),
        false => Err(Error::DriverTooOld { expected: OLDEST, got: version }),
    }
}
