//! Kernels and the modules that they come from.

use std::collections::HashMap;
use std::ffi::CString;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex};

use super::context::Context;
use crate::driver::codes::{Code, Error, Result};
use crate::machine::Limits;
use crate::machine::{Function, Module};

/// A loaded module.
pub(crate) struct LoadedModule {
    pub(crate) context: Arc<Context>,
    pub(crate) handle: usize,
    pub(crate) module: Arc<Module>,
    pub(crate) ptx_version: (u32, u32),
    /// Handles of the kernels that were asked for, by name.
    pub(crate) kernels: Mutex<HashMap<String, usize>>,
}

/// A kernel, with what cuFuncSetAttribute has set.
pub(crate) struct Kernel {
    pub(crate) module: Arc<LoadedModule>,
    pub(crate) function: Arc<Function>,
    pub(crate) name: CString,
    pub(crate) max_dynamic_shared_bytes: AtomicI32,
    pub(crate) carveout: AtomicI32,
    /// Width, height, depth that a launch must use where not 0, and whether more than 8 blocks are allowed.
    pub(crate) cluster: [AtomicI32; 3],
    pub(crate) non_portable_cluster: AtomicI32,
}

impl Kernel {
    pub(crate) fn new(module: &Arc<LoadedModule>, function: Arc<Function>, name: &str) -> Result<Self> {
        let dynamic = (48 * 1024usize).saturating_sub(function.static_shared_bytes);
        let cluster = function.cluster.unwrap_or_default().map(|extent| AtomicI32::new(extent as i32));
        Ok(Self {
            module: module.clone(),
            name: CString::new(name).map_err(|_| Code::INVALID_VALUE)?,
            max_dynamic_shared_bytes: AtomicI32::new(dynamic as i32),
            carveout: AtomicI32::new(-1),
            cluster,
            non_portable_cluster: AtomicI32::new(0),
            function,
        })
    }

    /// The `.version` of its module as 10 · major + minor.
    pub(crate) fn ptx_version(&self) -> i32 {
        let (major, minor) = self.module.ptx_version;
        (10 * major + minor) as i32
    }

    pub(crate) fn module_handle(&self) -> usize {
        self.module.handle
    }

    /// The most threads per block: what the kernel declares, and what its registers allow.
    pub(crate) fn max_threads(&self, limits: &Limits) -> u32 {
        let by_registers = limits.registers_per_sm / self.function.registers.max(1) / 32 * 32;
        let declared =
            if self.function.max_threads == 0 { limits.threads_per_block } else { self.function.max_threads };
        declared.min(by_registers).min(limits.threads_per_block)
    }

    /// The most dynamic shared memory that a launch may ask for.
    pub(crate) fn max_dynamic(&self) -> u32 {
        self.max_dynamic_shared_bytes.load(Ordering::Relaxed) as u32
    }
}

/// Makes the error of a kernel that was asked for what it cannot do.
pub(crate) fn refused(
    code: Code,
    kernel: &Kernel,
    what: &str,
    expected: impl std::fmt::Display,
    got: impl std::fmt::Debug,
) -> Error {
    code.because(format!("{what} of {}: expected {expected}, got {got:?}", kernel.function.name))
}
