//! Rows moved between buffers of different types.

use super::{check_rows, check_width};
use crate::device::{Address, Buffer, Device, ElementKind, Enqueue, Queue, product};
use crate::error::Result;
use crate::llama::cuda::mirror::{MOVE_ROWS, MoveParams};

/// y\[to\[i\]\] = x\[from\[i\]\], rounded to y's type.
#[derive(Debug, Clone, Copy)]
pub struct MoveRows {
    /// \[x_rows, k\].
    pub x: Address,
    /// Of x.
    pub x_type: ElementKind,
    /// Rows at `x`.
    pub x_rows: usize,
    /// \[y_rows, k\].
    pub y: Address,
    /// Of y.
    pub y_type: ElementKind,
    /// Rows at `y`.
    pub y_rows: usize,
    /// u32 \[rows\], each below `x_rows`.
    pub from: Address<u32>,
    /// u32 \[rows\], each below `y_rows` and no two the same.
    pub to: Address<u32>,
    /// Rows to be moved, 1 to 65535.
    pub rows: usize,
    /// Elements of a row.
    pub k: usize,
}

impl Enqueue for MoveRows {
    fn check_sizes(&self, _: &Device) -> Result<()> {
        check_rows("rows", self.rows)?;
        check_width("k", self.k)
    }

    fn name_buffers(&self, _: &Device, show: &mut dyn FnMut(Buffer)) {
        show(Buffer::read("x", self.x, product([self.x_rows, self.k])).of_bytes(self.x_type.bytes()));
        show(Buffer::write("y", self.y, product([self.y_rows, self.k])).of_bytes(self.y_type.bytes()));
        show(Buffer::read("from", self.from, self.rows));
        show(Buffer::read("to", self.to, self.rows));
    }

    fn enqueue(&self, queue: &Queue<'_>) -> Result<()> {
        let params = MoveParams {
            x: self.x.get(),
            y: self.y.get(),
            from: self.from.get(),
            to: self.to.get(),
            k: self.k as u32,
            x_type: self.x_type as u32,
            y_type: self.y_type as u32,
            reserved: 0,
        };
        let grid = [params.k.div_ceil(MOVE_ROWS.threads), self.rows as u32, 1];
        queue.launch(MOVE_ROWS, grid, params)
    }
}
