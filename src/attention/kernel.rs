//! The arithmetic of attention, once for every instruction set.
//!
//! A row is one query head of one token; the rows of a tile share a KV head.

use std::ops::Range;

use super::BLOCK;
use super::element::KvElement;
use super::kv_cache::causal_mask;
use super::softmax::weigh;
use super::source::{At, Source, Step};
use super::workspace::{STATE_HEADER, Scratch, state_elems};
use crate::simd::{Available, Kernel, Simd};

/// Rows from which a converting pass over a block costs less than converting at every use.
pub(super) const WIDEN_ROWS: usize = 12;

/// The rows of a tile: token by token, the running heads of the group side by side.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub(super) count: usize,
    pub(super) per_token: usize,
    /// Position of the first token.
    pub(super) position: usize,
}

impl Rows {
    /// The positions of block `block` that row `row` may see.
    #[inline(always)]
    fn causal(&self, row: usize, block: usize) -> u64 {
        causal_mask(self.position + row / self.per_token + 1, block)
    }
}

/// One segment of a tile.
pub(super) struct Segment<'a, 'b> {
    /// The segment's blocks up to the last row's position.
    pub(super) blocks: Range<usize>,
    pub(super) head_dim: usize,
    pub(super) rows: Rows,
    pub(super) scratch: &'a mut Scratch<'b>,
}

impl Segment<'_, '_> {
    /// Makes the states in `scratch.segment` from the queries in `scratch.q`.
    pub(super) fn compute(self, simd: Available, source: &impl Source, at: At) {
        let Segment { blocks, head_dim, rows, scratch } = self;
        let stride = state_elems(head_dim);
        for state in scratch.segment[..rows.count * stride].chunks_exact_mut(stride) {
            state.fill(0.0);
            state[0] = f32::NEG_INFINITY;
        }
        let end = blocks.end;
        for index in blocks {
            let present = source.present(at, index);
            let visible = present & rows.causal(rows.count - 1, index);
            if visible != 0 {
                let scratch = &mut *scratch;
                source.take(simd, at, Step { index, end, present, visible, head_dim, rows, scratch });
            }
        }
    }
}

/// One block as the inner loops see it.
pub(super) struct Tile<'a, E> {
    /// K [4][head_dim][16], then V [BLOCK][v_stride].
    pub(super) block: &'a [E],
    /// Of K and of V by position, if elements are codes.
    pub(super) scales: Option<&'a [[f32; BLOCK]; 2]>,
    /// K of the block behind this one, if the segment goes on with it.
    pub(super) next: &'a [E],
    pub(super) index: usize,
    pub(super) present: u64,
    pub(super) head_dim: usize,
    pub(super) rows: Rows,
    pub(super) q: &'a [f32],
    pub(super) weights: &'a mut [f32],
    pub(super) states: &'a mut [f32],
}

/// Groups of sixteen positions that reach the last visible one.
#[inline(always)]
fn groups_of(visible: u64) -> usize {
    4 - visible.leading_zeros() as usize / 16
}

/// Converts the part of a block that reaches the last visible position.
pub(super) struct Widen<'a, E> {
    pub(super) block: &'a [E],
    pub(super) widened: &'a mut [f32],
    pub(super) head_dim: usize,
    pub(super) visible: u64,
}

impl<E: KvElement> Kernel for Widen<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (d, v_stride) = (self.head_dim, self.head_dim.next_multiple_of(16));
        let k = 0..groups_of(self.visible) * d * 16;
        let v = BLOCK * d..BLOCK * d + (BLOCK - self.visible.leading_zeros() as usize) * v_stride;
        for range in [k, v] {
            let (from, to) = (self.block[range.clone()].as_chunks().0, self.widened[range].as_chunks_mut().0);
            for (from, to) in from.iter().zip(to) {
                simd.store(to, E::load(simd, from));
            }
        }
    }
}

impl<E: KvElement> Kernel for Tile<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        match S::TILE {
            4 => self.rows::<S, 4, 4>(simd),
            _ => self.rows::<S, 1, 2>(simd),
        }
    }
}

