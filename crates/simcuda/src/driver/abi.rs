//! The boundary to C: pointer arguments, the guard around every exported function, and the macro that declares them.
//!
//! Handles and device pointers are plain integers here, so the functions behind this boundary are safe code. Pointers
//! into the caller's memory arrive as the wrappers below. Nothing in this crate constructs a wrapper: they only ever come
//! from a caller of an exported function, who is bound by CUDA's contract that each is null or valid for its purpose.

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::codes::{Code, Error, Result};
use super::settings;

thread_local! {
    static IN_HOST_FUNCTION: Cell<bool> = const { Cell::new(false) };
}

/// Where the caller wants a result.
#[repr(transparent)]
pub(crate) struct Out<T>(*mut T);

impl<T> Clone for Out<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Out<T> {}

impl<T> Out<T> {
    /// Takes the result as another type, where an attribute decides the type.
    pub(crate) fn cast<U>(self) -> Out<U> {
        Out(self.0.cast())
    }

    /// Stores a result; a null pointer is refused.
    pub(crate) fn set(&self, value: T) -> Result<()> {
        if self.0.is_null() {
            return Err(Code::INVALID_VALUE.into());
        }
        self.set_if_wanted(value);
        Ok(())
    }

    /// Stores a result that the caller may leave out by passing null.
    pub(crate) fn set_if_wanted(&self, value: T) {
        if !self.0.is_null() {
            // SAFETY: not null, so by the API's contract valid for one write of T; written unaligned, read by nobody yet.
            unsafe { self.0.write_unaligned(value) }
        }
    }

    /// Stores `values` as an array of at most `capacity` elements.
    pub(crate) fn set_array(&self, values: impl IntoIterator<Item = T>, capacity: usize) {
        if !self.0.is_null() {
            for (i, value) in values.into_iter().take(capacity).enumerate() {
                // SAFETY: the caller gives room for `capacity` elements, and i < capacity.
                unsafe { self.0.add(i).write_unaligned(value) }
            }
        }
    }

    /// Tells whether the caller passed null.
    pub(crate) fn is_null(&self) -> bool {
        self.0.is_null()
    }
}

impl<T: Copy> Out<T> {
    /// Reads what the caller stored in an argument that is both input and output.
    pub(crate) fn get(&self) -> Result<T> {
        In(self.0.cast_const()).get()
    }
}

/// A value, or an array of values, that the caller passes by pointer.
#[repr(transparent)]
pub(crate) struct In<T>(*const T);

impl<T> Clone for In<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for In<T> {}

impl<T> From<Bytes> for In<T> {
    fn from(bytes: Bytes) -> Self {
        Self(bytes.0.cast())
    }
}

impl<T> In<T> {
    /// An argument that the caller left out.
    pub(crate) fn null() -> Self {
        Self(std::ptr::null())
    }

    /// Takes the value as another type, where an attribute decides the type.
    pub(crate) fn cast<U>(self) -> In<U> {
        In(self.0.cast())
    }

    pub(crate) fn is_null(&self) -> bool {
        self.0.is_null()
    }
}

impl<T: Copy> In<T> {
    /// Reads the value; a null pointer is refused.
    pub(crate) fn get(&self) -> Result<T> {
        self.at(0)
    }

    /// Reads element `i` of the caller's array; a null pointer is refused.
    pub(crate) fn at(&self, i: usize) -> Result<T> {
        if self.0.is_null() {
            return Err(Code::INVALID_VALUE.into());
        }
        // SAFETY: not null, so by the API's contract it points to an array whose length the caller also passed, and the
        // callers of `at` stay below that length.
        Ok(unsafe { self.0.add(i).read_unaligned() })
    }
}

/// A C string.
#[repr(transparent)]
pub(crate) struct Text(*const c_char);

