//! The sum of down's parts for many tokens.

use super::{Down, Operand};
use crate::device::Queue;
use crate::error::Result;
use crate::sparse_mlp::cuda::RowFormat;
use crate::sparse_mlp::cuda::mirror::{COMBINE, CombineParams};

/// y\[t\] = scale\[t\] · Σ_s partial\[s, t\] + bias + residual\[t\], parts in their order.
pub(super) fn combine(queue: &Queue<'_>, down: &Down, hidden: &Operand) -> Result<()> {
    let params = CombineParams {
        partial: down.partial.get(),
        // tiles of bf16 are the numbers themselves
        act_scale: if down.format == RowFormat::Bf16 { 0 } else { hidden.scale.get() },
        output: down.output.params(),
        n_splits: down.splits as u32,
        tokens: down.tokens as u32,
        d_model: down.shape.d_model as u32,
        reserved: 0,
    };
    queue.launch(COMBINE, [params.d_model.div_ceil(COMBINE.threads), params.tokens, 1], params)
}
