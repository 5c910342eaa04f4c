//! Blocks of rows of a weight matrix.

use crate::error::{Error, Result};
use std::ops::Range;

/// The blocks of 16 rows that ranges of rows touch, each once.
pub(crate) struct RowBlocks<'a> {
    ranges: &'a [Range<usize>],
    len: usize,
}

impl<'a> RowBlocks<'a> {
    /// Rows of a block.
    pub(crate) const HEIGHT: usize = 16;

    /// The blocks of increasing ranges below `n`.
    pub(crate) fn new(ranges: &'a [Range<usize>], n: usize) -> Result<Self> {
        let mut end = 0;
        for range in ranges {
            if range.start < end || range.end < range.start {
                return Err(Error::NotIncreasing { what: "rows", previous: end, got: range.start });
            }
            if range.end > n {
                return Err(Error::Index { what: "rows", limit: n + 1, got: range.end });
            }
            end = range.end;
        }
        let mut blocks = RowBlocks { ranges, len: 0 };
        blocks.len = blocks.pieces().map(|piece| piece.len()).sum();
        Ok(blocks)
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Block number `index`; larger than any of a smaller index.
    pub(crate) fn get(&self, mut index: usize) -> usize {
        for piece in self.pieces() {
            if index < piece.len() {
                return piece.start + index;
            }
            index -= piece.len();
        }
        unreachable!("a block past the last")
    }

    /// The blocks of each range that no range before it touches.
    fn pieces(&self) -> impl Iterator<Item = Range<usize>> {
        let mut done = 0;
        self.ranges.iter().filter(|range| !range.is_empty()).map(move |range| {
            let piece = (range.start / Self::HEIGHT).max(done)..range.end.div_ceil(Self::HEIGHT).max(done);
            done = piece.end;
            piece
        })
    }
}
