//! What a call on the device works in.

use super::raw::FourBit;
use crate::device::Device;
use crate::error::Result;
use cudarc::driver::{CudaSlice, CudaView};

/// What products with weights in 4 bits work in: the scales of tokens, and the sums of runs of K. Calls on one stream can share it.
#[derive(Debug)]
pub struct Workspace {
    pub(super) words: CudaSlice<u32>,
    pub(super) counters: CudaSlice<u32>,
}

impl Workspace {
    /// Allocates for up to M tokens, N outputs and K inputs; weights in floating point take none.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`] if it does not fit.
    pub fn with_capacity(device: &Device, m: usize, n: usize, k: usize) -> Result<Self> {
        let (words, counters) = FourBit::most_words(m, n, k);
        Ok(Workspace { words: device.zeros(words)?, counters: device.zeros(counters)? })
    }

    /// What the blocks that share K count in: zeros between calls, for whoever keeps a copy of the memory.
    pub fn counters(&self) -> CudaView<'_, u32> {
        self.counters.as_view()
    }
}
