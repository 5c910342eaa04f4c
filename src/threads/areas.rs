//! Rectangles of a matrix, listed one by one.

use super::parts::{Matrix, Parts, Window};
use std::collections::TryReserveError;
use std::ops::Range;

/// Rows of one strip of columns, and what they are for.
#[derive(Debug, Clone)]
pub(crate) struct Area<U> {
    strip: usize,
    rows: Range<usize>,
    what: U,
}

/// A list of areas that do not overlap: strip by strip, rows increasing.
#[derive(Debug)]
pub(crate) struct Areas<U> {
    list: Vec<Area<U>>,
}

impl<U> Areas<U> {
    /// An empty list.
    pub(crate) fn new() -> Self {
        Areas { list: Vec::new() }
    }

    /// Makes room for `count` areas in an empty list.
    pub(crate) fn try_reserve(&mut self, count: usize) -> Result<(), TryReserveError> {
        self.list.try_reserve_exact(count)
    }

    /// Areas that fit without allocating.
    pub(crate) fn capacity(&self) -> usize {
        self.list.capacity()
    }

    /// Empties the list.
    pub(crate) fn clear(&mut self) {
        self.list.clear();
    }

    /// Adds an area.
    ///
    /// # Panics
    /// Unless it comes after the last: in a later strip, or in later rows of the same.
    pub(crate) fn push(&mut self, strip: usize, rows: Range<usize>, what: U) {
        assert!(rows.start <= rows.end, "rows: expected a range, got {rows:?}");
        let after = |last: &Area<U>| (last.strip, last.rows.end) <= (strip, rows.start);
        assert!(self.list.last().is_none_or(after), "areas come strip by strip, rows increasing");
        self.list.push(Area { strip, rows, what });
    }
}

/// The areas of a list in a matrix whose strips are `width` columns, the last listed first.
pub(crate) struct AreaWindows<'a, 'b, T, U> {
    matrix: Matrix<'a, T>,
    width: usize,
    areas: &'b Areas<U>,
}

impl<'a, 'b, T, U> AreaWindows<'a, 'b, T, U> {
    /// The areas of `data` \[rows, stride\].
    pub(crate) fn new(data: &'a mut [T], stride: usize, width: usize, areas: &'b Areas<U>) -> Self {
        AreaWindows { matrix: Matrix::new(data, stride), width, areas }
    }
}

// SAFETY: `Areas::push` lets no two areas overlap, and strips of one width do not.
unsafe impl<'a, 'b, T: Send, U: Sync> Parts for AreaWindows<'a, 'b, T, U> {
    type Part = (&'b U, Window<'a, T>);

    fn count(&self) -> usize {
        self.areas.list.len()
    }

    unsafe fn part(&self, index: usize) -> Self::Part {
        let area = &self.areas.list[self.areas.list.len() - 1 - index];
        let start = area.strip.saturating_mul(self.width);
        let columns = start..start.saturating_add(self.width);
        // SAFETY: as above; each area is given out once by the caller.
        (&area.what, unsafe { self.matrix.window(area.rows.clone(), columns) })
    }
}
