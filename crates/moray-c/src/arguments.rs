//! Pointers as the caller passes them, checked and borrowed.

use crate::status::{Fault, Outcome};
use bytemuck::Pod;
use moray::threads::SharedSlice;
use std::ffi::c_void;
use std::ops::Range;

/// Memory that a call reads. Null and 0 bytes stand for a buffer that is left out, where one may be.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct MorayBytes {
    /// Where it begins, a multiple of its elements' size.
    pub data: *const c_void,
    /// Its size, which has to be what the call needs.
    pub bytes: usize,
}

/// Memory that a call writes.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct MorayBytesMut {
    /// Where it begins, a multiple of its elements' size.
    pub data: *mut c_void,
    /// Its size, which has to be what the call needs.
    pub bytes: usize,
}

impl MorayBytes {
    /// What is left out.
    pub(crate) const NONE: MorayBytes = MorayBytes { data: std::ptr::null(), bytes: 0 };

    pub(crate) fn of<T>(values: &[T]) -> Self {
        MorayBytes { data: values.as_ptr().cast(), bytes: size_of_val(values) }
    }

    /// Whether there is nothing.
    pub(crate) fn is_none(self) -> bool {
        self.data.is_null() && self.bytes == 0
    }

    /// Borrows the elements; empty for a buffer that is left out.
    ///
    /// # Safety
    /// `data` is null or points to `bytes` bytes that nothing writes during `'a`.
    pub(crate) unsafe fn read<'a, T: Pod>(self, what: &'static str) -> Outcome<&'a [T]> {
        if self.bytes == 0 {
            return Ok(&[]);
        }
        let len = elements::<T>(what, self.data.addr(), self.bytes)?;
        // SAFETY: checked for null, alignment and size; every bit pattern is a `T`; that there is memory is the caller's.
        Ok(unsafe { std::slice::from_raw_parts(self.data.cast(), len) })
    }

    /// As [`MorayBytes::read`], none for what is left out.
    ///
    /// # Safety
    /// As [`MorayBytes::read`].
    pub(crate) unsafe fn optional<'a, T: Pod>(self, what: &'static str) -> Outcome<Option<&'a [T]>> {
        // SAFETY: the caller's.
        if self.is_none() { Ok(None) } else { unsafe { self.read(what) }.map(Some) }
    }

    pub(crate) fn range(self) -> Range<usize> {
        self.data.addr()..self.data.addr().saturating_add(self.bytes)
    }
}

impl MorayBytesMut {
    /// The same memory, to be read.
    pub(crate) fn as_read(self) -> MorayBytes {
        MorayBytes { data: self.data, bytes: self.bytes }
    }

    /// Borrows the elements to write them.
    ///
    /// # Safety
    /// `data` is null or points to `bytes` bytes that nothing else uses during `'a`.
    pub(crate) unsafe fn write<'a, T: Pod>(self, what: &'static str) -> Outcome<&'a mut [T]> {
        if self.bytes == 0 {
            return Ok(&mut []);
        }
        let len = elements::<T>(what, self.data.addr(), self.bytes)?;
        // SAFETY: checked for null, alignment and size; every bit pattern is a `T`; that there is memory is the caller's.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.data.cast(), len) })
    }

    /// The elements, of which a call writes some, and others that share the memory other ones at the same time.
    ///
    /// # Safety
    /// `data` is null or points to `bytes` bytes, of which nothing else uses during `'a` what the call writes.
    pub(crate) unsafe fn shared<'a, T: Pod>(self, what: &'static str) -> Outcome<SharedSlice<'a, T>> {
        if self.bytes == 0 {
            return Ok((&mut [][..]).into());
        }
        let len = elements::<T>(what, self.data.addr(), self.bytes)?;
        // SAFETY: checked for null, alignment and size; every bit pattern is a `T`; the rest is the caller's.
        Ok(unsafe { SharedSlice::from_raw_parts(self.data.cast(), len) })
    }

    /// Whether there is nothing.
    pub(crate) fn is_none(self) -> bool {
        self.as_read().is_none()
    }

    /// Checks that it is apart from what else the call uses.
    pub(crate) fn check_apart(self, what: &'static str, others: &[(&'static str, Range<usize>)]) -> Outcome {
        let own = self.as_read().range();
        let overlaps = |other: &Range<usize>| own.start < other.end && other.start < own.end;
        match others.iter().find(|(_, other)| overlaps(other)) {
            Some(&(other, _)) => Err(Fault::Overlap { what, other }),
            None => Ok(()),
        }
    }
}