impl Text {
    /// Reads the string; null or not UTF-8 is refused.
    pub(crate) fn get(&self) -> Result<String> {
        if self.0.is_null() {
            return Err(Code::INVALID_VALUE.into());
        }
        // SAFETY: not null, so by the API's contract a terminated string that lives for the call.
        let text = unsafe { CStr::from_ptr(self.0) };
        text.to_str().map(str::to_owned).map_err(|_| Code::INVALID_VALUE.because("expected a name in UTF-8"))
    }
}

/// The start of bytes in the caller's memory, whose length other arguments or the bytes themselves give.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct Bytes(*const c_void);

impl Bytes {
    pub(crate) fn is_null(self) -> bool {
        self.0.is_null()
    }

    pub(crate) fn address(self) -> usize {
        self.0 as usize
    }

    /// Follows an address that the caller's own data holds.
    pub(crate) fn from_address(address: usize) -> Self {
        Self(address as *const c_void)
    }

    /// Copies `size` bytes out of the caller's memory.
    pub(crate) fn copy(self, size: usize) -> Vec<u8> {
        read_host(self.address(), size)
    }

    /// Copies the bytes before the first NUL.
    pub(crate) fn copy_text(self) -> Vec<u8> {
        // SAFETY: an image that starts with neither magic is text, which CUDA requires to be terminated.
        unsafe { CStr::from_ptr(self.0.cast()) }.to_bytes().to_vec()
    }
}

/// Copies bytes of the caller's memory.
pub(crate) fn read_host(address: usize, size: usize) -> Vec<u8> {
    if size == 0 {
        return Vec::new();
    }
    // SAFETY: the caller of the API promised that this range is readable until the operation has run.
    unsafe { std::slice::from_raw_parts(address as *const u8, size) }.to_vec()
}

/// Writes bytes to the caller's memory.
pub(crate) fn write_host(address: usize, bytes: &[u8]) {
    // SAFETY: the caller of the API promised that this range is writable until the operation has run; `bytes` is our own
    // buffer, so the two do not overlap.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), address as *mut u8, bytes.len()) }
}

/// A host function with the argument to call it with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HostCall {
    pub(crate) function: Option<unsafe extern "C" fn(*mut c_void)>,
    pub(crate) argument: usize,
}

impl HostCall {
    /// Calls it; until it returns, API calls on this thread are refused.
    pub(crate) fn call(self) {
        if let Some(function) = self.function {
            let before = IN_HOST_FUNCTION.replace(true);
            // SAFETY: the caller of the API promised that function and argument are valid until the call has run.
            unsafe { function(self.argument as *mut c_void) };
            IN_HOST_FUNCTION.set(before);
        }
    }
}

/// Runs the body of an exported function: no unwinding into C, one line on stderr for a refusal that explains itself.
pub(crate) fn guard(name: &str, body: impl FnOnce() -> Result<()>) -> i32 {
    if IN_HOST_FUNCTION.get() {
        eprintln!("simcuda: {name}: called from a host function, where CUDA allows no API call");
        return Code::NOT_PERMITTED.0;
    }
    let code = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => Code(0),
        Ok(Err(Error { code, message })) => {
            if let Some(message) = message {
                eprintln!("simcuda: {name}: {code}: {message}");
            }
            code
        }
        Err(_) => {
            eprintln!("simcuda: {name}: {}: internal error", Code::UNKNOWN);
            Code::UNKNOWN
        }
    };
    if settings::trace() {
        eprintln!("simcuda: trace: {name} -> {}", code.0);
    }
    code.0
}

/// Declares exported driver functions whose bodies return `Result<()>`.
macro_rules! api {
    ($($(#[$meta:meta])* fn $name:ident($($arg:ident: $type:ty),* $(,)?) $body:block)*) => {$(
        $(#[$meta])*
        #[unsafe(no_mangle)]
        #[allow(non_snake_case, clippy::too_many_arguments)]
        extern "C" fn $name($($arg: $type),*) -> i32 {
            $crate::driver::abi::guard(stringify!($name), move || -> $crate::driver::codes::Result<()> { $body })
        }
    )*};
}
pub(crate) use api;
