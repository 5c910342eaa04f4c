//! The MLP of one layer on the CPU: whole, or neuron by neuron.

use super::linear::Linear;
use crate::cpu::Cpu;
use crate::error::{Error, Result};
use crate::policy::{Observed, Values, Wanted};
use crate::sparse_mlp::{self, Activation, Selection, activate_product};
use crate::threads::Pieces;
use crate::w4a8::Activations;

/// Neurons that are worth a barrier.
const PARALLEL_ELEMENTS: usize = 16_384;

/// The weights of one gated MLP.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Mlp {
    /// Two matrices, read whole.
    Whole {
        /// Gate rows over up rows, \[2·d_ff, d\].
        gate_up: Linear,
        /// \[d, d_ff\].
        down: Linear,
    },
    /// Neuron by neuron, for selections.
    ByNeuron(sparse_mlp::Weights),
}

impl Mlp {
    /// Bytes of all weights.
    pub fn bytes(&self) -> usize {
        match self {
            Mlp::Whole { gate_up, down } => gate_up.bytes() + down.bytes(),
            Mlp::ByNeuron(weights) => weights.bytes(),
        }
    }

    pub(super) fn check(&self, d_model: usize, d_ff: usize) -> Result<()> {
        let [rows, down, width] = match self {
            Mlp::Whole { gate_up, down } => [gate_up.n() / 2, down.k(), gate_up.k()],
            Mlp::ByNeuron(weights) => [weights.shape().d_ff, weights.shape().d_ff, weights.shape().d_model],
        };
        for (what, expected, got) in [("mlp gate", d_ff, rows), ("mlp down", d_ff, down), ("mlp", d_model, width)] {
            crate::error::check_len(what, expected, got)?;
        }
        Ok(())
    }
}

/// What the MLPs of a session work in; one serves all layers.
#[derive(Debug)]
pub(super) struct MlpBuffers {
    /// \[M, 2·d_ff\], for a whole MLP.
    gate_up: Vec<f32>,
    /// \[M, d_ff\].
    hidden: Vec<f32>,
    int8: Activations,
    sparse: Option<sparse_mlp::Workspace>,
}

impl MlpBuffers {
    pub(super) fn new(mlp: &Mlp, max_tokens: usize) -> Result<Self> {
        let none = MlpBuffers { gate_up: Vec::new(), hidden: Vec::new(), int8: Activations::default(), sparse: None };
        match mlp {
            Mlp::Whole { gate_up, down } => Ok(MlpBuffers {
                gate_up: vec![0.0; max_tokens * gate_up.n()],
                hidden: vec![0.0; max_tokens * down.k()],
                int8: Activations::with_capacity(max_tokens, down.k().max(gate_up.k())),
                ..none
            }),
            Mlp::ByNeuron(weights) => {
                Ok(MlpBuffers { sparse: Some(sparse_mlp::Workspace::new(weights, max_tokens)?), ..none })
            }
        }
    }

    /// What a policy wants to see of the last call; None for a whole MLP, of which there is nothing to select.
    pub(super) fn seen(&self, wanted: Wanted) -> Option<Observed<'_>> {
        let sparse = self.sparse.as_ref()?;
        Some(match wanted {
            Wanted::Nothing | Wanted::Lengths => Observed::LENGTHS,
            Wanted::AtHand(Values::Gate) | Wanted::Copied(Values::Gate) => {
                let width = if sparse.gate_by_neuron { sparse.shape.d_ff } else { sparse.kept.len() };
                Observed::new(&sparse.gate, sparse.stride, width)
            }
            Wanted::AtHand(_) | Wanted::Copied(_) => Observed::new(&sparse.hidden, sparse.stride, sparse.kept.len()),
        })
    }

    /// y = residual + mlp(x).
    pub(super) fn forward(
        &mut self,
        cpu: &Cpu,
        mlp: &Mlp,
        activation: Activation,
        x: &[f32],
        selection: &Selection<'_>,
        residual: &[f32],
        y: &mut [f32],
    ) -> Result<()> {
        match (mlp, &mut self.sparse) {
            (Mlp::ByNeuron(weights), Some(workspace)) => {
                sparse_mlp::forward(cpu, weights, x, selection, Some(residual), y, workspace)
            }
            (Mlp::Whole { gate_up, down }, _) if matches!(selection, Selection::All) => {
                let (m, d_ff) = (x.len() / gate_up.k(), down.k());
                let (rows, hidden) = (&mut self.gate_up[..m * 2 * d_ff], &mut self.hidden[..m * d_ff]);
                gate_up.forward(cpu, x, None, rows, &mut self.int8)?;
                product(cpu, activation, rows, hidden, d_ff)?;
                down.forward(cpu, hidden, Some(residual), y, &mut self.int8)
            }
            _ => Err(Error::Unsupported {
                what: "mlp",
                expected: "weights by neuron for a selection of neurons",
                got: "a whole MLP".into(),
            }),
        }
    }
}

/// hidden\[m\] = act(gate\[m\]) ⊙ up\[m\] for rows of gate and up side by side.
fn product(cpu: &Cpu, activation: Activation, gate_up: &[f32], hidden: &mut [f32], d_ff: usize) -> Result<()> {
    let failed = std::sync::Mutex::new(Ok(()));
    cpu.team().for_parts(Pieces::new(hidden, d_ff), (PARALLEL_ELEMENTS / d_ff).max(1), |token, hidden| {
        let (gate, up) = gate_up[token * 2 * d_ff..(token + 1) * 2 * d_ff].split_at(d_ff);
        hidden.copy_from_slice(up);
        if let Err(error) = activate_product(cpu, activation, gate, hidden) {
            *failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Err(error);
        }
    });
    failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}
