//! Rows moved between buffers of different types.

use crate::device::{Arguments, Device, ElementKind};
use crate::error::Result;
use crate::llama::cuda::raw;
use cudarc::driver::{CudaSlice, CudaView, DevicePtr, DevicePtrMut};

/// Rows of k elements to be moved: row `from[i]` to row `to[i]`. Both are rows of their buffers, and those of `to` differ.
pub(in crate::llama::cuda) struct Rows<'a> {
    pub(in crate::llama::cuda) k: usize,
    pub(in crate::llama::cuda) from: &'a CudaView<'a, u32>,
    pub(in crate::llama::cuda) to: &'a CudaView<'a, u32>,
}

impl Rows<'_> {
    fn launch<X, Y>(
        &self,
        device: &Device,
        (x, x_type): (&impl DevicePtr<X>, ElementKind),
        (y, y_type): (&mut impl DevicePtrMut<Y>, ElementKind),
    ) -> Result<()> {
        let rows_of = |bytes: usize, kind: ElementKind| bytes / (self.k * kind.bytes());
        let (x_rows, y_rows) = (rows_of(x.num_bytes(), x_type), rows_of(y.num_bytes(), y_type));
        crate::error::check_len("from", self.to.len(), self.from.len())?;
        let mut arguments = Arguments::new(device);
        let moved = raw::MoveRows {
            x: arguments.read("x", x)?.cast(),
            x_type,
            x_rows,
            y: arguments.write("y", y)?.cast(),
            y_type,
            y_rows,
            from: arguments.read("from", self.from)?,
            to: arguments.read("to", self.to)?,
            rows: self.to.len(),
            k: self.k,
        };
        arguments.launch(&moved)
    }
}

/// y\[to\] = x\[from\] in f32, for x of any type.
///
/// # Errors
/// [`crate::Error::Shape`] for no rows or too many.
pub(in crate::llama::cuda) fn widen_rows(
    device: &Device,
    rows: Rows<'_>,
    x: (&CudaSlice<u8>, ElementKind),
    y: &mut CudaSlice<f32>,
) -> Result<()> {
    rows.launch(device, x, (y, ElementKind::F32))
}

/// y\[to\] = x\[from\], rounded to y's type.
///
/// # Errors
/// As [`widen_rows`].
pub(in crate::llama::cuda) fn narrow_rows(
    device: &Device,
    rows: Rows<'_>,
    x: &CudaSlice<f32>,
    y: (&mut CudaSlice<u8>, ElementKind),
) -> Result<()> {
    rows.launch(device, (x, ElementKind::F32), y)
}
