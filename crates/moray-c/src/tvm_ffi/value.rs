//! Values as TVM FFI passes them.

use super::tensor::DlTensor;
use crate::status::{Fault, Outcome};
use std::ffi::{CStr, c_char, c_void};

/// A value: `TVMFFIAny`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct TvmFfiAny {
    type_index: i32,
    /// Of a string that stands in the value itself.
    small_len: u32,
    /// A number, an address, or up to 7 characters.
    value: u64,
}

const NONE: i32 = 0;
const INT: i32 = 1;
const BOOL: i32 = 2;
const FLOAT: i32 = 3;
const DL_TENSOR: i32 = 7;
const RAW_STRING: i32 = 8;
const SMALL_STRING: i32 = 11;
const STRING: i32 = 65;
const TENSOR: i32 = 70;

/// The header of an object, `TVMFFIObject`: counts, type and deleter. What it holds follows.
const OBJECT_BYTES: usize = 24;

/// `TVMFFIByteArray`.
#[repr(C)]
struct ByteArray {
    data: *const u8,
    size: usize,
}

impl TvmFfiAny {
    /// An integer, or nothing.
    pub(super) fn of(value: Option<i64>) -> Self {
        match value {
            Some(value) => TvmFfiAny { type_index: INT, small_len: 0, value: value as u64 },
            None => TvmFfiAny { type_index: NONE, small_len: 0, value: 0 },
        }
    }

    pub(super) fn is_none(&self) -> bool {
        self.type_index == NONE
    }

    /// What an object holds, behind its header.
    fn held<T>(&self) -> *const T {
        std::ptr::with_exposed_provenance::<u8>(self.value as usize).wrapping_add(OBJECT_BYTES).cast()
    }

    pub(super) fn int(&self, what: &'static str) -> Outcome<i64> {
        match self.type_index {
            INT | BOOL => Ok(self.value as i64),
            _ => Err(self.wrong(what, "an integer")),
        }
    }

    pub(super) fn float(&self, what: &'static str) -> Outcome<f64> {
        match self.type_index {
            FLOAT => Ok(f64::from_bits(self.value)),
            INT => Ok(self.value as i64 as f64),
            _ => Err(self.wrong(what, "a number")),
        }
    }

    /// # Safety
    /// The value is valid during the call.
    pub(super) unsafe fn text(&self, what: &'static str) -> Outcome<String> {
        let bytes = match self.type_index {
            SMALL_STRING => self.value.to_le_bytes()[..(self.small_len as usize).min(7)].to_vec(),
            RAW_STRING => {
                let start = std::ptr::with_exposed_provenance::<c_char>(self.value as usize);
                // SAFETY: a text that ends with a zero, the caller's.
                unsafe { CStr::from_ptr(start) }.to_bytes().to_vec()
            }
            STRING => {
                // SAFETY: a string object holds its bytes.
                let ByteArray { data, size } = unsafe { self.held::<ByteArray>().read() };
                // SAFETY: as above.
                unsafe { std::slice::from_raw_parts(data, size) }.to_vec()
            }
            _ => return Err(self.wrong(what, "a string")),
        };
        String::from_utf8(bytes).map_err(|_| self.wrong(what, "a string in UTF-8"))
    }

    /// # Safety
    /// The value is valid during `'a`.
    pub(super) unsafe fn tensor<'a>(&self, what: &'static str) -> Outcome<&'a DlTensor> {
        let address: *const DlTensor = match self.type_index {
            DL_TENSOR => std::ptr::with_exposed_provenance::<c_void>(self.value as usize).cast(),
            TENSOR => self.held(),
            _ => return Err(self.wrong(what, "a tensor")),
        };
        // SAFETY: the caller's.
        unsafe { crate::arguments::borrow(what, address) }
    }

    fn wrong(&self, what: &'static str, expected: &'static str) -> Fault {
        let got = match self.type_index {
            NONE => "none".to_owned(),
            INT => "an integer".to_owned(),
            BOOL => "a truth value".to_owned(),
            FLOAT => "a number".to_owned(),
            RAW_STRING | SMALL_STRING | STRING => "a string".to_owned(),
            DL_TENSOR | TENSOR => "a tensor".to_owned(),
            other => format!("a value of type {other}"),
        };
        Fault::unsupported(what, expected, got)
    }
}
