//! Rows of a matrix that are picked one by one and checked once, so that inner loops need not.

use std::marker::PhantomData;

/// The number of elements that rows up to `highest`, `stride` apart and `len` long, reach into.
fn reach(highest: u32, stride: usize, len: usize) -> Option<usize> {
    (highest as usize).checked_mul(stride)?.checked_add(len)
}

/// N rows of bytes.
#[derive(Clone, Copy)]
pub(crate) struct ByteRows<'a, const N: usize> {
    starts: [*const u8; N],
    len: usize,
    bytes: PhantomData<&'a [u8]>,
}

impl<'a, const N: usize> ByteRows<'a, N> {
    /// Row i is the `len` bytes of `bytes` from `rows[i] · stride` on.
    ///
    /// # Panics
    /// If one of them ends past `bytes`.
    #[inline(always)]
    pub(crate) fn new(bytes: &'a [u8], stride: usize, rows: [u32; N], len: usize) -> Self {
        let highest = rows.iter().fold(0, |highest, &row| row.max(highest));
        assert!(reach(highest, stride, len).is_some_and(|reach| reach <= bytes.len()), "rows past the matrix");
        let starts = rows.map(|row| bytes.as_ptr().wrapping_add(row as usize * stride));
        ByteRows { starts, len, bytes: PhantomData }
    }

    /// `COUNT` times 16 bytes of row `row` from `offset` on.
    #[inline(always)]
    pub(crate) fn chunks<const COUNT: usize>(&self, row: usize, offset: usize) -> &'a [[u8; 16]; COUNT] {
        assert!(self.len >= 16 * COUNT && offset <= self.len - 16 * COUNT, "bytes past the row");
        // SAFETY: `new` checked that the row has `len` bytes.
        unsafe { &*self.starts[row].add(offset).cast() }
    }
}

/// The rows of a matrix that a list names, some columns of each.
#[derive(Clone, Copy)]
pub(crate) struct Gather<'a, T> {
    matrix: &'a [T],
    stride: usize,
    list: &'a [u32],
    len: usize,
}

impl<'a, T> Gather<'a, T> {
    /// Row i is the `len` elements of `matrix` from `list[i] · stride` on.
    ///
    /// # Panics
    /// If one of them ends past `matrix`.
    #[inline(always)]
    pub(crate) fn new(matrix: &'a [T], stride: usize, list: &'a [u32], len: usize) -> Self {
        let highest = list.iter().fold(0, |highest, &row| row.max(highest));
        let fits = list.is_empty() || reach(highest, stride, len).is_some_and(|reach| reach <= matrix.len());
        assert!(fits, "rows past the matrix");
        Gather { matrix, stride, list, len }
    }

    /// Rows in the list.
    #[inline(always)]
    pub(crate) fn rows(&self) -> usize {
        self.list.len()
    }

    /// Row number `index` of the list.
    #[inline(always)]
    pub(crate) fn row(&self, index: usize) -> &'a [T] {
        let start = self.list[index] as usize * self.stride;
        // SAFETY: `new` checked that every row of the list lies inside the matrix.
        unsafe { self.matrix.get_unchecked(start..start + self.len) }
    }
}
