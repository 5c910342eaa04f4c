//! The largest products of a call, by the blocks that have made them.

use crate::device::{Access, Address, Buffer, product};

/// Of each token the sizes of numbers among which its largest |hidden| is: what [`super::GateUp`] leaves for the quantization in
/// [`super::Down`], one of each of its blocks.
#[derive(Debug, Clone, Copy)]
pub struct Maxima {
    /// u32 \[tokens, count\]: the bits of f32, 0 or more.
    pub bits: Address<u32>,
    /// Numbers of a token, at least 1.
    pub count: usize,
}

impl Maxima {
    pub(super) fn name_buffers(&self, tokens: usize, access: Access, show: &mut dyn FnMut(Buffer)) {
        show(Buffer { access, ..Buffer::read("maxima", self.bits, product([tokens, self.count])) });
    }
}
