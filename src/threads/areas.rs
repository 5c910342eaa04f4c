//! Rectangles of a matrix, listed one by one.

use std::collections::TryReserveError;
use std::ops::Range;

/// Rows of one strip of columns, and what they are for.
#[derive(Debug, Clone)]
pub(crate) struct Area<U> {
    pub(super) strip: usize,
    pub(super) rows: Range<usize>,
    pub(super) what: U,
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

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    /// Area number `index`, in the order in which they were added.
    pub(super) fn get(&self, index: usize) -> &Area<U> {
        &self.list[index]
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
