//! The MLP of one layer on the device: whole, or neuron by neuron.

use super::kernels;
use super::linear::{Input, Linear, Scratch};
use super::selection::Resident;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::llama;
use crate::policy::{Observed, Values, Wanted};
use crate::sparse_mlp::cuda::{self as sparse, MAX_TOKENS};
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
    /// Neuron by neuron, for selections.
    ByNeuron(sparse::Weights),
}

impl Mlp {
    /// Copies an MLP to the device.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if it does not fit, and those of [`sparse::Weights::upload`].
    pub fn upload(device: &Device, mlp: &llama::Mlp) -> Result<Self> {
        Ok(match mlp {
            llama::Mlp::Whole { gate_up, down } => {
                Mlp::Whole { gate_up: Linear::upload(device, gate_up)?, down: Linear::upload(device, down)? }
            }
            llama::Mlp::ByNeuron(weights) => Mlp::ByNeuron(sparse::Weights::upload(device, weights)?),
        })
    }

    /// Bytes of all weights.
    pub fn bytes(&self) -> usize {
        match self {
            Mlp::Whole { gate_up, down } => gate_up.bytes() + down.bytes(),
            Mlp::ByNeuron(weights) => weights.memory_bytes(),
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

/// One call of an MLP: y = x + mlp(norm(x)).
pub(super) struct MlpCall<'a> {
    /// The layer.
    pub(super) index: usize,
    pub(super) activation: Activation,
    pub(super) m: usize,
    /// \[M, d\].
    pub(super) x: &'a CudaView<'a, f32>,
    pub(super) norm: &'a CudaSlice<f32>,
    pub(super) eps: f32,
    /// What the policy has to see of it.
    pub(super) wanted: Wanted,
}

/// What the MLPs of a session work in; one serves all layers.
#[derive(Debug)]
pub(super) enum MlpBuffers {
    /// \[M, 2·d_ff\].
    Whole {
        gate_up: CudaSlice<f32>,
    },
    ByNeuron(Box<ByNeuron>),
}

#[derive(Debug)]
pub(super) struct ByNeuron {
    workspace: sparse::Workspace,
    /// \[M, d\].
    normed: CudaSlice<f32>,
    /// By layer.
    resident: Vec<Resident>,
    /// \[M, stride\]: what the policy wanted to see of the last call.
    seen: Vec<f32>,
}

impl MlpBuffers {
    pub(super) fn new(device: &Device, mlp: &Mlp, n_layers: usize, max_tokens: usize, slots: usize) -> Result<Self> {
        match mlp {
            Mlp::Whole { gate_up, .. } => Ok(MlpBuffers::Whole { gate_up: device.zeros(max_tokens * gate_up.n())? }),
            Mlp::ByNeuron(weights) => {
                let workspace = sparse::Workspace::new(device, weights, max_tokens.min(MAX_TOKENS))?;
                let shape = weights.shape();
                // sequences have selections of their own only where there are several
                let mask_tokens = if slots > 1 { max_tokens.min(MAX_TOKENS) } else { 0 };
                let resident = |_| Resident::new(device, shape.d_ff, mask_tokens);
                Ok(MlpBuffers::ByNeuron(Box::new(ByNeuron {
                    normed: device.zeros(max_tokens * shape.d_model)?,
                    resident: (0..n_layers).map(resident).collect::<Result<_>>()?,
                    seen: Vec::with_capacity(max_tokens * workspace.stride()),
                    workspace,
                })))
            }
        }
    }

    /// Brings a layer's selection to the device, so that a captured call has nothing to copy.
    pub(super) fn prepare(&mut self, device: &Device, index: usize, selection: &Selection<'_>) -> Result<()> {
        match self {
            MlpBuffers::Whole { .. } => Ok(()),
            MlpBuffers::ByNeuron(buffers) => buffers.resident[index].set(device, selection),
        }
    }

    /// What the policy wanted to see of the last call, by neuron.
    pub(super) fn seen(&self) -> Observed<'_> {
        match self {
            MlpBuffers::Whole { .. } => Observed::LENGTHS,
            MlpBuffers::ByNeuron(buffers) => {
                Observed::new(&buffers.seen, buffers.workspace.stride(), buffers.resident[0].d_ff())
            }
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
        let MlpCall { activation, m, x, norm, eps, .. } = *call;
        match (mlp, self) {
            (Mlp::Whole { gate_up, down }, MlpBuffers::Whole { gate_up: rows })
                if matches!(selection, Selection::All) =>
            {
                let mut rows = rows.slice_mut(..m * gate_up.n());
                let input = Input::RmsNorm { x, weight: norm, eps };
                gate_up.forward(device, input, m, None, &mut rows, scratch)?;
                let rows = rows.as_view();
                let input = Input::SwiGlu { gate_up: &rows, activation };
                down.forward(device, input, m, Some(x), y, scratch)
            }
            (Mlp::ByNeuron(weights), MlpBuffers::ByNeuron(buffers)) => {
                buffers.forward(device, weights, call, selection, y)
            }
            _ => Err(Error::Unsupported {
                what: "mlp",
                expected: "weights by neuron for a selection of neurons",
                got: "a whole MLP".into(),
            }),
        }
    }
}

impl ByNeuron {
    fn forward(
        &mut self,
        device: &Device,
        weights: &sparse::Weights,
        call: &MlpCall<'_>,
        selection: &Selection<'_>,
        y: &mut CudaViewMut<'_, f32>,
    ) -> Result<()> {
        let (m, d) = (call.m, weights.shape().d_model);
        kernels::rms_norm(device, call.x, None, call.norm, call.eps, &mut self.normed.slice_mut(..m * d))?;
        self.resident[call.index].set(device, selection)?;
        self.seen.clear();
        for first in (0..m).step_by(MAX_TOKENS) {
            let tokens = MAX_TOKENS.min(m - first);
            let range = first * d..(first + tokens) * d;
            let selection = self.resident[call.index].get(selection, m)?;
            let (x, residual) = (self.normed.slice(range.clone()), call.x.slice(range.clone()));
            let mut y = y.slice_mut(range);
            sparse::forward(device, weights, &x, tokens, &selection, Some(&residual), &mut y, &mut self.workspace)?;
            let values = match call.wanted {
                Wanted::Copied(Values::Gate) => self.workspace.gate(),
                Wanted::Copied(_) => self.workspace.hidden(),
                Wanted::Nothing | Wanted::Lengths | Wanted::AtHand(_) => continue,
            };
            let used = tokens * self.workspace.stride();
            self.seen.extend(device.download(&values.slice(..used))?);
        }
        Ok(())
    }
}
