//! MLPs of a session neuron by neuron on the device.

use super::kernels;
use super::selection::Resident;
use crate::device::Device;
use crate::error::Result;
use crate::llama::MlpCall;
use crate::policy::{Observed, Projection, Values, Wanted};
use crate::sparse_mlp::Selection;
use crate::sparse_mlp::cuda::{self as sparse, MAX_TOKENS};
use cudarc::driver::CudaSlice;

/// What the MLPs of a session work in; one serves all layers.
#[derive(Debug)]
pub(super) struct Neurons {
    workspace: sparse::Workspace,
    d_model: usize,
    /// \[M, d\].
    normed: CudaSlice<f32>,
    /// By layer.
    resident: Vec<Resident>,
    /// \[M, stride\]: what the policy wanted to see of the last call.
    seen: Vec<f32>,
}

impl Neurons {
    pub(super) fn new(
        device: &Device,
        weights: &sparse::Weights,
        n_layers: usize,
        max_tokens: usize,
        slots: usize,
    ) -> Result<Self> {
        let workspace = sparse::Workspace::new(device, weights, max_tokens.min(MAX_TOKENS))?;
        let shape = weights.shape();
        // sequences have selections of their own only where there are several
        let mask_tokens = if slots > 1 { max_tokens.min(MAX_TOKENS) } else { 0 };
        let resident = |_| Resident::new(device, shape.d_ff, mask_tokens);
        Ok(Neurons {
            normed: device.zeros(max_tokens * shape.d_model)?,
            resident: (0..n_layers).map(resident).collect::<Result<_>>()?,
            seen: Vec::with_capacity(max_tokens * workspace.stride()),
            d_model: shape.d_model,
            workspace,
        })
    }

    /// Brings a layer's selection to the device, so that a captured call has nothing to copy.
    pub(super) fn prepare(&mut self, device: &Device, layer: usize, selection: &Selection<'_>) -> Result<()> {
        self.resident[layer].set(device, selection)
    }

    /// What was wanted of the last call, by neuron.
    pub(super) fn seen(&self, wanted: Wanted) -> Observed<'_> {
        match wanted {
            Wanted::Copied(Values::Inputs(Projection::GateUp)) => Observed::new(&self.seen, self.d_model, self.d_model),
            _ => Observed::new(&self.seen, self.workspace.stride(), self.resident[0].d_ff()),
        }
    }

    /// y = x + mlp(norm(x)).
    pub(super) fn forward(&mut self, device: &Device, call: MlpCall<'_, Device>, y: &mut CudaSlice<f32>) -> Result<()> {
        let MlpCall { neurons, layer, m, norm, selection, wanted } = call;
        let d = neurons.shape().d_model;
        let x = norm.x.slice(..m * d);
        kernels::rms_norm(device, &x, None, norm.weight, norm.eps, &mut self.normed.slice_mut(..m * d))?;
        self.prepare(device, layer, selection)?;
        self.seen.clear();
        if wanted == Wanted::Copied(Values::Inputs(Projection::GateUp)) {
            self.seen.extend(device.download(&self.normed.slice(..m * d))?);
        }
        for first in (0..m).step_by(MAX_TOKENS) {
            let tokens = MAX_TOKENS.min(m - first);
            let range = first * d..(first + tokens) * d;
            let selection = self.resident[layer].get(selection, m)?;
            let (x, residual) = (self.normed.slice(range.clone()), x.slice(range.clone()));
            let mut y = y.slice_mut(range);
            sparse::forward(device, neurons, &x, tokens, &selection, Some(&residual), &mut y, &mut self.workspace)?;
            let values = match wanted {
                Wanted::Copied(Values::Gate) => self.workspace.gate(),
                Wanted::Copied(Values::Hidden) => self.workspace.hidden(),
                _ => continue,
            };
            let used = tokens * self.workspace.stride();
            self.seen.extend(device.download(&values.slice(..used))?);
        }
        Ok(())
    }
}
