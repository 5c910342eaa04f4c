//! One layer of a KV cache, by addresses and strides.

use super::check_u32;
use crate::attention::PageLayout;
use crate::attention::cuda::kv_format::KvFormat;
use crate::attention::cuda::mirror::KvView;
use crate::device::{Access, Address, Buffer, or_null, product};
use crate::error::{Error, Result};

/// One layer of a KV cache in an engine's memory, whose rows lie where [`PageLayout`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kv {
    /// What rows are stored as.
    pub format: KvFormat,
    /// Keys after RoPE; aligned to 16 bytes.
    pub k: Address,
    /// Values, as `k`.
    pub v: Address,
    /// f32 \[n_pages, n_kv_heads, page_size\]: for int8, else None.
    pub k_scale: Option<Address<f32>>,
    /// As `k_scale`.
    pub v_scale: Option<Address<f32>>,
    /// u32 \[n_slots, n_kv_heads, [`PageLayout::present_words`]\], bit p % 32 of word p / 32 says that position p is held. None: every
    /// position before a span's end is.
    pub present: Option<Address<u32>>,
    /// u32 \[n_slots, max_pages\], each entry below `n_pages`. None: contiguous, slot s is page s.
    pub page_table: Option<Address<u32>>,
    /// Where the rows of K lie from `k` on, and those of V from `v` on; on devices all strides are multiples of 16 bytes, and pages that a table
    /// names have a power of two of positions. Positions of the capacity and later are neither read nor written.
    pub layout: PageLayout,
}

impl Kv {
    /// Checks that no row of V lies over one of K, of a layout that has been checked.
    pub(super) fn check_pair_apart(&self) -> Result<()> {
        self.layout.check_pair_apart(self.format.bytes(), [self.k.get(), self.v.get()])
    }

    /// Checks the layout, and besides what only devices ask: 32 bits, pages of powers of two, rows of whole 16 bytes.
    pub(super) fn check(&self) -> Result<()> {
        let (layout, refuse) = (&self.layout, |what, expected, got| Err(Error::Shape { what, expected, got }));
        if self.format == KvFormat::Int8 && layout.head_dim % 16 != 0 {
            return refuse("head_dim", "a multiple of 16 for int8 caches", layout.head_dim);
        }
        let has_table = self.page_table.is_some();
        let sizes = [
            ("capacity", layout.capacity),
            ("n_slots", layout.n_slots),
            ("n_pages", layout.n_pages),
            ("page_size", layout.page_size),
            ("max_pages", if has_table { layout.max_pages } else { 1 }),
        ];
        if let Some((what, got)) = sizes.into_iter().find(|&(_, size)| size == 0 || size > 1 << 31) {
            return refuse(what, "1 to 2^31", got);
        }
        if has_table && !layout.page_size.is_power_of_two() {
            return refuse("page_size", "a power of two, at most 2^31", layout.page_size);
        }
        layout.check_sizes(has_table)?;
        for (what, stride) in [
            ("page_stride", layout.page_stride),
            ("head_stride", layout.head_stride),
            ("row_stride", layout.row_stride),
        ] {
            if stride > 1 << 48 || stride * self.format.bytes() % 16 != 0 {
                return refuse(what, "a multiple of 16 bytes, at most 2^48 elements", stride);
            }
        }
        check_u32("row_stride", layout.row_stride)?;
        match self.format == KvFormat::Int8 && (self.k_scale.is_none() || self.v_scale.is_none()) {
            true => Err(Error::Misaligned { what: "kv scale", expected: 4, got: 0 }),
            false => Ok(()),
        }
    }

    /// Names the cache's buffers, whose rows are read or written.
    pub(super) fn name_buffers(&self, access: Access, show: &mut dyn FnMut(Buffer)) {
        let layout = &self.layout;
        // what cannot be counted is longer than any memory
        let elems = layout.elems().unwrap_or(usize::MAX);
        for (what, address) in [("k cache", self.k), ("v cache", self.v)] {
            let rows = Buffer::read(what, address, elems).of_bytes(self.format.bytes()).aligned(16);
            show(Buffer { access, ..rows });
        }
        for (what, scale) in [("k_scale", self.k_scale), ("v_scale", self.v_scale)] {
            if let Some(scale) = scale.filter(|_| self.format == KvFormat::Int8) {
                let scales = Buffer::read(what, scale, product(layout.scales()));
                show(Buffer { access, ..scales });
            }
        }
        if let Some(present) = self.present {
            let words = product(layout.presence());
            show(Buffer { access, ..Buffer::read("present", present, words) });
        }
        if let Some(table) = self.page_table {
            show(Buffer::read("page_table", table, product(layout.table())));
        }
    }

    /// What kernels take.
    pub(super) fn params(&self) -> KvView {
        let layout = &self.layout;
        KvView {
            k: self.k.get(),
            v: self.v.get(),
            k_scale: or_null(self.k_scale),
            v_scale: or_null(self.v_scale),
            present: or_null(self.present),
            page_table: or_null(self.page_table),
            page_stride: layout.page_stride as u64,
            head_stride: layout.head_stride as u64,
            row_stride: layout.row_stride as u32,
            page_size: layout.page_size as u32,
            max_pages: layout.max_pages as u32,
            present_words: PageLayout::present_words(layout.capacity) as u32,
            capacity: layout.capacity as u32,
            n_kv_heads: layout.n_kv_heads as u32,
        }
    }
}
