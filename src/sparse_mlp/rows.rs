//! 16-bit and f32 rows: dot products for gate and up, sums of rows for down.

use crate::simd::{Kernel, Simd, SimdElement, load_first};

/// Neurons whose rows are computed together.
pub(crate) const BLOCK: usize = 16;

/// Columns of y that one unit of the down projection covers at most.
pub(crate) const CHUNK: usize = 128;

/// Vectors of 16 columns in a register tile of the down projection, and with it the columns of a chunk of 16-bit rows.
const DOWN_VECTORS: usize = 6;

/// Columns of y that one unit of the down projection covers in 16-bit rows.
pub(crate) const DENSE_CHUNK: usize = 16 * DOWN_VECTORS;

/// out\[t\]\[i\] = Σ_k matrix\[rows\[i\], k\] · x\[t, k\], lane k mod 16 by lane, then over lanes as [`Simd::sum`].
pub(crate) struct Rows<'a, T> {
    /// \[d_ff, d\].
    pub matrix: &'a [T],
    pub d: usize,
    /// 1 to 16 rows.
    pub rows: &'a [u32],
    /// \[tokens, d\].
    pub x: &'a [f32],
    /// \[tokens\]; lanes past the rows hold copies of the last.
    pub out: &'a mut [[f32; BLOCK]],
}

impl<T: SimdElement> Kernel for Rows<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Rows { matrix, d, rows, x, out } = self;
        assert!((1..=BLOCK).contains(&rows.len()) && x.len() >= out.len() * d);
        for first in (0..rows.len()).step_by(4) {
            let mut starts = [matrix.as_ptr(); 4];
            for (i, start) in starts.iter_mut().enumerate() {
                let row = rows[(first + i).min(rows.len() - 1)] as usize;
                *start = matrix[row * d..][..d].as_ptr();
            }
            let mut token = 0;
            while S::TILE == 4 && token + 4 <= out.len() {
                // SAFETY: the rows are in bounds by the slicing, the tokens by the assertion; the set is the caller's.
                unsafe { dot_tile::<S, T, 4>(starts, x[token * d..].as_ptr(), d, &mut out[token..], first) };
                token += 4;
            }
            while token < out.len() {
                // SAFETY: as above.
                unsafe { dot_tile::<S, T, 1>(starts, x[token * d..].as_ptr(), d, &mut out[token..], first) };
                token += 1;
            }
        }
    }
}

/// # Safety
/// `d` elements at every row, `N · d` at `x`, and the instruction set of `S`.
#[inline(always)]
unsafe fn dot_tile<S: Simd, T: SimdElement, const N: usize>(
    rows: [*const T; 4],
    x: *const f32,
    d: usize,
    out: &mut [[f32; BLOCK]],
    first: usize,
) {
    // SAFETY: every read stays below d in a row or token; `load_first` stops at the end.
    unsafe {
        let mut acc = [[S::splat(0.0); 4]; N];
        let mut k = 0;
        while k < d {
            let mut w = [S::splat(0.0); 4];
            for r in 0..4 {
                w[r] = load_first::<S, T>(rows[r].add(k), d - k);
            }
            for t in 0..N {
                let x = load_first::<S, f32>(x.add(t * d + k), d - k);
                for r in 0..4 {
                    acc[t][r] = S::fma(w[r], x, acc[t][r]);
                }
            }
            k += 16;
        }
        for t in 0..N {
            for r in 0..4 {
                out[t][first + r] = S::sum(acc[t][r]);
            }
        }
    }
}

/// out\[t\]\[c\] = Σ_i h\[t, i\] · matrix\[list\[i\], column + c\], in the order of the list.
pub(crate) struct Down<'a, T> {
    /// Transposed \[d_ff, d\].
    pub matrix: &'a [T],
    pub d: usize,
    pub list: &'a [u32],
    /// \[tokens, stride\], the first `list.len()` of each row used.
    pub h: &'a [f32],
    pub stride: usize,
    /// First column.
    pub column: usize,
    /// Columns, at most [`DENSE_CHUNK`].
    pub width: usize,
    /// \[tokens\].
    pub out: &'a mut [[f32; CHUNK]],
}

impl<T: SimdElement> Kernel for Down<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let tokens = self.out.len();
        assert!(self.width <= DENSE_CHUNK && self.column + self.width <= self.d);
        assert!(tokens == 0 || self.h.len() >= (tokens - 1) * self.stride + self.list.len());
        // lists increase, so the last says it for all
        assert!(self.list.last().is_none_or(|&row| (row as usize + 1) * self.d <= self.matrix.len()));
        let mut token = 0;
        let mut me = self;
        while token < tokens {
            let wide = S::TILE == 4 && token + 4 <= tokens;
            // SAFETY: rows, columns and activations are in bounds by the assertions; the set is the caller's.
            unsafe {
                match (me.width == DENSE_CHUNK, wide) {
                    (true, true) => me.tile::<S, 4, DOWN_VECTORS>(token, 0),
                    (true, false) => me.tile::<S, 1, DOWN_VECTORS>(token, 0),
                    (false, true) => (0..me.width).step_by(16).for_each(|at| me.tile::<S, 4, 1>(token, at)),
                    (false, false) => (0..me.width).step_by(16).for_each(|at| me.tile::<S, 1, 1>(token, at)),
                }
            }
            token += if wide { 4 } else { 1 };
        }
    }
}

impl<T: SimdElement> Down<'_, T> {
    /// Columns `at..at + 16 · V` (less at the end of the chunk) of `N` tokens.
    ///
    /// # Safety
    /// As `run`, after its assertions.
    #[inline(always)]
    unsafe fn tile<S: Simd, const N: usize, const V: usize>(&mut self, token: usize, at: usize) {
        // SAFETY: rows and columns are in bounds by the assertions of `run`; prefetches never fault.
        unsafe {
            let (base, d) = (self.matrix.as_ptr().add(self.column + at), self.d);
            let h = self.h.as_ptr().add(token * self.stride);
            let left = self.width - at;
            let mut acc = [[S::splat(0.0); V]; N];
            for (i, &row) in self.list.iter().enumerate() {
                if N == 1 {
                    let ahead = self.list[(i + 8).min(self.list.len() - 1)] as usize;
                    for line in 0..V.div_ceil(2) {
                        S::prefetch(base.add(ahead * d + 32 * line).cast());
                    }
                }
                let row = base.add(row as usize * d);
                let mut w = [S::splat(0.0); V];
                for v in 0..V {
                    w[v] = if V == 1 { load_first::<S, T>(row, left) } else { T::load::<S>(row.add(16 * v)) };
                }
                for t in 0..N {
                    let h = S::splat(*h.add(t * self.stride + i));
                    for v in 0..V {
                        acc[t][v] = S::fma(w[v], h, acc[t][v]);
                    }
                }
            }
            for t in 0..N {
                for v in 0..V {
                    S::store(self.out[token + t][at + 16 * v..][..16].as_mut_ptr(), acc[t][v]);
                }
            }
        }
    }
}
