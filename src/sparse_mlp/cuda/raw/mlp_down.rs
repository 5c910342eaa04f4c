//! The second part of a whole call.

use super::mlp::Visit;
use super::{Activations, Down, DownMatrix, FillOperand, List, Neurons, Output, Plan};
use crate::device::{Address, Buffer, Device, ElementKind, Enqueue, Queue, product};
use crate::error::Result;
use crate::sparse_mlp::cuda::variant::is_tiled;

/// What [`super::Mlp`] ends with: `hidden` in the form that kernels take, then [`Down`] with the plan's parts.
///
/// It follows one [`super::MlpGateUp`] with an up, with the same plan, tokens, list and workspace, which nothing else has used since; each is
/// followed by one. Of `hidden` values may have become smaller in size, as by a mask: 4-bit rows meet up to 8 tokens' values in codes whose scale
/// comes of the largest that there was.
#[derive(Debug, Clone, Copy)]
pub struct MlpDown {
    /// Sizes, formats and how the call is cut.
    pub plan: Plan,
    /// The rows, and the bias.
    pub matrix: DownMatrix,
    /// The neurons of the positions of `hidden`; None: position i is neuron i.
    pub list: Option<List>,
    /// Tokens, at most the plan's.
    pub tokens: usize,
    /// f32 \[tokens, [`Plan::stride`]\] by position, aligned to 16 bytes.
    pub hidden: Address<f32>,
    /// \[tokens, d_model\] of y's type.
    pub residual: Option<Address>,
    /// \[tokens, d_model\].
    pub y: Address,
    /// Of y and residual.
    pub y_type: ElementKind,
    /// What the [`super::MlpGateUp`] has worked in.
    pub workspace: Address<f32>,
    /// Bytes at `workspace`: at least [`Plan::workspace_bytes`].
    pub workspace_bytes: usize,
}

impl MlpDown {
    fn each_part(&self, visit: Visit<'_>) -> Result<()> {
        let (plan, s, tokens) = (&self.plan, self.plan.sections(self.workspace), self.tokens);
        let (format, shape, stride) = (plan.format(), plan.shape(), plan.stride());
        let hidden = if is_tiled(tokens) {
            let (to, count) = (s.hidden_operand, self.list.map(|list| list.count));
            visit(&FillOperand { format, x: self.hidden, count, to, n: shape.d_ff, stride, tokens })?;
            Activations::Operand(to)
        } else {
            Activations::Floats(self.hidden.cast(), ElementKind::F32)
        };
        visit(&Down {
            format,
            shape,
            matrix: self.matrix,
            neurons: Neurons { list: self.list, ..Neurons::all(shape.d_ff) },
            tokens,
            hidden,
            maxima: plan.maxima(&s, tokens, plan.gate_blocks(tokens)),
            stride,
            splits: plan.splits(tokens),
            partial: s.partial,
            arrivals: plan.arrivals(&s, tokens),
            output: Output { bias: self.matrix.bias, residual: self.residual, y: self.y, y_type: self.y_type },
        })
    }
}

impl Enqueue for MlpDown {
    fn check_sizes(&self, device: &Device) -> Result<()> {
        self.plan.check_call(self.tokens, self.workspace_bytes)?;
        self.each_part(&mut |part| part.check_sizes(device))
    }

    fn name_buffers(&self, device: &Device, show: &mut dyn FnMut(Buffer)) {
        if self.tokens == 0 {
            return;
        }
        show(Buffer::read("hidden", self.hidden, product([self.tokens, self.plan.stride()])).aligned(16));
        show(Buffer::write("workspace", self.workspace, self.plan.workspace_bytes() / 4).aligned(16));
        // every part has been checked, and to show buffers does not fail
        let shown = self.each_part(&mut |part| {
            part.name_buffers(device, show);
            Ok(())
        });
        debug_assert!(shown.is_ok());
    }

    fn enqueue(&self, queue: &Queue<'_>) -> Result<()> {
        match self.tokens {
            0 => Ok(()),
            _ => self.each_part(&mut |part| part.enqueue(queue)),
        }
    }
}
