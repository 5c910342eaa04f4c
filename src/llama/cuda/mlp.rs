//! The MLP of one layer on the device.

use super::linear::{Input, Linear, Scratch};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::llama;
use crate::sparse_mlp::{Activation, Selection};
use cudarc::driver::{CudaSlice, CudaView, CudaViewMut};

/// The weights of one gated MLP in device memory.
#[derive(Debug)]
#[non_exhaustive]
pub enum Mlp {
    /// Two matrices, read whole.
    Whole {
        /// Gate rows over up rows, \[2·d_ff, d\].
        gate_up: Linear,
        /// \[d, d_ff\].
        down: Linear,
    },
}

impl Mlp {
    /// Copies an MLP to the device.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if it does not fit, [`Error::Unsupported`] for weights by neuron.
    pub fn upload(device: &Device, mlp: &llama::Mlp) -> Result<Self> {
        match mlp {
            llama::Mlp::Whole { gate_up, down } => {
                Ok(Mlp::Whole { gate_up: Linear::upload(device, gate_up)?, down: Linear::upload(device, down)? })
            }
            llama::Mlp::ByNeuron(_) => Err(Error::Unsupported {
                what: "mlp",
                expected: "whole matrices on a CUDA device",
                got: "weights by neuron".into(),
            }),
        }
    }

    /// Bytes of all weights.
    pub fn bytes(&self) -> usize {
        match self {
            Mlp::Whole { gate_up, down } => gate_up.bytes() + down.bytes(),
        }
    }

    pub(super) fn check(&self, d_model: usize, d_ff: usize) -> Result<()> {
        let [rows, down, width] = match self {
            Mlp::Whole { gate_up, down } => [gate_up.n() / 2, down.k(), gate_up.k()],
        };
        for (what, expected, got) in [("mlp gate", d_ff, rows), ("mlp down", d_ff, down), ("mlp", d_model, width)] {
            crate::error::check_len(what, expected, got)?;
        }
        Ok(())
    }
}

/// One call of an MLP: y = x + mlp(norm(x)).
pub(super) struct MlpCall<'a> {
    pub(super) activation: Activation,
    pub(super) m: usize,
    pub(super) x: &'a CudaView<'a, f32>,
    pub(super) norm: &'a CudaSlice<f32>,
    pub(super) eps: f32,
}

/// What the MLPs of a session work in; one serves all layers.
#[derive(Debug)]
pub(super) struct MlpBuffers {
    /// \[M, 2·d_ff\], for a whole MLP.
    gate_up: CudaSlice<f32>,
}

impl MlpBuffers {
    pub(super) fn new(device: &Device, mlp: &Mlp, max_tokens: usize) -> Result<Self> {
        match mlp {
            Mlp::Whole { gate_up, .. } => Ok(MlpBuffers { gate_up: device.zeros(max_tokens * gate_up.n())? }),
        }
    }

    /// y = x + mlp(norm(x)).
    pub(super) fn forward(
        &mut self,
        device: &Device,
        mlp: &Mlp,
        call: &MlpCall<'_>,
        selection: &Selection<'_>,
        y: &mut CudaViewMut<'_, f32>,
        scratch: &mut Scratch,
    ) -> Result<()> {
        let MlpCall { activation, m, x, norm, eps } = *call;
        match mlp {
            Mlp::Whole { gate_up, down } if matches!(selection, Selection::All) => {
                let mut rows = self.gate_up.slice_mut(..m * gate_up.n());
                let input = Input::RmsNorm { x, weight: norm, eps };
                gate_up.forward(device, input, m, None, &mut rows, scratch)?;
                let rows = rows.as_view();
                let input = Input::SwiGlu { gate_up: &rows, activation };
                down.forward(device, input, m, Some(x), y, scratch)
            }
            _ => Err(Error::Unsupported {
                what: "mlp",
                expected: "weights by neuron for a selection of neurons",
                got: "a whole MLP".into(),
            }),
        }
    }
}
