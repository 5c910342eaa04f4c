//! Where attention reads keys and values from, block by block.

use super::BLOCK;
use super::element::KvElement;
use super::kernel::{Rows, Tile, WIDEN_ROWS, Widen};
use super::kv_cache::{KvCache, scales_of};
use super::workspace::Scratch;
use crate::simd::Available;
use std::marker::PhantomData;

/// A KV head of a sequence.
#[derive(Clone, Copy)]
pub(super) struct At {
    pub(super) slot: usize,
    pub(super) kv_head: usize,
}

/// The keys and values of one layer.
pub(super) trait Source: Sync {
    /// The positions of a block that are held, a bit each.
    fn present(&self, at: At, block: usize) -> u64;
    /// Takes a block into the states of a tile, by [`Step::run`].
    fn take(&self, simd: Available, at: At, step: Step<'_, '_>);
}

/// A block of a segment, and what it is taken into.
pub(super) struct Step<'a, 'b> {
    /// Its number, and one past the segment's last.
    pub(super) index: usize,
    pub(super) end: usize,
    /// The positions that are held, and of these those that the last row sees.
    pub(super) present: u64,
    pub(super) visible: u64,
    pub(super) head_dim: usize,
    pub(super) rows: Rows,
    pub(super) scratch: &'a mut Scratch<'b>,
}

impl Step<'_, '_> {
    /// Multiplies with the block K \[4\]\[head_dim\]\[16\], V \[BLOCK\]\[v_stride\]; `next` is K of the block behind it, or nothing.
    pub(super) fn run<E: KvElement>(
        &mut self,
        simd: Available,
        block: &[E],
        scales: Option<&[[f32; BLOCK]; 2]>,
        next: &[E],
    ) {
        let Scratch { q, weights, segment: states, .. } = &mut *self.scratch;
        let (index, present, head_dim, rows) = (self.index, self.present, self.head_dim, self.rows);
        simd.run(Tile { block, scales, next, index, present, head_dim, rows, q, weights, states });
    }
}

/// A layer of the library's own cache.
pub(super) struct Cached<'a, E> {
    cache: &'a KvCache,
    layer: usize,
    element: PhantomData<E>,
}

impl<'a, E> Cached<'a, E> {
    /// `E` is the type of the cache's elements.
    pub(super) fn new(cache: &'a KvCache, layer: usize) -> Self {
        Cached { cache, layer, element: PhantomData }
    }
}

impl<E: KvElement> Source for Cached<'_, E> {
    fn present(&self, at: At, block: usize) -> u64 {
        self.cache.presence(self.layer, at.slot, at.kv_head)[block]
    }

    fn take(&self, simd: Available, at: At, mut step: Step<'_, '_>) {
        let head_dim = step.head_dim;
        let elems = self.cache.shape().block_elems::<E>();
        let region = self.cache.region::<E>(self.layer, at.slot, at.kv_head);
        let (block, later) = region[step.index * elems..step.end * elems].split_at(elems);
        let scales = scales_of(block);
        if E::CONVERTS && step.rows.count >= WIDEN_ROWS {
            let room = std::mem::take(&mut step.scratch.block);
            let widened = &mut room[..elems - E::SCALE_ELEMS];
            simd.run(Widen { block, widened, head_dim, visible: step.visible });
            step.run(simd, widened, scales, &[]);
            step.scratch.block = room;
        } else {
            step.run(simd, block, scales, later.get(..BLOCK * head_dim).unwrap_or(&[]));
        }
    }
}