/// The elements of memory, which begins where it should and ends with a whole one.
fn elements<T>(what: &'static str, address: usize, bytes: usize) -> Outcome<usize> {
    if address == 0 {
        return Err(Fault::Null { what });
    }
    if address % align_of::<T>() != 0 {
        let (expected, got) = (align_of::<T>() as u64, address as u64);
        return Err(moray::Error::Misaligned { what, expected, got }.into());
    }
    if bytes % size_of::<T>() != 0 || bytes > isize::MAX as usize {
        let expected = "a size in bytes that is a multiple of its elements'";
        return Err(moray::Error::Shape { what, expected, got: bytes }.into());
    }
    Ok(bytes / size_of::<T>())
}

/// Borrows what a pointer is to.
///
/// # Safety
/// The pointer is null or to a `T` that nothing writes during `'a`.
pub(crate) unsafe fn borrow<'a, T>(what: &'static str, pointer: *const T) -> Outcome<&'a T> {
    if !pointer.is_aligned() {
        let (expected, got) = (align_of::<T>() as u64, pointer.addr() as u64);
        return Err(moray::Error::Misaligned { what, expected, got }.into());
    }
    // SAFETY: the caller's.
    unsafe { pointer.as_ref() }.ok_or(Fault::Null { what })
}

/// The arguments of a call, which begin with their own size.
///
/// # Safety
/// As [`borrow`].
pub(crate) unsafe fn sized<'a, T>(what: &'static str, pointer: *const T) -> Outcome<&'a T> {
    // SAFETY: the caller's; `struct_size` is what every such structure begins with.
    let got = *unsafe { borrow(what, pointer.cast::<u32>())? };
    let expected = size_of::<T>() as u32;
    if got != expected {
        return Err(Fault::Version { what: "struct_size", expected, got });
    }
    // SAFETY: the caller's.
    unsafe { borrow(what, pointer) }
}

/// Writes a result.
///
/// # Safety
/// The pointer is null or to memory for a `T`.
pub(crate) unsafe fn give<T>(what: &'static str, out: *mut T, value: T) -> Outcome {
    check_out(what, out)?;
    // SAFETY: the caller's.
    unsafe { out.write(value) };
    Ok(())
}

/// Checks where a result will go, before the work for it is done.
pub(crate) fn check_out<T>(what: &'static str, out: *mut T) -> Outcome {
    if out.is_null() {
        return Err(Fault::Null { what });
    }
    if !out.is_aligned() {
        let (expected, got) = (align_of::<T>() as u64, out.addr() as u64);
        return Err(moray::Error::Misaligned { what, expected, got }.into());
    }
    Ok(())
}

/// Makes a handle of what `make` gives.
///
/// # Safety
/// As [`give`].
pub(crate) unsafe fn create<T>(out: *mut *mut T, make: impl FnOnce() -> Outcome<T>) -> Outcome {
    check_out("out", out)?;
    let handle = Box::into_raw(Box::new(make()?));
    // SAFETY: checked; that there is memory is the caller's.
    unsafe { out.write(handle) };
    Ok(())
}

/// Ends a handle; null is none.
///
/// # Safety
/// The pointer is null or from [`create`], and used by nobody any more.
pub(crate) unsafe fn destroy<T>(handle: *mut T) {
    if !handle.is_null() {
        // SAFETY: the caller's. What a handle holds does not panic when it is dropped.
        drop(unsafe { Box::from_raw(handle) });
    }
}

/// Checks that so much memory can be had, where the library would otherwise end the process.
pub(crate) fn check_memory(what: &'static str, bytes: Option<usize>) -> Outcome {
    let bytes = bytes.unwrap_or(usize::MAX);
    Vec::<u8>::new().try_reserve_exact(bytes).map_err(|_| Fault::Memory { what, bytes })
}
