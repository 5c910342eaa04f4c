//! Policies that predict a token's neurons from the inputs of its MLPs.

use std::sync::Arc;

use super::observed::tokens_of;
use super::{Kept, LowRank, Observed, Policy, PolicyConfig, Site, Sizes, Wanted, check_layer};
use crate::attention::Span;
use crate::error::{Error, Result, check_len};
use crate::sparse_mlp::{Selection, TokenMasks};

/// Keeps, for each token of each layer, the neurons of the `k` units that a predictor scores highest, the lower unit first where equal. A unit
/// is a neuron, or a cluster of them.
#[derive(Debug, Clone)]
pub struct Predicted {
    layers: Arc<Vec<PredictedLayer>>,
    k: usize,
    ahead: bool,
}

/// What a layer's neurons are predicted by.
#[derive(Debug, Clone, PartialEq)]
pub struct PredictedLayer {
    /// Scores of the layer's units, from the inputs of its MLP or of the MLP before.
    pub predictor: LowRank,
    /// The unit of each neuron \[d_ff\]; empty where every neuron is its own.
    pub units: Vec<u32>,
}

impl Predicted {
    /// Keeps the `k` units of the highest scores. With `ahead` a layer's are predicted from the inputs of the MLP before it, the first
    /// layer's from its own.
    ///
    /// # Errors
    /// [`Error::Index`] for a unit that is not scored, [`Error::Shape`] for a `k` that is 0 or more than there are.
    pub fn new(layers: Vec<PredictedLayer>, k: usize, ahead: bool) -> Result<Self> {
        for layer in &layers {
            let limit = layer.predictor.sizes()[2];
            if let Some(&got) = layer.units.iter().find(|&&unit| unit as usize >= limit) {
                return Err(Error::Index { what: "unit of a neuron", limit, got: got as usize });
            }
            if !(1..=limit).contains(&k) {
                return Err(Error::Shape { what: "k", expected: "1 to the number of units", got: k });
            }
        }
        Ok(Predicted { layers: Arc::new(layers), k, ahead })
    }

    /// What each layer's neurons are predicted by.
    pub fn layers(&self) -> &[PredictedLayer] {
        &self.layers
    }
}

impl PolicyConfig for Predicted {
    fn policy(&self, sizes: &Sizes) -> Result<Box<dyn Policy>> {
        check_len("predictors", sizes.model.n_layers, self.layers.len())?;
        let (d_ff, mut largest) = (sizes.model.d_ff, [0; 2]);
        for PredictedLayer { predictor, units } in &*self.layers {
            let [d, rank, n] = predictor.sizes();
            check_len("inputs of a predictor", sizes.model.d_model, d)?;
            check_len("neurons of a predictor", d_ff, if units.is_empty() { n } else { units.len() })?;
            largest = [largest[0].max(rank), largest[1].max(n)];
        }
        Ok(Box::new(ByPrediction {
            config: self.clone(),
            d_ff,
            room: vec![0.0; largest[0]],
            scores: vec![0.0; largest[1]],
            order: Vec::with_capacity(largest[1]),
            chosen: vec![false; largest[1]],
            masks: vec![0; sizes.max_tokens * d_ff.div_ceil(64)],
            tokens: 0,
            next: vec![0; if self.ahead { sizes.max_tokens * d_ff.div_ceil(64) } else { 0 }],
        }))
    }
}

/// The choices of [`Predicted`] for a call.
#[derive(Debug)]
struct ByPrediction {
    config: Predicted,
    d_ff: usize,
    room: Vec<f32>,
    scores: Vec<f32>,
    order: Vec<u32>,
    /// By unit.
    chosen: Vec<bool>,
    /// One for each token of the call, of the layer at hand.
    masks: Vec<u64>,
    tokens: usize,
    /// The same of the layer after it.
    next: Vec<u64>,
}

impl ByPrediction {
    /// Writes the masks of a layer from inputs, one for each token.
    fn choose(&mut self, layer: usize, inputs: &Observed<'_>, tokens: usize, masks: &mut [u64]) -> Result<()> {
        let layers = Arc::clone(&self.config.layers);
        let PredictedLayer { predictor, units } = &layers[layer];
        let [d, _, n] = predictor.sizes();
        for (token, mask) in masks.chunks_exact_mut(self.d_ff.div_ceil(64)).take(tokens).enumerate() {
            let scores = &mut self.scores[..n];
            predictor.predict(inputs.whole_token(token, d)?, &mut self.room, scores);
            self.order.clear();
            self.order.extend(0..n as u32);
            let by_score = |a: &u32, b: &u32| scores[*b as usize].total_cmp(&scores[*a as usize]).then(a.cmp(b));
            if self.config.k < n {
                self.order.select_nth_unstable_by(self.config.k, by_score);
            }
            let chosen = &mut self.chosen[..n];
            chosen.fill(false);
            self.order[..self.config.k].iter().for_each(|&unit| chosen[unit as usize] = true);
            mask.fill(0);
            for j in 0..self.d_ff {
                if chosen[units.get(j).map_or(j, |&unit| unit as usize)] {
                    mask[j / 64] |= 1 << (j % 64);
                }
            }
        }
        Ok(())
    }
}

impl Policy for ByPrediction {
    fn site(&self) -> Site {
        Site::Neurons
    }

    fn wants(&self, _: &[Span]) -> Wanted {
        Wanted::Lengths
    }

    fn predicts(&self) -> bool {
        true
    }

    fn predict(&mut self, layer: usize, spans: &[Span], inputs: &Observed<'_>) -> Result<()> {
        check_layer(layer, self.config.layers.len())?;
        self.tokens = tokens_of(spans);
        let capacity = self.masks.len() / self.d_ff.div_ceil(64).max(1);
        if self.tokens > capacity {
            let expected = "no more than the session's max_tokens";
            return Err(Error::Shape { what: "tokens", expected, got: self.tokens });
        }
        let (mut masks, mut next) = (std::mem::take(&mut self.masks), std::mem::take(&mut self.next));
        std::mem::swap(&mut masks, &mut next);
        let mut made = Ok(());
        if !self.config.ahead || layer == 0 {
            // without looking ahead there is one buffer, and it is `next` now
            let own = if self.config.ahead { &mut masks } else { &mut next };
            made = self.choose(layer, inputs, self.tokens, own);
        }
        if self.config.ahead && layer + 1 < self.config.layers.len() && made.is_ok() {
            made = self.choose(layer + 1, inputs, self.tokens, &mut next);
        }
        if !self.config.ahead {
            std::mem::swap(&mut masks, &mut next);
        }
        (self.masks, self.next) = (masks, next);
        made
    }

    fn select(&mut self, layer: usize, spans: &[Span]) -> Result<Selection<'_>> {
        check_layer(layer, self.config.layers.len())?;
        let tokens = tokens_of(spans);
        check_len("predicted tokens", tokens, self.tokens)?;
        let words = tokens * self.d_ff.div_ceil(64);
        Ok(Selection::Masks(TokenMasks::new(&self.masks[..words], tokens, self.d_ff)?))
    }

    fn observe(&mut self, _: usize, spans: &[Span], _: &Observed<'_>) -> Result<Kept> {
        let words = self.d_ff.div_ceil(64);
        let mut kept = Kept::default();
        for mask in self.masks.chunks_exact(words).take(tokens_of(spans)) {
            kept += Kept::each(1, mask.iter().map(|word| word.count_ones() as usize).sum(), self.d_ff);
        }
        Ok(kept)
    }

    fn is_settled(&self, _: &[Span]) -> bool {
        // each token's choice is made on the host
        false
    }
}
