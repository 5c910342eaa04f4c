//! Sums of rows of floating-point weights, each row times its input.

use super::split::SPLITS;
use crate::simd::{Gather, Kernel, Simd, SimdElement, load_first};
use std::ops::Range;

/// Rows of elements, each `stride` of them after the one before.
pub(crate) struct Rows<'a, T> {
    pub elements: &'a [T],
    pub stride: usize,
}

/// Rows that are read side by side: sums are loaded and stored once for all of them.
const ROWS: usize = 8;

/// Vectors of each of these rows from the one that is read to the one that is asked into the first-level cache: of 16-bit weights 4 KiB
/// in all. The next rows are asked into the second-level cache.
const NEAR: usize = 16;

/// Tokens between two write-backs.
pub(super) const TILE_TOKENS: usize = 48;

/// Columns of a tile: two lines of 16-bit weights.
pub(super) const TILE_COLUMNS: usize = 64;

/// Rows that are unpacked at a time: with the columns of a tile, 16 KiB of f32.
const PANEL_ROWS: usize = 64;

const VECTORS: usize = TILE_COLUMNS / 16;

/// sums\[t\]\[c\] = Σ_i x\[t, i\] · row\[kept\[i\]\]\[column + c\], in the order of the list, for a few tokens.
pub(super) struct Few<'a, T> {
    pub rows: &'a Rows<'a, T>,
    pub kept: &'a [u32],
    /// \[tokens, stride\], of which as many as `kept` are used.
    pub x: &'a [f32],
    pub stride: usize,
    pub column: usize,
    /// Of 16 columns.
    pub vectors: usize,
    /// \[tokens, width\].
    pub sums: &'a mut [f32],
    pub width: usize,
}

impl<T: SimdElement> Kernel for Few<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Few { rows, kept, x, stride, column, vectors, sums, width } = self;
        let rows = Gather::new(&rows.elements[column..], rows.stride, kept, 16 * vectors);
        sums.fill(0.0);
        let mut at = 0;
        while at < kept.len() {
            let count = if at + ROWS <= kept.len() { ROWS } else { 1 };
            let (mut token, mut rest) = (0, &mut *sums);
            while !rest.is_empty() {
                let tokens = if rest.len() >= 2 * width { 2 } else { 1 };
                let (sums, others) = rest.split_at_mut(tokens * width);
                let x = &x[token * stride + at..];
                match (tokens, count) {
                    (2, ROWS) => add_rows::<S, T, 2, ROWS>(simd, &rows, at, (x, stride), (sums, width)),
                    (2, _) => add_rows::<S, T, 2, 1>(simd, &rows, at, (x, stride), (sums, width)),
                    (_, ROWS) => add_rows::<S, T, 1, ROWS>(simd, &rows, at, (x, stride), (sums, width)),
                    _ => add_rows::<S, T, 1, 1>(simd, &rows, at, (x, stride), (sums, width)),
                }
                (token, rest) = (token + tokens, others);
            }
            at += count;
        }
    }
}

/// Adds rows `at..at + R` of the list, each times N tokens' inputs, and asks for the next as many (see [`NEAR`]).
#[inline(always)]
fn add_rows<S: Simd, T: SimdElement, const N: usize, const R: usize>(
    simd: S,
    rows: &Gather<'_, T>,
    at: usize,
    (x, stride): (&[f32], usize),
    (sums, width): (&mut [f32], usize),
) {
    let vectors = rows.row(at).len() / 16;
    let lines: [&[[T; 16]]; R] = std::array::from_fn(|i| &rows.row(at + i).as_chunks().0[..vectors]);
    let ahead: [&[[T; 16]]; R] =
        std::array::from_fn(|i| &rows.row((at + R + i).min(rows.rows() - 1)).as_chunks().0[..vectors]);
    let mut factors = [[simd.splat(0.0); R]; N];
    for t in 0..N {
        for i in 0..R {
            factors[t][i] = simd.splat(x[t * stride + i]);
        }
    }
    let mut rest = sums.chunks_exact_mut(width);
    let sums: [&mut [[f32; 16]]; N] =
        std::array::from_fn(|_| &mut rest.next().expect("N tokens").as_chunks_mut().0[..vectors]);
    for v in 0..vectors {
        // a line of 16-bit weights is two vectors
        if size_of::<T>() == 4 || v % 2 == 0 {
            let near = v + NEAR;
            for i in 0..R {
                simd.prefetch_far_line(&ahead[i][v]);
                let next = if near < vectors { &lines[i][near] } else { &ahead[i][(near - vectors).min(vectors - 1)] };
                simd.prefetch_line(next);
            }
        }
        let mut w = [simd.splat(0.0); R];
        for i in 0..R {
            w[i] = T::load(simd, &lines[i][v]);
        }
        for t in 0..N {
            let mut sum = simd.load(&sums[t][v]);
            for i in 0..R {
                sum = simd.fma(w[i], factors[t][i], sum);
            }
            simd.store(&mut sums[t][v], sum);
        }
    }
}

