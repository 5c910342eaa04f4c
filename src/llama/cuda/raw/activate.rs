//! The activation of an MLP that is computed whole.

use super::{check_rows, check_width};
use crate::device::{Address, Buffer, Device, Enqueue, Queue, product};
use crate::error::Result;
use crate::llama::cuda::mirror::{ACTIVATE, ActivateParams};
use crate::sparse_mlp::Activation;

/// hidden\[m\] = act(gate\[m\]) ⊙ up\[m\].
///
/// # Source
/// SwiGLU (arXiv 2002.05202).
#[derive(Debug, Clone, Copy)]
pub struct Activate {
    /// f32 \[m, 2 · features\]: gate before up.
    pub gate_up: Address<f32>,
    /// The gate's nonlinearity.
    pub activation: Activation,
    /// f32 \[m, features\].
    pub hidden: Address<f32>,
    /// Tokens, 1 to 65535.
    pub m: usize,
    /// Features of the product.
    pub features: usize,
}

impl Enqueue for Activate {
    fn check_sizes(&self, _: &Device) -> Result<()> {
        check_rows("m", self.m)?;
        check_width("features", self.features)
    }

    fn name_buffers(&self, _: &Device, show: &mut dyn FnMut(Buffer)) {
        show(Buffer::read("gate_up", self.gate_up, product([self.m, 2, self.features])));
        show(Buffer::write("hidden", self.hidden, product([self.m, self.features])));
    }

    fn enqueue(&self, queue: &Queue<'_>) -> Result<()> {
        let params = ActivateParams {
            gate_up: self.gate_up.get(),
            hidden: self.hidden.get(),
            features: self.features as u32,
            activation: match self.activation {
                Activation::Silu => 0,
                Activation::Relu => 1,
            },
        };
        let grid = [params.features.div_ceil(ACTIVATE.threads), self.m as u32, 1];
        queue.launch(ACTIVATE, grid, params)
    }
}
