//! A head policy by prediction: the heads of a layer from the inputs of the MLP before it.

use std::sync::{Arc, Mutex, PoisonError};

use super::deja_vu::{TOKENS, predictors_of, put_predictors};
use super::observed::tokens_of;
use super::table::{Arguments, Context, Policies};
use super::{
    Found, Kept, LowRank, ModelSizes, Observed, Policy, PolicyConfig, Site, Sizes, Training, Values, Wanted,
    check_layer, kept_count,
};
use crate::attention::{AttentionShape, Span};
use crate::error::{Error, Result, check_len};
use crate::sparse_mlp::{Selection, TokenMasks};

/// Keeps, for each generated token of each layer, the `k` query heads that a predictor scores highest, the lower first where equal. The prompt
/// runs all heads.
///
/// A layer's heads are predicted from the inputs of the MLP of the layer before: one layer ahead, so that a layer that is about to start knows its
/// heads. The first layer has none before it: its predictor is its bias.
///
/// # Source
/// Deja Vu (ICML 2023): heads with the largest outputs, predicted one layer ahead.
#[derive(Debug, Clone)]
pub struct PredictedHeads {
    layers: Arc<Vec<LowRank>>,
    k: usize,
}

impl PredictedHeads {
    /// Takes the predictor of each layer.
    ///
    /// # Errors
    /// [`Error::Shape`] for a `k` that is 0 or more than there are scores.
    pub fn new(layers: Vec<LowRank>, k: usize) -> Result<Self> {
        let n_heads = layers.first().map_or(0, |predictor| predictor.sizes()[2]);
        if !(1..=n_heads).contains(&k) {
            return Err(Error::Shape { what: "k", expected: "1 to the number of heads", got: k });
        }
        Ok(PredictedHeads { layers: Arc::new(layers), k })
    }

    /// The predictor of each layer.
    pub fn layers(&self) -> &[LowRank] {
        &self.layers
    }

    /// Finds the predictors of the policy that a command names.
    pub(super) fn find(arguments: &Arguments, context: &mut dyn Context) -> Result<Found> {
        let model = context.model();
        let record = Record::default();
        context.run(vec![Arc::new(record.clone())])?;
        let [inputs, outputs] = record.taken();
        let layers = predicted_heads(&inputs, &outputs, &model.attention, arguments.fraction, Training::STANDARD)?;
        let mut found = Found::default();
        put_predictors(&mut found, &layers.layers().iter().collect::<Vec<_>>())?;
        Ok(found)
    }

    /// Makes the policy that a command names of its predictors.
    pub(super) fn make(arguments: &Arguments, model: &ModelSizes, found: &Found) -> Policies {
        let n_heads = model.attention.n_q_heads;
        let layers = predictors_of(found, model, n_heads)?;
        Ok(vec![Arc::new(PredictedHeads::new(layers, kept_count(arguments.fraction, n_heads)?)?)])
    }
}

/// Fits and trains a predictor of ⌈kept · n_q_heads⌉ heads for each layer: of whether a head is among the token's largest ‖out\[h\]‖₂, from the inputs
/// of the MLP before. `inputs` are f32 \[tokens, d_model\] of each layer's MLP, `outputs` f32 \[tokens, n_q_heads · head_dim\] of each layer's attention.
///
/// # Errors
/// As [`LowRank::fit_and_train`], and [`Error::Value`] for a fraction outside (0, 1].
pub fn predicted_heads(
    inputs: &[Vec<f32>],
    outputs: &[Vec<f32>],
    shape: &AttentionShape,
    kept: f32,
    training: Training,
) -> Result<PredictedHeads> {
    let (n_heads, tokens) = (shape.n_q_heads, outputs.first().map_or(0, |outputs| outputs.len() / shape.q_elems()));
    let (k, d) = (kept_count(kept, n_heads)?, inputs.first().map_or(0, Vec::len) / tokens.max(1));
    let mut layers = Vec::with_capacity(outputs.len());
    for (layer, outputs) in outputs.iter().enumerate() {
        let labels = largest_heads(outputs, shape, k);
        // nothing is known before the first layer: inputs that never vary leave the bias
        let none = vec![0.0; if layer == 0 { tokens * d } else { 0 }];
        let x = if layer == 0 { &none } else { &inputs[layer - 1] };
        let training = if layer == 0 { Training::NONE } else { training };
        layers.push(LowRank::fit_and_train(x, &labels, (d, n_heads), n_heads, training)?);
    }
    PredictedHeads::new(layers, k)
}

