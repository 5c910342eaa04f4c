//! Weights by input in device memory.

use crate::device::{Device, ElementKind};
use crate::element::DenseType;
use crate::error::Result;
use crate::input_sparse::weight::Store;
use crate::input_sparse::{self, FourBitRows};
use crate::w4a8::Group;
use cudarc::driver::CudaSlice;

/// A weight matrix w\[N, K\] held by input, in floating point or 4 bits, in device memory.
#[derive(Debug, Clone)]
pub struct Weight {
    pub(super) n: usize,
    pub(super) k: usize,
    /// Of inputs.
    pub(super) rows: CudaSlice<u8>,
    pub(super) numbers: Numbers,
}

/// How the rows become numbers.
#[derive(Debug, Clone)]
pub(super) enum Numbers {
    Floats { element: ElementKind, row_bytes: usize },
    FourBit { scales: CudaSlice<u8>, group: Option<Group> },
}

impl Weight {
    /// Copies a matrix to the device.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`] if there is no room.
    pub fn upload(device: &Device, weight: &input_sparse::Weight) -> Result<Self> {
        device.prepare(super::MODULES)?;
        let (n, k) = (weight.n(), weight.k());
        let (rows, numbers) = match &weight.store {
            Store::Floats(floats) => {
                let (dtype, row_bytes, rows) = floats.in_memory();
                let element = match dtype {
                    DenseType::F32 => ElementKind::F32,
                    DenseType::F16 => ElementKind::F16,
                    DenseType::Bf16 => ElementKind::Bf16,
                };
                (rows, Numbers::Floats { element, row_bytes })
            }
            Store::FourBit(matrix) => {
                let FourBitRows { rows, scales, group } = FourBitRows::of(matrix);
                (rows, Numbers::FourBit { scales: device.upload(&scales)?, group })
            }
        };
        Ok(Weight { n, k, rows: device.upload(rows)?, numbers })
    }

    /// Output features N.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Input features K.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Whether inputs are multiplied in int8.
    pub fn is_integer(&self) -> bool {
        matches!(self.numbers, Numbers::FourBit { .. })
    }

    /// Bytes of all rows, and of their scales.
    pub fn bytes(&self) -> usize {
        match &self.numbers {
            Numbers::Floats { element, .. } => self.n * self.k * element.bytes(),
            Numbers::FourBit { scales, .. } => self.rows.len() + scales.len(),
        }
    }
}
