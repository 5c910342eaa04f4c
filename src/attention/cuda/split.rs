//! How a long context is cut between blocks.

use crate::error::{Error, Result};

/// Parts of equal length that blocks take of a context, each leaving a softmax state for the merge.
///
/// A decode result depends on the length of the parts and on nothing else that a caller chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Split {
    /// Parts; one is written without a merge.
    pub n_splits: usize,
    /// Positions of a part: a multiple of 64.
    pub len: usize,
}

impl Split {
    /// Splits a capacity: finely where there are few (span, KV head) pairs to fill the device with, otherwise coarsely, since each
    /// split writes and reads an output of its own (at 256 positions and 4 heads a group, 3% of the bytes of K and V).
    pub fn choose(n_kv_heads: usize, max_spans: usize, capacity: usize, multiprocessors: usize) -> Split {
        let len = if n_kv_heads.saturating_mul(max_spans) >= 2 * multiprocessors { 1024 } else { 256 };
        Split { n_splits: capacity.div_ceil(len).max(1), len }
    }

    pub(super) fn check(self, capacity: usize) -> Result<()> {
        let refuse = |what, expected, got| Err(Error::Shape { what, expected, got });
        if self.len == 0 || self.len % 64 != 0 || self.len > 1 << 31 {
            return refuse("split len", "a positive multiple of 64", self.len);
        }
        match self.n_splits > 1 << 31 || self.n_splits.saturating_mul(self.len) < capacity {
            true => refuse("n_splits", "enough for the capacity", self.n_splits),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_are_coarse_where_heads_fill_the_device() {
        assert_eq!(Split::choose(8, 64, 4096, 132), Split { n_splits: 4, len: 1024 });
        assert_eq!(Split::choose(1, 1, 1, 132), Split { n_splits: 1, len: 256 });
    }

    #[test]
    fn splits_that_leave_positions_out_are_refused() {
        let check = |n_splits, len| Split { n_splits, len }.check(1000);
        assert_eq!(check(4, 256), Ok(()));
        for (n_splits, len) in [(3, 256), (1000, 1), (0, 1024), (16, 63), (4, 0)] {
            assert!(matches!(check(n_splits, len), Err(Error::Shape { .. })), "{n_splits} of {len}");
        }
    }
}
