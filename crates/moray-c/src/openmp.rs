//! Threads of an OpenMP runtime that the process has.

use crate::status::{Fault, Outcome};
use moray::threads::Pool;
use std::any::Any;
use std::ffi::{c_uint, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Mutex, PoisonError};

/// `GOMP_parallel`: calls a function on so many threads, the calling one among them, and returns when every call has returned. The last number
/// says to which places threads are bound, 0 for as the program's settings have it.
type Parallel = unsafe extern "C" fn(unsafe extern "C" fn(*mut c_void), *mut c_void, c_uint, c_uint);

pub(crate) struct OpenMp {
    parallel: Parallel,
    threads: usize,
}

impl OpenMp {
    /// # Safety
    /// The address is null or that of a runtime's `GOMP_parallel`, which stays loaded.
    pub(crate) unsafe fn new(threads: usize, parallel: *const c_void) -> Outcome<Self> {
        if parallel.is_null() {
            return Err(Fault::Null { what: "gomp_parallel" });
        }
        // SAFETY: the caller's.
        let parallel = unsafe { std::mem::transmute::<*const c_void, Parallel>(parallel) };
        Ok(OpenMp { parallel, threads })
    }
}

/// A job, and what a call of it has panicked with, which may not unwind through the runtime.
struct Call<'a> {
    job: &'a (dyn Fn() + Sync),
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// # Safety
/// `data` is a [`Call`] that lives.
unsafe extern "C" fn enter(data: *mut c_void) {
    // SAFETY: the caller's.
    let call = unsafe { &*data.cast_const().cast::<Call<'_>>() };
    if let Err(panic) = catch_unwind(AssertUnwindSafe(call.job)) {
        *call.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
    }
}

impl Pool for OpenMp {
    fn threads(&self) -> usize {
        self.threads
    }

    fn run(&self, job: &(dyn Fn() + Sync)) {
        let call = Call { job, panic: Mutex::new(None) };
        // SAFETY: the function is the runtime's; the call lives until all of its calls have returned.
        unsafe { (self.parallel)(enter, (&raw const call).cast_mut().cast(), self.threads as c_uint, 0) };
        if let Some(panic) = call.panic.into_inner().unwrap_or_else(PoisonError::into_inner) {
            resume_unwind(panic);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::OpenMp;
    use moray::threads::Pool;
    use std::ffi::{c_uint, c_void};
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A runtime that calls from one thread after the other.
    unsafe extern "C" fn parallel(
        work: unsafe extern "C" fn(*mut c_void),
        data: *mut c_void,
        threads: c_uint,
        flags: c_uint,
    ) {
        assert_eq!(flags, 0);
        for _ in 0..threads {
            // SAFETY: what the library gives.
            unsafe { work(data) };
        }
    }

    #[test]
    fn a_panic_passes_the_runtime_and_reaches_the_caller_after_the_other_calls() {
        // SAFETY: a function of the right type.
        let pool = unsafe { OpenMp::new(3, parallel as *const c_void) }.unwrap();
        assert_eq!(pool.threads(), 3);
        let count = AtomicUsize::new(0);
        let run = || pool.run(&|| assert_ne!(count.fetch_add(1, Ordering::Relaxed), 1));
        assert!(catch_unwind(AssertUnwindSafe(run)).is_err());
        assert_eq!(count.into_inner(), 3);
    }
}
