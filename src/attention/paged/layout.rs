//! Where the rows of a layer lie.

use super::{BLOCK, KvDtype};
use crate::attention::{KvShape, check_head_dim};
use crate::error::{Error, Result, check_len, product};

/// Where the rows of one layer of a KV cache lie.
///
/// Row `position` of a KV head begins at `page · page_stride + kv_head · head_stride + row · row_stride` elements, where page and row are the
/// slot and the position, or with a page table the slot's entry for position / page_size, and position % page_size. So pages may have heads
/// outside positions or the other way round, K and V may lie in one allocation, and rows may be padded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageLayout {
    /// Key and value heads.
    pub n_kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Sequences that spans may name.
    pub n_slots: usize,
    /// Positions of a sequence.
    pub capacity: usize,
    /// Pages there are; without a table at least a page for each slot.
    pub n_pages: usize,
    /// Positions of a page; without a table at least the capacity.
    pub page_size: usize,
    /// Entries of a slot in the table; not looked at without one.
    pub max_pages: usize,
    /// Elements from one page to the next.
    pub page_stride: usize,
    /// Elements from one KV head's rows to the next's.
    pub head_stride: usize,
    /// Elements from one position to the next, at least head_dim.
    pub row_stride: usize,
}

/// How long the buffers are that come with a layout, in bytes, floats and words.
pub(super) struct Lengths {
    pub(super) rows: [usize; 2],
    pub(super) scales: Option<[usize; 2]>,
    pub(super) present: Option<usize>,
    pub(super) page_table: Option<usize>,
}

impl PageLayout {
    /// Presence words of a sequence and KV head: whole blocks of 64 positions.
    pub fn present_words(capacity: usize) -> usize {
        capacity.div_ceil(BLOCK).saturating_mul(BLOCK / 32)
    }

    /// Elements from the first of K, or of V, to the last; None if they cannot be counted.
    pub fn elems(&self) -> Option<usize> {
        let last = |count: usize, stride: usize| count.checked_sub(1)?.checked_mul(stride);
        last(self.n_pages, self.page_stride)?
            .checked_add(last(self.n_kv_heads, self.head_stride)?)?
            .checked_add(last(self.page_size, self.row_stride)?)?
            .checked_add(self.head_dim)
    }

    /// The cache that a call is checked against; it has every layer.
    pub(super) fn kv_shape(&self, layer: usize) -> KvShape {
        let PageLayout { n_slots, n_kv_heads, head_dim, capacity, .. } = *self;
        KvShape { n_layers: layer.saturating_add(1), n_slots, n_kv_heads, head_dim, capacity }
    }

    /// Checks the numbers, and the buffers against them.
    pub(super) fn check(&self, dtype: KvDtype, lengths: &Lengths) -> Result<()> {
        check_head_dim(self.head_dim)?;
        self.check_sizes(lengths.page_table.is_some())?;
        let reach = self.elems().and_then(|elems| elems.checked_mul(dtype.bytes()));
        let expected = "pages that can be counted";
        let reach = reach.ok_or(Error::Shape { what: "page_stride", expected, got: self.page_stride })?;
        for (what, got) in ["k cache", "v cache"].into_iter().zip(lengths.rows) {
            if got < reach {
                let elems = |bytes| bytes / dtype.bytes();
                return Err(Error::Length { what, expected: elems(reach), got: elems(got) });
            }
        }
        if dtype == KvDtype::Int8 {
            let expected = product("n_pages", &self.scales())?;
            let [k, v] = lengths.scales.unwrap_or([0; 2]);
            check_len("k_scale", expected, k)?;
            check_len("v_scale", expected, v)?;
        }
        if let Some(got) = lengths.present {
            check_len("present", product("n_slots", &self.presence())?, got)?;
        }
        match lengths.page_table {
            Some(got) => check_len("page_table", product("n_slots", &self.table())?, got),
            None => Ok(()),
        }
    }

    /// The sizes of the scales of K, and of V.
    pub(in crate::attention) fn scales(&self) -> [usize; 3] {
        [self.n_pages, self.n_kv_heads, self.page_size]
    }

