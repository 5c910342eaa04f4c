//! KV caches in memory of the caller's.

use crate::arguments::{MorayBytes, MorayBytesMut};
use crate::attention::kv_dtype;
use crate::dtype::MorayDtype;
use crate::status::{Fault, Outcome};
use moray::attention::{KvRowsMut, PageLayout, PagedKv, PagedKvMut};
use std::ops::Range;

/// One layer of a KV cache in memory of the caller's: of the process for `moray_attend`, of a device for `moray_cuda_attend`. Row `position` of a KV
/// head begins at page * page_stride + kv_head * head_stride + row * row_stride elements: page and row are the slot and the position without a
/// page table, else the slot's entry for position / page_size and position % page_size. K and V may lie in one allocation, and rows may be padded.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct MorayKvPages {
    /// What rows are stored as: `MORAY_F32`, `MORAY_F16`, `MORAY_BF16` or `MORAY_INT8`.
    pub dtype: MorayDtype,
    /// Keys, turned by the rotary embedding; as many bytes as the strides reach, or more.
    pub k: MorayBytesMut,
    /// Values, as `k`.
    pub v: MorayBytesMut,
    /// f32 [n_pages, n_kv_heads, page_size] for int8, else left out.
    pub k_scale: MorayBytesMut,
    /// As `k_scale`.
    pub v_scale: MorayBytesMut,
    /// u32 [n_slots, n_kv_heads, 2 * ceil(capacity / 64)], bit p % 32 of word p / 32 says that position p is held; left out where every
    /// position before a span's end is.
    pub present: MorayBytesMut,
    /// u32 [n_slots, max_pages], each below `n_pages`; left out where slot s is page s. On the CPU entries of pages that no span of a call reaches
    /// are not looked at, and others are checked.
    pub page_table: MorayBytes,
    /// Sequences that spans may name.
    pub n_slots: usize,
    /// Pages at `k` and `v`.
    pub n_pages: usize,
    /// Positions of a page: at least the capacity where there is no table, on devices a power of two where there is one.
    pub page_size: usize,
    /// Entries of a slot in the table.
    pub max_pages: usize,
    /// Elements from one page to the next; on devices all strides are multiples of 16 bytes.
    pub page_stride: usize,
    /// Elements from one KV head's rows to the next's.
    pub head_stride: usize,
    /// Elements from one position to the next.
    pub row_stride: usize,
    /// Positions of a slot.
    pub capacity: usize,
}

impl MorayKvPages {
    /// Where its rows lie.
    pub(crate) fn layout(&self, n_kv_heads: usize, head_dim: usize) -> PageLayout {
        let MorayKvPages {
            n_slots, n_pages, page_size, max_pages, page_stride, head_stride, row_stride, capacity, ..
        } = *self;
        PageLayout {
            n_kv_heads,
            head_dim,
            n_slots,
            capacity,
            n_pages,
            page_size,
            max_pages,
            page_stride,
            head_stride,
            row_stride,
        }
    }

