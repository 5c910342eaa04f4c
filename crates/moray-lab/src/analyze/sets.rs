//! Which neurons are the largest, as sets.

/// Sets of neurons, one for each token of each layer, as bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sets {
    words: usize,
    layers: Vec<Vec<u64>>,
}

impl Sets {
    /// Takes the `k` largest of each token's `n` scores, the lower index first where equal.
    pub fn new<L>(n: usize, k: usize, layers: impl IntoIterator<Item = L>) -> Self
    where
        L: IntoIterator<Item = Vec<f64>>,
    {
        let words = n.div_ceil(64);
        let layer = |tokens: L| tokens.into_iter().flat_map(|scores| largest(&scores, k, words)).collect();
        Sets { words, layers: layers.into_iter().map(layer).collect() }
    }

    /// Layers.
    pub fn n_layers(&self) -> usize {
        self.layers.len()
    }

    /// Tokens.
    pub fn tokens(&self) -> usize {
        self.layers.first().map_or(0, |layer| layer.len() / self.words)
    }

    /// A token's set.
    pub fn token(&self, layer: usize, token: usize) -> &[u64] {
        &self.layers[layer][token * self.words..(token + 1) * self.words]
    }

    /// The mean of `of` over all layers and the tokens of a range; 0 where there are none.
    pub fn mean(&self, tokens: std::ops::Range<usize>, of: impl Fn(usize, usize) -> f64) -> f64 {
        let count = (self.n_layers() * tokens.len()).max(1) as f64;
        let sum: f64 = (0..self.n_layers())
            .flat_map(|layer| tokens.clone().map(move |token| (layer, token)))
            .map(|(l, t)| of(l, t))
            .sum();
        sum / count
    }
}

/// The bits of the `k` largest scores.
fn largest(scores: &[f64], k: usize, words: usize) -> Vec<u64> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    let mut bits = vec![0; words];
    if (1..scores.len()).contains(&k) {
        order.select_nth_unstable_by(k - 1, |&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    }
    order.iter().take(k).for_each(|&index| bits[index / 64] |= 1 << (index % 64));
    bits
}

/// Elements of a set.
pub(super) fn count(set: &[u64]) -> usize {
    set.iter().map(|word| word.count_ones() as usize).sum()
}

/// |a ∩ b| / |a ∪ b|; 1 of two empty sets.
pub(super) fn jaccard(a: &[u64], b: &[u64]) -> f64 {
    let pairs = || a.iter().zip(b);
    let both: u32 = pairs().map(|(a, b)| (a & b).count_ones()).sum();
    let any: u32 = pairs().map(|(a, b)| (a | b).count_ones()).sum();
    if any == 0 { 1.0 } else { f64::from(both) / f64::from(any) }
}

/// What the Jaccard similarity of two sets that each keep the fraction `kept` is by chance: q / (2 − q).
pub(super) fn chance(kept: f64) -> f64 {
    kept / (2.0 - kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_match_a_sort_of_the_scores() {
        let scores: Vec<f64> = (0..130u64).map(|i| ((i * i * 37) % 101) as f64).collect();
        for k in [0, 1, 7, 64, 129, 130, 200] {
            let mut order: Vec<usize> = (0..scores.len()).collect();
            order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
            let sets = Sets::new(130, k, [[scores.clone()]]);
            let expected: std::collections::BTreeSet<usize> = order.into_iter().take(k).collect();
            let has = |index: &usize| sets.token(0, 0)[index / 64] >> (index % 64) & 1 == 1;
            assert_eq!((0..130).filter(has).collect::<std::collections::BTreeSet<_>>(), expected, "{k}");
            assert_eq!(count(sets.token(0, 0)), k.min(130));
        }
    }

    #[test]
    fn similarity_is_what_both_have_of_what_any_has() {
        for (a, b, expected) in [(0b1100, 0b0110, 1.0 / 3.0), (0b11, 0b11, 1.0), (0b01, 0b10, 0.0), (0, 0, 1.0)] {
            assert_eq!(jaccard(&[a, 0], &[b, 0]), expected);
        }
        assert_eq!(chance(1.0), 1.0);
        assert_eq!(chance(0.5), 1.0 / 3.0);
    }
}
