//! Lists that are set before any text is read.

use super::observed::tokens_of;
use super::{Kept, Observed, Policy, PolicyConfig, Site, Sizes, Wanted, check_layer};
use crate::attention::Span;
use crate::error::{Result, check_len};
use crate::sparse_mlp::{NeuronList, Selection};

/// Keeps the same list in a layer for every token of every text.
#[derive(Debug, Clone, PartialEq)]
pub struct Lists {
    site: Site,
    lists: Vec<NeuronList>,
}

impl Lists {
    /// Takes the list of each layer, for example from a file.
    pub fn new(site: Site, lists: Vec<NeuronList>) -> Self {
        Lists { site, lists }
    }

    /// The list of each layer.
    pub fn lists(&self) -> &[NeuronList] {
        &self.lists
    }
}

impl PolicyConfig for Lists {
    fn policy(&self, sizes: &Sizes) -> Result<Box<dyn Policy>> {
        check_len("layers' lists", sizes.model.n_layers, self.lists.len())?;
        let count = sizes.model.count(self.site);
        self.lists.iter().try_for_each(|list| check_len("list's limit", count, list.view().limit()))?;
        Ok(Box::new(self.clone()))
    }
}

impl Policy for Lists {
    fn site(&self) -> Site {
        self.site
    }

    fn wants(&self, _: &[Span]) -> Wanted {
        Wanted::Lengths
    }

    fn select(&mut self, layer: usize, _: &[Span]) -> Result<Selection<'_>> {
        check_layer(layer, self.lists.len())?;
        Ok(self.lists[layer].selection())
    }

    fn longest_list(&self, layer: usize) -> Option<usize> {
        self.lists.get(layer).map(|list| list.indices().len())
    }

    fn observe(&mut self, layer: usize, spans: &[Span], _: &Observed<'_>) -> Result<Kept> {
        check_layer(layer, self.lists.len())?;
        let list = self.lists[layer].view();
        Ok(Kept::each(tokens_of(spans), list.indices().len(), list.limit()))
    }

    fn is_settled(&self, _: &[Span]) -> bool {
        true
    }
}
