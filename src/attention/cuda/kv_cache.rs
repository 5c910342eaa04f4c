//! The KV cache on the device: contiguous or in pages, f32 to int8, with or without holes.

use crate::attention::{KvRow, KvShape, PageLayout, check_index};
use crate::device::cudarc::driver::CudaSlice;
use crate::device::{Address, Arguments, Device};
use crate::error::{Error, Result, check_len};
use half::{bf16, f16};

use super::kv_format::KvFormat;
use super::raw::Kv;

/// How sequences lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KvLayout {
    /// Each slot has room for its capacity: \[slots, n_kv_heads, capacity, head_dim\].
    Contiguous,
    /// Pages that slots share by a table, see [`KvCache::set_pages`]: \[n_pages, n_kv_heads, page_size, head_dim\].
    Paged {
        /// Positions per page: a power of two.
        page_size: usize,
        /// Pages of a layer.
        n_pages: usize,
    },
}

/// Keys (after RoPE) and values of every layer and sequence on the device.
///
/// With `holes` a presence bit per (layer, slot, kv_head, position) says what attention may read; without, every
/// position before a span must have been written, and the policies that leave positions out are refused.
#[derive(Debug)]
pub struct KvCache {
    place: Geometry,
    k: CudaSlice<u8>,
    v: CudaSlice<u8>,
    /// K's scales, then V's; one element if there are none.
    scales: CudaSlice<f32>,
    present: Option<CudaSlice<u32>>,
    table: Option<CudaSlice<u32>>,
}

/// Where rows lie.
#[derive(Debug, Clone, Copy)]
struct Geometry {
    shape: KvShape,
    format: KvFormat,
    /// Pages of a layer, and positions of each.
    n_pages: usize,
    page_size: usize,
}

/// Where a cache's allocations begin.
struct Parts {
    k: Address,
    v: Address,
    scales: Address<f32>,
    present: Option<Address<u32>>,
    table: Option<Address<u32>>,
}

impl Geometry {
    /// Rows of K of a layer, and of V.
    fn layer_rows(&self) -> usize {
        self.n_pages * self.shape.n_kv_heads * self.page_size
    }

    fn row_bytes(&self) -> usize {
        self.shape.head_dim * self.format.bytes()
    }

    /// Pages of a slot.
    fn max_pages(&self) -> usize {
        self.shape.capacity.div_ceil(self.page_size)
    }

    /// Presence words of a (layer, slot, kv_head).
    fn present_words(&self) -> usize {
        PageLayout::present_words(self.shape.capacity)
    }

    /// A layer of a cache.
    fn layer(&self, layer: usize, parts: Parts) -> Result<Kv> {
        let Geometry { shape, format, n_pages, page_size } = *self;
        check_index("layer", layer, shape.n_layers)?;
        let (first, all) = (layer * self.layer_rows(), shape.n_layers * self.layer_rows());
        let scale = |row: usize| (format == KvFormat::Int8).then(|| parts.scales.offset(row));
        let words = layer * shape.n_slots * shape.n_kv_heads * self.present_words();
        Ok(Kv {
            format,
            k: parts.k.offset(first * self.row_bytes()),
            v: parts.v.offset(first * self.row_bytes()),
            k_scale: scale(first),
            v_scale: scale(all + first),
            present: parts.present.map(|present| present.offset(words)),
            page_table: parts.table,
            layout: PageLayout {
                n_kv_heads: shape.n_kv_heads,
                head_dim: shape.head_dim,
                n_slots: shape.n_slots,
                capacity: shape.capacity,
                n_pages,
                page_size,
                max_pages: self.max_pages(),
                page_stride: shape.n_kv_heads * page_size * shape.head_dim,
                head_stride: page_size * shape.head_dim,
                row_stride: shape.head_dim,
            },
        })
    }
}

