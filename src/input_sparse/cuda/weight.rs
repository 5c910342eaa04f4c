//! Weights by input in device memory.

use crate::device::{Device, ElementKind};
use crate::element::DenseType;
use crate::error::{Error, Result};
use crate::input_sparse;
use cudarc::driver::CudaSlice;

/// A weight matrix w\[N, K\] in floating point, held by input, in device memory.
#[derive(Debug, Clone)]
pub struct Weight {
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) element: ElementKind,
    pub(super) row_bytes: usize,
    pub(super) data: CudaSlice<u8>,
}

impl Weight {
    /// Copies a matrix to the device.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for weights in 4 bits, [`Error::OutOfMemory`] if there is no room.
    pub fn upload(device: &Device, weight: &input_sparse::Weight) -> Result<Self> {
        let Some((dtype, row_bytes, rows)) = weight.rows_in_memory() else {
            let (expected, got) = ("weights by input in floating point on a CUDA device", "4 bits".into());
            return Err(Error::Unsupported { what: "weights", expected, got });
        };
        device.prepare(super::MODULES)?;
        let element = match dtype {
            DenseType::F32 => ElementKind::F32,
            DenseType::F16 => ElementKind::F16,
            DenseType::Bf16 => ElementKind::Bf16,
        };
        Ok(Weight { n: weight.n(), k: weight.k(), element, row_bytes, data: device.upload(rows)? })
    }

    /// Output features N.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Input features K.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Bytes of all rows.
    pub fn bytes(&self) -> usize {
        self.n * self.k * self.element.bytes()
    }
}
