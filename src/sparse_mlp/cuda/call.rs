//! One call on the device: the addresses that its launches share.

use super::params::{Codes, Neurons};
use super::selection::mask_words;
use super::variant::is_tiled;
use super::weights::Weights;
use super::workspace::{Quantized, Workspace};
use crate::device::Device;
use crate::device::cudarc::driver::{CudaSlice, DevicePtr};

/// One call. Its unsafe functions launch kernels on addresses, all by the contract that `forward` states.
pub(super) struct Call<'a> {
    pub device: &'a Device,
    pub weights: &'a Weights,
    pub tokens: usize,
    pub ws: &'a Workspace,
}

impl Call<'_> {
    pub(super) fn address<T>(&self, slice: &CudaSlice<T>) -> u64 {
        slice.device_ptr(self.device.stream()).0
    }

    pub(super) fn codes(&self, q: &Quantized) -> Codes {
        Codes { codes: self.address(&q.codes), sums: self.address(&q.sums), scale: self.address(&q.scale) }
    }

    /// Every neuron, in order.
    pub(super) fn all(&self) -> Neurons {
        Neurons { limit: self.ws.shape.d_ff as u32, ..Neurons::default() }
    }

    pub(super) fn masked(&self, neurons: Neurons, masks: u64, n: usize) -> Neurons {
        Neurons { masks, mask_words: mask_words(n) as u32, ..neurons }
    }

    /// Whether the kernels with matrix units compute this call.
    pub(super) fn is_tiled(&self) -> bool {
        is_tiled(self.tokens)
    }
}
