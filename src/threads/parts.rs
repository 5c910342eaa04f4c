//! Buffers cut into numbered parts, which the members of a team write at the same time.
//!
//! No cut here lets two parts overlap, and [`super::Team`] hands each part out once: that is all that writing in parallel
//! needs, so its callers are safe code.

use super::{Areas, RowBlocks};
use std::marker::PhantomData;
use std::ops::Range;

/// A buffer, or several that are cut alike, in parts.
///
/// # Safety
/// Parts of different numbers below `count` do not overlap.
pub(crate) unsafe trait Parts: Sync {
    /// What a member gets.
    type Part;

    /// How many there are.
    fn count(&self) -> usize;

    /// Gives out one part.
    ///
    /// # Safety
    /// `index` is below `count`, and no number is given out twice.
    unsafe fn part(&self, index: usize) -> Self::Part;
}

/// A mutable slice whose ranges are borrowed one by one, perhaps by several calls at once: an engine's own threads give each the
/// same output and other columns of it.
#[derive(Debug)]
pub struct SharedSlice<'a, T> {
    data: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: its users borrow ranges that do not overlap.
unsafe impl<T: Send> Sync for SharedSlice<'_, T> {}
// SAFETY: it is a `&mut [T]` in another form.
unsafe impl<T: Send> Send for SharedSlice<'_, T> {}

impl<'a, T> From<&'a mut [T]> for SharedSlice<'a, T> {
    fn from(data: &'a mut [T]) -> Self {
        SharedSlice { data: data.as_mut_ptr(), len: data.len(), slice: PhantomData }
    }
}

impl<'a, T> From<&'a mut Vec<T>> for SharedSlice<'a, T> {
    fn from(data: &'a mut Vec<T>) -> Self {
        data.as_mut_slice().into()
    }
}

impl<'a, T, const N: usize> From<&'a mut [T; N]> for SharedSlice<'a, T> {
    fn from(data: &'a mut [T; N]) -> Self {
        data.as_mut_slice().into()
    }
}

impl<'a, T> SharedSlice<'a, T> {
    /// Takes memory of which the call that gets it uses only what it says that it writes.
    ///
    /// # Safety
    /// `data` is to `len` elements, and what the call writes nothing else uses during `'a`.
    pub unsafe fn from_raw_parts(data: *mut T, len: usize) -> Self {
        SharedSlice { data, len, slice: PhantomData }
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Borrows a range, checked against the slice.
    ///
    /// # Safety
    /// No two ranges borrowed from one `SharedSlice` overlap.
    unsafe fn slice(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: in bounds by the assertion; that nothing else borrows the range is the caller's.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(range.start), range.len()) }
    }
}

/// A slice, or a range of it, in consecutive pieces, such as the rows of a matrix.
pub(crate) struct Pieces<'a, T> {
    data: SharedSlice<'a, T>,
    range: Range<usize>,
    step: usize,
    count: usize,
}

impl<'a, T> Pieces<'a, T> {
    /// Pieces of `piece` elements, the last shorter if need be.
    pub(crate) fn new(data: &'a mut [T], piece: usize) -> Self {
        let (range, steps) = (0..data.len(), data.len().div_ceil(piece.max(1)));
        Self::shares(data, range, piece, steps)
    }

    /// `count` pieces of a range as equal as whole steps of `step` elements allow, which are counted from the slice's beginning: of the
    /// steps that the range touches, piece i ends before number (i + 1) · steps / count.
    pub(crate) fn shares(data: impl Into<SharedSlice<'a, T>>, range: Range<usize>, step: usize, count: usize) -> Self {
        let data = data.into();
        assert!(
            range.start <= range.end && range.end <= data.len(),
            "range: expected one of {}, got {range:?}",
            data.len()
        );
        Pieces { data, range, step: step.max(1), count }
    }

    /// Where piece `index` starts and the one before it ends.
    fn start(&self, index: usize) -> usize {
        let first = self.range.start / self.step;
        let steps = self.range.end.div_ceil(self.step) - first;
        let step =
            if steps == self.count { index } else { (index as u128 * steps as u128 / self.count as u128) as usize };
        (first + step).saturating_mul(self.step).clamp(self.range.start, self.range.end)
    }
}

// SAFETY: a piece ends where the next starts, and `start` does not decrease.
unsafe impl<'a, T: Send> Parts for Pieces<'a, T> {
    type Part = &'a mut [T];

    fn count(&self) -> usize {
        self.count
    }

