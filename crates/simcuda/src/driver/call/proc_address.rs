//! cuGetProcAddress: finds exported functions by their names in this very library.

use std::ffi::{CString, c_void};

use super::stubs::STUBS;
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

/// Functions whose variants differ for the caller: the CUDA version from which each is meant by the plain name. Of every other
/// name the newest variant is meant.
const VARIANTS: &[(&str, &[(i32, &str)])] = &[
    ("cuCtxCreate", &[(3020, "cuCtxCreate_v2"), (11040, "cuCtxCreate_v3"), (12050, "cuCtxCreate_v4")]),
    ("cuCtxGetDevice", &[(2000, "cuCtxGetDevice"), (13000, "cuCtxGetDevice_v2")]),
    ("cuCtxSynchronize", &[(2000, "cuCtxSynchronize"), (13000, "cuCtxSynchronize_v2")]),
    ("cuGetProcAddress", &[(11030, "cuGetProcAddress"), (12000, "cuGetProcAddress_v2")]),
    ("cuGraphAddDependencies", &[(10000, "cuGraphAddDependencies"), (12030, "cuGraphAddDependencies_v2")]),
    ("cuGraphAddKernelNode", &[(10000, "cuGraphAddKernelNode"), (12000, "cuGraphAddKernelNode_v2")]),
    (
        "cuGraphExecKernelNodeSetParams",
        &[(10010, "cuGraphExecKernelNodeSetParams"), (12000, "cuGraphExecKernelNodeSetParams_v2")],
    ),
    ("cuGraphGetEdges", &[(10000, "cuGraphGetEdges"), (12030, "cuGraphGetEdges_v2")]),
    ("cuGraphInstantiate", &[(10000, "cuGraphInstantiate_v2"), (12000, "cuGraphInstantiateWithFlags")]),
    ("cuGraphKernelNodeGetParams", &[(10000, "cuGraphKernelNodeGetParams"), (12000, "cuGraphKernelNodeGetParams_v2")]),
    ("cuGraphKernelNodeSetParams", &[(10000, "cuGraphKernelNodeSetParams"), (12000, "cuGraphKernelNodeSetParams_v2")]),
    ("cuGraphNodeGetDependencies", &[(10000, "cuGraphNodeGetDependencies"), (12030, "cuGraphNodeGetDependencies_v2")]),
    (
        "cuGraphNodeGetDependentNodes",
        &[(10000, "cuGraphNodeGetDependentNodes"), (12030, "cuGraphNodeGetDependentNodes_v2")],
    ),
    ("cuGraphRemoveDependencies", &[(10000, "cuGraphRemoveDependencies"), (12030, "cuGraphRemoveDependencies_v2")]),
    ("cuMemAdvise", &[(8000, "cuMemAdvise"), (12020, "cuMemAdvise_v2")]),
    ("cuMemPrefetchAsync", &[(8000, "cuMemPrefetchAsync"), (12020, "cuMemPrefetchAsync_v2")]),
    ("cuStreamGetCaptureInfo", &[(10010, "cuStreamGetCaptureInfo"), (11030, "cuStreamGetCaptureInfo_v2")]),
];

/// What a look-up comes to: `CUdriverProcAddressQueryResult`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Symbol(usize),
    Nothing,
    /// The function came with a newer CUDA than the one asked for.
    NeedsNewerVersion,
}

impl Found {
    fn status(self) -> i32 {
        match self {
            Self::Symbol(_) => 0,
            Self::Nothing => 1,
            Self::NeedsNewerVersion => 2,
        }
    }
}

/// A function that is more than a stub.
fn implemented(name: &str) -> Option<usize> {
    if STUBS.contains(&name) { None } else { own_symbol(name) }
}

/// The function that CUDA's headers of a version mean by a plain name.
fn look_up(name: &str, version: i32) -> Found {
    let Some((_, variants)) = VARIANTS.iter().find(|(plain, _)| *plain == name) else {
        let newest = ["_v4", "_v3", "_v2", ""].iter().find_map(|suffix| implemented(&format!("{name}{suffix}")));
        return newest.map_or(Found::Nothing, Found::Symbol);
    };
    match variants.iter().rev().find(|(since, _)| *since <= version) {
        Some((_, symbol)) => implemented(symbol).map_or(Found::Nothing, Found::Symbol),
        None => Found::NeedsNewerVersion,
    }
}

fn find(name: &Text, out: &Out<usize>, version: i32, status: Option<Out<i32>>) -> Result<()> {
    let name = name.get()?;
    let found = look_up(&name, version);
    if let Some(status) = status {
        status.set_if_wanted(found.status());
    }
    match found {
        Found::Symbol(symbol) => out.set(symbol),
        Found::Nothing => {
            out.set(0)?;
            Err(Code::NOT_FOUND.because(format!("expected a function of this driver, got {name:?}")))
        }
        Found::NeedsNewerVersion => {
            out.set(0)?;
            Err(Code::NOT_FOUND.because(format!("expected a newer CUDA for {name:?} than {version}")))
        }
    }
}

api! {
    fn cuGetProcAddress(name: Text, out: Out<usize>, version: i32, _flags: u64) {
        find(&name, &out, version, None)
    }

    fn cuGetProcAddress_v2(name: Text, out: Out<usize>, version: i32, _flags: u64, status: Out<i32>) {
        find(&name, &out, version, Some(status))
    }
}
