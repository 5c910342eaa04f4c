//! Contexts: their settings, and the fault that ends one.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use crate::driver::codes::{Code, Result};
use crate::driver::registry::fresh_id;

/// Stack, printf and heap bytes, launch depth and count, L2 fetch granularity and persistence: `CUlimit` in order.
const DEFAULT_LIMITS: [usize; 7] = [1024, 1 << 20, 8 << 20, 2, 2048, 64, 0];

/// One context of the device.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) handle: usize,
    pub(crate) flags: AtomicU32,
    pub(crate) limits: Mutex<[usize; 7]>,
    pub(crate) cache_config: AtomicI32,
    fault: AtomicI32,
    destroyed: AtomicBool,
}

impl Context {
    pub(crate) fn new(flags: u32) -> Arc<Self> {
        Arc::new(Self {
            handle: fresh_id(),
            flags: AtomicU32::new(flags),
            limits: Mutex::new(DEFAULT_LIMITS),
            cache_config: AtomicI32::new(0),
            fault: AtomicI32::new(0),
            destroyed: AtomicBool::new(false),
        })
    }

    /// Ends the context's useful life: from now on its calls return `code`. The first fault stays.
    pub(crate) fn poison(&self, code: Code) {
        let _ = self.fault.compare_exchange(0, code.0, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Tells whether a kernel of this context has faulted.
    pub(crate) fn is_poisoned(&self) -> bool {
        self.fault.load(Ordering::Acquire) != 0
    }

    /// Notes that the context is gone.
    pub(crate) fn set_destroyed(&self) {
        self.destroyed.store(true, Ordering::Release);
    }

    /// Returns the fault of an earlier kernel, or that the context is gone.
    pub(crate) fn check(&self) -> Result<()> {
        if self.destroyed.load(Ordering::Acquire) {
            return Err(Code::CONTEXT_IS_DESTROYED.into());
        }
        match self.fault.load(Ordering::Acquire) {
            0 => Ok(()),
            code => Err(Code(code).into()),
        }
    }
}
