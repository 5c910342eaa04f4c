//! The union of masks as a list.

use super::{List, check_width};
use crate::device::{Access, Address, Buffer, Device, Enqueue, Queue, product};
use crate::error::{Error, Result};
use crate::sparse_mlp::cuda::mask_words;
use crate::sparse_mlp::cuda::mirror::{UNION, UnionParams};

/// list = the neurons that any of the masks keeps, increasing; count = how many they are.
#[derive(Debug, Clone, Copy)]
pub struct Union {
    /// u32 \[tokens, [`mask_words`] of the limit\]; bits past the limit are 0.
    pub masks: Address<u32>,
    /// Masks.
    pub tokens: usize,
    /// Neurons, 1 to 2²⁴: the list has room for all.
    pub limit: usize,
    /// Where they go.
    pub list: List,
}

impl Enqueue for Union {
    fn check_sizes(&self, _: &Device) -> Result<()> {
        check_width("neurons", self.limit, self.limit)?;
        match u32::try_from(self.tokens) {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::Shape { what: "tokens", expected: "fewer than 2^32", got: self.tokens }),
        }
    }

    fn name_buffers(&self, _: &Device, show: &mut dyn FnMut(Buffer)) {
        show(Buffer::read("masks", self.masks, product([self.tokens, mask_words(self.limit)])));
        self.list.name_buffers(self.limit, Access::Write, show);
    }

    fn enqueue(&self, queue: &Queue<'_>) -> Result<()> {
        let params = UnionParams {
            masks: self.masks.get(),
            list: self.list.list.get(),
            count: self.list.count.get(),
            tokens: self.tokens as u32,
            words: mask_words(self.limit) as u32,
        };
        queue.launch(UNION, [1, 1, 1], params)
    }
}
