//! One layer of a KV cache, by addresses and strides.

use super::check_u32;
use crate::attention::BLOCK;
use crate::attention::cuda::kv_format::KvFormat;
use crate::attention::cuda::mirror::KvView;
use crate::device::{Access, Address, Buffer, or_null, product};
use crate::error::{Error, Result};

/// One layer of a KV cache in an engine's memory.
///
/// Row `position` of a KV head begins at `page · page_stride + kv_head · head_stride + row · row_stride` elements, where page and
/// row are the slot and the position (contiguous), or the entry of the slot's page table and the position within the page. So
/// pages may have heads outside positions or the other way round, K and V may lie in one allocation, and rows may be padded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kv {
    /// What rows are stored as.
    pub format: KvFormat,
    /// Keys after RoPE; aligned to 16 bytes, as all strides are.
    pub k: Address,
    /// Values, as `k`.
    pub v: Address,
    /// f32 \[n_pages, n_kv_heads, page_size\]: for int8, else None.
    pub k_scale: Option<Address<f32>>,
    /// As `k_scale`.
    pub v_scale: Option<Address<f32>>,
    /// u32 \[n_slots, n_kv_heads, [`Kv::present_words`]\], bit p % 32 of word p / 32 says that position p is held. None: every
    /// position before a span's end is.
    pub present: Option<Address<u32>>,
    /// u32 \[n_slots, max_pages\], each entry below `n_pages`. None: contiguous, slot s is page s.
    pub page_table: Option<Address<u32>>,
    /// Sequences that spans may name.
    pub n_slots: usize,
    /// Pages at `k` and `v`; of a contiguous cache at least `n_slots`.
    pub n_pages: usize,
    /// Positions of a page: a power of two where there is a table, at least the capacity where there is none.
    pub page_size: usize,
    /// Entries of a slot in the table.
    pub max_pages: usize,
    /// Elements from one page to the next.
    pub page_stride: usize,
    /// Elements from one KV head's rows to the next's.
    pub head_stride: usize,
    /// Elements from one position to the next.
    pub row_stride: usize,
    /// Positions of a slot; later ones are neither read nor written.
    pub capacity: usize,
    /// KV heads.
    pub n_kv_heads: usize,
}

impl Kv {
    /// Presence words of a (slot, KV head): whole blocks of 64 positions.
    pub fn present_words(capacity: usize) -> usize {
        capacity.div_ceil(BLOCK) * (BLOCK / 32)
    }

    pub(super) fn check(&self, head_dim: usize) -> Result<()> {
        let refuse = |what, expected, got| Err(Error::Shape { what, expected, got });
        if self.format == KvFormat::Int8 && head_dim % 16 != 0 {
            return refuse("head_dim", "a multiple of 16 for int8 caches", head_dim);
        }
        if self.capacity == 0 || self.capacity > 1 << 31 {
            return refuse("capacity", "1 to 2^31", self.capacity);
        }
        if self.n_slots == 0 || self.n_slots > 1 << 31 {
            return refuse("n_slots", "1 to 2^31", self.n_slots);
        }
        self.check_pages()?;
        for (what, stride) in
            [("page_stride", self.page_stride), ("head_stride", self.head_stride), ("row_stride", self.row_stride)]
        {
            if stride > 1 << 48 || stride * self.format.bytes() % 16 != 0 {
                return refuse(what, "a multiple of 16 bytes, at most 2^48 elements", stride);
            }
        }
        if self.row_stride < head_dim {
            return refuse("row_stride", "at least head_dim", self.row_stride);
        }
        check_u32("row_stride", self.row_stride)?;
        match self.format == KvFormat::Int8 && (self.k_scale.is_none() || self.v_scale.is_none()) {
            true => Err(Error::Misaligned { what: "kv scale", expected: 4, got: 0 }),
            false => Ok(()),
        }
    }

    fn check_pages(&self) -> Result<()> {
        let refuse = |what, expected, got| Err(Error::Shape { what, expected, got });
        if self.n_pages == 0 || self.n_pages > 1 << 31 {
            return refuse("n_pages", "1 to 2^31", self.n_pages);
        }
        if self.page_table.is_none() {
            return match () {
                () if self.page_size < self.capacity || self.page_size > 1 << 31 => {
                    refuse("page_size", "the capacity at least where there is no table", self.page_size)
                }
                () if self.n_pages < self.n_slots => refuse("n_pages", "a page for each slot", self.n_pages),
                () => Ok(()),
            };
        }
        if !self.page_size.is_power_of_two() || self.page_size > 1 << 31 {
            return refuse("page_size", "a power of two, at most 2^31", self.page_size);
        }
        match self.max_pages < self.capacity.div_ceil(self.page_size) || self.max_pages > 1 << 31 {
            true => refuse("max_pages", "pages for the capacity", self.max_pages),
            false => Ok(()),
        }
    }

    /// Names the cache's buffers, whose rows are read or written.
    pub(super) fn name_buffers(&self, head_dim: usize, access: Access, show: &mut dyn FnMut(Buffer)) {
        let last = |count: usize, stride: usize| product([count.saturating_sub(1), stride]);
        let elems = last(self.n_pages, self.page_stride)
            .saturating_add(last(self.n_kv_heads, self.head_stride))
            .saturating_add(last(self.page_size, self.row_stride))
            .saturating_add(head_dim);
        for (what, address) in [("k cache", self.k), ("v cache", self.v)] {
            let rows = Buffer::read(what, address, elems).of_bytes(self.format.bytes()).aligned(16);
            show(Buffer { access, ..rows });
        }
        for (what, scale) in [("k_scale", self.k_scale), ("v_scale", self.v_scale)] {
            if let Some(scale) = scale.filter(|_| self.format == KvFormat::Int8) {
                let scales = Buffer::read(what, scale, product([self.n_pages, self.n_kv_heads, self.page_size]));
                show(Buffer { access, ..scales });
            }
        }
        if let Some(present) = self.present {
            let words = product([self.n_slots, self.n_kv_heads, Kv::present_words(self.capacity)]);
            show(Buffer { access, ..Buffer::read("present", present, words) });
        }
        if let Some(table) = self.page_table {
            show(Buffer::read("page_table", table, product([self.n_slots, self.max_pages])));
        }
    }

    /// What kernels take.
    pub(super) fn params(&self) -> KvView {
        KvView {
            k: self.k.get(),
            v: self.v.get(),
            k_scale: or_null(self.k_scale),
            v_scale: or_null(self.v_scale),
            present: or_null(self.present),
            page_table: or_null(self.page_table),
            page_stride: self.page_stride as u64,
            head_stride: self.head_stride as u64,
            row_stride: self.row_stride as u32,
            page_size: self.page_size as u32,
            max_pages: self.max_pages as u32,
            present_words: Kv::present_words(self.capacity) as u32,
            capacity: self.capacity as u32,
            n_kv_heads: self.n_kv_heads as u32,
        }
    }
}