/// 1 for the `k` heads of each token with the largest outputs, the lower first where equal, and 0 for the others, f32 \[tokens, n_q_heads\].
pub fn largest_heads(outputs: &[f32], shape: &AttentionShape, k: usize) -> Vec<f32> {
    let n_heads = shape.n_q_heads;
    let mut labels = vec![0.0; outputs.len() / shape.q_elems() * n_heads];
    for (outputs, labels) in outputs.chunks_exact(shape.q_elems()).zip(labels.chunks_exact_mut(n_heads)) {
        let sizes: Vec<f32> =
            outputs.chunks_exact(shape.head_dim).map(|head| head.iter().map(|v| v * v).sum()).collect();
        highest(&sizes, k).for_each(|head| labels[head] = 1.0);
    }
    labels
}

/// The places of the `k` highest scores, the lower first where equal.
fn highest(scores: &[f32], k: usize) -> impl Iterator<Item = usize> {
    let before = |j: usize, i: usize| scores[j] > scores[i] || (scores[j] == scores[i] && j < i);
    let n = scores.len();
    (0..n).filter(move |&i| (0..n).filter(|&j| before(j, i)).count() < k)
}

impl PolicyConfig for PredictedHeads {
    fn policy(&self, sizes: &Sizes) -> Result<Box<dyn Policy>> {
        let ModelSizes { n_layers, d_model, attention, .. } = sizes.model;
        check_len("predictors", n_layers, self.layers.len())?;
        let mut rank = 0;
        for predictor in &*self.layers {
            let [d, own, n] = predictor.sizes();
            check_len("inputs of a predictor", d_model, d)?;
            check_len("heads of a predictor", attention.n_q_heads, n)?;
            rank = rank.max(own);
        }
        let words = attention.n_q_heads.div_ceil(64);
        Ok(Box::new(ByHeadPrediction {
            config: self.clone(),
            n_heads: attention.n_q_heads,
            generates: vec![false; sizes.slots],
            masks: vec![0; sizes.slots * words],
            room: vec![0.0; rank],
            scores: vec![0.0; attention.n_q_heads],
            sums: vec![0.0; attention.n_q_heads],
        }))
    }
}

/// The choices of [`PredictedHeads`] for a call.
#[derive(Debug)]
struct ByHeadPrediction {
    config: PredictedHeads,
    n_heads: usize,
    generates: Vec<bool>,
    /// Of the layer at hand, one for each span.
    masks: Vec<u64>,
    room: Vec<f32>,
    scores: Vec<f32>,
    /// Of a span's tokens.
    sums: Vec<f32>,
}

impl ByHeadPrediction {
    fn check(&self, layer: usize, spans: &[Span]) -> Result<()> {
        check_layer(layer, self.config.layers.len())?;
        spans.iter().try_for_each(|span| self.check_slot(span.slot))?;
        if spans.len() > self.generates.len() {
            let expected = "no more than the session's slots";
            return Err(Error::Shape { what: "spans", expected, got: spans.len() });
        }
        Ok(())
    }

    fn check_slot(&self, slot: usize) -> Result<()> {
        let limit = self.generates.len();
        if slot < limit { Ok(()) } else { Err(Error::Index { what: "slot", limit, got: slot }) }
    }

    /// Writes the masks of a layer; without inputs, by its bias. The tokens of a span share a mask: their scores are added.
    fn choose(&mut self, layer: usize, spans: &[Span], inputs: Option<&Observed<'_>>) -> Result<()> {
        let (layers, words) = (Arc::clone(&self.config.layers), self.n_heads.div_ceil(64));
        let predictor = &layers[layer];
        let [d, ..] = predictor.sizes();
        let mut first = 0;
        for (index, span) in spans.iter().enumerate() {
            let mask = index * words..(index + 1) * words;
            self.masks[mask.clone()].fill(0);
            if self.generates[span.slot] {
                match inputs {
                    None => self.sums.copy_from_slice(predictor.parts()[2]),
                    Some(inputs) => {
                        self.sums.fill(0.0);
                        for token in first..first + span.len {
                            predictor.predict(inputs.whole_token(token, d)?, &mut self.room, &mut self.scores);
                            self.sums.iter_mut().zip(&self.scores).for_each(|(sum, score)| *sum += score);
                        }
                    }
                }
                let mask = &mut self.masks[mask];
                highest(&self.sums, self.config.k).for_each(|head| mask[head / 64] |= 1 << (head % 64));
            } else {
                let mask = &mut self.masks[mask];
                (0..self.n_heads).for_each(|head| mask[head / 64] |= 1 << (head % 64));
            }
            first += span.len;
        }
        Ok(())
    }
}

