//! The KV cache: memory of fixed size, with holes.

use super::element::KvElement;
use super::storage::{KvDtype, Storage, with_element};
use super::{BLOCK, check_head_dim, check_index};
use crate::error::{Error, Result, check_len};

/// The dimensions of a [`KvCache`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KvShape {
    /// Layers.
    pub n_layers: usize,
    /// Sequences held at once.
    pub n_slots: usize,
    /// Key and value heads per layer.
    pub n_kv_heads: usize,
    /// Elements per head.
    pub head_dim: usize,
    /// Positions per slot.
    pub capacity: usize,
}

impl KvShape {
    /// Blocks per (layer, slot, kv_head).
    pub(super) fn blocks(&self) -> usize {
        self.capacity.div_ceil(BLOCK)
    }

    /// Elements of one V row: head_dim, padded to whole groups of sixteen lanes.
    pub(super) fn v_stride(&self) -> usize {
        self.head_dim.next_multiple_of(16)
    }

    /// Elements of a block: K, then V, then scales if there are any.
    pub(super) fn block_elems<E: KvElement>(&self) -> usize {
        BLOCK * (self.head_dim + self.v_stride()) + E::SCALE_ELEMS
    }

    /// (blocks, elements) of the whole cache, if they can be counted.
    fn totals(&self, dtype: KvDtype) -> Option<(usize, usize)> {
        let heads = self.n_layers.checked_mul(self.n_slots)?.checked_mul(self.n_kv_heads)?;
        let blocks = heads.checked_mul(self.blocks())?;
        let elems = with_element!(dtype, E => self.block_elems::<E>());
        Some((blocks, blocks.checked_mul(elems)?))
    }

    fn check(&self) -> Result<()> {
        let sizes = [
            ("n_layers", self.n_layers),
            ("n_slots", self.n_slots),
            ("n_kv_heads", self.n_kv_heads),
            ("capacity", self.capacity),
        ];
        if let Some((what, got)) = sizes.into_iter().find(|&(_, size)| size == 0) {
            return Err(Error::Shape { what, expected: "at least 1", got });
        }
        check_head_dim(self.head_dim)
    }
}

/// One K or V row of a sequence: what has to be projected and written on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KvRow {
    /// The sequence.
    pub slot: usize,
    /// The KV head.
    pub kv_head: usize,
    /// The position; RoPE turns the row by it.
    pub position: usize,
}

/// Keys (after RoPE) and values of every layer and sequence, with a presence bit per (layer, slot, kv_head, position).
///
/// Layout: `[layer][slot][kv_head][position / 64]` blocks of 64 positions, each `K [4][head_dim][16]`, V `[64][head_dim
/// rounded up to 16]`. Element (j, i) of a block's K is at `(j / 16 · head_dim + i) · 16 + j % 16`: sixteen positions side
/// by side, so that one load feeds sixteen scores and no score needs a sum across lanes. Blocks start on a cache line. In
/// [`KvDtype::Int8`] the block's scales follow, f32: `[64]` of K, `[64]` of V.
///
/// A position without its presence bit is a hole: attention leaves it out of the softmax.
///
/// # Example
/// ```
/// use moray::attention::{KvCache, KvDtype, KvShape};
/// let shape = KvShape { n_layers: 30, n_slots: 1, n_kv_heads: 3, head_dim: 64, capacity: 2048 };
/// let cache = KvCache::new(shape, KvDtype::F16)?;
/// assert_eq!(cache.len(0), 0);
/// assert!(cache.memory_bytes() >= 2 * 30 * 2048 * 3 * 64 * 2);
/// # Ok::<(), moray::Error>(())
/// ```
#[derive(Debug)]
pub struct KvCache {
    shape: KvShape,
    dtype: KvDtype,
    data: Storage,
    /// [layer][slot][kv_head][block], bit j of a word is position 64·block + j.
    present: Vec<u64>,
    /// [slot], one past the last position written.
    lens: Vec<usize>,
}

impl KvCache {
    /// Allocates the whole cache, all holes.
    ///
    /// # Errors
    /// [`Error::Shape`] if a size is 0, `head_dim` is not supported, or the memory cannot be had.
    pub fn new(shape: KvShape, dtype: KvDtype) -> Result<KvCache> {
        shape.check()?;
        let too_large = Error::Shape { what: "kv cache", expected: "fewer than 2^64 elements", got: usize::MAX };
        let (blocks, elems) = shape.totals(dtype).ok_or(too_large)?;
        let data = Storage::new("kv cache elements", dtype, elems)?;
        Ok(KvCache { shape, dtype, data, present: vec![0; blocks], lens: vec![0; shape.n_slots] })
    }

    /// The dimensions.
    pub fn shape(&self) -> &KvShape {
        &self.shape
    }

    /// The element type.
    pub fn dtype(&self) -> KvDtype {
        self.dtype
    }

    /// Bytes allocated: elements, presence bits and lengths.
    pub fn memory_bytes(&self) -> usize {
        self.data.memory_bytes() + size_of_val(&self.present[..]) + size_of_val(&self.lens[..])
    }

    /// Bytes a cache would allocate; `None` if they cannot be counted.
    pub fn memory_bytes_for(shape: &KvShape, dtype: KvDtype) -> Option<usize> {
        let (blocks, elems) = shape.totals(dtype)?;
        Storage::bytes_for(dtype, elems)?
            .checked_add(blocks.checked_mul(8)?)?
            .checked_add(shape.n_slots.checked_mul(8)?)
    }

    /// One past the last position written since the slot was emptied, holes included; 0 for a slot out of range.
    pub fn len(&self, slot: usize) -> usize {
        self.lens.get(slot).copied().unwrap_or(0)
    }