impl<E: KvElement> Tile<'_, E> {
    /// Takes the block into the states of all rows; inner tiles are W vectors wide, of two rows PAIR and of one row 4, since few rows
    /// have too few sums to keep the units busy.
    #[inline(always)]
    fn rows<S: Simd, const W: usize, const PAIR: usize>(&mut self, simd: S) {
        let count = self.rows.count;
        let mut row = 0;
        while row < count {
            let left = count - row;
            row += if S::TILED && left >= 6 {
                self.rows_of::<S, W, 6>(simd, row)
            } else if S::TILED && left >= 4 {
                self.rows_of::<S, W, 4>(simd, row)
            } else if S::TILED && left == 3 {
                self.rows_of::<S, W, 3>(simd, row)
            } else if S::TILED && left == 2 {
                self.rows_of::<S, PAIR, 2>(simd, row)
            } else {
                self.rows_of::<S, 4, 1>(simd, row)
            };
        }
    }

    /// Takes the block into the states of rows `row..row + N`, and returns N.
    #[inline(always)]
    fn rows_of<S: Simd, const W: usize, const N: usize>(&mut self, simd: S, row: usize) -> usize {
        let visible = |i: usize, tile: &Self| tile.present & tile.rows.causal(row + i, tile.index);
        let widest = visible(N - 1, self);
        if widest == 0 {
            return N;
        }
        let stride = state_elems(self.head_dim);
        let groups = groups_of(widest);
        let mut group = 0;
        while groups - group >= W {
            self.scores::<S, N, W>(simd, row, group);
            group += W;
        }
        while group < groups {
            self.scores::<S, N, 1>(simd, row, group);
            group += 1;
        }
        for i in 0..N {
            let visible = visible(i, self);
            if visible != 0 {
                let state = &mut self.states[(row + i) * stride..][..stride];
                weigh(simd, state, &mut self.weights[(row + i) * BLOCK..][..BLOCK], visible);
                self.scale_weights(simd, row + i);
            }
        }
        // Rows differ only in where causality cuts them off, so what the first sees comes first for all.
        let joint = visible(0, self);
        self.values::<S, W, N>(simd, row, joint);
        for i in 1..N {
            let rest = visible(i, self) & !joint;
            if rest != 0 {
                self.values::<S, W, 1>(simd, row + i, rest);
            }
        }
        N
    }

    /// Multiplies a row's weights with the scales of their values.
    #[inline(always)]
    fn scale_weights<S: Simd>(&mut self, simd: S, row: usize) {
        let Some([_, scales]) = self.scales else { return };
        let weights = self.weights[row * BLOCK..][..BLOCK].as_chunks_mut().0;
        for (weights, scales) in weights.iter_mut().zip(scales.as_chunks().0) {
            simd.store(weights, simd.mul(simd.load(weights), simd.load(scales)));
        }
    }

    /// Writes the scores of N rows for G groups of sixteen positions: each is one chain over head_dim, times the key's scale.
    #[inline(always)]
    fn scores<S: Simd, const N: usize, const G: usize>(&mut self, simd: S, row: usize, group: usize) {
        let d = self.head_dim;
        let (k, values) = self.block.split_at(BLOCK * d);
        // head_dim is a multiple of 8, so dimensions come by eight: one look at a slice's length for all of them
        let keys: [&[[[E; 16]; 8]]; G] =
            std::array::from_fn(|g| k[(group + g) * d * 16..][..d * 16].as_chunks().0.as_chunks().0);
        let queries: [&[[f32; 8]]; N] = std::array::from_fn(|n| self.q[(row + n) * d..][..d].as_chunks().0);
        let values: &[[[E; BLOCK]; 8]] = values.as_chunks().0.as_chunks().0;
        let mut sums = [[simd.splat(0.0); G]; N];
        for eight in 0..d / 8 {
            let keys: [&[[E; 16]; 8]; G] = std::array::from_fn(|g| &keys[g][eight]);
            let queries: [&[f32; 8]; N] = std::array::from_fn(|n| &queries[n][eight]);
            let values = &values[eight];
            for i in 0..8 {
                if row == 0 {
                    // V while K is read, and the next block's K after that: alone, the hardware stops at every page of 4 KiB
                    simd.prefetch(&values[i]);
                }
                let mut key = [simd.splat(0.0); G];
                for (key, keys) in key.iter_mut().zip(keys) {
                    *key = E::load(simd, &keys[i]);
                }
                for (n, sums) in sums.iter_mut().enumerate() {
                    let query = simd.splat(queries[n][i]);
                    for (sum, key) in sums.iter_mut().zip(key) {
                        *sum = simd.fma(query, key, *sum);
                    }
                }
            }
        }
        if let Some([scales, _]) = self.scales {
            let scales = scales.as_chunks().0;
            for sums in &mut sums {
                for (g, sum) in sums.iter_mut().enumerate() {
                    *sum = simd.mul(*sum, simd.load(&scales[group + g]));
                }
            }
        }
        for (n, sums) in sums.into_iter().enumerate() {
            let weights = self.weights[(row + n) * BLOCK..][..BLOCK].as_chunks_mut().0;
            for (g, sum) in sums.into_iter().enumerate() {
                simd.store(&mut weights[group + g], sum);
            }
        }
    }

    /// Adds the weighted values of the positions in `visible` to N rows: each element is one chain over positions.
    #[inline(always)]
    fn values<S: Simd, const W: usize, const N: usize>(&mut self, simd: S, row: usize, visible: u64) {
        let vectors = self.head_dim.div_ceil(16);
        let mut i = 0;
        while vectors - i >= W {
            self.values_at::<S, N, W>(simd, row, visible, i);
            i += W;
        }
        while i < vectors {
            self.values_at::<S, N, 1>(simd, row, visible, i);
            i += 1;
        }
    }

    /// As `values`, for G vectors of dimensions from `vector` on.
    #[inline(always)]
    fn values_at<S: Simd, const N: usize, const G: usize>(&mut self, simd: S, row: usize, visible: u64, vector: usize) {
        let (d, stride) = (self.head_dim, state_elems(self.head_dim));
        let v_vectors = d.div_ceil(16);
        let v: &[[E; 16]] = &self.block[BLOCK * d..].as_chunks().0[..BLOCK * v_vectors];
        let rows: &[[f32; BLOCK]] = &self.weights.as_chunks().0[row..row + N];
        let Some(rows) = rows.first_chunk::<N>() else { unreachable!("as many rows as were cut") };
        let mut sums = [[simd.splat(0.0); G]; N];
        for (n, sums) in sums.iter_mut().enumerate() {
            let state = self.states[(row + n) * stride + STATE_HEADER..].as_chunks().0;
            for (g, sum) in sums.iter_mut().enumerate() {
                *sum = simd.load(&state[vector + g]);
            }
        }
        let ahead = row == 0 && vector == 0 && !self.next.is_empty();
        let mut left = visible;
        while left != 0 {
            let start = left.trailing_zeros() as usize;
            let end = start + (left >> start).trailing_ones() as usize;
            left &= !causal_mask(end, 0);
            for (j, value) in (start..end).zip(v[start * v_vectors..end * v_vectors].chunks_exact(v_vectors)) {
                let value = &value[vector..vector + G];
                if ahead {
                    simd.prefetch(&self.next[j * d..][..d]);
                }
                let mut values = [simd.splat(0.0); G];
                for (g, v) in values.iter_mut().enumerate() {
                    *v = E::load(simd, &value[g]);
                }
                for (n, sums) in sums.iter_mut().enumerate() {
                    let weight = simd.splat(rows[n][j]);
                    for (sum, value) in sums.iter_mut().zip(values) {
                        *sum = simd.fma(weight, value, *sum);
                    }
                }
            }
        }
        for (n, sums) in sums.into_iter().enumerate() {
            let state = self.states[(row + n) * stride + STATE_HEADER..].as_chunks_mut().0;
            for (g, sum) in sums.into_iter().enumerate() {
                simd.store(&mut state[vector + g], sum);
            }
        }
    }
}
