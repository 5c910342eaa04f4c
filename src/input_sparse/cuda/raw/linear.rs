//! Weights in floating point.

use super::{TOKENS, check_call};
use crate::device::{Address, Buffer, Device, ElementKind, Enqueue, Queue, or_null, product, strided};
use crate::error::{Error, Result};
use crate::input_sparse::cuda::mirror::{self, ByInputParams};

/// Columns of a block, and the bytes that rows are copied by: kernels/input_sparse/linear.cu.
const COLUMNS: usize = 32;
const COPY_BYTES: usize = 16;

/// y\[m, n\] = Σ x\[m, k\] · w\[k, n\] over the k with |x\[m, k\]| above `threshold`, + bias + residual, in f32, with the bits of
/// [`crate::input_sparse::linear`]. Up to 8 tokens read each row of w that any of them keeps once, more by eights.
#[derive(Debug, Clone, Copy)]
pub struct Linear {
    /// \[k\] rows of the n weights of one input, aligned to 16 bytes.
    pub w: Address,
    /// Of w.
    pub element: ElementKind,
    /// From one row of w to the next: at least its n elements, and a multiple of 16.
    pub row_bytes: usize,
    /// f32 \[m, k\].
    pub x: Address<f32>,
    /// Finite, at least 0.
    pub threshold: f32,
    /// f32 \[n\].
    pub bias: Option<Address<f32>>,
    /// f32 \[m, n\].
    pub residual: Option<Address<f32>>,
    /// f32 \[m, n\].
    pub y: Address<f32>,
    /// Tokens, 0 to 524280.
    pub m: usize,
    /// Output features.
    pub n: usize,
    /// Input features.
    pub k: usize,
}

impl Enqueue for Linear {
    fn check_sizes(&self, _: &Device) -> Result<()> {
        check_call((self.m, self.n, self.k), self.threshold)?;
        let least = product([self.n, self.element.bytes()]);
        if self.row_bytes < least || self.row_bytes % COPY_BYTES != 0 || self.row_bytes > u32::MAX as usize {
            let expected = "a multiple of 16 below 2^32, at least the n elements of a row";
            return Err(Error::Shape { what: "row_bytes", expected, got: self.row_bytes });
        }
        Ok(())
    }

    fn name_buffers(&self, _: &Device, show: &mut dyn FnMut(Buffer)) {
        if self.m == 0 {
            return;
        }
        let row = product([self.n, self.element.bytes()]).next_multiple_of(COPY_BYTES);
        let bytes = strided(self.k, self.row_bytes, row);
        show(Buffer::read("w", self.w, bytes).of_bytes(1).aligned(COPY_BYTES as u64));
        show(Buffer::read("x", self.x, product([self.m, self.k])));
        if let Some(bias) = self.bias {
            show(Buffer::read("bias", bias, self.n));
        }
        if let Some(residual) = self.residual {
            show(Buffer::read("residual", residual, product([self.m, self.n])));
        }
        show(Buffer::write("y", self.y, product([self.m, self.n])));
    }

    fn enqueue(&self, queue: &Queue<'_>) -> Result<()> {
        if self.m == 0 {
            return Ok(());
        }
        let params = ByInputParams {
            w: self.w.get(),
            x: self.x.get(),
            bias: or_null(self.bias),
            residual: or_null(self.residual),
            y: self.y.get(),
            m: self.m as u32,
            n: self.n as u32,
            k: self.k as u32,
            row_bytes: self.row_bytes as u32,
            threshold: self.threshold,
            reserved: 0,
        };
        let [one, several] = match self.element {
            ElementKind::F32 => [mirror::LINEAR_F32_1, mirror::LINEAR_F32_8],
            ElementKind::F16 => [mirror::LINEAR_F16_1, mirror::LINEAR_F16_8],
            ElementKind::Bf16 => [mirror::LINEAR_BF16_1, mirror::LINEAR_BF16_8],
        };
        let kernel = if self.m == 1 { one } else { several };
        let grid = [self.n.div_ceil(COLUMNS) as u32, self.m.div_ceil(TOKENS) as u32, 1];
        queue.launch(kernel, grid, params)
    }
}
