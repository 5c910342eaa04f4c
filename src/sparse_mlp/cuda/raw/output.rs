//! What is made of the sums of down.

use crate::device::{Address, Buffer, ElementKind, or_null, product};
use crate::sparse_mlp::cuda::mirror;

/// y = sums + bias + residual, in y's type.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    /// f32 \[d_model\].
    pub bias: Option<Address<f32>>,
    /// \[tokens, d_model\], of y's type.
    pub residual: Option<Address>,
    /// \[tokens, d_model\].
    pub y: Address,
    /// Of y and residual.
    pub y_type: ElementKind,
}

impl Output {
    pub(super) fn name_buffers(&self, (tokens, d_model): (usize, usize), show: &mut dyn FnMut(Buffer)) {
        let (elems, bytes) = (product([tokens, d_model]), self.y_type.bytes());
        show(Buffer::write("y", self.y, elems).of_bytes(bytes));
        if let Some(residual) = self.residual {
            show(Buffer::read("residual", residual, elems).of_bytes(bytes));
        }
        if let Some(bias) = self.bias {
            show(Buffer::read("bias", bias, d_model));
        }
    }

    pub(super) fn params(&self) -> mirror::Output {
        mirror::Output {
            bias: or_null(self.bias),
            residual: or_null(self.residual),
            y: self.y.get(),
            dtype: self.y_type as u32,
            reserved: 0,
        }
    }
}
