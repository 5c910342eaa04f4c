//! CETT: how much can be dropped of each layer at a given error.

use moray::Cpu;
use moray::llama::{Mlp, Model};
use moray::policy::{cett_of_dropping, threshold_for_cett};
use moray::sparse_mlp::Weights;

use super::{Activations, Analysis, Row};
use crate::error::Result;

/// Errors of the MLP's output.
const TARGETS: [f32; 3] = [0.1, 0.2, 0.3];

/// The target at which one threshold for all layers is looked for.
const UNIVERSAL: f32 = 0.2;

/// What models that were trained to it leave at exact zeros.
const RELU_SHARE: f64 = 0.9;

/// Halvings of the search for one threshold of all layers: a sixteenth of a percent of the range of its logarithm.
const HALVINGS: usize = 14;

/// Finds the share of neurons whose contributions |a_j|·‖down_j‖ can be dropped at a mean CETT of 0.1, 0.2 and 0.3, with a threshold of
/// each layer's own, and at 0.2 with one for all layers.
///
/// # Errors
/// [`moray::Error::Unsupported`] for weights that are not by neuron; as [`threshold_for_cett`].
///
/// # Source
/// The first looks at activation sparsity of LLaMA and its pitfalls (arXiv 2405.09274).
pub fn cett(model: &Model<Cpu>, activations: &Activations) -> Result<Analysis> {
    let layers = model.layers().iter().enumerate();
    let layers =
        layers.map(|(index, layer)| Layer::new(&layer.mlp, activations.layer(index))).collect::<Result<Vec<_>>>()?;
    let mut rows = Vec::new();
    for target in TARGETS {
        let values =
            layers.iter().map(|layer| Ok(Some(layer.dropped(layer.threshold(target)?)))).collect::<Result<_>>()?;
        rows.push(Row { name: format!("CETT {target}, each layer's threshold"), values });
    }
    let threshold = universal(&layers)?;
    let values = layers.iter().map(|layer| Some(layer.dropped(threshold))).collect();
    rows.push(Row { name: format!("CETT {UNIVERSAL}, one threshold"), values });
    let mean = |row: &Row| row.values.iter().flatten().sum::<f64>() / row.values.len().max(1) as f64;
    let (own, one) = (mean(&rows[1]), mean(&rows[3]));
    let says = format!(
        "The activation gives too little sparsity: {}. At a CETT of {UNIVERSAL} {:.1}% of the neurons can be dropped with thresholds of \
         each layer's own and {:.1}% with one for all, over {} tokens; models trained to ReLU reach {:.0}% of exact zeros.",
        if own < RELU_SHARE { "holds here" } else { "does not hold here" },
        100.0 * own,
        100.0 * one,
        activations.tokens(),
        100.0 * RELU_SHARE
    );
    Ok(Analysis {
        name: "cett".into(),
        title: "What can be dropped at a given error".into(),
        x: "layer".into(),
        y: "share of neurons that are dropped".into(),
        columns: (0..layers.len()).map(|layer| layer.to_string()).collect(),
        rows,
        says,
    })
}

/// A layer's neurons and what they put out.
struct Layer<'a> {
    weights: &'a Weights,
    activations: &'a [f32],
    norms: Vec<f32>,
}

impl<'a> Layer<'a> {
    fn new(mlp: &'a Mlp<Cpu>, activations: &'a [f32]) -> Result<Self> {
        let Some(weights) = mlp.neurons() else {
            let (expected, got) = ("weights by neuron", "a whole MLP".into());
            return Err(moray::Error::Unsupported { what: "mlp", expected, got }.into());
        };
        Ok(Layer { weights, activations, norms: weights.down_norms() })
    }

    fn score(&self, token: usize, neuron: usize) -> f64 {
        f64::from(self.activations[token * self.norms.len() + neuron].abs()) * f64::from(self.norms[neuron])
    }

    fn threshold(&self, target: f32) -> Result<f64> {
        Ok(threshold_for_cett(self.weights, self.activations, target, |t, j| self.score(t, j))?)
    }

    /// The share of neurons that score no more than a threshold.
    fn dropped(&self, threshold: f64) -> f64 {
        let count = (0..self.activations.len())
            .filter(|i| self.score(i / self.norms.len(), i % self.norms.len()) <= threshold)
            .count();
        count as f64 / self.activations.len().max(1) as f64
    }

    fn cett(&self, threshold: f64) -> Result<f64> {
        Ok(cett_of_dropping(self.weights, self.activations, |t, j| self.score(t, j) <= threshold)?)
    }
}

/// The highest threshold, by bisection of its logarithm, at which the mean over layers of the CETT is within the target.
fn universal(layers: &[Layer<'_>]) -> Result<f64> {
    let highest = |layer: &Layer<'_>| {
        let scores = (0..layer.activations.len()).map(|i| layer.score(i / layer.norms.len(), i % layer.norms.len()));
        scores.fold(f64::MIN_POSITIVE, f64::max)
    };
    let top = layers.iter().map(highest).fold(f64::MIN_POSITIVE, f64::max).ln();
    let (mut low, mut high) = (top - 20.0, top);
    for _ in 0..HALVINGS {
        let middle = 0.5 * (low + high);
        let sum = layers.iter().map(|layer| layer.cett(middle.exp())).sum::<Result<f64>>()?;
        if sum / layers.len().max(1) as f64 <= f64::from(UNIVERSAL) { low = middle } else { high = middle }
    }
    Ok(low.exp())
}
