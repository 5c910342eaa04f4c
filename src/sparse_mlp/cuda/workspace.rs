//! The memory of a call on the device, allocated once and passed in.

use super::raw::{Plan, Sections};
use super::selection::NeuronList;
use super::weights::Weights;
use crate::device::cudarc::driver::{CudaSlice, CudaView};
use crate::device::{Address, Arguments, Device};
use crate::error::{Error, Result, check_len};

/// The buffers of [`super::forward`] for up to a number of tokens, and after a call its intermediate activations.
///
/// One workspace serves all layers of the same shape.
#[derive(Debug)]
pub struct Workspace {
    plan: Plan,
    /// As [`Plan::sections`] cuts it.
    memory: CudaSlice<f32>,
    kept: NeuronList,
    /// What blocks of one launch that wait for each other count in: zeros between calls.
    together: CudaSlice<u32>,
}

impl Workspace {
    /// Allocates for `weights` (or others of the same shape and kind) and up to `max_tokens` tokens a call.
    ///
    /// # Errors
    /// [`Error::Shape`] unless `max_tokens` is 1 to [`MAX_TOKENS`](super::MAX_TOKENS), [`Error::OutOfMemory`] if there is no room.
    pub fn new(device: &Device, weights: &Weights, max_tokens: usize) -> Result<Workspace> {
        let multiprocessors = device.multiprocessors() as usize;
        let plan = Plan::new(weights.format(), weights.shape(), max_tokens, multiprocessors)?;
        let kept = NeuronList::new(device, plan.shape().d_ff)?;
        let memory = device.zeros(plan.workspace_bytes() / size_of::<f32>())?;
        Ok(Workspace { plan, memory, kept, together: device.zeros(2)? })
    }

    /// Bytes allocated on the device.
    pub fn memory_bytes(&self) -> usize {
        size_of::<f32>() * (self.memory.len() + self.plan.shape().d_ff + 3)
    }

    pub(super) fn plan(&self) -> &Plan {
        &self.plan
    }

    pub(super) fn check(&self, weights: &Weights, tokens: usize) -> Result<()> {
        let shape = self.plan.shape();
        check_len("workspace's d_model", weights.shape().d_model, shape.d_model)?;
        check_len("workspace's d_ff", weights.shape().d_ff, shape.d_ff)?;
        if tokens > self.plan.max_tokens() {
            let expected = "at most the workspace's max_tokens";
            return Err(Error::Shape { what: "tokens", expected, got: tokens });
        }
        if weights.format() != self.plan.format() {
            let (expected, got) =
                ("one made for weights of this format", format!("one for {} rows", self.plan.format().name()));
            return Err(Error::Unsupported { what: "workspace", expected, got });
        }
        Ok(())
    }

    /// Holds the memory, the list and the counters for a call.
    pub(super) fn hold<'a>(
        &'a mut self,
        arguments: &mut Arguments<'a>,
    ) -> Result<(Address<f32>, super::raw::List, Address<u32>)> {
        let memory = arguments.write("workspace", &mut self.memory)?;
        Ok((memory, self.kept.hold_mut(arguments)?, arguments.write("workspace", &mut self.together)?))
    }

    /// What the blocks of a launch that wait for each other count in: zeros between calls, for whoever keeps a copy of the memory.
    pub fn counters(&self) -> CudaView<'_, u32> {
        self.together.as_view()
    }

    /// act(x·gate) of the last call, f32 \[max_tokens, [`Workspace::stride`]\]: by neuron after [`super::Selection::All`] and after
    /// scores on the gate or the product, by position in the list otherwise.
    pub fn gate(&self) -> CudaView<'_, f32> {
        self.values(|sections| sections.gate)
    }

    /// A = act(x·gate) ⊙ (x·up) of the last call, f32 \[max_tokens, [`Workspace::stride`]\] by position in the list that was read:
    /// by neuron after [`super::Selection::All`]. Neurons that a token did not keep are 0.
    pub fn hidden(&self) -> CudaView<'_, f32> {
        self.values(|sections| sections.hidden)
    }

    fn values(&self, section: impl Fn(&Sections) -> Address<f32>) -> CudaView<'_, f32> {
        let first = section(&self.plan.sections(Address::NULL)).get() as usize / size_of::<f32>();
        self.memory.slice(first..first + self.plan.max_tokens() * self.plan.stride())
    }

    /// Elements between tokens in [`Workspace::gate`] and [`Workspace::hidden`].
    pub fn stride(&self) -> usize {
        self.plan.stride()
    }

    /// The neurons that any token of the last call kept, where the call made the list itself: after masks and scores on the gate
    /// or the product.
    pub fn kept(&self) -> &NeuronList {
        &self.kept
    }
}
