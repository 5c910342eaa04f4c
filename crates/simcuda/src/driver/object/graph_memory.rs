//! Memory allocated during a capture.

use std::sync::Arc;

use super::device::Device;
use crate::driver::registry::lock;

/// Allocations of a capture; freed when the graph and everything made of it is gone.
pub(crate) struct GraphMemory {
    device: Arc<Device>,
    allocations: Vec<u64>,
}

impl GraphMemory {
    /// Takes over what a capture allocated.
    pub(crate) fn new(device: &Arc<Device>, allocations: Vec<u64>) -> Self {
        lock(&device.graph_owned).extend(&allocations);
        Self { device: device.clone(), allocations }
    }
}

impl Drop for GraphMemory {
    fn drop(&mut self) {
        self.allocations.iter().for_each(|&ptr| self.device.free_graph_owned(ptr));
    }
}
