//! Tensors as DLPack has them.

use crate::arguments::{MorayBytes, MorayBytesMut};
use crate::status::{Fault, Outcome};
use crate::{MORAY_BF16, MORAY_F16, MORAY_F32, MORAY_INT8, MorayDtype};
use std::ffi::c_void;

/// A tensor: `DLTensor`.
#[repr(C)]
pub(super) struct DlTensor {
    data: *mut c_void,
    device_type: i32,
    device_id: i32,
    ndim: i32,
    dtype: DlDataType,
    shape: *const i64,
    strides: *const i64,
    byte_offset: u64,
}

/// An element type: `DLDataType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(super) struct DlDataType {
    code: u8,
    bits: u8,
    lanes: u16,
}

/// `kDLCPU`.
pub(super) const CPU: i32 = 1;

const fn kind(code: u8, bits: u8) -> DlDataType {
    DlDataType { code, bits, lanes: 1 }
}

pub(super) const I64: DlDataType = kind(0, 64);
pub(super) const I32: DlDataType = kind(0, 32);
const I8: DlDataType = kind(0, 8);
const U32: DlDataType = kind(1, 32);
const U64: DlDataType = kind(1, 64);
pub(super) const U8: DlDataType = kind(1, 8);
pub(super) const F32: DlDataType = kind(2, 32);
const F16: DlDataType = kind(2, 16);
const BF16: DlDataType = kind(4, 16);

/// A tensor whose elements follow one another in row-major order.
#[derive(Debug, Clone)]
pub(super) struct Rows {
    pub(super) shape: Vec<usize>,
    pub(super) dtype: DlDataType,
    /// Which of the devices of its kind.
    pub(super) device_id: usize,
    data: *mut c_void,
    bytes: usize,
}

/// A tensor whose elements may lie apart, forwards, and those of the last dimension beside each other.
#[derive(Debug)]
pub(super) struct Strided {
    pub(super) shape: Vec<usize>,
    /// In elements; of a size of 1 as if all followed one another.
    pub(super) strides: Vec<usize>,
    pub(super) dtype: DlDataType,
    /// Which of the devices of its kind.
    pub(super) device_id: usize,
    data: *mut c_void,
    /// From its first element to its last.
    bytes: usize,
}

impl DlTensor {
    /// Checks that the tensor is where calls take one, and gives its sizes and strides in elements, those of rows that follow one another
    /// where the tensor has none.
    ///
    /// # Safety
    /// Shape and strides are there for as many dimensions as stated.
    unsafe fn sizes(&self, what: &'static str, device_type: i32) -> Outcome<(Vec<usize>, Vec<i64>)> {
        if self.device_type != device_type {
            let expected = if device_type == CPU { "memory of the CPU" } else { "memory of a CUDA device" };
            let got = format!("DLPack device {}:{}", self.device_type, self.device_id);
            return Err(Fault::unsupported(what, expected, got));
        }
        if self.dtype.lanes != 1 || self.dtype.bits % 8 != 0 {
            return Err(Fault::unsupported(what, "elements of whole bytes", spell(self.dtype)));
        }
        let dims = usize::try_from(self.ndim).unwrap_or(0);
        let numbers = |start: *const i64| match dims == 0 || start.is_null() {
            true => &[][..],
            // SAFETY: the caller's.
            false => unsafe { std::slice::from_raw_parts(start, dims) },
        };
        let (sizes, given) = (numbers(self.shape), numbers(self.strides));
        let refused = |expected| Fault::unsupported(what, expected, format!("shape {sizes:?}"));
        let shape: Vec<usize> = sizes.iter().filter_map(|&size| usize::try_from(size).ok()).collect();
        if shape.len() != dims {
            return Err(refused("sizes from 0"));
        }
        let mut strides = vec![0; dims];
        let mut count = 1i64;
        for i in (0..dims).rev() {
            strides[i] = if sizes[i] == 1 { count } else { given.get(i).copied().unwrap_or(count) };
            count = count.checked_mul(sizes[i].max(1)).ok_or_else(|| refused("elements that can be counted"))?;
        }
        Ok((shape, strides))
    }

    fn device_id(&self) -> usize {
        usize::try_from(self.device_id).unwrap_or(0)
    }

    fn start(&self) -> *mut c_void {
        self.data.wrapping_byte_add(self.byte_offset as usize)
    }

    /// Checks that the tensor is where and how calls take one.
    ///
    /// # Safety
    /// As [`DlTensor::sizes`].
    pub(super) unsafe fn rows(&self, what: &'static str, device_type: i32) -> Outcome<Rows> {
        // SAFETY: the caller's.
        let (shape, strides) = unsafe { self.sizes(what, device_type)? };
        let count: usize = if shape.contains(&0) { 0 } else { shape.iter().product() };
        let mut expected = 1;
        for (&size, &stride) in shape.iter().zip(&strides).rev().take_while(|_| count > 0) {
            if stride != expected as i64 {
                let got = format!("shape {shape:?} with strides {strides:?}");
                return Err(Fault::unsupported(what, "elements one after another in row-major order", got));
            }
            expected *= size;
        }
        let bytes = self.bytes(what, Some(count))?;
        Ok(Rows { shape, dtype: self.dtype, device_id: self.device_id(), data: self.start(), bytes })
    }

