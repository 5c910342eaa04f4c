//! Sums of rows of floating-point weights, each row times its input.

use super::weight::Rows;
use crate::simd::{Gather, Kernel, Simd, SimdElement};

/// Rows that are read side by side.
const ROWS: usize = 4;

/// Tokens between two write-backs.
pub(super) const TILE_TOKENS: usize = 48;

/// Columns of a tile: two lines of 16-bit weights.
pub(super) const TILE_COLUMNS: usize = 64;

/// Rows that are unpacked at a time: with the columns of a tile, 16 KiB of f32.
const PANEL_ROWS: usize = 64;

const VECTORS: usize = TILE_COLUMNS / 16;

/// sums\[c\] = Σ_i x\[i\] · row\[kept\[i\]\]\[column + c\], in the order of the list.
pub(super) struct One<'a, T> {
    pub rows: &'a Rows<'a, T>,
    pub kept: &'a [u32],
    /// As many as `kept`.
    pub x: &'a [f32],
    pub column: usize,
    /// As many vectors of columns as are computed.
    pub sums: &'a mut [[f32; 16]],
}

impl<T: SimdElement> Kernel for One<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let One { rows, kept, x, column, sums } = self;
        sums.fill([0.0; 16]);
        let rows = Gather::new(&rows.elements[column..], rows.stride, kept, 16 * sums.len());
        let (fours, rest) = x.as_chunks::<ROWS>();
        for (i, x) in fours.iter().enumerate() {
            add_rows(simd, &rows, ROWS * i, x, sums);
        }
        for (i, x) in (kept.len() - rest.len()..).zip(rest) {
            add_rows(simd, &rows, i, &[*x], sums);
        }
    }
}

/// Adds rows `at..at + N` of the list, each times its input, and asks for the next as many.
#[inline(always)]
fn add_rows<S: Simd, T: SimdElement, const N: usize>(
    simd: S,
    rows: &Gather<'_, T>,
    at: usize,
    x: &[f32; N],
    sums: &mut [[f32; 16]],
) {
    let lines: [&[[T; 16]]; N] = std::array::from_fn(|i| &rows.row(at + i).as_chunks().0[..sums.len()]);
    let ahead: [&[[T; 16]]; N] =
        std::array::from_fn(|i| &rows.row((at + N + i).min(rows.rows() - 1)).as_chunks().0[..sums.len()]);
    let x = x.map(|x| simd.splat(x));
    for (v, sums) in sums.iter_mut().enumerate() {
        // a line of 16-bit weights is two vectors
        if size_of::<T>() == 4 || v % 2 == 0 {
            for i in 0..N {
                simd.prefetch_line(&ahead[i][v]);
            }
        }
        let mut sum = simd.load(sums);
        for i in 0..N {
            sum = simd.fma(T::load(simd, &lines[i][v]), x[i], sum);
        }
        simd.store(sums, sum);
    }
}

/// sums\[t\]\[c\] = Σ_i x\[t, i\] · row\[kept\[i\]\]\[column + c\], in the order of the list.
pub(super) struct Many<'a, T> {
    pub rows: &'a Rows<'a, T>,
    pub kept: &'a [u32],
    /// \[tokens, kept\].
    pub x: &'a [f32],
    pub column: usize,
    /// Columns, at most [`TILE_COLUMNS`].
    pub width: usize,
    /// \[tokens\], at most [`TILE_TOKENS`].
    pub sums: &'a mut [[[f32; 16]; VECTORS]],
}

impl<T: SimdElement> Kernel for Many<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Many { rows, kept, x, column, width, sums } = self;
        let vectors = width.div_ceil(16);
        let rows = Gather::new(&rows.elements[column..], rows.stride, kept, 16 * vectors);
        sums.fill([[0.0; 16]; VECTORS]);
        let mut panel = [[[0.0f32; 16]; PANEL_ROWS]; VECTORS];
        for start in (0..kept.len()).step_by(PANEL_ROWS) {
            let count = PANEL_ROWS.min(kept.len() - start);
            for i in 0..count {
                let row = rows.row(start + i).as_chunks().0;
                for (panel, w) in panel.iter_mut().zip(row) {
                    simd.store(&mut panel[i], T::load(simd, w));
                }
            }
            let mut token = 0;
            while token < sums.len() {
                let x = &x[token * kept.len() + start..];
                let tile = Tile { panel: &panel, count, x, stride: kept.len(), vectors };
                let sums = &mut sums[token..];
                token += match sums.len() {
                    6.. if S::TILED => tile.run::<S, 6>(simd, sums),
                    4.. if S::TILED => tile.run::<S, 4>(simd, sums),
                    2.. if S::TILED => tile.run::<S, 2>(simd, sums),
                    _ => tile.run::<S, 1>(simd, sums),
                };
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
