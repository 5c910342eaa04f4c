//! Which version of the ABI and of the library this is.

use crate::status::{Fault, MorayStatus, guard};
use std::ffi::{CStr, c_char};

/// The version of the ABI: of functions, structures and constants. A program works with a library of the same one.
pub const MORAY_ABI_VERSION: u32 = 1;

const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
    Ok(version) => version,
    Err(_) => panic!("a version has no zero bytes"),
};

/// Returns the `MORAY_ABI_VERSION` that the library was built with.
#[unsafe(no_mangle)]
pub extern "C" fn moray_abi_version() -> u32 {
    MORAY_ABI_VERSION
}

/// Returns the version of the library, as "0.1.0".
#[unsafe(no_mangle)]
pub extern "C" fn moray_version() -> *const c_char {
    VERSION.as_ptr()
}

/// Checks that the caller's header, whose `MORAY_ABI_VERSION` it passes, fits the library. Changes nothing.
///
/// Fails with `MORAY_STATUS_VERSION` if it does not.
#[unsafe(no_mangle)]
pub extern "C" fn moray_init(abi_version: u32) -> MorayStatus {
    guard(|| match abi_version {
        MORAY_ABI_VERSION => Ok(()),
        got => Err(Fault::Version { what: "abi_version", expected: MORAY_ABI_VERSION, got }),
    })
}
