//! Rows moved between buffers of different types.

use super::{ROWS, check_rows, launch};
use crate::device::{Device, ElementKind, input, output};
use crate::error::Result;
use cudarc::driver::{CudaSlice, CudaView};

#[repr(C)]
struct MoveParams {
    x: u64,
    y: u64,
    from: u64,
    to: u64,
    k: u32,
    x_type: ElementKind,
    y_type: ElementKind,
    reserved: u32,
}

const _: () = assert!(size_of::<MoveParams>() == 48);

/// Rows of k elements to be moved: row `from[i]` to row `to[i]`. Both are rows of their buffers, and those of `to` differ.
pub(in crate::llama::cuda) struct Rows<'a> {
    pub(in crate::llama::cuda) k: usize,
    pub(in crate::llama::cuda) from: &'a CudaView<'a, u32>,
    pub(in crate::llama::cuda) to: &'a CudaView<'a, u32>,
}

impl Rows<'_> {
    fn launch(&self, device: &Device, (x, x_type): (u64, ElementKind), (y, y_type): (u64, ElementKind)) -> Result<()> {
        let rows = self.to.len();
        check_rows("rows", rows)?;
        let (from, _from) = input(device, "from", rows, self.from)?;
        let (to, _to) = input(device, "to", rows, self.to)?;
        let mut params = MoveParams { x, y, from, to, k: self.k as u32, x_type, y_type, reserved: 0 };
        let grid = [self.k.div_ceil(256) as u32, rows as u32, 1];
        // SAFETY: that the rows are those of the buffers is the callers', private functions that have checked the buffers.
        unsafe { launch(device, (ROWS, "llama_move_rows"), grid, 256, &mut params) }
    }
}

/// y\[to\] = x\[from\] in f32, for x of any type.
///
/// # Errors
/// [`Error::Shape`] for no rows or too many.
pub(in crate::llama::cuda) fn widen_rows(
    device: &Device,
    rows: Rows<'_>,
    (x, kind): (&CudaSlice<u8>, ElementKind),
    y: &mut CudaSlice<f32>,
) -> Result<()> {
    let (x, _x) = input(device, "x", x.len(), x)?;
    let (y, _y) = output(device, "y", y.len(), y)?;
    rows.launch(device, (x, kind), (y, ElementKind::F32))
}

/// y\[to\] = x\[from\], rounded to y's type.
///
/// # Errors
/// As [`widen_rows`].
pub(in crate::llama::cuda) fn narrow_rows(
    device: &Device,
    rows: Rows<'_>,
    x: &CudaSlice<f32>,
    (y, kind): (&mut CudaSlice<u8>, ElementKind),
) -> Result<()> {
    let (x, _x) = input(device, "x", x.len(), x)?;
    let (y, _y) = output(device, "y", y.len(), y)?;
    rows.launch(device, (x, ElementKind::F32), (y, kind))
}