impl KvCache {
    /// Allocates a cache.
    ///
    /// # Errors
    /// [`Error::Shape`] for a size of 0, a `head_dim` that the kernels do not take or a page size that is no power of two;
    /// [`Error::OutOfMemory`] if it does not fit.
    pub fn new(device: &Device, shape: KvShape, format: KvFormat, layout: KvLayout, holes: bool) -> Result<KvCache> {
        check_shape(&shape, format)?;
        device.prepare(super::MODULES)?;
        let (n_pages, page_size) = match layout {
            KvLayout::Contiguous => (shape.n_slots, shape.capacity),
            KvLayout::Paged { page_size, n_pages } => {
                check_pages(page_size, n_pages)?;
                (n_pages, page_size)
            }
        };
        let refused = || Error::Shape { what: "kv cache", expected: "fewer than 2^63 bytes", got: usize::MAX };
        let rows = [shape.n_layers, n_pages, shape.n_kv_heads, page_size];
        let rows = rows.into_iter().try_fold(1usize, usize::checked_mul).ok_or_else(refused)?;
        let bytes = rows.checked_mul(shape.head_dim * format.bytes()).filter(|&n| n < 1 << 62).ok_or_else(refused)?;
        let place = Geometry { shape, format, n_pages, page_size };
        let words = shape.n_layers * shape.n_slots * shape.n_kv_heads * place.present_words();
        Ok(KvCache {
            place,
            k: device.zeros(bytes)?,
            v: device.zeros(bytes)?,
            scales: device.zeros(if format == KvFormat::Int8 { 2 * rows } else { 1 })?,
            present: if holes { Some(device.zeros(words)?) } else { None },
            table: match layout {
                KvLayout::Contiguous => None,
                // every entry is a page that exists, so that nothing outside is read before the table is set
                KvLayout::Paged { .. } => Some(device.zeros(shape.n_slots * place.max_pages())?),
            },
        })
    }

    /// The dimensions.
    pub fn shape(&self) -> &KvShape {
        &self.place.shape
    }

    /// What it stores.
    pub fn format(&self) -> KvFormat {
        self.place.format
    }

    /// Whether positions may be missing.
    pub fn has_holes(&self) -> bool {
        self.present.is_some()
    }

    /// Bytes allocated on the device.
    pub fn memory_bytes(&self) -> usize {
        let words = |slice: &Option<CudaSlice<u32>>| slice.as_ref().map_or(0, |slice| 4 * slice.len());
        self.k.len() + self.v.len() + 4 * self.scales.len() + words(&self.present) + words(&self.table)
    }

    /// Names the pages of a slot, in the order of its positions; they serve every layer. Pages that were named before
    /// and are not again are no longer read.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a contiguous cache, [`Error::Index`] for a slot or a page out of range, [`Error::Length`]
    /// for more pages than the capacity has.
    pub fn set_pages(&mut self, device: &Device, slot: usize, pages: &[u32]) -> Result<()> {
        let (max_pages, n_pages) = (self.place.max_pages(), self.place.n_pages);
        check_index("slot", slot, self.place.shape.n_slots)?;
        let Some(table) = &mut self.table else {
            return Err(Error::Unsupported {
                what: "pages",
                expected: "a paged cache",
                got: "a contiguous one".into(),
            });
        };
        if pages.len() > max_pages {
            return Err(Error::Length { what: "pages", expected: max_pages, got: pages.len() });
        }
        pages.iter().try_for_each(|&page| check_index("page", page as usize, n_pages))?;
        let mut row = table.slice_mut(slot * max_pages..slot * max_pages + pages.len());
        if pages.is_empty() {
            return Ok(());
        }
        device.upload_into(pages, &mut row)
    }

    /// Reads one key (after RoPE) and value as f32, \[head_dim\] each, and says whether the row is held; a hole reads as zeros.
    /// Waits for the device: for tests and debugging.
    ///
    /// # Errors
    /// [`Error::Index`] if the layer or the row is out of range, [`Error::Length`] for a wrong buffer, [`Error::Driver`] if a
    /// copy fails.
    pub fn read_row(&self, device: &Device, layer: usize, row: KvRow, k: &mut [f32], v: &mut [f32]) -> Result<bool> {
        let Geometry { shape, format, n_pages, page_size } = &self.place;
        check_index("layer", layer, shape.n_layers)?;
        check_index("slot", row.slot, shape.n_slots)?;
        check_index("kv_head", row.kv_head, shape.n_kv_heads)?;
        check_index("position", row.position, shape.capacity)?;
        check_len("k", shape.head_dim, k.len())?;
        check_len("v", shape.head_dim, v.len())?;
        if let Some(present) = &self.present {
            let head = (layer * shape.n_slots + row.slot) * shape.n_kv_heads + row.kv_head;
            let word = head * self.place.present_words() + row.position / 32;
            if device.download(&present.slice(word..word + 1))?[0] >> (row.position % 32) & 1 == 0 {
                k.fill(0.0);
                v.fill(0.0);
                return Ok(false);
            }
        }
        let (page, within) = match &self.table {
            None => (row.slot, row.position),
            Some(table) => {
                let entry = row.slot * self.place.max_pages() + row.position / page_size;
                (device.download(&table.slice(entry..entry + 1))?[0] as usize, row.position % page_size)
            }
        };
        let index = ((layer * n_pages + page) * shape.n_kv_heads + row.kv_head) * page_size + within;
        let bytes = self.place.row_bytes();
        for (is_v, data, out) in [(false, &self.k, k), (true, &self.v, v)] {
            let stored = device.download(&data.slice(index * bytes..(index + 1) * bytes))?;
            let scale = match format {
                KvFormat::Int8 => {
                    let at = index + if is_v { self.scales.len() / 2 } else { 0 };
                    device.download(&self.scales.slice(at..at + 1))?[0]
                }
                _ => 1.0,
            };
            widen(*format, &stored, scale, out);
        }
        Ok(true)
    }

