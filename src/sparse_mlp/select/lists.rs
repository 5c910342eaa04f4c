//! Lists of indices in order: neurons, inputs or heads.

use super::Selection;
use crate::error::{Error, Result, check_len};

/// A strictly increasing list of indices below a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexList<'a> {
    indices: &'a [u32],
    limit: usize,
}

impl<'a> IndexList<'a> {
    /// Checks a list; empty, full and single lists are lists.
    ///
    /// # Errors
    /// [`Error::Index`] for an index that is `limit` or more, [`Error::NotIncreasing`] for one that is not larger than
    /// the one before it.
    pub fn new(indices: &'a [u32], limit: usize) -> Result<Self> {
        check_indices("list", indices, limit)?;
        Ok(IndexList { indices, limit })
    }

    /// Checks the first `count` entries of a buffer: the {list, count} pair that a device keeps.
    ///
    /// # Errors
    /// [`Error::Length`] if the buffer is shorter than `count`; otherwise as [`IndexList::new`].
    pub fn with_count(buffer: &'a [u32], count: usize, limit: usize) -> Result<Self> {
        let Some(indices) = buffer.get(..count) else {
            return Err(Error::Length { what: "list", expected: count, got: buffer.len() });
        };
        Self::new(indices, limit)
    }

    /// The indices.
    pub fn indices(&self) -> &'a [u32] {
        self.indices
    }

    /// The first index that would be too large: d_ff for neurons.
    pub fn limit(&self) -> usize {
        self.limit
    }
}

fn check_indices(what: &'static str, indices: &[u32], limit: usize) -> Result<()> {
    let mut previous = None;
    for &index in indices {
        let got = index as usize;
        if got >= limit {
            return Err(Error::Index { what, limit, got });
        }
        if let Some(previous) = previous.filter(|&p| p >= got) {
            return Err(Error::NotIncreasing { what, previous, got });
        }
        previous = Some(got);
    }
    Ok(())
}

/// An owned list, as a policy that looks at a whole prompt produces it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NeuronList {
    pub(super) indices: Vec<u32>,
    pub(super) limit: usize,
}

impl NeuronList {
    /// Takes a list after the checks of [`IndexList::new`].
    ///
    /// # Errors
    /// As [`IndexList::new`].
    pub fn new(indices: Vec<u32>, limit: usize) -> Result<Self> {
        IndexList::new(&indices, limit)?;
        Ok(NeuronList { indices, limit })
    }

    /// The neurons for which `keep` holds.
    pub fn from_fn(limit: usize, mut keep: impl FnMut(usize) -> bool) -> Self {
        NeuronList { indices: (0..limit).filter(|&j| keep(j)).map(|j| j as u32).collect(), limit }
    }

    /// Borrows it as a view.
    pub fn view(&self) -> IndexList<'_> {
        IndexList { indices: &self.indices, limit: self.limit }
    }

    /// The indices.
    pub fn indices(&self) -> &[u32] {
        &self.indices
    }

    /// Borrows it as a selection for every token of a call.
    pub fn selection(&self) -> Selection<'_> {
        Selection::List(self.view())
    }

    /// |A ∩ B| / |A ∪ B|, 1 for two empty lists.
    pub fn jaccard(&self, other: &NeuronList) -> f64 {
        let (mut common, mut at) = (0usize, 0);
        for &index in &self.indices {
            while other.indices.get(at).is_some_and(|&o| o < index) {
                at += 1;
            }
            common += usize::from(other.indices.get(at) == Some(&index));
        }
        let union = self.indices.len() + other.indices.len() - common;
        if union == 0 { 1.0 } else { common as f64 / union as f64 }
    }
}

/// Query or key-value heads per sequence: u32 \[batch, capacity\], of which row b uses the first `counts[b]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadList<'a> {
    heads: &'a [u32],
    counts: &'a [u32],
    capacity: usize,
    n_heads: usize,
}

impl<'a> HeadList<'a> {
    /// Checks a list for `counts.len()` sequences.
    ///
    /// # Errors
    /// [`Error::Length`] unless `heads` has batch · capacity entries, [`Error::Index`] for a count above the capacity or
    /// a head that is `n_heads` or more, [`Error::NotIncreasing`] for heads out of order.
    pub fn new(heads: &'a [u32], counts: &'a [u32], capacity: usize, n_heads: usize) -> Result<Self> {
        check_len("heads", counts.len() * capacity, heads.len())?;
        for (sequence, &count) in counts.iter().enumerate() {
            if count as usize > capacity {
                return Err(Error::Index { what: "counts", limit: capacity + 1, got: count as usize });
            }
            check_indices("heads", &heads[sequence * capacity..][..count as usize], n_heads)?;
        }
        Ok(HeadList { heads, counts, capacity, n_heads })
    }

    /// Sequences.
    pub fn batch(&self) -> usize {
        self.counts.len()
    }

    /// The heads of one sequence.
    pub fn sequence(&self, b: usize) -> IndexList<'a> {
        let indices = &self.heads[b * self.capacity..][..self.counts[b] as usize];
        IndexList { indices, limit: self.n_heads }
    }
}
