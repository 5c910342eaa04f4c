//! Copies of the neurons that lists keep, so that decoding reads them one after another.

use crate::cpu::Cpu;
use crate::error::Result;
use crate::sparse_mlp::{Gathered, IndexList, Weights};

/// Copies of a session's lists, one at most for each slot and layer. A copy is made when its list is first computed, in memory that was
/// taken for it with the session where its length was known, and that later lists of the slot and layer use again as far as it reaches.
#[derive(Debug)]
pub(super) struct Gathers {
    n_layers: usize,
    /// \[slots\]\[n_layers\].
    copies: Vec<Option<Gathered>>,
}

impl Gathers {
    pub(super) fn new(slots: usize, n_layers: usize) -> Self {
        Gathers { n_layers, copies: (0..slots * n_layers).map(|_| None).collect() }
    }

    /// Takes memory for a layer's lists of up to `longest` neurons. With several slots lists are mostly masks of one call's tokens, and
    /// memory is taken for those that are not when they come.
    pub(super) fn expect(&mut self, layer: usize, weights: &Weights, longest: usize) -> Result<()> {
        if self.copies.len() == self.n_layers {
            self.copies[layer] = Some(Gathered::with_capacity(weights, longest)?);
        }
        Ok(())
    }

    /// The neurons of a list, which any slot may have had copied out of the layer's weights before.
    pub(super) fn neurons(
        &mut self,
        cpu: &Cpu,
        (slot, layer): (usize, usize),
        weights: &Weights,
        list: IndexList<'_>,
    ) -> Result<&Weights> {
        let of_layer = |slot: usize| slot * self.n_layers + layer;
        let has = |at: &usize| self.copies[*at].as_ref().is_some_and(|copy| copy.list() == list.indices());
        let own = of_layer(slot);
        let slots = self.copies.len() / self.n_layers;
        let at = std::iter::once(own).chain((0..slots).map(of_layer)).find(has);
        let (at, is_there) = (at.unwrap_or(own), at.is_some());
        let n = list.indices().len();
        let copy = match self.copies[at].take() {
            Some(copy) if is_there => copy,
            before => {
                let fits = before.filter(|copy| copy.capacity() >= n);
                let mut copy = fits.map_or_else(|| Gathered::with_capacity(weights, n), Ok)?;
                copy.gather(cpu, weights, list)?;
                copy
            }
        };
        Ok(self.copies[at].insert(copy).weights())
    }
}
