//! The query heads that run, by addresses.

use super::check_u32;
use crate::attention::AttentionShape;
use crate::attention::cuda::mirror::HeadsView;
use crate::device::{Address, Buffer, product};
use crate::error::Result;

/// The query heads that run for each span of a call: [`crate::attention::cuda::Heads`] by addresses.
///
/// Kernels stay inside their memory whatever lists, counts and masks hold; heads that a list names twice or out of order may
/// come out wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heads {
    /// Every head of every span.
    All,
    /// Query heads, strictly increasing: span b runs the first `counts[b]` of its row.
    List {
        /// u32 \[spans, width\].
        list: Address<u32>,
        /// u32 \[spans\].
        counts: Address<u32>,
        /// Entries per span.
        width: usize,
    },
    /// As `List`, of KV heads: each stands for all query heads of its group.
    Groups {
        /// u32 \[spans, width\].
        list: Address<u32>,
        /// u32 \[spans\].
        counts: Address<u32>,
        /// Entries per span.
        width: usize,
    },
    /// One bit per query head.
    Mask {
        /// u32 \[spans, ⌈n_q_heads / 32⌉\]: bit h % 32 of word h / 32.
        words: Address<u32>,
    },
}

impl Heads {
    pub(super) fn check(&self) -> Result<()> {
        match *self {
            Heads::All | Heads::Mask { .. } => Ok(()),
            Heads::List { width, .. } | Heads::Groups { width, .. } => check_u32("head list width", width),
        }
    }

    pub(super) fn name_buffers(&self, shape: &AttentionShape, n_spans: usize, show: &mut dyn FnMut(Buffer)) {
        match *self {
            Heads::All => {}
            Heads::List { list, counts, width } | Heads::Groups { list, counts, width } => {
                show(Buffer::read("head list", list, product([n_spans, width])));
                show(Buffer::read("head counts", counts, n_spans));
            }
            Heads::Mask { words } => {
                show(Buffer::read("head mask", words, product([n_spans, shape.n_q_heads.div_ceil(32)])));
            }
        }
    }

    /// What kernels take.
    pub(super) fn params(&self, shape: &AttentionShape) -> HeadsView {
        let listed = |form, list: Address<u32>, counts: Address<u32>, width: usize| HeadsView {
            list: list.get(),
            counts: counts.get(),
            form,
            width: width as u32,
        };
        match *self {
            Heads::All => HeadsView::default(),
            Heads::List { list, counts, width } => listed(1, list, counts, width),
            Heads::Groups { list, counts, width } => listed(2, list, counts, width),
            Heads::Mask { words } => listed(3, words, Address::NULL, shape.n_q_heads.div_ceil(32)),
        }
    }
}