    /// Holds a layer for a call that reads it.
    pub(super) fn hold<'a>(&'a self, arguments: &mut Arguments<'a>, layer: usize) -> Result<Kv> {
        let parts = Parts {
            k: arguments.read("kv cache", &self.k)?,
            v: arguments.read("kv cache", &self.v)?,
            scales: arguments.read("kv cache", &self.scales)?,
            present: self.present.as_ref().map(|present| arguments.read("kv cache", present)).transpose()?,
            table: self.table.as_ref().map(|table| arguments.read("kv cache", table)).transpose()?,
        };
        self.place.layer(layer, parts)
    }

    /// Holds a layer for a call that writes it.
    pub(super) fn hold_mut<'a>(&'a mut self, arguments: &mut Arguments<'a>, layer: usize) -> Result<Kv> {
        let parts = Parts {
            k: arguments.write("kv cache", &mut self.k)?,
            v: arguments.write("kv cache", &mut self.v)?,
            scales: arguments.write("kv cache", &mut self.scales)?,
            present: self.present.as_mut().map(|present| arguments.write("kv cache", present)).transpose()?,
            table: self.table.as_ref().map(|table| arguments.read("kv cache", table)).transpose()?,
        };
        self.place.layer(layer, parts)
    }
}

fn check_shape(shape: &KvShape, format: KvFormat) -> Result<()> {
    let sizes = [
        ("n_layers", shape.n_layers),
        ("n_slots", shape.n_slots),
        ("n_kv_heads", shape.n_kv_heads),
        ("capacity", shape.capacity),
    ];
    for (what, got) in sizes {
        if got == 0 || got > 1 << 24 {
            return Err(Error::Shape { what, expected: "1 to 2^24", got });
        }
    }
    let d = shape.head_dim;
    match format {
        _ if d == 0 || d % 8 != 0 || d > super::MAX_HEAD_DIM => {
            Err(Error::Shape { what: "head_dim", expected: "a positive multiple of 8, at most 256", got: d })
        }
        KvFormat::Int8 if d % 16 != 0 => {
            Err(Error::Shape { what: "head_dim", expected: "a multiple of 16 for int8 caches", got: d })
        }
        _ => Ok(()),
    }
}

fn check_pages(page_size: usize, n_pages: usize) -> Result<()> {
    if !page_size.is_power_of_two() || page_size > 1 << 24 {
        return Err(Error::Shape { what: "page_size", expected: "a power of two, at most 2^24", got: page_size });
    }
    if n_pages == 0 || n_pages > 1 << 31 {
        return Err(Error::Shape { what: "n_pages", expected: "1 to 2^31", got: n_pages });
    }
    Ok(())
}

fn widen(format: KvFormat, stored: &[u8], scale: f32, out: &mut [f32]) {
    let halves = stored.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    let words = stored.chunks_exact(4).map(|word| f32::from_le_bytes([word[0], word[1], word[2], word[3]]));
    match format {
        KvFormat::F32 => out.iter_mut().zip(words).for_each(|(out, word)| *out = word),
        KvFormat::F16 => out.iter_mut().zip(halves).for_each(|(out, bits)| *out = f16::from_bits(bits).to_f32()),
        KvFormat::Bf16 => out.iter_mut().zip(halves).for_each(|(out, bits)| *out = bf16::from_bits(bits).to_f32()),
        KvFormat::Int8 => out.iter_mut().zip(stored).for_each(|(out, &code)| *out = scale * f32::from(code as i8)),
    }
}
