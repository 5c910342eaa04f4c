//! Lists of indices in order: neurons, inputs or heads.

use super::Selection;
use crate::error::{Error, Result};

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
    pub(in crate::sparse_mlp) indices: Vec<u32>,
    pub(in crate::sparse_mlp) limit: usize,
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

    /// The `k` largest scores, the lower index first where equal.
    pub fn of_largest(scores: &[f64], k: usize) -> Self {
        let mut order: Vec<u32> = (0..scores.len() as u32).collect();
        let by_score = |a: &u32, b: &u32| scores[*b as usize].total_cmp(&scores[*a as usize]).then(a.cmp(b));
        if k < order.len() {
            order.select_nth_unstable_by(k, by_score);
            order.truncate(k);
        }
        order.sort_unstable();
        NeuronList { indices: order, limit: scores.len() }
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