    unsafe fn part(&self, index: usize) -> &'a mut [T] {
        // SAFETY: pieces do not overlap; each is given out once by the caller.
        unsafe { self.data.slice(self.start(index)..self.start(index + 1)) }
    }
}

/// Some rows and columns of a matrix.
pub(crate) struct Window<'a, T> {
    /// The first row's first column.
    data: *mut T,
    stride: usize,
    rows: usize,
    width: usize,
    matrix: PhantomData<&'a mut [T]>,
}

impl<T> Window<'_, T> {
    /// Rows in it.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// The window's columns of its row `row`.
    pub(crate) fn row(&mut self, row: usize) -> &mut [T] {
        assert!(row < self.rows, "row: expected an index below {}, got {row}", self.rows);
        // SAFETY: `Matrix::window` checked that all rows lie inside the matrix, and they are this window's alone.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(row * self.stride), self.width) }
    }
}

/// A matrix \[rows, stride\] whose windows are borrowed one by one.
pub(super) struct Matrix<'a, T> {
    data: SharedSlice<'a, T>,
    rows: usize,
    stride: usize,
}

impl<'a, T> Matrix<'a, T> {
    pub(super) fn new(data: impl Into<SharedSlice<'a, T>>, stride: usize) -> Self {
        let (stride, data) = (stride.max(1), data.into());
        Matrix { rows: data.len() / stride, data, stride }
    }

    /// Borrows a window, checked against the matrix.
    ///
    /// # Safety
    /// No two windows borrowed from one `Matrix` overlap.
    pub(super) unsafe fn window(&self, rows: Range<usize>, columns: Range<usize>) -> Window<'a, T> {
        assert!(rows.start <= rows.end && rows.end <= self.rows);
        assert!(columns.start <= columns.end && columns.end <= self.stride);
        let first = rows.start * self.stride + columns.start;
        Window {
            // an empty window may lie just past the matrix
            data: self.data.data.wrapping_add(first),
            stride: self.stride,
            rows: rows.len(),
            width: columns.len(),
            matrix: PhantomData,
        }
    }
}

/// Some columns of a matrix in the tiles of a grid, which begins at the first column whatever columns are asked for: tile number
/// `i · across + j` holds the i-th rows and what is asked for of the j-th of the grid's columns that are.
pub(crate) struct Tiles<'a, T> {
    matrix: Matrix<'a, T>,
    grid: Grid,
}

/// Where tiles begin.
#[derive(Debug, Clone)]
pub(crate) struct Grid {
    columns: Range<usize>,
    height: usize,
    width: usize,
}

impl Grid {
    /// The first tile's number among all from the first column on.
    fn first(&self) -> usize {
        self.columns.start / self.width
    }

    /// Tiles side by side.
    pub(crate) fn across(&self) -> usize {
        self.columns.end.div_ceil(self.width) - self.first()
    }

    /// The first row and column of a tile, and how many of its columns come before those that are asked for.
    pub(crate) fn at(&self, index: usize) -> (usize, usize, usize) {
        let column = (self.first() + index % self.across()) * self.width;
        (index / self.across() * self.height, column, self.columns.start.saturating_sub(column))
    }
}

impl<'a, T> Tiles<'a, T> {
    /// Tiles of `height` rows and `width` columns, those at the edges smaller if need be.
    pub(crate) fn new(
        data: impl Into<SharedSlice<'a, T>>,
        stride: usize,
        columns: Range<usize>,
        height: usize,
        width: usize,
    ) -> Self {
        let matrix = Matrix::new(data, stride);
        let Range { start, end } = columns;
        assert!(start <= end && end <= matrix.stride, "columns: expected some of {stride}, got {start} to {end}");
        // no column is in no tile
        let columns = if start == end { 0..0 } else { columns };
        Tiles { matrix, grid: Grid { columns, height: height.max(1), width: width.max(1) } }
    }

    /// Where they begin.
    pub(crate) fn grid(&self) -> Grid {
        self.grid.clone()
    }
}

// SAFETY: a number stands for one pair (i, j), and tiles of a grid do not overlap.
unsafe impl<'a, T: Send> Parts for Tiles<'a, T> {
    type Part = Window<'a, T>;

    fn count(&self) -> usize {
        self.matrix.rows.div_ceil(self.grid.height) * self.grid.across()
    }

