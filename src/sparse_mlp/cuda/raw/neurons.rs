//! Which neurons a part of a call computes.

use super::List;
use crate::device::{Access, Address, Buffer, or_null, product};
use crate::sparse_mlp::cuda::{mask_words, mirror};

/// Which of `limit` neurons: positions of a list, or all of them without one; of those, for each token what its mask keeps.
#[derive(Debug, Clone, Copy)]
pub struct Neurons {
    /// None: position i is neuron i.
    pub list: Option<List>,
    /// u32 \[tokens, [`mask_words`] of the limit\]: bit j % 32 of word j / 32. None: all are kept.
    pub masks: Option<Address<u32>>,
    /// Neurons that there are.
    pub limit: usize,
}

impl Neurons {
    /// All of them.
    pub fn all(limit: usize) -> Neurons {
        Neurons { list: None, masks: None, limit }
    }

    pub(super) fn name_buffers(&self, tokens: usize, show: &mut dyn FnMut(Buffer)) {
        if let Some(list) = self.list {
            list.name_buffers(self.limit, Access::Read, show);
        }
        if let Some(masks) = self.masks {
            show(Buffer::read("masks", masks, product([tokens, mask_words(self.limit)])));
        }
    }

    pub(super) fn params(&self) -> mirror::Neurons {
        mirror::Neurons {
            list: or_null(self.list.map(|list| list.list)),
            count: or_null(self.list.map(|list| list.count)),
            masks: or_null(self.masks),
            mask_words: mask_words(self.limit) as u32,
            limit: self.limit as u32,
        }
    }
}
