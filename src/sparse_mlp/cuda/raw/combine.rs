//! The sum of down's parts.

use super::{check_tokens, check_width};
use crate::device::{Address, Buffer, Device, ElementKind, Enqueue, Queue, or_null, product};
use crate::error::{Error, Result};
use crate::sparse_mlp::cuda::mirror::{COMBINE, CombineParams};

/// y\[t\] = act_scale\[t\] · Σ_s partial\[s, t\] + bias + residual\[t\], parts in their order.
#[derive(Debug, Clone, Copy)]
pub struct Combine {
    /// f32 \[splits, tokens, d_model\].
    pub partial: Address<f32>,
    /// Parts, 1 to 64.
    pub splits: usize,
    /// f32 \[tokens\]: that of the products' codes or tiles. None where they were taken as they are, or are bf16 tiles.
    pub act_scale: Option<Address<f32>>,
    /// f32 \[d_model\].
    pub bias: Option<Address<f32>>,
    /// \[tokens, d_model\], of y's type.
    pub residual: Option<Address>,
    /// \[tokens, d_model\].
    pub y: Address,
    /// Of y and residual.
    pub y_type: ElementKind,
    /// Tokens.
    pub tokens: usize,
    /// Features.
    pub d_model: usize,
}

impl Enqueue for Combine {
    fn check_sizes(&self, _: &Device) -> Result<()> {
        check_tokens(self.tokens)?;
        check_width("d_model", self.d_model, self.d_model)?;
        match (1..=64).contains(&self.splits) {
            true => Ok(()),
            false => Err(Error::Shape { what: "splits", expected: "1 to 64", got: self.splits }),
        }
    }

    fn name_buffers(&self, _: &Device, show: &mut dyn FnMut(Buffer)) {
        let (elems, bytes) = (product([self.tokens, self.d_model]), self.y_type.bytes());
        show(Buffer::write("y", self.y, elems).of_bytes(bytes));
        if let Some(residual) = self.residual {
            show(Buffer::read("residual", residual, elems).of_bytes(bytes));
        }
        show(Buffer::read("partial", self.partial, elems.saturating_mul(self.splits)));
        if let Some(act_scale) = self.act_scale {
            show(Buffer::read("act_scale", act_scale, self.tokens));
        }
        if let Some(bias) = self.bias {
            show(Buffer::read("bias", bias, self.d_model));
        }
    }

    fn enqueue(&self, queue: &Queue<'_>) -> Result<()> {
        if self.tokens == 0 {
            return Ok(());
        }
        let params = CombineParams {
            partial: self.partial.get(),
            act_scale: or_null(self.act_scale),
            bias: or_null(self.bias),
            residual: or_null(self.residual),
            y: self.y.get(),
            n_splits: self.splits as u32,
            tokens: self.tokens as u32,
            d_model: self.d_model as u32,
            dtype: self.y_type as u32,
        };
        let grid = [params.d_model.div_ceil(COMBINE.threads), self.tokens as u32, 1];
        queue.launch(COMBINE, grid, params)
    }
}