    /// As [`DlTensor::rows`] of a tensor with strides.
    ///
    /// # Safety
    /// As [`DlTensor::sizes`].
    pub(super) unsafe fn strided(&self, what: &'static str, device_type: i32) -> Outcome<Strided> {
        // SAFETY: the caller's.
        let (shape, given) = unsafe { self.sizes(what, device_type)? };
        let strides: Vec<usize> = given.iter().filter_map(|&stride| usize::try_from(stride).ok()).collect();
        let stands = |(&size, &stride): (&usize, &usize)| size == 1 || stride > 0;
        let fits = strides.len() == shape.len() && shape.iter().zip(&strides).all(stands);
        let is_beside = strides.last().is_none_or(|&last| last == 1);
        if !(shape.contains(&0) || fits && is_beside) {
            let got = format!("shape {shape:?} with strides {given:?}");
            return Err(Fault::unsupported(what, "elements of the last dimension one after another", got));
        }
        let reach =
            |reach: usize, (&size, &stride): (&usize, &usize)| (size - 1).checked_mul(stride)?.checked_add(reach);
        let elems = match shape.contains(&0) {
            true => Some(0),
            false => shape.iter().zip(&strides).try_fold(1, reach),
        };
        let bytes = self.bytes(what, elems)?;
        Ok(Strided { shape, strides, dtype: self.dtype, device_id: self.device_id(), data: self.start(), bytes })
    }

    /// The size of elements.
    fn bytes(&self, what: &'static str, elems: Option<usize>) -> Outcome<usize> {
        let bytes = elems.and_then(|elems| elems.checked_mul(usize::from(self.dtype.bits / 8)));
        let refused = || Fault::unsupported(what, "bytes that can be counted", format!("{elems:?} elements"));
        bytes.filter(|&bytes| isize::try_from(bytes).is_ok()).ok_or_else(refused)
    }
}

impl Strided {
    /// One of the types that caches take.
    pub(super) fn stored(&self, what: &'static str) -> Outcome<MorayDtype> {
        match self.dtype {
            I8 => Ok(MORAY_INT8),
            other => {
                float(other).ok_or_else(|| Fault::unsupported(what, "elements of f32, f16, bf16 or i8", spell(other)))
            }
        }
    }

    /// One of the types that calls compute with.
    pub(super) fn float(&self, what: &'static str) -> Outcome<MorayDtype> {
        computed(what, self.dtype)
    }

    pub(super) fn memory(&self) -> MorayBytesMut {
        MorayBytesMut { data: self.data, bytes: self.bytes }
    }
}

fn computed(what: &'static str, dtype: DlDataType) -> Outcome<MorayDtype> {
    float(dtype).ok_or_else(|| Fault::unsupported(what, "elements of f32, f16 or bf16", spell(dtype)))
}

fn float(dtype: DlDataType) -> Option<MorayDtype> {
    match dtype {
        F32 => Some(MORAY_F32),
        F16 => Some(MORAY_F16),
        BF16 => Some(MORAY_BF16),
        _ => None,
    }
}

impl Rows {
    /// Checks the element type.
    pub(super) fn of(self, what: &'static str, dtype: DlDataType) -> Outcome<Self> {
        match self.dtype == dtype {
            true => Ok(self),
            false => {
                let expected = format!("elements of {}", spell(dtype));
                Err(Fault::Argument { what, expected, got: spell(self.dtype) })
            }
        }
    }

    /// Checks the sizes.
    pub(super) fn shaped(self, what: &'static str, shape: &[usize]) -> Outcome<Self> {
        match self.shape == shape {
            true => Ok(self),
            false => Err(Fault::Sizes { what, expected: shape.to_vec(), got: self.shape }),
        }
    }

    /// The sizes of a matrix.
    pub(super) fn matrix(&self, what: &'static str) -> Outcome<[usize; 2]> {
        <[usize; 2]>::try_from(&self.shape[..])
            .map_err(|_| Fault::unsupported(what, "2 dimensions", format!("shape {:?}", self.shape)))
    }

    /// One of the types that calls compute with.
    pub(super) fn float(&self, what: &'static str) -> Outcome<MorayDtype> {
        computed(what, self.dtype)
    }

    /// Checks that the elements are words, signed ones too, which stand for unsigned ones.
    pub(super) fn words(self, what: &'static str) -> Outcome<Self> {
        match self.dtype {
            I32 | U32 => Ok(self),
            other => Err(Fault::unsupported(what, "elements of u32 or i32", spell(other))),
        }
    }

    /// As [`Rows::words`], of 64 bits.
    pub(super) fn long_words(self, what: &'static str) -> Outcome<Self> {
        match self.dtype {
            I64 | U64 => Ok(self),
            other => Err(Fault::unsupported(what, "elements of u64 or i64", spell(other))),
        }
    }

    pub(super) fn element_bytes(&self) -> usize {
        usize::from(self.dtype.bits / 8)
    }

    pub(super) fn read(&self) -> MorayBytes {
        MorayBytes { data: self.data, bytes: self.bytes }
    }

    pub(super) fn write(&self) -> MorayBytesMut {
        MorayBytesMut { data: self.data, bytes: self.bytes }
    }
}

fn spell(DlDataType { code, bits, lanes }: DlDataType) -> String {
    let letter = match code {
        0 => "i",
        1 => "u",
        2 => "f",
        4 => "bf",
        6 => "bool",
        _ => return format!("DLPack code {code} of {bits} bits × {lanes}"),
    };
    format!("{letter}{bits}")
}
