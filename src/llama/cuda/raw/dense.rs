//! Floating-point matrices.

use super::{check_rows, check_width};
use crate::device::{Address, Buffer, Device, ElementKind, Enqueue, Queue, or_null, product};
use crate::error::Result;
use crate::llama::cuda::mirror::{self, DenseParams};

/// Rows of a block of the matrix.
const BLOCK_ROWS: usize = 16;

/// y = x · wᵀ + bias + residual in f32, with the bits of [`crate::llama::DenseWeight::linear`].
#[derive(Debug, Clone, Copy)]
pub struct Dense {
    /// \[⌈n/16⌉\]\[k\]\[16\], rows past n are zeros; aligned to 16 bytes. See [`Dense::weight_elems`].
    pub w: Address,
    /// Of w.
    pub element: ElementKind,
    /// f32 \[m, k\].
    pub x: Address<f32>,
    /// f32 \[n\].
    pub bias: Option<Address<f32>>,
    /// f32 \[m, n\].
    pub residual: Option<Address<f32>>,
    /// f32 \[m, n\].
    pub y: Address<f32>,
    /// Tokens, 1 to 65535.
    pub m: usize,
    /// Output features.
    pub n: usize,
    /// Input features.
    pub k: usize,
}

impl Dense {
    /// Elements of a matrix of n rows of k, zeros included.
    pub fn weight_elems(n: usize, k: usize) -> usize {
        product([n.div_ceil(BLOCK_ROWS), k, BLOCK_ROWS])
    }
}

impl Enqueue for Dense {
    fn check_sizes(&self, _: &Device) -> Result<()> {
        check_rows("m", self.m)?;
        check_width("n", self.n)?;
        check_width("k", self.k)
    }

    fn name_buffers(&self, _: &Device, show: &mut dyn FnMut(Buffer)) {
        let weight = Buffer::read("weight", self.w, Dense::weight_elems(self.n, self.k));
        show(Buffer::read("x", self.x, product([self.m, self.k])));
        show(weight.of_bytes(self.element.bytes()).aligned(16));
        if let Some(bias) = self.bias {
            show(Buffer::read("bias", bias, self.n));
        }
        if let Some(residual) = self.residual {
            show(Buffer::read("residual", residual, product([self.m, self.n])));
        }
        show(Buffer::write("y", self.y, product([self.m, self.n])));
    }

    fn enqueue(&self, queue: &Queue<'_>) -> Result<()> {
        let params = DenseParams {
            w: self.w.get(),
            x: self.x.get(),
            bias: or_null(self.bias),
            residual: or_null(self.residual),
            y: self.y.get(),
            m: self.m as u32,
            n: self.n as u32,
            k: self.k as u32,
            reserved: 0,
        };
        let (kernel, tokens) = match (self.element, self.m) {
            (ElementKind::F32, 1) => (mirror::DENSE_F32_1, 1),
            (ElementKind::F32, _) => (mirror::DENSE_F32_8, 8),
            (ElementKind::F16, 1) => (mirror::DENSE_F16_1, 1),
            (ElementKind::F16, _) => (mirror::DENSE_F16_8, 8),
            (ElementKind::Bf16, 1) => (mirror::DENSE_BF16_1, 1),
            (ElementKind::Bf16, _) => (mirror::DENSE_BF16_8, 8),
        };
        let grid = [self.n.div_ceil(BLOCK_ROWS) as u32, self.m.div_ceil(tokens) as u32, 1];
        queue.launch(kernel, grid, params)
    }
}
