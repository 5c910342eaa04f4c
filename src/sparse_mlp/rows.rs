//! 16-bit and f32 rows of gate and up: dot products.

use crate::simd::{Kernel, Simd, SimdElement, load_first};

/// Neurons whose rows are computed together.
pub(crate) const BLOCK: usize = 16;

/// Vectors of each of four rows from the one that is multiplied to the one that is asked into the first-level cache: of 16-bit weights
/// 4 KiB in all. The next rows are asked into the second-level cache.
const NEAR: usize = 32;

/// out\[t\]\[i\] = Σ_k matrix\[rows\[i\], k\] · x\[t, k\], lane k mod 16 by lane, then over lanes as [`Simd::sum`].
pub(crate) struct Rows<'a, T> {
    /// \[d_ff, d\].
    pub matrix: &'a [T],
    pub d: usize,
    /// 1 to 16 rows.
    pub rows: &'a [u32],
    /// Rows that will be asked for next; they are prefetched for a single token.
    pub next: &'a [u32],
    /// \[tokens, d\].
    pub x: &'a [f32],
    /// \[tokens\]; lanes past the rows hold copies of the last.
    pub out: &'a mut [[f32; BLOCK]],
}

impl<T: SimdElement> Kernel for Rows<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Rows { matrix, d, rows, next, x, out } = self;
        assert!((1..=BLOCK).contains(&rows.len()) && x.len() >= out.len() * d);
        // tokens share what is read, so that only one alone is in want of it
        let next = if out.len() > 1 || next.is_empty() { rows } else { next };
        for first in (0..rows.len()).step_by(4) {
            let four = four_rows(matrix, d, rows, first);
            let next = four_rows(matrix, d, next, first);
            let mut token = 0;
            while S::TILE == 4 && token + 4 <= out.len() {
                dot_tile::<S, T, 4>(simd, four, next, &x[token * d..], &mut out[token..], first);
                token += 4;
            }
            while token < out.len() {
                dot_tile::<S, T, 1>(simd, four, next, &x[token * d..], &mut out[token..], first);
                token += 1;
            }
        }
    }
}

/// Four rows of a list, the last one repeated after its end.
#[inline(always)]
fn four_rows<'a, T>(matrix: &'a [T], d: usize, list: &[u32], first: usize) -> [&'a [T]; 4] {
    std::array::from_fn(|i| &matrix[list[(first + i).min(list.len() - 1)] as usize * d..][..d])
}

/// Four rows times the first `N` tokens of `x`; those that come next are asked for meanwhile if N is 1.
#[inline(always)]
fn dot_tile<S: Simd, T: SimdElement, const N: usize>(
    simd: S,
    rows: [&[T]; 4],
    next: [&[T]; 4],
    x: &[f32],
    out: &mut [[f32; BLOCK]],
    first: usize,
) {
    let d = rows[0].len();
    let x: [&[f32]; N] = std::array::from_fn(|t| &x[t * d..][..d]);
    let w_lanes: [&[[T; 16]]; 4] = std::array::from_fn(|r| rows[r].as_chunks().0);
    let x_lanes: [&[[f32; 16]]; N] = std::array::from_fn(|t| x[t].as_chunks().0);
    let mut acc = [[simd.splat(0.0); 4]; N];
    for i in 0..d / 16 {
        // a line of 16-bit weights is two vectors
        if N == 1 && (size_of::<T>() == 4 || i % 2 == 0) {
            let near = i + NEAR;
            for r in 0..4 {
                simd.prefetch_far_line(&next[r][16 * i]);
                if near < d / 16 {
                    simd.prefetch_line(&rows[r][16 * near]);
                }
            }
        }
        let mut w = [simd.splat(0.0); 4];
        for r in 0..4 {
            w[r] = T::load(simd, &w_lanes[r][i]);
        }
        for t in 0..N {
            let x = simd.load(&x_lanes[t][i]);
            for r in 0..4 {
                acc[t][r] = simd.fma(w[r], x, acc[t][r]);
            }
        }
    }
    let rest = d / 16 * 16;
    if rest < d {
        for t in 0..N {
            let x = load_first(simd, &x[t][rest..]);
            for r in 0..4 {
                acc[t][r] = simd.fma(load_first(simd, &rows[r][rest..]), x, acc[t][r]);
            }
        }
    }
    for t in 0..N {
        for r in 0..4 {
            out[t][first + r] = simd.sum(acc[t][r]);
        }
    }
}