    unsafe fn part(&self, index: usize) -> Window<'a, T> {
        let Grid { columns, height, width } = &self.grid;
        let (row, column, skip) = self.grid.at(index);
        let rows = row..(row + height).min(self.matrix.rows);
        // SAFETY: as above; each tile is given out once by the caller.
        unsafe { self.matrix.window(rows, column + skip..(column + width).min(columns.end)) }
    }
}

/// All rows of a matrix \[M, N\], in the blocks of columns that a [`RowBlocks`] lists: an output feature is a row of the
/// weights and a column of y.
pub(crate) struct BlockColumns<'a, 'b, T> {
    matrix: Matrix<'a, T>,
    blocks: &'b RowBlocks<'b>,
}

impl<'a, 'b, T> BlockColumns<'a, 'b, T> {
    /// The columns of `blocks` in `y` \[M, N\].
    pub(crate) fn new(y: impl Into<SharedSlice<'a, T>>, n: usize, blocks: &'b RowBlocks<'b>) -> Self {
        BlockColumns { matrix: Matrix::new(y, n), blocks }
    }
}

// SAFETY: `RowBlocks` lists no block twice.
unsafe impl<'a, T: Send> Parts for BlockColumns<'a, '_, T> {
    type Part = (Range<usize>, Window<'a, T>);

    fn count(&self) -> usize {
        self.blocks.len()
    }

    unsafe fn part(&self, index: usize) -> Self::Part {
        let start = self.blocks.get(index) * RowBlocks::HEIGHT;
        let columns = start..(start + RowBlocks::HEIGHT).min(self.matrix.stride);
        // SAFETY: as above; each block is given out once by the caller.
        (columns.clone(), unsafe { self.matrix.window(0..self.matrix.rows, columns) })
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
    pub(crate) fn new(data: impl Into<SharedSlice<'a, T>>, stride: usize, width: usize, areas: &'b Areas<U>) -> Self {
        AreaWindows { matrix: Matrix::new(data, stride), width, areas }
    }
}

// SAFETY: `Areas::push` lets no two areas overlap, and strips of one width do not.
unsafe impl<'a, 'b, T: Send, U: Sync> Parts for AreaWindows<'a, 'b, T, U> {
    type Part = (&'b U, Window<'a, T>);

    fn count(&self) -> usize {
        self.areas.len()
    }

    unsafe fn part(&self, index: usize) -> Self::Part {
        let area = self.areas.get(self.areas.len() - 1 - index);
        let start = area.strip.saturating_mul(self.width);
        let columns = start..start.saturating_add(self.width);
        // SAFETY: as above; each area is given out once by the caller.
        (&area.what, unsafe { self.matrix.window(area.rows.clone(), columns) })
    }
}

/// Scratch that each member makes for itself.
pub(crate) struct Fresh<F>(pub(crate) F);

// SAFETY: every part is a new value.
unsafe impl<W, F: Fn() -> W + Sync> Parts for Fresh<F> {
    type Part = W;

    fn count(&self) -> usize {
        usize::MAX
    }

    unsafe fn part(&self, _: usize) -> W {
        (self.0)()
    }
}

// SAFETY: as each of them.
unsafe impl<P: Parts, const N: usize> Parts for [P; N] {
    type Part = [P::Part; N];

    fn count(&self) -> usize {
        same_count(self.iter().map(Parts::count))
    }

    unsafe fn part(&self, index: usize) -> Self::Part {
        // SAFETY: the caller's.
        std::array::from_fn(|i| unsafe { self[i].part(index) })
    }
}

macro_rules! parts_of_tuples {
    ($($name:ident)*) => {
        // SAFETY: as each of them.
        unsafe impl<$($name: Parts),*> Parts for ($($name,)*) {
            type Part = ($($name::Part,)*);

            #[allow(non_snake_case)]
            fn count(&self) -> usize {
                let ($($name,)*) = self;
                same_count([$($name.count()),*].into_iter())
            }

            #[allow(non_snake_case)]
            unsafe fn part(&self, index: usize) -> Self::Part {
                let ($($name,)*) = self;
                // SAFETY: the caller's.
                unsafe { ($($name.part(index),)*) }
            }
        }
    };
}
parts_of_tuples!(A B);
parts_of_tuples!(A B C);
parts_of_tuples!(A B C D);

/// The count of buffers that are cut alike.
fn same_count(mut counts: impl Iterator<Item = usize>) -> usize {
    let first = counts.next().unwrap_or(0);
    counts.for_each(|count| assert_eq!(count, first, "buffers cut alike have equally many parts"));
    first
}
