//! A list of neurons and its count.

use crate::device::{Access, Address, Buffer};

/// A list of neurons and its count, both in device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct List {
    /// u32 \[d_ff\], strictly increasing as far as the count goes.
    pub list: Address<u32>,
    /// u32 \[1\]; more than d_ff counts as d_ff.
    pub count: Address<u32>,
}

impl List {
    pub(super) fn name_buffers(&self, limit: usize, access: Access, show: &mut dyn FnMut(Buffer)) {
        show(Buffer { access, ..Buffer::read("list", self.list, limit) });
        show(Buffer { access, ..Buffer::read("count", self.count, 1) });
    }
}
