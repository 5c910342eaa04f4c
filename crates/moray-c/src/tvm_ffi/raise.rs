//! Refusals as TVM FFI takes them.

use super::process::find;
use crate::status::{MorayStatus, moray_last_error};
use std::ffi::{CStr, c_char, c_int, c_void};

type SetRaised = unsafe extern "C" fn(kind: *const c_char, message: *const c_char);

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
    let function = find(c"TVMFFIErrorSetRaisedFromCStr");
    // SAFETY: the type is that of `tvm/ffi/c_api.h`.
    (!function.is_null()).then(|| unsafe { std::mem::transmute::<*mut c_void, SetRaised>(function) })
}
