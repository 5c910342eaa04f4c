//! The arithmetic of attention, once for every instruction set.
//!
//! A row is one query head of one token; the rows of a tile share a KV head.

use std::ops::Range;

use super::BLOCK;
use super::kv_cache::causal_mask;
use super::softmax::weigh;
use super::workspace::{STATE_HEADER, Scratch, state_elems};
use crate::Isa;
use crate::simd::{self, Kernel, Simd, SimdElement};

/// Rows from which a converting pass over a block costs less than converting at every use.
const WIDEN_ROWS: usize = 12;

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
pub(super) struct Segment<'a, 'b, E> {
    /// The blocks of a (layer, slot, kv_head), and their presence words.
    pub(super) region: &'a [E],
    pub(super) presence: &'a [u64],
    /// The segment's blocks up to the last row's position.
    pub(super) blocks: Range<usize>,
    pub(super) head_dim: usize,
    pub(super) rows: Rows,
    pub(super) scratch: &'a mut Scratch<'b>,
}

impl<E: SimdElement> Segment<'_, '_, E> {
    /// Makes the states in `scratch.segment` from the queries in `scratch.q`.
    pub(super) fn compute(self, isa: Isa) {
        let (head_dim, rows) = (self.head_dim, self.rows);
        let stride = state_elems(head_dim);
        let elems = BLOCK * (head_dim + head_dim.next_multiple_of(16));
        let Scratch { q, weights, segment, block: widened, .. } = self.scratch;
        for state in segment[..rows.count * stride].chunks_exact_mut(stride) {
            state.fill(0.0);
            state[0] = f32::NEG_INFINITY;
        }
        let end = self.blocks.end;
        for index in self.blocks {
            let present = self.presence[index];
            let visible = present & rows.causal(rows.count - 1, index);
            if visible == 0 {
                continue;
            }
            let block = &self.region[index * elems..(index + 1) * elems];
            let (weights, states, continues) = (&mut *weights, &mut *segment, index + 1 < end);
            if E::CONVERTS && rows.count >= WIDEN_ROWS {
                let widened = &mut widened[..elems];
                simd::run(isa, Widen { block, widened, head_dim, visible });
                simd::run(
                    isa,
                    Tile { block: &*widened, index, present, continues: false, head_dim, rows, q, weights, states },
                );
            } else {
                simd::run(isa, Tile { block, index, present, continues, head_dim, rows, q, weights, states });
            }
        }
    }
}

/// One block as the inner loops see it.
struct Tile<'a, E> {
    /// K [4][head_dim][16], then V [BLOCK][v_stride].
    block: &'a [E],
    index: usize,
    present: u64,
    /// Whether the segment goes on with the block behind this one.
    continues: bool,
    head_dim: usize,
    rows: Rows,
    q: &'a [f32],
    weights: &'a mut [f32],
    states: &'a mut [f32],
}

/// Groups of sixteen positions that reach the last visible one.
#[inline(always)]
fn groups_of(visible: u64) -> usize {
    4 - visible.leading_zeros() as usize / 16
}

/// Converts the part of a block that reaches the last visible position.
struct Widen<'a, E> {
    block: &'a [E],
    widened: &'a mut [f32],
    head_dim: usize,
    visible: u64,
}

impl<E: SimdElement> Kernel for Widen<'_, E> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (d, v_stride) = (self.head_dim, self.head_dim.next_multiple_of(16));
        let k = 0..groups_of(self.visible) * d * 16;
        let v = BLOCK * d..BLOCK * d + (BLOCK - self.visible.leading_zeros() as usize) * v_stride;
        assert!(self.block.len() == self.widened.len() && v.end <= self.block.len() && k.end <= v.start);
        for range in [k, v] {
            for i in range.step_by(16) {
                // SAFETY: i + 16 is at most the length of both by the assertion, since all ends are multiples of sixteen; the
                // instruction set is the caller's care.
                unsafe { S::store(self.widened.as_mut_ptr().add(i), E::load::<S>(self.block.as_ptr().add(i))) };
            }
        }
    }
}

