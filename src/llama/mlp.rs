//! The MLP of one layer: whole, or neuron by neuron.

use super::backend::Backend;
use crate::cpu::Cpu;
use crate::error::{Result, check_len};

/// The weights of one gated MLP.
#[derive(Debug)]
#[non_exhaustive]
pub enum Mlp<B: Backend = Cpu> {
    /// Two matrices, read whole.
    Whole {
        /// Gate rows over up rows, \[2·d_ff, d\].
        gate_up: B::Linear,
        /// \[d, d_ff\].
        down: B::Linear,
    },
    /// Neuron by neuron, for selections.
    ByNeuron(B::Neurons),
}

// derived, it would ask for `B: Clone`
impl<B: Backend<Linear: Clone, Neurons: Clone>> Clone for Mlp<B> {
    fn clone(&self) -> Self {
        match self {
            Mlp::Whole { gate_up, down } => Mlp::Whole { gate_up: gate_up.clone(), down: down.clone() },
            Mlp::ByNeuron(neurons) => Mlp::ByNeuron(neurons.clone()),
        }
    }
}

impl Mlp<Cpu> {
    /// Bytes of all weights.
    pub fn bytes(&self) -> usize {
        match self {
            Mlp::Whole { gate_up, down } => gate_up.bytes() + down.bytes(),
            Mlp::ByNeuron(weights) => weights.bytes(),
        }
    }
}

impl<B: Backend> Mlp<B> {
    /// The weights by neuron, unless it is whole.
    pub fn neurons(&self) -> Option<&B::Neurons> {
        match self {
            Mlp::Whole { .. } => None,
            Mlp::ByNeuron(neurons) => Some(neurons),
        }
    }

    pub(super) fn check(&self, d_model: usize, d_ff: usize) -> Result<()> {
        let [rows, down, width] = match self {
            Mlp::Whole { gate_up, down } => {
                let ([n, k], [_, d_ff]) = (B::matrix_shape(gate_up), B::matrix_shape(down));
                [n / 2, d_ff, k]
            }
            Mlp::ByNeuron(neurons) => {
                let shape = B::neurons_shape(neurons);
                [shape.d_ff, shape.d_ff, shape.d_model]
            }
        };
        for (what, expected, got) in [("mlp gate", d_ff, rows), ("mlp down", d_ff, down), ("mlp", d_model, width)] {
            check_len(what, expected, got)?;
        }
        Ok(())
    }
}
