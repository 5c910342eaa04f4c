//! The first part of a whole call.

use super::mlp::{Visit, prepare_inputs};
use super::{GateUp, Matrix, Neurons, Plan};
use crate::device::{Address, Buffer, Device, ElementKind, Enqueue, Queue, product};
use crate::error::Result;
use crate::sparse_mlp::Shape;

/// What [`super::Mlp`] begins with: x in the form that kernels take, then [`GateUp`] with the plan's stride, for [`super::MlpDown`].
#[derive(Debug, Clone, Copy)]
pub struct MlpGateUp {
    /// Sizes, formats and how the call is cut.
    pub plan: Plan,
    /// None: `gate_values` are there, by neuron.
    pub gate: Option<Matrix>,
    /// None: `hidden` is not written.
    pub up: Option<Matrix>,
    /// Which neurons, in which order; their limit is d_ff.
    pub neurons: Neurons,
    /// Tokens, at most the plan's.
    pub tokens: usize,
    /// \[tokens, d_model\], already normalised, aligned to 16 bytes.
    pub x: Address,
    /// Of x.
    pub x_type: ElementKind,
    /// f32 \[tokens, [`Plan::stride`]\]: written by position where there is a gate, read by neuron where there is none.
    pub gate_values: Address<f32>,
    /// f32 \[tokens, [`Plan::stride`]\] by position; needed where there is an up.
    pub hidden: Option<Address<f32>>,
    /// Scratch, aligned to 16 bytes, in which the call leaves what [`super::MlpDown`] reads besides `hidden`.
    pub workspace: Address<f32>,
    /// Bytes at `workspace`: at least [`Plan::workspace_bytes`].
    pub workspace_bytes: usize,
}

impl MlpGateUp {
    fn each_part(&self, visit: Visit<'_>) -> Result<()> {
        let (plan, s) = (&self.plan, self.plan.sections(self.workspace));
        let x = prepare_inputs(plan, &s, self.tokens, (self.x, self.x_type), &|_| None, visit)?;
        let maxima = plan.maxima(&s, self.tokens, plan.gate_blocks(self.tokens)).filter(|_| self.up.is_some());
        visit(&GateUp {
            format: plan.format(),
            shape: plan.shape(),
            gate: self.gate,
            up: self.up,
            neurons: self.neurons,
            tokens: self.tokens,
            x,
            gate_values: self.gate_values,
            hidden: self.hidden,
            stride: plan.stride(),
            maxima,
            arrivals: plan.arrivals(&s, self.tokens),
        })
    }
}

impl Enqueue for MlpGateUp {
    fn check_sizes(&self, device: &Device) -> Result<()> {
        self.plan.check_call(self.tokens, self.workspace_bytes)?;
        self.each_part(&mut |part| part.check_sizes(device))
    }

    fn name_buffers(&self, device: &Device, show: &mut dyn FnMut(Buffer)) {
        if self.tokens == 0 {
            return;
        }
        let Shape { d_model, .. } = self.plan.shape();
        show(Buffer::read("x", self.x, product([self.tokens, d_model])).of_bytes(self.x_type.bytes()).aligned(16));
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
