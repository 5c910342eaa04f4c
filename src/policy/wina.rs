//! WINA: inputs by their size and what the matrix makes of them.

use std::sync::Arc;

use super::found::Threshold;
use super::observed::tokens_of;
use super::quantiles::Quantiles;
use super::table::{Arguments, Context, Policies};
use super::{
    Calibrate, Calibration, Found, Kept, ModelSizes, Observed, Policy, PolicyConfig, Projection, Site, Sizes, Values,
    Wanted, check_layer, kept_count,
};
use crate::attention::Span;
use crate::error::{Error, Result, check_len};
use crate::sparse_mlp::{Score, ScoreOn, Selection, check_finite};

/// Keeps inputs of a matrix for a token by |x\[k\]| · ‖W\[:, k\]‖₂: a fixed share of the highest, the lower index first where equal, or those
/// above a threshold of the layer. A session has one for each matrix; matrices that share their input have one norm for each input, over the
/// rows of all of them.
///
/// # Source
/// WINA: weight informed neuron activation (arXiv 2505.19427), without making the columns of the weights orthogonal; with thresholds as TEAL
/// sets them.
#[derive(Debug, Clone, PartialEq)]
pub struct Wina {
    projection: Projection,
    rule: Rule,
    /// f32 \[K\] of each layer.
    norms: Vec<Vec<f32>>,
}

#[derive(Debug, Clone, PartialEq)]
enum Rule {
    /// The kept share.
    Share(f32),
    /// Of each layer.
    Thresholds(Vec<f32>),
}

impl Wina {
    /// Keeps the ⌈kept · K⌉ inputs of the highest scores; `norms` are those of the matrix's columns, f32 \[K\] of each layer.
    ///
    /// # Errors
    /// [`Error::Value`] for a fraction outside (0, 1], or a norm that is negative or not finite.
    pub fn exact(projection: Projection, kept: f32, norms: Vec<Vec<f32>>) -> Result<Self> {
        super::check_fraction("kept fraction", kept)?;
        Self::new(projection, Rule::Share(kept), norms)
    }

    /// Keeps the inputs whose scores are above the threshold of their layer.
    ///
    /// # Errors
    /// [`Error::Value`] for a threshold or a norm that is negative or not finite, [`Error::Length`] unless each layer has both.
    pub fn above(projection: Projection, thresholds: Vec<f32>, norms: Vec<Vec<f32>>) -> Result<Self> {
        check_len("wina thresholds", norms.len(), thresholds.len())?;
        check_sizes("threshold", &thresholds)?;
        Self::new(projection, Rule::Thresholds(thresholds), norms)
    }

    fn new(projection: Projection, rule: Rule, norms: Vec<Vec<f32>>) -> Result<Self> {
        norms.iter().try_for_each(|norms| check_sizes("norm of a column", norms))?;
        Ok(Wina { projection, rule, norms })
    }

    /// Finds the norms of all columns.
    pub(super) fn find_norms(_: &Arguments, context: &mut dyn Context) -> Result<Found> {
        let mut found = Found::default();
        for projection in Projection::ALL {
            put_norms(&mut found, projection, &norms(context, projection)?)?;
        }
        Ok(found)
    }

    /// Makes the policies of exact shares that a command names.
    pub(super) fn make_exact(arguments: &Arguments, model: &ModelSizes, found: &Found) -> Policies {
        let wina = |projection| {
            let wina = Wina::exact(projection, arguments.fraction, norms_of(found, projection, model)?)?;
            Ok(Arc::new(wina) as Arc<dyn PolicyConfig>)
        };
        Projection::ALL.into_iter().map(wina).collect()
    }

    /// Finds the norms of all columns, and thresholds.
    pub(super) fn find_thresholds(arguments: &Arguments, context: &mut dyn Context) -> Result<Found> {
        let calibrator = |projection| {
            let norms = norms(context, projection)?;
            let layers = vec![Quantiles::default(); norms.len()];
            Ok(Calibrate::new(Calibrator { projection, norms, layers }))
        };
        let calibrates = Projection::ALL.into_iter().map(calibrator).collect::<Result<Vec<_>>>()?;
        context
            .run(calibrates.iter().map(|calibrate| Arc::new(calibrate.clone()) as Arc<dyn PolicyConfig>).collect())?;
        let (mut found, mut thresholds) = (Found::default(), Vec::new());
        for calibrate in &calibrates {
            calibrate.with(|calibrator| {
                thresholds.extend(calibrator.thresholds(arguments.fraction)?);
                put_norms(&mut found, calibrator.projection, &calibrator.norms)
            })?;
        }
        found.put_thresholds(&[Projection::ALL.len(), context.model().n_layers], thresholds)?;
        Ok(found)
    }

