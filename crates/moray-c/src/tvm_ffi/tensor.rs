//! Tensors as DLPack has them.

use crate::arguments::{MorayBytes, MorayBytesMut};
use crate::status::{Fault, Outcome};
use crate::{MORAY_BF16, MORAY_F16, MORAY_F32, MorayDtype};
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

impl DlTensor {
    /// Checks that the tensor is where and how calls take one.
    ///
    /// # Safety
    /// Shape and strides are there for as many dimensions as stated.
    pub(super) unsafe fn rows(&self, what: &'static str, device_type: i32) -> Outcome<Rows> {
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
        let (sizes, strides) = (numbers(self.shape), numbers(self.strides));
        let shape: Vec<usize> = sizes.iter().map(|&size| usize::try_from(size).unwrap_or(0)).collect();
        let count: usize = shape.iter().product();
        let mut expected = 1;
        for (&size, &stride) in sizes.iter().zip(strides).rev() {
            if count > 0 && size != 1 && stride != expected {
                let got = format!("shape {sizes:?} with strides {strides:?}");
                return Err(Fault::unsupported(what, "elements one after another in row-major order", got));
            }
            expected *= size;
        }
        let data = self.data.wrapping_byte_add(self.byte_offset as usize);
        let bytes = count * usize::from(self.dtype.bits / 8);
        let device_id = usize::try_from(self.device_id).unwrap_or(0);
        Ok(Rows { shape, dtype: self.dtype, device_id, data, bytes })
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
        match self.dtype {
            F32 => Ok(MORAY_F32),
            F16 => Ok(MORAY_F16),
            BF16 => Ok(MORAY_BF16),
            other => Err(Fault::unsupported(what, "elements of f32, f16 or bf16", spell(other))),
        }
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
