//! RMSNorm.

use super::{check_rows, check_width};
use crate::device::{Address, Buffer, Device, Enqueue, Queue, or_null, product, strided};
use crate::error::{Error, Result};
use crate::llama::cuda::mirror::{NormParams, RMS_NORM};

/// y\[i\] = x\[r\] / √(mean(x\[r\]²) + eps) ⊙ weight with r = rows\[i\], or i: the CPU's bits.
///
/// # Source
/// RMSNorm (arXiv 1910.07467).
#[derive(Debug, Clone, Copy)]
pub struct RmsNorm {
    /// f32 \[x_rows, k\], aligned to 16 bytes.
    pub x: Address<f32>,
    /// Rows at `x`.
    pub x_rows: usize,
    /// u32 \[m\], each below `x_rows`. None: row i is row i of x.
    pub rows: Option<Address<u32>>,
    /// f32 \[k\], aligned to 16 bytes.
    pub weight: Address<f32>,
    /// Added to the mean square.
    pub eps: f32,
    /// Rows of y, 1 to 65535.
    pub m: usize,
    /// Features, a multiple of 4.
    pub k: usize,
    /// f32 \[m, k\], aligned to 16 bytes.
    pub y: Address<f32>,
}

impl Enqueue for RmsNorm {
    fn check_sizes(&self, _: &Device) -> Result<()> {
        check_width("weight", self.k)?;
        if self.k % 4 != 0 {
            return Err(Error::Shape { what: "weight", expected: "a multiple of 4", got: self.k });
        }
        check_rows("rows", self.m)?;
        match self.rows.is_none() && self.x_rows < self.m {
            true => Err(Error::Shape { what: "x_rows", expected: "a row of x for each of y", got: self.x_rows }),
            false => Ok(()),
        }
    }

    fn name_buffers(&self, _: &Device, show: &mut dyn FnMut(Buffer)) {
        show(Buffer::read("x", self.x, product([self.x_rows, self.k])).aligned(16));
        show(Buffer::read("weight", self.weight, self.k).aligned(16));
        if let Some(rows) = self.rows {
            show(Buffer::read("rows", rows, self.m));
        }
        show(Buffer::write("y", self.y, product([self.m, self.k])).aligned(16));
    }

    fn enqueue(&self, queue: &Queue<'_>) -> Result<()> {
        let params = NormParams {
            x: self.x.get(),
            weight: self.weight.get(),
            rows: or_null(self.rows),
            y: self.y.get(),
            k: self.k as u32,
            eps: self.eps,
            x_stride: self.k as u32,
            y_stride: self.k as u32,
        };
        queue.launch(RMS_NORM, [self.m as u32, 1, 1], params)
    }
}

/// Heads normalised where they stand: x\[m, h\] ← x\[m, h\] / √(mean(x\[m, h\]²) + eps) ⊙ weight for each head h: the CPU's
/// bits.
///
/// # Source
/// Qwen3 (arXiv 2505.09388).
#[derive(Debug, Clone, Copy)]
pub struct RmsNormHeads {
    /// f32 \[m, heads, k\], rows `stride` apart, aligned to 16 bytes.
    pub x: Address<f32>,
    /// Elements from one row to the next, a multiple of 4.
    pub stride: usize,
    /// f32 \[k\], aligned to 16 bytes.
    pub weight: Address<f32>,
    /// Added to the mean square.
    pub eps: f32,
    /// Rows, 1 to 65535.
    pub m: usize,
    /// Heads of a row, 1 to 65535.
    pub heads: usize,
    /// Elements of a head, a multiple of 4.
    pub k: usize,
}

impl Enqueue for RmsNormHeads {
    fn check_sizes(&self, _: &Device) -> Result<()> {
        check_width("weight", self.k)?;
        check_width("stride", self.stride)?;
        for (what, got) in [("weight", self.k), ("stride", self.stride)] {
            if got % 4 != 0 {
                return Err(Error::Shape { what, expected: "a multiple of 4", got });
            }
        }
        check_rows("heads", self.heads)?;
        match self.stride < product([self.heads, self.k]) {
            true => Err(Error::Shape { what: "stride", expected: "at least a row's elements", got: self.stride }),
            false => check_rows("rows", self.m),
        }
    }

    fn name_buffers(&self, _: &Device, show: &mut dyn FnMut(Buffer)) {
        show(Buffer::read("weight", self.weight, self.k).aligned(16));
        let elems = strided(self.m, self.stride, product([self.heads, self.k]));
        show(Buffer::write("x", self.x, elems).aligned(16));
    }

    fn enqueue(&self, queue: &Queue<'_>) -> Result<()> {
        let params = NormParams {
            x: self.x.get(),
            weight: self.weight.get(),
            rows: 0,
            y: self.x.get(),
            k: self.k as u32,
            eps: self.eps,
            x_stride: self.stride as u32,
            y_stride: self.stride as u32,
        };
        queue.launch(RMS_NORM, [self.m as u32, self.heads as u32, 1], params)
    }
}
