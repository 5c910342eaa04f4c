//! Rows that a kernel will read soon.

use crate::memory::LINE_BYTES;
use crate::simd::Simd;
use std::slice::Iter;

/// Rows still to be asked for: line by line and row by row, as hardware prefetchers follow, an even share in each step of the work.
///
/// A core has a few dozen misses in flight. Lines that are asked for in bursts of more wait for one another, and what is computed
/// waits with them: time for memory and time for work add up. In even shares they overlap.
pub(crate) struct Ahead<'a> {
    matrix: &'a [u8],
    stride: usize,
    len: usize,
    rows: Iter<'a, u32>,
    /// The next byte to ask for of the current row, where to stop, and the row's last byte.
    at: usize,
    end: usize,
    last: usize,
    /// Lines · steps that are due and not yet a line.
    due: usize,
    share: usize,
    steps: usize,
}

impl<'a> Ahead<'a> {
    /// Row j is the `len` bytes of `matrix` from j · `stride` on. So many of `rows` are due in every so many steps: `pace`.
    #[inline(always)]
    pub(crate) fn new(matrix: &'a [u8], (stride, len): (usize, usize), rows: &'a [u32], pace: (usize, usize)) -> Self {
        let lines = len.div_ceil(LINE_BYTES) + usize::from(Self::straddles(stride));
        let (share, steps) = (pace.0 * lines, pace.1.max(1));
        Ahead { matrix, stride, len, rows: rows.iter(), at: 0, end: 0, last: 0, due: 0, share, steps }
    }

    /// Whether rows begin inside of lines, so that each may lie in one more.
    #[inline(always)]
    fn straddles(stride: usize) -> bool {
        stride % LINE_BYTES != 0
    }

    /// Asks for one step's share.
    #[inline(always)]
    pub(crate) fn step<S: Simd>(&mut self, simd: S) {
        self.due += self.share;
        while self.due >= self.steps {
            self.due -= self.steps;
            if self.at >= self.end {
                let Some(&row) = self.rows.next() else { return };
                self.at = row as usize * self.stride;
                self.last = self.at + self.len - 1;
                self.end = self.last + if Self::straddles(self.stride) { LINE_BYTES } else { 1 };
            }
            simd.prefetch_line(&self.matrix[self.at.min(self.last)]);
            self.at += LINE_BYTES;
        }
    }
}
