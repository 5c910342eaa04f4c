//! KV caches in memory of an engine's own: one layer, in pages or not, with any strides.
//!
//! [`super::attend`] and [`super::write_kv`] work on a [`super::KvCache`], whose blocks are laid out for the CPU. What is here works on rows as
//! an engine has them, with the same bits: a block's keys are turned side by side in the workspace before they are multiplied.

mod attend;
mod layout;
mod write;

pub use attend::{attend_paged, attend_paged_range};
pub use layout::PageLayout;
pub use write::{KvRowsMut, PagedKvMut, write_kv_paged};

use super::{BLOCK, Call, KvDtype};
use crate::error::{Error, Result};
use layout::Lengths;

/// One layer of a KV cache in memory of an engine's own, to be read by [`attend_paged`].
#[derive(Debug, Clone, Copy)]
pub struct PagedKv<'a> {
    /// Where rows lie.
    pub layout: PageLayout,
    /// What they are stored as.
    pub dtype: KvDtype,
    /// Keys after RoPE: the bytes of elements, aligned as those are, as many as the strides reach, or more. K and V may lie in one allocation.
    pub k: &'a [u8],
    /// Values, as `k`.
    pub v: &'a [u8],
    /// f32 \[n_pages, n_kv_heads, page_size\] of K and of V for [`KvDtype::Int8`], else None.
    pub scales: Option<[&'a [f32]; 2]>,
    /// u32 \[n_slots, n_kv_heads, [`PageLayout::present_words`]\], bit p % 32 of word p / 32 says that position p is held. None: every position
    /// before a span's end is.
    pub present: Option<&'a [u32]>,
    /// u32 \[n_slots, max_pages\], entries of pages that a span reaches below `n_pages`. None: slot s is page s.
    pub page_table: Option<&'a [u32]>,
}

impl PagedKv<'_> {
    /// Checks everything but element types' alignment, and returns M.
    fn check(&self, call: &Call<'_>) -> Result<usize> {
        let lengths = Lengths {
            rows: [self.k.len(), self.v.len()],
            scales: self.scales.map(|scales| scales.map(<[f32]>::len)),
            present: self.present.map(<[u32]>::len),
            page_table: self.page_table.map(<[u32]>::len),
        };
        self.layout.check(self.dtype, &lengths)?;
        let rows = call.check(&self.layout.kv_shape(call.layer))?;
        check_pages(&self.layout, self.page_table, call, |_| 0)?;
        Ok(rows)
    }
}

/// Checks the entries of a page table from the page of the position that `first` says of each span to its last.
fn check_pages(
    layout: &PageLayout,
    table: Option<&[u32]>,
    call: &Call<'_>,
    first: fn(&super::Span) -> usize,
) -> Result<()> {
    let Some(table) = table else { return Ok(()) };
    for span in call.spans.iter().filter(|span| span.len > 0) {
        let pages = first(span) / layout.page_size..span.end().div_ceil(layout.page_size);
        let entries = &table[span.slot * layout.max_pages..][pages];
        if let Some(&page) = entries.iter().find(|&&page| page as usize >= layout.n_pages) {
            return Err(Error::Index { what: "page_table", limit: layout.n_pages, got: page as usize });
        }
    }
    Ok(())
}

/// Bytes as elements, of which there may be some left over.
fn elements<'a, E: bytemuck::Pod>(what: &'static str, bytes: &'a [u8]) -> Result<&'a [E]> {
    let whole = bytes.len() - bytes.len() % size_of::<E>();
    bytemuck::try_cast_slice(&bytes[..whole]).map_err(|_| misaligned::<E>(what, bytes))
}

fn misaligned<E>(what: &'static str, bytes: &[u8]) -> Error {
    Error::Misaligned { what, expected: align_of::<E>() as u64, got: bytes.as_ptr().addr() as u64 }
}

/// Where the rows of sequences are, of a layout that has been checked.
#[derive(Clone, Copy)]
struct Places<'a> {
    layout: PageLayout,
    table: Option<&'a [u32]>,
}

impl Places<'_> {
    /// The page of a position, and the row in it.
    fn page(&self, slot: usize, position: usize) -> (usize, usize) {
        match self.table {
            None => (slot, position),
            Some(table) => {
                let PageLayout { page_size, max_pages, .. } = self.layout;
                (table[slot * max_pages + position / page_size] as usize, position % page_size)
            }
        }
    }

    /// The first element of a row.
    fn row(&self, (page, row): (usize, usize), kv_head: usize) -> usize {
        page * self.layout.page_stride + kv_head * self.layout.head_stride + row * self.layout.row_stride
    }

    /// The index of a row's scale.
    fn scale(&self, (page, row): (usize, usize), kv_head: usize) -> usize {
        (page * self.layout.n_kv_heads + kv_head) * self.layout.page_size + row
    }

    /// The index of the first presence word of a sequence and KV head.
    fn presence(&self, slot: usize, kv_head: usize) -> usize {
        (slot * self.layout.n_kv_heads + kv_head) * PageLayout::present_words(self.layout.capacity)
    }
}
