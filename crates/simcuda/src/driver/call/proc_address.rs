//! cuGetProcAddress: finds exported functions by their names in this very library.

use std::ffi::{CString, c_void};

use crate::driver::abi::{Out, Text, api};
use crate::driver::codes::{Code, Result};

/// Finds an exported function of the library that this code is in.
fn own_symbol(name: &str) -> Option<usize> {
    let name = CString::new(name).ok()?;
    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    let inside: *const c_void = (own_symbol as fn(&str) -> Option<usize>) as *const c_void;
    // SAFETY: `inside` is an address of this library's code, and `info` has room for the answer; it is zeroed, so a failed
    // call leaves null pointers, which are valid values of its fields.
    let info = unsafe {
        libc::dladdr(inside, info.as_mut_ptr());
        info.assume_init()
    };
    if info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: the name is the loader's own string for a library that is loaded; NOLOAD never runs initialisers.
    let library = unsafe { libc::dlopen(info.dli_fname, libc::RTLD_NOW | libc::RTLD_NOLOAD) };
    if library.is_null() {
        return None;
    }
    // SAFETY: the handle was just opened, the name is terminated; closing only drops the count that dlopen added.
    let symbol = unsafe {
        let symbol = libc::dlsym(library, name.as_ptr());
        libc::dlclose(library);
        symbol
    };
    (!symbol.is_null()).then_some(symbol as usize)
}

/// The newest variant of a function: CUDA's headers map the plain name to it.
fn newest(name: &str) -> Option<usize> {
    ["_v4", "_v3", "_v2", ""].iter().find_map(|suffix| own_symbol(&format!("{name}{suffix}")))
}

fn find(name: &Text, out: &Out<usize>, status: &Out<i32>) -> Result<()> {
    let name = name.get()?;
    let symbol = newest(&name);
    status.set_if_wanted(i32::from(symbol.is_none()));
    out.set(symbol.unwrap_or(0))?;
    if symbol.is_some() {
        Ok(())
    } else {
        Err(Code::NOT_FOUND.because(format!("expected a driver function, got {name:?}")))
    }
}

api! {
    fn cuGetProcAddress_v2(name: Text, out: Out<usize>, _version: i32, _flags: u64, status: Out<i32>) {
        find(&name, &out, &status)
    }
}