    /// Its memory by name.
    pub(crate) fn ranges(&self) -> [(&'static str, Range<usize>); 6] {
        let of = |memory: MorayBytesMut| memory.as_read().range();
        [
            ("pages.k", of(self.k)),
            ("pages.v", of(self.v)),
            ("pages.k_scale", of(self.k_scale)),
            ("pages.v_scale", of(self.v_scale)),
            ("pages.present", of(self.present)),
            ("pages.page_table", self.page_table.range()),
        ]
    }

    /// Checks that what a call writes is apart from what it reads and from itself; rows of K and V may lie between each other.
    fn check_apart(&self, read: &[(&'static str, Range<usize>)]) -> Outcome {
        let ranges = self.ranges();
        let written = [self.k, self.v, self.k_scale, self.v_scale, self.present];
        for (i, memory) in written.into_iter().enumerate().filter(|(_, memory)| memory.bytes > 0) {
            memory.check_apart(ranges[i].0, read)?;
            let others = ranges.iter().enumerate().filter(|&(j, _)| j > i && (i, j) != (0, 1));
            let others: Vec<_> = others.map(|(_, other)| other.clone()).collect();
            memory.check_apart(ranges[i].0, &others)?;
        }
        Ok(())
    }

    /// The cache to be read.
    ///
    /// # Safety
    /// Its memory is the caller's, and nothing writes what is read of it during `'a`.
    pub(crate) unsafe fn view<'a>(&self, n_kv_heads: usize, head_dim: usize) -> Outcome<PagedKv<'a>> {
        // SAFETY: the caller's.
        let (k, v) = unsafe { (self.k.as_read().read("pages.k")?, self.v.as_read().read("pages.v")?) };
        // SAFETY: the caller's.
        let scales = unsafe {
            (self.k_scale.as_read().optional("pages.k_scale")?, self.v_scale.as_read().optional("pages.v_scale")?)
        };
        Ok(PagedKv {
            layout: self.layout(n_kv_heads, head_dim),
            dtype: kv_dtype("pages.dtype", self.dtype)?,
            k,
            v,
            scales: scales.0.zip(scales.1).map(|(k, v)| [k, v]),
            // SAFETY: the caller's.
            present: unsafe { self.present.as_read().optional("pages.present")? },
            // SAFETY: the caller's.
            page_table: unsafe { self.page_table.optional("pages.page_table")? },
        })
    }

    /// The cache to be written by a call that reads `read`.
    ///
    /// # Safety
    /// Its memory is the caller's, and nothing else uses it during `'a`.
    pub(crate) unsafe fn view_mut<'a>(
        &self,
        n_kv_heads: usize,
        head_dim: usize,
        read: &[(&'static str, Range<usize>)],
    ) -> Outcome<PagedKvMut<'a>> {
        self.check_apart(read)?;
        // SAFETY: the caller's; the parts are apart.
        let scales = unsafe { (self.k_scale.write("pages.k_scale")?, self.v_scale.write("pages.v_scale")?) };
        let has_scales = !self.k_scale.is_none() && !self.v_scale.is_none();
        Ok(PagedKvMut {
            layout: self.layout(n_kv_heads, head_dim),
            dtype: kv_dtype("pages.dtype", self.dtype)?,
            // SAFETY: the caller's.
            rows: unsafe { self.rows_mut()? },
            scales: has_scales.then_some([scales.0, scales.1]),
            present: match self.present.is_none() {
                true => None,
                // SAFETY: the caller's.
                false => Some(unsafe { self.present.write("pages.present")? }),
            },
            // SAFETY: the caller's.
            page_table: unsafe { self.page_table.optional("pages.page_table")? },
        })
    }

    /// K and V: two pieces of memory, or all from the beginning of one to the end of the other where they overlap.
    ///
    /// # Safety
    /// As [`MorayKvPages::view_mut`].
    unsafe fn rows_mut<'a>(&self) -> Outcome<KvRowsMut<'a>> {
        let (k, v) = (self.k.as_read().range(), self.v.as_read().range());
        if k.start >= v.end || v.start >= k.end {
            // SAFETY: the caller's; the two are apart.
            return Ok(unsafe { KvRowsMut::Apart { k: self.k.write("pages.k")?, v: self.v.write("pages.v")? } });
        }
        if k.start == v.start {
            return Err(Fault::Overlap { what: "pages.k", other: "pages.v" });
        }
        let first = if k.start < v.start { self.k } else { self.v };
        let both = MorayBytesMut { data: first.data, bytes: k.end.max(v.end) - first.data.addr() };
        let [k, v] = [k, v].map(|range| range.start - first.data.addr());
        // SAFETY: the caller's: the two overlap, so that all between their ends is theirs.
        Ok(KvRowsMut::Together { memory: unsafe { both.write("pages.k")? }, k, v })
    }
}
