//! One token over 16 rows: running sums, and prefetches of the rows that come next.

use super::{FourBitRows, add_group};
use crate::simd::Simd;
use crate::sparse_mlp::four_bit::{FORMS, RowMatrix, SEGMENT};
use crate::sparse_mlp::rows::BLOCK;
use crate::w4a8::Offset;

/// Rows still to be prefetched, whole rows one after another, an even share in each step: the order that hardware
/// prefetchers follow.
pub(super) struct Ahead<'a> {
    left: &'a [u32],
    /// Rows · steps that are due and not yet a row.
    due: usize,
    steps: usize,
    rows: usize,
}

impl<'a> Ahead<'a> {
    /// Spreads the prefetches of `rows` over `steps` steps.
    #[inline(always)]
    pub(super) fn new(rows: &'a [u32], steps: usize) -> Self {
        Ahead { left: rows, due: 0, steps, rows: rows.len() }
    }

    /// Prefetches one step's share.
    ///
    /// # Safety
    /// As [`Simd`].
    #[inline(always)]
    pub(super) unsafe fn step<S: Simd>(&mut self, m: &RowMatrix) {
        self.due += self.rows;
        while self.due >= self.steps {
            self.due -= self.steps;
            let Some((&row, left)) = self.left.split_first() else { return };
            self.left = left;
            let row = m.records().as_ptr().wrapping_add(row as usize * m.stride);
            for at in (0..m.stride).step_by(64) {
                // SAFETY: prefetches never fault; the set is the caller's.
                unsafe { S::prefetch(row.wrapping_add(at)) };
            }
        }
    }
}

/// The sums of one token over 16 rows whose scales are of form `FORM` of [`FORMS`].
pub(super) struct OneToken<'a, S: Simd, const FORM: usize> {
    matrix: &'a RowMatrix,
    rows: &'a [*const u8; BLOCK],
    sums: &'a [i32],
    pub(super) total: S::F,
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

    /// # Safety
    /// As [`Simd`].
    #[inline(always)]
    pub(super) unsafe fn new(call: &FourBitRows<'a>, rows: &'a [*const u8; BLOCK]) -> Self {
        let matrix = call.matrix;
        // SAFETY: the caller's.
        let (zero, total) = unsafe { (S::splat_i32(0), S::splat(0.0)) };
        let left = matrix.group_size / SEGMENT;
        OneToken { matrix, rows, sums: call.x.sums, total, acc: zero, sum: 0, left, group: 0, params: [zero; 4] }
    }

    /// Adds the dot products of the segments from `first` on, a multiple of four.
    ///
    /// # Safety
    /// As `FourBitRows::run`, after its assertions.
    #[inline(always)]
    pub(super) unsafe fn add(&mut self, dots: &[S::I], first: usize) {
        // SAFETY: a token has d/32 sums; a row's scales and 64 bytes more are readable.
        unsafe {
            if self.matrix.group_size == SEGMENT {
                return self.add_groups(dots, first);
            }
            for (q, &dots) in dots.iter().enumerate() {
                self.acc = S::add_i32(self.acc, dots);
                self.sum += *self.sums.get_unchecked(first + q);
                self.left -= 1;
                if self.left > 0 {
                    continue;
                }
                let group = self.group;
                let dword = if matches!(Self::OFFSET, Some(Offset::None)) { group / 2 } else { group };
                if dword % 4 == 0 {
                    self.params = S::load_rows(self.rows, self.matrix.d / 2 + 4 * dword);
                }
                let param = self.params[dword % 4];
                self.total = add_group::<S>(Self::OFFSET, group, param, self.acc, self.sum, self.total);
                (self.acc, self.sum) = (S::splat_i32(0), 0);
                (self.left, self.group) = (self.matrix.group_size / SEGMENT, group + 1);
            }
        }
    }

    /// As `add` where every segment is a group.
    ///
    /// # Safety
    /// As `add`.
    #[inline(always)]
    unsafe fn add_groups(&mut self, dots: &[S::I], first: usize) {
        let symmetric = matches!(Self::OFFSET, Some(Offset::None));
        // SAFETY: as in `add`.
        unsafe {
            let params = S::load_rows(self.rows, self.matrix.d / 2 + if symmetric { 2 * first } else { 4 * first });
            for (q, &dots) in dots.iter().enumerate() {
                let param = params[if symmetric { q / 2 } else { q }];
                let sum = *self.sums.get_unchecked(first + q);
                self.total = add_group::<S>(Self::OFFSET, q, param, dots, sum, self.total);
            }
        }
    }
}
