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

/// A slice in consecutive pieces, such as the rows of a matrix.
pub(crate) struct Pieces<'a, T> {
    data: SharedSlice<'a, T>,
    step: usize,
    steps: usize,
    count: usize,
}

impl<'a, T> Pieces<'a, T> {
    /// Pieces of `piece` elements, the last shorter if need be.
    pub(crate) fn new(data: &'a mut [T], piece: usize) -> Self {
        let steps = data.len().div_ceil(piece.max(1));
        Self::shares(data, piece, steps)
    }

    /// `count` pieces as equal as whole steps of `step` elements allow: piece i ends before step (i + 1) · steps / count.
    pub(crate) fn shares(data: &'a mut [T], step: usize, count: usize) -> Self {
        let step = step.max(1);
        Pieces { steps: data.len().div_ceil(step), data: SharedSlice::from(data), step, count }
    }

    /// Where piece `index` starts and the one before it ends.
    fn start(&self, index: usize) -> usize {
        let step = if self.steps == self.count {
            index
        } else {
            (index as u128 * self.steps as u128 / self.count as u128) as usize
        };
        step.saturating_mul(self.step).min(self.data.len)
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

/// The first columns of a matrix in equal tiles: tile number `i · across + j` holds the i-th rows and j-th columns.
pub(crate) struct Tiles<'a, T> {
    matrix: Matrix<'a, T>,
    columns: usize,
    height: usize,
    width: usize,
}

impl<'a, T> Tiles<'a, T> {
    /// Tiles of `height` rows and `width` columns, those at the lower and right edge smaller if need be.
    pub(crate) fn new(data: &'a mut [T], stride: usize, columns: usize, height: usize, width: usize) -> Self {
        let matrix = Matrix::new(data, stride);
        assert!(columns <= matrix.stride, "columns: expected at most {stride}, got {columns}");
        Tiles { matrix, columns, height: height.max(1), width: width.max(1) }
    }

    /// Tiles side by side.
    fn across(&self) -> usize {
        self.columns.div_ceil(self.width)
    }
}

// SAFETY: a number stands for one pair (i, j), and tiles of a grid do not overlap.
unsafe impl<'a, T: Send> Parts for Tiles<'a, T> {
    type Part = Window<'a, T>;

    fn count(&self) -> usize {
        self.matrix.rows.div_ceil(self.height) * self.across()
    }

    unsafe fn part(&self, index: usize) -> Window<'a, T> {
        let (row, column) = (index / self.across() * self.height, index % self.across() * self.width);
        let rows = row..(row + self.height).min(self.matrix.rows);
        // SAFETY: as above; each tile is given out once by the caller.
        unsafe { self.matrix.window(rows, column..(column + self.width).min(self.columns)) }
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
    pub(crate) fn new(data: &'a mut [T], stride: usize, width: usize, areas: &'b Areas<U>) -> Self {
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