/// sums\[t\]\[c\] = Σ_i x\[t, i\] · row\[kept\[i\]\]\[column + c\], in the order of the list within each split, splits in order.
pub(super) struct Many<'a, T> {
    pub rows: &'a Rows<'a, T>,
    pub kept: &'a [u32],
    /// Where each split's inputs stand in `kept`.
    pub splits: &'a [Range<usize>; SPLITS],
    /// \[tokens, stride\], of which as many as `kept` are used.
    pub x: &'a [f32],
    pub stride: usize,
    pub column: usize,
    /// Columns, at most [`TILE_COLUMNS`].
    pub width: usize,
    /// \[tokens\], at most [`TILE_TOKENS`].
    pub sums: &'a mut [[[f32; 16]; VECTORS]],
    /// As `sums`, of a split.
    pub part: &'a mut [[[f32; 16]; VECTORS]],
}

impl<T: SimdElement> Kernel for Many<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Many { rows, kept, splits, x, stride, column, width, sums, part } = self;
        let vectors = width.div_ceil(16);
        let rows = Gather::new(&rows.elements[column..], rows.stride, kept, width);
        let mut panel = [[[0.0f32; 16]; PANEL_ROWS]; VECTORS];
        for (split, range) in splits.iter().enumerate() {
            part.fill([[0.0; 16]; VECTORS]);
            for start in range.clone().step_by(PANEL_ROWS) {
                let count = PANEL_ROWS.min(range.end - start);
                for i in 0..count {
                    let (row, rest) = rows.row(start + i).as_chunks();
                    for (panel, w) in panel.iter_mut().zip(row) {
                        simd.store(&mut panel[i], T::load(simd, w));
                    }
                    if !rest.is_empty() {
                        simd.store(&mut panel[row.len()][i], load_first(simd, rest));
                    }
                }
                let mut token = 0;
                while token < part.len() {
                    let x = &x[token * stride + start..];
                    let tile = Tile { panel: &panel, count, x, stride, vectors };
                    let part = &mut part[token..];
                    token += match part.len() {
                        6.. if S::TILED => tile.run::<S, 6>(simd, part),
                        4.. if S::TILED => tile.run::<S, 4>(simd, part),
                        2.. if S::TILED => tile.run::<S, 2>(simd, part),
                        _ => tile.run::<S, 1>(simd, part),
                    };
                }
            }
            for (sum, part) in sums.as_flattened_mut().iter_mut().zip(part.as_flattened()) {
                let part = simd.load(part);
                let sum_before = simd.load(sum);
                simd.store(sum, if split == 0 { part } else { simd.add(sum_before, part) });
            }
        }
    }
}

/// Some tokens times a panel.
struct Tile<'a> {
    panel: &'a [[[f32; 16]; PANEL_ROWS]; VECTORS],
    /// Rows of the panel.
    count: usize,
    /// \[tokens, stride\], of which the first `count` are used.
    x: &'a [f32],
    stride: usize,
    vectors: usize,
}

impl Tile<'_> {
    /// Adds the products of the first N tokens; gives N.
    #[inline(always)]
    fn run<S: Simd, const N: usize>(&self, simd: S, sums: &mut [[[f32; 16]; VECTORS]]) -> usize {
        if S::TILE >= VECTORS && self.vectors == VECTORS {
            self.columns::<S, N, VECTORS>(simd, 0, sums);
            return N;
        }
        for first in 0..self.vectors {
            self.columns::<S, N, 1>(simd, first, sums);
        }
        N
    }

    /// Vectors `first..first + V` of the columns.
    #[inline(always)]
    fn columns<S: Simd, const N: usize, const V: usize>(
        &self,
        simd: S,
        first: usize,
        sums: &mut [[[f32; 16]; VECTORS]],
    ) {
        let x: [&[f32]; N] = std::array::from_fn(|t| &self.x[t * self.stride..][..self.count]);
        let panel: [&[[f32; 16]]; V] = std::array::from_fn(|v| &self.panel[first + v][..self.count]);
        let mut acc = [[simd.splat(0.0); V]; N];
        for t in 0..N {
            for v in 0..V {
                acc[t][v] = simd.load(&sums[t][first + v]);
            }
        }
        for i in 0..self.count {
            let mut w = [simd.splat(0.0); V];
            for v in 0..V {
                w[v] = simd.load(&panel[v][i]);
            }
            for t in 0..N {
                let x = simd.splat(x[t][i]);
                for v in 0..V {
                    acc[t][v] = simd.fma(w[v], x, acc[t][v]);
                }
            }
        }
        for t in 0..N {
            for v in 0..V {
                simd.store(&mut sums[t][first + v], acc[t][v]);
            }
        }
    }
}
