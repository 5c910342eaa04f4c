//! What the process has of TVM FFI.

use std::ffi::{CStr, c_char, c_int, c_void};

unsafe extern "C" {
    fn dlopen(file: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, symbol: *const c_char) -> *mut c_void;
}

const RTLD_LAZY: c_int = 1;
/// Only what the process has already.
const RTLD_NOLOAD: c_int = if cfg!(target_vendor = "apple") { 0x10 } else { 4 };
const LIBRARY: &CStr = if cfg!(target_vendor = "apple") { c"libtvm_ffi.dylib" } else { c"libtvm_ffi.so" };

/// A function of the process's TVM FFI, or null.
pub(super) fn find(symbol: &CStr) -> *mut c_void {
    // SAFETY: names that end with a zero. The library stays: its count of users is one more.
    unsafe {
        let everywhere = dlsym(std::ptr::null_mut(), symbol.as_ptr());
        match everywhere.is_null() {
            true => dlsym(dlopen(LIBRARY.as_ptr(), RTLD_LAZY | RTLD_NOLOAD), symbol.as_ptr()),
            false => everywhere,
        }
    }
}