    /// Makes the policies of calibrated thresholds that a command names.
    pub(super) fn make_above(_: &Arguments, model: &ModelSizes, found: &Found) -> Policies {
        let thresholds = found.thresholds(&[Projection::ALL.len(), model.n_layers])?.chunks_exact(model.n_layers);
        let wina = |(projection, thresholds): (Projection, &[f32])| {
            let wina = Wina::above(projection, thresholds.to_vec(), norms_of(found, projection, model)?)?;
            Ok(Arc::new(wina) as Arc<dyn PolicyConfig>)
        };
        Projection::ALL.into_iter().zip(thresholds).map(wina).collect()
    }
}

fn norms(context: &dyn Context, projection: Projection) -> Result<Vec<Vec<f32>>> {
    (0..context.model().n_layers).map(|layer| context.column_norms(projection, layer)).collect()
}

fn name_of_norms(projection: Projection) -> String {
    format!("norms.{}", projection.name())
}

/// Adds norms f32 \[layers, K\].
fn put_norms(found: &mut Found, projection: Projection, norms: &[Vec<f32>]) -> Result<()> {
    let shape = [norms.len(), norms.first().map_or(0, Vec::len)];
    found.put_f32(&name_of_norms(projection), &shape, norms.concat())
}

/// The norms of each layer.
fn norms_of(found: &Found, projection: Projection, model: &ModelSizes) -> Result<Vec<Vec<f32>>> {
    let k = model.count(Site::Inputs(projection));
    let norms = found.f32(&name_of_norms(projection), &[model.n_layers, k])?;
    Ok(norms.chunks_exact(k).map(<[f32]>::to_vec).collect())
}

fn check_sizes(what: &'static str, values: &[f32]) -> Result<()> {
    match values.iter().find(|v| !(v.is_finite() && **v >= 0.0)) {
        Some(&got) => Err(Error::Value { what, expected: "a finite number of at least 0", got }),
        None => Ok(()),
    }
}

impl PolicyConfig for Wina {
    fn policy(&self, sizes: &Sizes) -> Result<Box<dyn Policy>> {
        check_len("wina norms", sizes.model.n_layers, self.norms.len())?;
        let count = sizes.model.count(Site::Inputs(self.projection));
        self.norms.iter().try_for_each(|norms| check_len("norms of columns", count, norms.len()))?;
        Ok(Box::new(self.clone()))
    }
}

impl Policy for Wina {
    fn site(&self) -> Site {
        Site::Inputs(self.projection)
    }

    fn wants(&self, _: &[Span]) -> Wanted {
        match self.rule {
            Rule::Share(_) => Wanted::Lengths,
            Rule::Thresholds(_) => Wanted::AtHand(Values::Inputs(self.projection)),
        }
    }

    fn select(&mut self, layer: usize, _: &[Span]) -> Result<Selection<'_>> {
        check_layer(layer, self.norms.len())?;
        let score = Score { on: ScoreOn::Input, channel_scale: Some(&self.norms[layer]) };
        Ok(match &self.rule {
            Rule::Share(kept) => Selection::TopK { score, k: kept_count(*kept, self.norms[layer].len())? },
            Rule::Thresholds(thresholds) => Selection::Threshold { score, threshold: thresholds[layer] },
        })
    }

    fn observe(&mut self, layer: usize, spans: &[Span], observed: &Observed<'_>) -> Result<Kept> {
        check_layer(layer, self.norms.len())?;
        let (norms, tokens) = (&self.norms[layer], tokens_of(spans));
        let threshold = match &self.rule {
            Rule::Share(kept) => return Ok(Kept::each(tokens, kept_count(*kept, norms.len())?, norms.len())),
            Rule::Thresholds(thresholds) => thresholds[layer],
        };
        let mut kept = Kept::default();
        for inputs in (0..tokens).map(|token| observed.token(token)) {
            let above = inputs.iter().zip(norms).filter(|(x, norm)| x.abs() * **norm > threshold).count();
            kept += Kept::each(1, above, inputs.len());
        }
        Ok(kept)
    }

    fn is_settled(&self, _: &[Span]) -> bool {
        true
    }
}

/// Counts the scores of a matrix's inputs over a calibration text.
#[derive(Debug)]
struct Calibrator {
    projection: Projection,
    norms: Vec<Vec<f32>>,
    layers: Vec<Quantiles>,
}

impl Calibrator {
    fn thresholds(&self, kept: f32) -> Result<Vec<Threshold>> {
        self.layers.iter().map(|layer| layer.threshold(kept)).collect()
    }
}

impl Calibration for Calibrator {
    fn values(&self) -> Values {
        Values::Inputs(self.projection)
    }

    fn observe(&mut self, layer: usize, inputs: &[f32]) -> Result<()> {
        check_layer(layer, self.layers.len())?;
        check_len("inputs", self.norms[layer].len(), inputs.len())?;
        check_finite("inputs", inputs)?;
        let scores: Vec<f32> = inputs.iter().zip(&self.norms[layer]).map(|(x, norm)| x.abs() * norm).collect();
        self.layers[layer].count(&scores);
        Ok(())
    }
}
