//! What a call returns, and the sentence behind it.

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Whether a call did what it is for, and if not, why. `moray_last_error` has the sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub enum MorayStatus {
    /// Done.
    Ok = 0,
    /// A buffer has another size than the call needs.
    Length = 1,
    /// A size that the operation does not take.
    Shape = 2,
    /// An index outside its range.
    Index = 3,
    /// A list that is not strictly increasing.
    NotIncreasing = 4,
    /// A number that is NaN, infinite or outside the range that makes sense.
    Value = 5,
    /// Options, formats or types that the operation does not take.
    Unsupported = 6,
    /// There is no CUDA driver.
    DriverAbsent = 7,
    /// The CUDA driver lacks functions that are needed.
    DriverTooOld = 8,
    /// The library was built without its CUDA kernels.
    KernelsNotBuilt = 9,
    /// There are no kernels for the device.
    UnsupportedArchitecture = 10,
    /// There is not enough memory.
    OutOfMemory = 11,
    /// An address that is not a multiple of what the call needs.
    Misaligned = 12,
    /// A kernel could not be started.
    Launch = 13,
    /// The CUDA driver refused a call.
    Driver = 14,
    /// A pointer is null.
    Null = 15,
    /// The caller was compiled with the header of another version of the library.
    Version = 16,
    /// Memory that the call writes overlaps memory that it reads or writes elsewhere.
    Overlap = 17,
    /// Another thread is inside a call that writes the same handle.
    Busy = 18,
    /// A fault of the library itself.
    Internal = 19,
    /// Memory that kernels of the device's context do not reach.
    Device = 20,
}

/// Why a call refused its arguments or failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error(transparent)]
    Kernel(#[from] moray::Error),
    #[error("{what}: expected an address, got null")]
    Null { what: &'static str },
    #[error("{what}: expected {expected}, got {got}: the header and the library are of different versions")]
    Version { what: &'static str, expected: u32, got: u32 },
    #[error("{what}: expected memory of its own, got memory that overlaps {other}")]
    Overlap { what: &'static str, other: &'static str },
    #[error("{what}: expected a handle that no other thread is using, got one in another thread's call")]
    Busy { what: &'static str },
    #[error("{what}: expected {bytes} free bytes of memory, got fewer")]
    Memory { what: &'static str, bytes: usize },
    #[error("{what}: expected {expected}, got {got}")]
    Argument { what: &'static str, expected: String, got: String },
    #[error("{what}: expected shape {expected:?}, got {got:?}")]
    Sizes { what: &'static str, expected: Vec<usize>, got: Vec<usize> },
    #[error("expected the library to go on, got: {message}")]
    Internal { message: String },
}

impl Fault {
    pub(crate) fn unsupported(what: &'static str, expected: &'static str, got: impl ToString) -> Self {
        Fault::Kernel(moray::Error::Unsupported { what, expected, got: got.to_string() })
    }

    fn of_panic(panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let message = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic".into());
        Fault::Internal { message }
    }

    fn status(&self) -> MorayStatus {
        use moray::Error;
        match self {
            Fault::Kernel(error) => match error {
                Error::Length { .. } => MorayStatus::Length,
                Error::Shape { .. } => MorayStatus::Shape,
                Error::Index { .. } => MorayStatus::Index,
                Error::NotIncreasing { .. } => MorayStatus::NotIncreasing,
                Error::Value { .. } => MorayStatus::Value,
                Error::Unsupported { .. } => MorayStatus::Unsupported,
                Error::DriverAbsent { .. } => MorayStatus::DriverAbsent,
                Error::DriverTooOld { .. } => MorayStatus::DriverTooOld,
                Error::KernelsNotBuilt { .. } => MorayStatus::KernelsNotBuilt,
                Error::UnsupportedArchitecture { .. } => MorayStatus::UnsupportedArchitecture,
                Error::OutOfMemory { .. } => MorayStatus::OutOfMemory,
                Error::Misaligned { .. } => MorayStatus::Misaligned,
                Error::Elsewhere { .. } => MorayStatus::Device,
                Error::Launch { .. } => MorayStatus::Launch,
                Error::Driver { .. } => MorayStatus::Driver,
                _ => MorayStatus::Internal,
            },
            Fault::Null { .. } => MorayStatus::Null,
            Fault::Version { .. } => MorayStatus::Version,
            Fault::Overlap { .. } => MorayStatus::Overlap,
            Fault::Busy { .. } => MorayStatus::Busy,
            Fault::Memory { .. } => MorayStatus::OutOfMemory,
            Fault::Argument { .. } => MorayStatus::Unsupported,
            Fault::Sizes { .. } => MorayStatus::Length,
            Fault::Internal { .. } => MorayStatus::Internal,
        }
    }
}

pub(crate) type Outcome<T = ()> = Result<T, Fault>;

thread_local! {
    static LAST: RefCell<CString> = RefCell::new(CString::default());
}

/// Runs a call: nothing unwinds out of it, and what it refuses is kept for `moray_last_error`.
pub(crate) fn guard(call: impl FnOnce() -> Outcome) -> MorayStatus {
    let fault = match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(())) => return MorayStatus::Ok,
        Ok(Err(fault)) => fault,
        Err(panic) => Fault::of_panic(&*panic),
    };
    let text = fault.to_string().replace('\0', " ");
    // a thread that ends has no memory of its own any more, and nobody who reads it
    let _ = LAST.try_with(|last| last.replace(CString::new(text).unwrap_or_default()));
    fault.status()
}

/// Says what went wrong in the last call of this thread that failed: a sentence that names the argument, what was expected and what
/// was found; empty before there is one. The text is valid until the next call of this thread that fails.
#[unsafe(no_mangle)]
pub extern "C" fn moray_last_error() -> *const c_char {
    LAST.try_with(|last| last.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panic_is_a_status_and_a_sentence() {
        let status = guard(|| panic!("7 is not a size"));
        assert_eq!(status, MorayStatus::Internal);
        // SAFETY: a text of this thread, before its next call.
        let text = unsafe { std::ffi::CStr::from_ptr(moray_last_error()) };
        assert_eq!(text.to_str(), Ok("expected the library to go on, got: 7 is not a size"));
    }
}
