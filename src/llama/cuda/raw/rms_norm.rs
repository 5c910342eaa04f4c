//! RMSNorm.

use super::{check_rows, check_width};
use crate::device::{Address, Buffer, Device, Enqueue, Queue, or_null, product, strided};
use crate::error::{Error, Result};
use crate::llama::cuda::mirror::{NormParams, RMS_NORM};

/// y\[i, h\] = x\[r, h\] / √(mean(x\[r, h\]²) + eps) ⊙ weight with r = rows\[i\], or i, for each head h, one where rows are whole:
/// the CPU's bits. Without rows y may be x.
///
/// # Source
/// RMSNorm (arXiv 1910.07467); of heads Qwen3 (arXiv 2505.09388).
#[derive(Debug, Clone, Copy)]
pub struct RmsNorm {
    /// f32 \[x_rows, heads, k\], rows `x_stride` apart, aligned to 16 bytes.
    pub x: Address<f32>,
    /// Rows at `x`.
    pub x_rows: usize,
    /// Elements from one row of x to the next, a multiple of 4.
    pub x_stride: usize,
    /// u32 \[m\], each below `x_rows`. None: row i is row i of x.
    pub rows: Option<Address<u32>>,
    /// f32 \[k\], aligned to 16 bytes.
    pub weight: Address<f32>,
    /// Added to the mean square.
    pub eps: f32,
    /// Rows of y, 1 to 65535.
    pub m: usize,
    /// Heads of a row, 1 to 65535.
    pub heads: usize,
    /// Features of a head, a multiple of 4.
    pub k: usize,
    /// f32 \[m, heads, k\], rows `y_stride` apart, aligned to 16 bytes.
    pub y: Address<f32>,
    /// Elements from one row of y to the next, a multiple of 4.
    pub y_stride: usize,
}

impl Enqueue for RmsNorm {
    fn check_sizes(&self, _: &Device) -> Result<()> {
        let row = product([self.heads, self.k]);
        for (what, got) in [("weight", self.k), ("x_stride", self.x_stride), ("y_stride", self.y_stride)] {
            check_width(what, got)?;
            if got % 4 != 0 {
                return Err(Error::Shape { what, expected: "a multiple of 4", got });
            }
            if what != "weight" && got < row {
                return Err(Error::Shape { what, expected: "at least a row's elements", got });
            }
        }
        check_rows("heads", self.heads)?;
        check_rows("rows", self.m)?;
        match self.rows.is_none() && self.x_rows < self.m {
            true => Err(Error::Shape { what: "x_rows", expected: "a row of x for each of y", got: self.x_rows }),
            false => Ok(()),
        }
    }

    fn name_buffers(&self, _: &Device, show: &mut dyn FnMut(Buffer)) {
        let row = product([self.heads, self.k]);
        show(Buffer::read("x", self.x, strided(self.x_rows, self.x_stride, row)).aligned(16));
        show(Buffer::read("weight", self.weight, self.k).aligned(16));
        if let Some(rows) = self.rows {
            show(Buffer::read("rows", rows, self.m));
        }
        show(Buffer::write("y", self.y, strided(self.m, self.y_stride, row)).aligned(16));
    }

    fn enqueue(&self, queue: &Queue<'_>) -> Result<()> {
        let params = NormParams {
            x: self.x.get(),
            weight: self.weight.get(),
            rows: or_null(self.rows),
            y: self.y.get(),
            k: self.k as u32,
            eps: self.eps,
            x_stride: self.x_stride as u32,
            y_stride: self.y_stride as u32,
        };
        queue.launch(RMS_NORM, [self.m as u32, self.heads as u32, 1], params)
    }
}