    /// Says whether nothing has been written to a slot.
    pub fn is_empty(&self, slot: usize) -> bool {
        self.len(slot) == 0
    }

    /// Forgets positions `len` and later of a slot, in every layer.
    ///
    /// # Errors
    /// [`Error::Index`] if the slot is out of range.
    pub fn truncate(&mut self, slot: usize, len: usize) -> Result<()> {
        check_index("slot", slot, self.shape.n_slots)?;
        let end = self.lens[slot].div_ceil(BLOCK);
        for layer in 0..self.shape.n_layers {
            for kv_head in 0..self.shape.n_kv_heads {
                let first = self.block_index(layer, slot, kv_head);
                for block in len / BLOCK..end {
                    self.present[first + block] &= causal_mask(len, block);
                }
            }
        }
        self.lens[slot] = self.lens[slot].min(len);
        Ok(())
    }

    /// Empties a slot.
    ///
    /// # Errors
    /// [`Error::Index`] if the slot is out of range.
    pub fn reset(&mut self, slot: usize) -> Result<()> {
        self.truncate(slot, 0)
    }

    /// Says whether a row is held.
    ///
    /// # Errors
    /// [`Error::Index`] if the layer or the row is out of range.
    pub fn is_present(&self, layer: usize, row: KvRow) -> Result<bool> {
        self.check_row(layer, row)?;
        Ok(self.presence(layer, row.slot, row.kv_head)[row.position / BLOCK] >> (row.position % BLOCK) & 1 == 1)
    }

    /// Reads one key (after RoPE) and value, f32, \[head_dim\] each, and says whether the row is held; a hole reads as zeros.
    ///
    /// # Errors
    /// [`Error::Index`] if the layer or the row is out of range, [`Error::Length`] for a wrong buffer.
    pub fn read_row(&self, layer: usize, row: KvRow, k: &mut [f32], v: &mut [f32]) -> Result<bool> {
        check_len("k", self.shape.head_dim, k.len())?;
        check_len("v", self.shape.head_dim, v.len())?;
        if !self.is_present(layer, row)? {
            k.fill(0.0);
            v.fill(0.0);
            return Ok(false);
        }
        let (d, j) = (self.shape.head_dim, row.position % BLOCK);
        with_element!(self.dtype, E => {
            let elems = self.shape.block_elems::<E>();
            let start = row.position / BLOCK * elems;
            let block = &self.region::<E>(layer, row.slot, row.kv_head)[start..start + elems];
            let v_row = &block[BLOCK * d + j * self.shape.v_stride()..];
            let [k_scale, v_scale] = scales_of(block).map_or([1.0; 2], |[k, v]| [k[j], v[j]]);
            for i in 0..d {
                k[i] = k_scale * KvElement::to_f32(block[(j / 16 * d + i) * 16 + j % 16]);
                v[i] = v_scale * KvElement::to_f32(v_row[i]);
            }
        });
        Ok(true)
    }

    pub(super) fn check_row(&self, layer: usize, row: KvRow) -> Result<()> {
        check_index("layer", layer, self.shape.n_layers)?;
        check_index("slot", row.slot, self.shape.n_slots)?;
        check_index("kv_head", row.kv_head, self.shape.n_kv_heads)?;
        check_index("position", row.position, self.shape.capacity)
    }

    fn block_index(&self, layer: usize, slot: usize, kv_head: usize) -> usize {
        ((layer * self.shape.n_slots + slot) * self.shape.n_kv_heads + kv_head) * self.shape.blocks()
    }

    /// The presence words of a (layer, slot, kv_head).
    pub(super) fn presence(&self, layer: usize, slot: usize, kv_head: usize) -> &[u64] {
        let first = self.block_index(layer, slot, kv_head);
        &self.present[first..first + self.shape.blocks()]
    }

    /// The blocks of a (layer, slot, kv_head), one after another.
    pub(super) fn region<E: KvElement>(&self, layer: usize, slot: usize, kv_head: usize) -> &[E] {
        let (first, elems) = (self.block_index(layer, slot, kv_head), self.shape.block_elems::<E>());
        &self.data.as_slice()[first * elems..(first + self.shape.blocks()) * elems]
    }

    pub(super) fn region_mut<E: KvElement>(&mut self, layer: usize, slot: usize, kv_head: usize) -> &mut [E] {
        let (first, elems) = (self.block_index(layer, slot, kv_head), self.shape.block_elems::<E>());
        &mut self.data.as_mut_slice()[first * elems..(first + self.shape.blocks()) * elems]
    }

    /// Sets or clears the presence of positions `start..end`, and counts them as written.
    pub(super) fn mark(&mut self, layer: usize, row: KvRow, end: usize, present: bool) {
        let (slot, start) = (row.slot, row.position);
        let first = self.block_index(layer, slot, row.kv_head);
        for block in start / BLOCK..end.div_ceil(BLOCK) {
            let run = causal_mask(end, block) & !causal_mask(start, block);
            let word = &mut self.present[first + block];
            *word = if present { *word | run } else { *word & !run };
        }
        self.lens[slot] = self.lens[slot].max(end);
    }
}

/// The scales of a block, of K and of V by position; none of floats.
pub(super) fn scales_of<E: KvElement>(block: &[E]) -> Option<&[[f32; BLOCK]; 2]> {
    // blocks start on a cache line and K and V are whole ones, so the scales behind them are aligned
    let scales: &[f32] = bytemuck::cast_slice(&block[block.len() - E::SCALE_ELEMS..]);
    scales.as_chunks().0.first_chunk()
}

/// The positions below `end`, as bits of the word of `block`.
pub(super) fn causal_mask(end: usize, block: usize) -> u64 {
    match end.saturating_sub(block * BLOCK) {
        0 => 0,
        n if n >= BLOCK => u64::MAX,
        n => (1 << n) - 1,
    }
}
