//! What the neurons of a model put out over tokens.

use std::sync::Arc;

use moray::Cpu;
use moray::llama::{LogitRows, Model, Sequence, Settings};
use moray::policy::{Calibrate, Calibration, PromptStatistic, Site, Values};

use super::Sets;
use crate::error::Result;

/// Sequences of a call where each token stands alone.
const BATCH: usize = 64;

/// Values of every layer, f32 \[tokens, d_ff\] each: A = act(x·gate) ⊙ (x·up), or others of another width in its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Activations {
    values: Values,
    d_ff: usize,
    layers: Vec<Vec<f32>>,
}

impl Calibration for Activations {
    fn values(&self) -> Values {
        self.values
    }

    fn observe(&mut self, layer: usize, values: &[f32]) -> moray::Result<()> {
        self.layers[layer].extend_from_slice(values);
        Ok(())
    }
}

impl Activations {
    /// Takes activations that are there.
    pub fn new(d_ff: usize, layers: Vec<Vec<f32>>) -> Self {
        Activations { values: Values::Hidden, d_ff, layers }
    }

    /// Runs tokens one after another in one sequence, through weights by neuron.
    ///
    /// # Errors
    /// Those of the forward pass.
    pub fn in_sequence(cpu: &Cpu, model: &Model<Cpu>, tokens: &[u32]) -> Result<Self> {
        Self::of(cpu, model, Values::Hidden, tokens)
    }

    /// As [`Activations::in_sequence`], of other values.
    ///
    /// # Errors
    /// Those of the forward pass.
    pub fn of(cpu: &Cpu, model: &Model<Cpu>, values: Values, tokens: &[u32]) -> Result<Self> {
        Self::capture(model, values, |settings| {
            let mut session = model.session(cpu, Settings { policies: settings, ..Settings::dense(tokens.len()) })?;
            model.prefill(cpu, &mut session, 0, tokens)?;
            Ok(())
        })
    }

    /// Runs each token alone, as the first of a sequence of its own.
    ///
    /// # Errors
    /// Those of the forward pass.
    pub fn alone(cpu: &Cpu, model: &Model<Cpu>, tokens: &[u32]) -> Result<Self> {
        Self::capture(model, Values::Hidden, |policies| {
            let settings = Settings { slots: BATCH, max_tokens: BATCH, policies, ..Settings::dense(1) };
            let mut session = model.session(cpu, settings)?;
            for tokens in tokens.chunks(BATCH) {
                let sequence = |(slot, token)| Sequence { slot, tokens: std::slice::from_ref(token) };
                let sequences: Vec<Sequence<'_>> = tokens.iter().enumerate().map(sequence).collect();
                model.forward(cpu, &mut session, &sequences, LogitRows::None)?;
                (0..tokens.len()).try_for_each(|slot| model.truncate(cpu, &mut session, slot, 0))?;
            }
            Ok(())
        })
    }

    fn capture(
        model: &Model<Cpu>,
        values: Values,
        run: impl FnOnce(Vec<Arc<dyn moray::policy::PolicyConfig>>) -> Result<()>,
    ) -> Result<Self> {
        let sizes = model.config().sizes();
        let width = match values {
            Values::Gate | Values::Hidden => sizes.d_ff,
            Values::HeadOutputs => sizes.attention.q_elems(),
            Values::Inputs(projection) => sizes.count(Site::Inputs(projection)),
        };
        let calibrate = Calibrate::new(Activations { values, d_ff: width, layers: vec![Vec::new(); sizes.n_layers] });
        run(vec![Arc::new(calibrate.clone())])?;
        Ok(calibrate.with(|found| Activations { layers: std::mem::take(&mut found.layers), ..*found }))
    }

    /// Layers.
    pub fn n_layers(&self) -> usize {
        self.layers.len()
    }

    /// Values of a token in a layer.
    pub fn d_ff(&self) -> usize {
        self.d_ff
    }

    /// A layer's, f32 \[tokens, d_ff\].
    pub fn layer(&self, layer: usize) -> &[f32] {
        &self.layers[layer]
    }

    /// Tokens.
    pub fn tokens(&self) -> usize {
        self.layers.first().map_or(0, |layer| layer.len() / self.d_ff)
    }

    /// The `k` neurons of each token that put out the most.
    pub fn top(&self, k: usize) -> Sets {
        let token = |values: &[f32]| values.iter().map(|value| f64::from(value.abs())).collect::<Vec<_>>();
        Sets::new(self.d_ff, k, self.layers.iter().map(|layer| layer.chunks_exact(self.d_ff).map(token)))
    }

    /// Those of the tokens from `first` on.
    pub fn after(&self, first: usize) -> Self {
        let layers = self.layers.iter().map(|layer| layer[first * self.d_ff..].to_vec()).collect();
        Activations { layers, ..*self }
    }

    /// The statistic of a layer over some of the tokens.
    ///
    /// # Errors
    /// As [`PromptStatistic::observe`].
    pub fn statistic(&self, layer: usize, tokens: std::ops::Range<usize>) -> Result<PromptStatistic> {
        let mut statistic = PromptStatistic::new(self.d_ff)?;
        statistic.observe(&self.layers[layer][tokens.start * self.d_ff..tokens.end * self.d_ff])?;
        Ok(statistic)
    }
}
