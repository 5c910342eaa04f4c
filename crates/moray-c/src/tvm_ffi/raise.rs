//! Refusals as TVM FFI takes them.

use crate::status::{MorayStatus, moray_last_error};
use std::ffi::{CStr, c_char, c_int, c_void};

type SetRaised = unsafe extern "C" fn(kind: *const c_char, message: *const c_char);

unsafe extern "C" {
    fn dlopen(file: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, symbol: *const c_char) -> *mut c_void;
}

const RTLD_LAZY: c_int = 1;
/// Only what the process has already.
const RTLD_NOLOAD: c_int = if cfg!(target_vendor = "apple") { 0x10 } else { 4 };
const LIBRARY: &CStr = if cfg!(target_vendor = "apple") { c"libtvm_ffi.dylib" } else { c"libtvm_ffi.so" };
const SYMBOL: &CStr = c"TVMFFIErrorSetRaisedFromCStr";

/// What a function returns for a status; the sentence of a refusal is given to TVM FFI before.
pub(super) fn raise(status: MorayStatus) -> c_int {
    if status == MorayStatus::Ok {
        return 0;
    }
    if let Some(set_raised) = set_raised() {
        // SAFETY: both end with a zero and are there during the call, which copies them.
        unsafe { set_raised(kind(status).as_ptr(), moray_last_error()) };
    }
    -1
}

/// The kind of an error, by which Python's exceptions are found.
fn kind(status: MorayStatus) -> &'static CStr {
    match status {
        MorayStatus::Index => c"IndexError",
        MorayStatus::OutOfMemory => c"MemoryError",
        MorayStatus::Busy
        | MorayStatus::Internal
        | MorayStatus::DriverAbsent
        | MorayStatus::DriverTooOld
        | MorayStatus::KernelsNotBuilt
        | MorayStatus::UnsupportedArchitecture
        | MorayStatus::Launch
        | MorayStatus::Driver => c"RuntimeError",
        _ => c"ValueError",
    }
}

/// The function of the process's TVM FFI that takes an error.
fn set_raised() -> Option<SetRaised> {
    // SAFETY: names that end with a zero. The library stays: its count of users is one more.
    let function = unsafe {
        let everywhere = dlsym(std::ptr::null_mut(), SYMBOL.as_ptr());
        match everywhere.is_null() {
            true => dlsym(dlopen(LIBRARY.as_ptr(), RTLD_LAZY | RTLD_NOLOAD), SYMBOL.as_ptr()),
            false => everywhere,
        }
    };
    // SAFETY: the type is that of `tvm/ffi/c_api.h`.
    (!function.is_null()).then(|| unsafe { std::mem::transmute::<*mut c_void, SetRaised>(function) })
}