impl<E: SimdElement> Kernel for Tile<'_, E> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        // SAFETY: the instruction set is the caller's care.
        unsafe {
            match S::TILE {
                4 => self.rows::<S, 4>(),
                _ => self.rows::<S, 1>(),
            }
        }
    }
}

impl<E: SimdElement> Tile<'_, E> {
    /// Takes the block into the states of all rows; inner tiles are W vectors wide.
    #[inline(always)]
    unsafe fn rows<S: Simd, const W: usize>(&mut self) {
        let (d, count) = (self.head_dim, self.rows.count);
        assert!(self.block.len() >= BLOCK * (d + d.next_multiple_of(16)));
        assert!(self.q.len() >= count * d && self.weights.len() >= count * BLOCK);
        assert!(self.states.len() >= count * state_elems(d));
        let mut row = 0;
        while row < count {
            let left = count - row;
            // SAFETY: the rows exist in q, weights and states by the assertions above.
            row += unsafe {
                if S::TILED && left >= 6 {
                    self.rows_of::<S, W, 6>(row)
                } else if S::TILED && left >= 4 {
                    self.rows_of::<S, W, 4>(row)
                } else if S::TILED && left == 3 {
                    self.rows_of::<S, W, 3>(row)
                } else if S::TILED && left == 2 {
                    self.rows_of::<S, W, 2>(row)
                } else {
                    self.rows_of::<S, W, 1>(row)
                }
            };
        }
    }

    /// Takes the block into the states of rows `row..row + N`, and returns N.
    #[inline(always)]
    unsafe fn rows_of<S: Simd, const W: usize, const N: usize>(&mut self, row: usize) -> usize {
        let visible = |i: usize, tile: &Self| tile.present & tile.rows.causal(row + i, tile.index);
        let widest = visible(N - 1, self);
        if widest == 0 {
            return N;
        }
        let stride = state_elems(self.head_dim);
        // SAFETY: the rows exist (the caller's care), groups and positions lie inside the block.
        unsafe {
            let groups = groups_of(widest);
            if groups == W {
                self.scores::<S, N, W>(row, 0);
            } else {
                (0..groups).for_each(|group| self.scores::<S, N, 1>(row, group));
            }
            for i in 0..N {
                let visible = visible(i, self);
                if visible != 0 {
                    let state = self.states[(row + i) * stride..].as_mut_ptr();
                    weigh::<S>(state, self.weights[(row + i) * BLOCK..].as_mut_ptr(), visible, self.head_dim);
                }
            }
            // Rows differ only in where causality cuts them off, so what the first sees comes first for all.
            let joint = visible(0, self);
            self.values::<S, W, N>(row, joint);
            for i in 1..N {
                let rest = visible(i, self) & !joint;
                if rest != 0 {
                    self.values::<S, W, 1>(row + i, rest);
                }
            }
        }
        N
    }

    /// Writes the scores of N rows for G groups of sixteen positions: each is one chain over head_dim.
    #[inline(always)]
    unsafe fn scores<S: Simd, const N: usize, const G: usize>(&mut self, row: usize, group: usize) {
        let d = self.head_dim;
        // SAFETY: the caller's: rows and groups exist, and the lengths were asserted in `run`.
        unsafe {
            let q = self.q.as_ptr().add(row * d);
            let k = self.block.as_ptr().add(group * d * 16);
            let mut sums = [[S::splat(0.0); G]; N];
            let values = self.block.as_ptr().add(BLOCK * d);
            for i in 0..d {
                if row == 0 {
                    prefetch::<S, E>(values.add(i * BLOCK), BLOCK);
                }
                let mut keys = [S::splat(0.0); G];
                for (g, key) in keys.iter_mut().enumerate() {
                    *key = E::load::<S>(k.add((g * d + i) * 16));
                }
                for (n, sums) in sums.iter_mut().enumerate() {
                    let query = S::splat(*q.add(n * d + i));
                    for (sum, key) in sums.iter_mut().zip(keys) {
                        *sum = S::fma(query, key, *sum);
                    }
                }
            }
            let weights = self.weights.as_mut_ptr().add(row * BLOCK + group * 16);
            for (n, sums) in sums.into_iter().enumerate() {
                for (g, sum) in sums.into_iter().enumerate() {
                    S::store(weights.add(n * BLOCK + g * 16), sum);
                }
            }
        }
    }

    /// Adds the weighted values of the positions in `visible` to N rows: each element is one chain over positions.
    #[inline(always)]
    unsafe fn values<S: Simd, const W: usize, const N: usize>(&mut self, row: usize, visible: u64) {
        let vectors = self.head_dim.div_ceil(16);
        let mut i = 0;
        // SAFETY: the caller's, as in `scores`; i counts the vectors of a V row.
        unsafe {
            while vectors - i >= W {
                self.values_at::<S, N, W>(row, visible, i * 16);
                i += W;
            }
            while i < vectors {
                self.values_at::<S, N, 1>(row, visible, i * 16);
                i += 1;
            }
        }
    }

    /// As `values`, for G vectors of dimensions from `column` on.
    #[inline(always)]
    unsafe fn values_at<S: Simd, const N: usize, const G: usize>(&mut self, row: usize, visible: u64, column: usize) {
        let (d, stride) = (self.head_dim, state_elems(self.head_dim));
        let v_stride = d.next_multiple_of(16);
        // SAFETY: the caller's, as in `scores`; column + 16·G is at most v_stride.
        unsafe {
            let v = self.block.as_ptr().add(BLOCK * d + column);
            let next = self.block.as_ptr().wrapping_add(BLOCK * (d + v_stride));
            let weights = self.weights.as_ptr().add(row * BLOCK);
            let out = self.states.as_mut_ptr().add(row * stride + STATE_HEADER + column);
            let mut sums = [[S::splat(0.0); G]; N];
            for (n, sums) in sums.iter_mut().enumerate() {
                for (g, sum) in sums.iter_mut().enumerate() {
                    *sum = S::load(out.add(n * stride + g * 16));
                }
            }
            let mut left = visible;
            while left != 0 {
                let start = left.trailing_zeros() as usize;
                let end = start + (left >> start).trailing_ones() as usize;
                left &= !causal_mask(end, 0);
                for j in start..end {
                    if self.continues && row == 0 && column == 0 {
                        prefetch::<S, E>(next.wrapping_add(j * d), d);
                    }
                    let mut values = [S::splat(0.0); G];
                    for (g, value) in values.iter_mut().enumerate() {
                        *value = E::load::<S>(v.add(j * v_stride + g * 16));
                    }
                    for (n, sums) in sums.iter_mut().enumerate() {
                        let weight = S::splat(*weights.add(n * BLOCK + j));
                        for (sum, value) in sums.iter_mut().zip(values) {
                            *sum = S::fma(weight, value, *sum);
                        }
                    }
                }
            }
            for (n, sums) in sums.into_iter().enumerate() {
                for (g, sum) in sums.into_iter().enumerate() {
                    S::store(out.add(n * stride + g * 16), sum);
                }
            }
        }
    }
}

/// Asks for `elems` elements that are needed soon: a block's V while its K is read, and the next block's K after that. Alone,
/// the hardware stops at every page of 4 KiB.
#[inline(always)]
unsafe fn prefetch<S: Simd, E>(p: *const E, elems: usize) {
    const LINE_BYTES: usize = 64;
    for i in (0..elems).step_by(LINE_BYTES / size_of::<E>()) {
        // SAFETY: any address may be asked for.
        unsafe { S::prefetch(p.wrapping_add(i).cast()) };
    }
}
