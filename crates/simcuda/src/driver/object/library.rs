//! Libraries: modules that belong to no context until one uses them, and their kernels.

use std::collections::HashMap;
use std::ffi::CString;
use std::sync::{Arc, Mutex};

use crate::machine::{Function, Module};

/// A loaded library.
pub(crate) struct Library {
    pub(crate) handle: usize,
    pub(crate) module: Arc<Module>,
    pub(crate) ptx_version: (u32, u32),
    /// Its module in each context that has used it: handles of both.
    pub(crate) modules: Mutex<HashMap<usize, usize>>,
    /// Handles of the kernels that were asked for, by name.
    pub(crate) kernels: Mutex<HashMap<String, usize>>,
}

/// A kernel of a library, in whatever context.
pub(crate) struct LibraryKernel {
    pub(crate) library: Arc<Library>,
    pub(crate) name: CString,
    pub(crate) function: Arc<Function>,
}
