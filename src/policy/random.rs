//! A list drawn at random: what any policy has to beat.

use std::sync::Arc;

use super::table::{Arguments, Policies};
use super::{Lists, ModelSizes, Policy, PolicyConfig, Site, Sizes, check_fraction, kept_count};
use crate::error::Result;
use crate::sparse_mlp::NeuronList;

/// Keeps ⌈kept · n⌉ of a site's n neurons or heads, drawn without replacement for each layer from a fixed seed: every session and
/// every token of it keeps the same ones.
///
/// The draw: unit j of layer l has the key SplitMix64(SplitMix64(l) ^ j), and the units with the smallest keys are kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Random {
    site: Site,
    kept: f32,
}

impl Random {
    /// Takes the kept fraction.
    ///
    /// # Errors
    /// [`crate::Error::Value`] outside (0, 1].
    pub fn new(site: Site, kept: f32) -> Result<Self> {
        check_fraction("kept fraction", kept)?;
        Ok(Random { site, kept })
    }

    pub(super) fn make(arguments: &Arguments, _: &ModelSizes) -> Policies {
        Ok(vec![Arc::new(Random::new(arguments.site, arguments.fraction)?)])
    }

    /// The list of a layer of `n` units.
    ///
    /// # Errors
    /// [`crate::Error::Index`] if it does not fit u32.
    fn list(&self, layer: usize, n: usize) -> Result<NeuronList> {
        let start = split_mix(layer as u64);
        let mut order: Vec<(u64, u32)> = (0..n as u32).map(|j| (split_mix(start ^ u64::from(j)), j)).collect();
        order.sort_unstable();
        let mut kept: Vec<u32> = order.iter().take(kept_count(self.kept, n)?).map(|&(_, j)| j).collect();
        kept.sort_unstable();
        NeuronList::new(kept, n)
    }
}

impl PolicyConfig for Random {
    fn policy(&self, sizes: &Sizes) -> Result<Box<dyn Policy>> {
        let n = sizes.model.count(self.site);
        let lists = (0..sizes.model.n_layers).map(|layer| self.list(layer, n)).collect::<Result<_>>()?;
        Lists::new(self.site, lists).policy(sizes)
    }
}

/// SplitMix64's output for the state `x`.
pub(super) fn split_mix(x: u64) -> u64 {
    let mut z = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