impl Policy for ByHeadPrediction {
    fn site(&self) -> Site {
        Site::Heads
    }

    fn wants(&self, _: &[Span]) -> Wanted {
        Wanted::Lengths
    }

    fn predicts(&self) -> bool {
        true
    }

    fn predict(&mut self, layer: usize, spans: &[Span], inputs: &Observed<'_>) -> Result<()> {
        self.check(layer, spans)?;
        if layer + 1 < self.config.layers.len() {
            self.choose(layer + 1, spans, Some(inputs))?;
        }
        Ok(())
    }

    fn select(&mut self, layer: usize, spans: &[Span]) -> Result<Selection<'_>> {
        self.check(layer, spans)?;
        if layer == 0 {
            self.choose(0, spans, None)?;
        }
        let words = spans.len() * self.n_heads.div_ceil(64);
        Ok(Selection::Masks(TokenMasks::new(&self.masks[..words], spans.len(), self.n_heads)?))
    }

    fn observe(&mut self, layer: usize, spans: &[Span], _: &Observed<'_>) -> Result<Kept> {
        self.check(layer, spans)?;
        let generated: usize = spans.iter().filter(|span| self.generates[span.slot]).map(|span| span.len).sum();
        Ok(Kept::each(generated, self.config.k, self.n_heads))
    }

    fn begin_generation(&mut self, slot: usize) -> Result<()> {
        self.check_slot(slot)?;
        self.generates[slot] = true;
        Ok(())
    }

    fn reset(&mut self, slot: usize) -> Result<()> {
        self.check_slot(slot)?;
        self.generates[slot] = false;
        Ok(())
    }

    fn is_settled(&self, _: &[Span]) -> bool {
        // each token's choice is made on the host
        false
    }
}

/// Inputs of each layer's MLP, and outputs of its attention, of a calibration text's first tokens.
#[derive(Debug, Clone, Default)]
struct Record(Arc<Mutex<[Vec<Vec<f32>>; 2]>>);

impl Record {
    fn taken(&self) -> [Vec<Vec<f32>>; 2] {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn add(&self, what: usize, layer: usize, spans: &[Span], observed: &Observed<'_>) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for token in 0..tokens_of(spans) {
            let values = observed.token(token);
            if let Some(rows) = held[what].get_mut(layer).filter(|rows| rows.len() < TOKENS * values.len()) {
                rows.extend_from_slice(values);
            }
        }
    }
}

impl PolicyConfig for Record {
    fn policy(&self, sizes: &Sizes) -> Result<Box<dyn Policy>> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *held = [(); 2].map(|()| vec![Vec::new(); sizes.model.n_layers]);
        Ok(Box::new(self.clone()))
    }
}

impl Policy for Record {
    fn site(&self) -> Site {
        Site::Heads
    }

    fn wants(&self, _: &[Span]) -> Wanted {
        Wanted::Copied(Values::HeadOutputs)
    }

    fn predicts(&self) -> bool {
        true
    }

    fn predict(&mut self, layer: usize, spans: &[Span], inputs: &Observed<'_>) -> Result<()> {
        self.add(0, layer, spans, inputs);
        Ok(())
    }

    fn select(&mut self, _: usize, _: &[Span]) -> Result<Selection<'_>> {
        Ok(Selection::All)
    }

    fn observe(&mut self, layer: usize, spans: &[Span], observed: &Observed<'_>) -> Result<Kept> {
        self.add(1, layer, spans, observed);
        Ok(Kept::default())
    }

    fn is_settled(&self, _: &[Span]) -> bool {
        false
    }
}