    /// The sizes of the presence words.
    pub(in crate::attention) fn presence(&self) -> [usize; 3] {
        [self.n_slots, self.n_kv_heads, PageLayout::present_words(self.capacity)]
    }

    /// The sizes of the page table.
    pub(in crate::attention) fn table(&self) -> [usize; 2] {
        [self.n_slots, self.max_pages]
    }

    /// Positions, heads and pages by their strides, shortest first: name, number, stride.
    fn steps(&self) -> [(&'static str, usize, usize); 3] {
        let mut steps = [
            ("row_stride", self.page_size, self.row_stride),
            ("head_stride", self.n_kv_heads, self.head_stride),
            ("page_stride", self.n_pages, self.page_stride),
        ];
        steps.sort_by_key(|&(_, _, stride)| stride);
        steps
    }

    /// Checks that no row lies over another, as a call needs that writes them: of positions, heads and pages those with the longer stride begin
    /// beyond the last row of those with the shorter one.
    pub(in crate::attention) fn check_apart(&self) -> Result<()> {
        let mut reach = self.head_dim;
        for (what, count, stride) in self.steps().into_iter().filter(|&(_, count, _)| count > 1) {
            if stride < reach {
                return Err(Error::Shape { what, expected: "rows that do not lie over each other", got: stride });
            }
            reach = reach.saturating_add((count - 1).saturating_mul(stride));
        }
        Ok(())
    }

    /// Checks that no row of V lies over one of K, given where both begin in bytes, of a layout that [`PageLayout::check_apart`] takes.
    pub(in crate::attention) fn check_pair_apart(&self, dtype_bytes: usize, [k, v]: [u64; 2]) -> Result<()> {
        let width = dtype_bytes as u64;
        let steps = self.steps().map(|(_, count, stride)| (count as u64, (stride as u64).saturating_mul(width)));
        let distance = k.abs_diff(v);
        match is_over(&steps, self.head_dim as u64 * width, distance) {
            true => Err(Error::Shape {
                what: "v cache",
                expected: "rows that do not lie over those of the k cache, from which it begins so many bytes away",
                got: usize::try_from(distance).unwrap_or(usize::MAX),
            }),
            false => Ok(()),
        }
    }

    /// Checks the numbers by themselves, on the CPU and on devices.
    pub(in crate::attention) fn check_sizes(&self, has_table: bool) -> Result<()> {
        let refuse = |what, expected, got| Err(Error::Shape { what, expected, got });
        let sizes = [
            ("n_kv_heads", self.n_kv_heads),
            ("n_slots", self.n_slots),
            ("capacity", self.capacity),
            ("n_pages", self.n_pages),
            ("page_size", self.page_size),
        ];
        if let Some((what, got)) = sizes.into_iter().find(|&(_, size)| size == 0) {
            return refuse(what, "at least 1", got);
        }
        if self.row_stride < self.head_dim {
            return refuse("row_stride", "at least head_dim", self.row_stride);
        }
        match has_table {
            true if self.max_pages < self.capacity.div_ceil(self.page_size) => {
                refuse("max_pages", "pages for the capacity", self.max_pages)
            }
            false if self.page_size < self.capacity => {
                refuse("page_size", "the capacity at least where there is no table", self.page_size)
            }
            false if self.n_pages < self.n_slots => refuse("n_pages", "a page for each slot", self.n_pages),
            _ => Ok(()),
        }
    }
}

/// Whether rows of `row` bytes, so many at each of the strides, lie over the same rows moved on by `distance` bytes. What is at one stride ends
/// before its next begins, so that what is moved by whole strides and a rest lies over the place that it begins in or over the one after.
fn is_over(steps: &[(u64, u64)], row: u64, distance: u64) -> bool {
    let Some((&(count, stride), shorter)) = steps.split_last() else { return distance < row };
    if count == 1 {
        return is_over(shorter, row, distance);
    }
    let (whole, rest) = (distance / stride, distance % stride);
    whole < count && is_over(shorter, row, rest) || whole + 1 < count && is_over(shorter, row, stride - rest)
}
