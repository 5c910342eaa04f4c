//! One token over 16 rows: running sums.

use super::RowMatrix;
use super::rows::{FourBitRows, add_group};
use crate::column_sums::{FORMS, SEGMENT};
use crate::simd::{ByteRows, Simd};
use crate::sparse_mlp::rows::BLOCK;
use crate::w4a8::Offset;

/// The sums of one token over 16 rows whose scales are of form `FORM` of [`FORMS`].
pub(super) struct OneToken<'a, S: Simd, const FORM: usize> {
    simd: S,
    matrix: &'a RowMatrix,
    rows: &'a ByteRows<'a, BLOCK>,
    sums: &'a [i32],
    /// Of the runs of K before the one at hand.
    total: S::F,
    /// Of the run at hand, which ends before this segment.
    chain: S::F,
    end: usize,
    /// Of the group that is not complete.
    acc: S::I,
    sum: i32,
    /// Segments that it lacks.
    left: usize,
    group: usize,
    /// The scales' dwords from a multiple of 4 on that holds `group`'s.
    params: [S::I; 4],
}

impl<'a, S: Simd, const FORM: usize> OneToken<'a, S, FORM> {
    const OFFSET: Option<Offset> = FORMS[FORM];

    #[inline(always)]
    pub(super) fn new(simd: S, call: &FourBitRows<'a>, rows: &'a ByteRows<'a, BLOCK>) -> Self {
        let matrix = call.matrix;
        let (zero, none) = (simd.splat_i32(0), simd.splat(0.0));
        let (left, end) = (matrix.group_size / SEGMENT, matrix.run_end(0));
        let sums = call.x.sums;
        let (chain, total) = (none, none);
        OneToken { simd, matrix, rows, sums, total, chain, end, acc: zero, sum: 0, left, group: 0, params: [zero; 4] }
    }

    /// The sums over all of K.
    #[inline(always)]
    pub(super) fn total(&self) -> S::F {
        self.simd.add(self.total, self.chain)
    }

    /// Adds the dot products of up to four segments from `first` on, a multiple of four.
    #[inline(always)]
    pub(super) fn add(&mut self, dots: &[S::I], first: usize) {
        if first == self.end {
            (self.total, self.chain) = (self.total(), self.simd.splat(0.0));
            self.end = self.matrix.run_end(first);
        }
        if self.matrix.group_size == SEGMENT { self.add_groups(dots, first) } else { self.add_segments(dots, first) }
    }

    #[inline(always)]
    fn add_segments(&mut self, dots: &[S::I], first: usize) {
        let simd = self.simd;
        for (&dots, sum) in dots.iter().zip(&self.sums[first..][..dots.len()]) {
            self.acc = simd.add_i32(self.acc, dots);
            self.sum += sum;
            self.left -= 1;
            if self.left > 0 {
                continue;
            }
            let group = self.group;
            let dword = if matches!(Self::OFFSET, Some(Offset::None)) { group / 2 } else { group };
            if dword % 4 == 0 {
                self.params = simd.load_rows(self.rows, self.matrix.d / 2 + 4 * dword);
            }
            let param = self.params[dword % 4];
            self.chain = add_group(simd, Self::OFFSET, group, param, self.acc, self.sum, self.chain);
            (self.acc, self.sum) = (simd.splat_i32(0), 0);
            (self.left, self.group) = (self.matrix.group_size / SEGMENT, group + 1);
        }
    }

    /// As `add_segments` where every segment is a group.
    #[inline(always)]
    fn add_groups(&mut self, dots: &[S::I], first: usize) {
        let (simd, symmetric) = (self.simd, matches!(Self::OFFSET, Some(Offset::None)));
        let params = simd.load_rows(self.rows, self.matrix.d / 2 + if symmetric { 2 * first } else { 4 * first });
        for (q, (&dots, &sum)) in dots.iter().zip(&self.sums[first..][..dots.len()]).enumerate() {
            let param = params[if symmetric { q / 2 } else { q }];
            self.chain = add_group(simd, Self::OFFSET, q, param, dots, sum, self.chain);
        }
    }
}
