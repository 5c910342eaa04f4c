//! Where the blocks of down count that their parts are there.

use crate::device::{Address, Buffer};

/// Counters of [`super::Down`]: zeros before it, which [`super::GateUp`] makes them.
#[derive(Debug, Clone, Copy)]
pub struct Arrivals {
    /// u32 \[count\].
    pub counters: Address<u32>,
    /// At least [`super::Down::arrivals`].
    pub count: usize,
}

impl Arrivals {
    pub(super) fn name_buffers(&self, show: &mut dyn FnMut(Buffer)) {
        show(Buffer::write("arrivals", self.counters, self.count));
    }
}
