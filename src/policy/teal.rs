//! TEAL: a threshold on the inputs of every matrix, calibrated as a quantile.

use std::sync::Arc;

use super::found::Threshold;
use super::observed::tokens_of;
use super::quantiles::Quantiles;
use super::table::{Arguments, Context, Policies};
use super::{
    Calibrate, Calibration, Found, Kept, ModelSizes, Observed, Policy, PolicyConfig, Projection, Site, Sizes, Values,
    Wanted, check_layer,
};
use crate::attention::Span;
use crate::error::{Error, Result};
use crate::sparse_mlp::{Score, ScoreOn, Selection, check_finite};

/// Keeps input k of a matrix for a token iff |x\[k\]| > threshold\[layer\]. A session has one for each matrix.
///
/// # Source
/// TEAL: training-free activation sparsity (arXiv 2408.14690), with the same share for every matrix; `teal-greedy` in [`super::TABLE`] has its
/// allocation of shares.
#[derive(Debug, Clone, PartialEq)]
pub struct Teal {
    projection: Projection,
    thresholds: Vec<f32>,
}

impl Teal {
    /// Takes one threshold for each layer.
    ///
    /// # Errors
    /// [`Error::Value`] for a threshold that is negative or not finite.
    pub fn new(projection: Projection, thresholds: Vec<f32>) -> Result<Self> {
        match thresholds.iter().find(|t| !(t.is_finite() && **t >= 0.0)) {
            Some(&got) => Err(Error::Value { what: "threshold", expected: "a finite number of at least 0", got }),
            None => Ok(Teal { projection, thresholds }),
        }
    }

    /// The thresholds, one for each layer.
    pub fn thresholds(&self) -> &[f32] {
        &self.thresholds
    }

    pub(super) fn find(arguments: &Arguments, context: &mut dyn Context) -> Result<Found> {
        let n_layers = context.model().n_layers;
        let calibrates = calibrators(context)?;
        let mut thresholds = Vec::with_capacity(Projection::ALL.len() * n_layers);
        for calibrate in &calibrates {
            thresholds.extend(calibrate.with(|calibrator| calibrator.thresholds(arguments.fraction))?);
        }
        let mut found = Found::default();
        found.put_thresholds(&[Projection::ALL.len(), n_layers], thresholds)?;
        Ok(found)
    }

    pub(super) fn make(_: &Arguments, model: &ModelSizes, found: &Found) -> Policies {
        let thresholds = found.thresholds(&[Projection::ALL.len(), model.n_layers])?.chunks_exact(model.n_layers);
        let teal = |(projection, thresholds): (Projection, &[f32])| {
            Ok(Arc::new(Teal::new(projection, thresholds.to_vec())?) as Arc<dyn PolicyConfig>)
        };
        Projection::ALL.into_iter().zip(thresholds).map(teal).collect()
    }
}

/// Shows the calibration text to a calibrator of each matrix.
pub(super) fn calibrators(context: &mut dyn Context) -> Result<Vec<Calibrate<TealCalibrator>>> {
    let n_layers = context.model().n_layers;
    let calibrates = Projection::ALL.map(|projection| TealCalibrator::new(projection, n_layers).map(Calibrate::new));
    let calibrates = calibrates.into_iter().collect::<Result<Vec<_>>>()?;
    context.run(calibrates.iter().map(|calibrate| Arc::new(calibrate.clone()) as Arc<dyn PolicyConfig>).collect())?;
    Ok(calibrates)
}

/// A threshold of one matrix, the others' 0.
pub(super) fn one_at(place: usize, threshold: f32) -> [f32; 4] {
    std::array::from_fn(|other| if other == place { threshold } else { 0.0 })
}

impl PolicyConfig for Teal {
    fn policy(&self, sizes: &Sizes) -> Result<Box<dyn Policy>> {
        crate::error::check_len("teal thresholds", sizes.model.n_layers, self.thresholds.len())?;
        Ok(Box::new(self.clone()))
    }
}

impl Policy for Teal {
    fn site(&self) -> Site {
        Site::Inputs(self.projection)
    }

    fn wants(&self, _: &[Span]) -> Wanted {
        Wanted::AtHand(Values::Inputs(self.projection))
    }

    fn select(&mut self, layer: usize, _: &[Span]) -> Result<Selection<'_>> {
        check_layer(layer, self.thresholds.len())?;
        Ok(Selection::Threshold { score: Score::plain(ScoreOn::Input), threshold: self.thresholds[layer] })
    }

    fn observe(&mut self, layer: usize, spans: &[Span], observed: &Observed<'_>) -> Result<Kept> {
        check_layer(layer, self.thresholds.len())?;
        let (mut kept, threshold) = (Kept::default(), self.thresholds[layer]);
        for inputs in (0..tokens_of(spans)).map(|token| observed.token(token)) {
            kept += Kept::each(1, inputs.iter().filter(|x| x.abs() > threshold).count(), inputs.len());
        }
        Ok(kept)
    }

    fn is_settled(&self, _: &[Span]) -> bool {
        true
    }
}

/// Collects |x| of a matrix's inputs over calibration text and finds the thresholds.
///
/// # Example
/// ```
/// use moray::policy::{Calibration, Projection, TealCalibrator};
///
/// let mut calibrator = TealCalibrator::new(Projection::Down, 1)?;
/// calibrator.observe(0, &[0.1, -0.2, 0.3, -0.4])?;
/// let teal = calibrator.finish(0.5)?;
/// assert!((0.2..0.3).contains(&teal.thresholds()[0])); // 0.3 and −0.4 are kept: one half
/// # Ok::<(), moray::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct TealCalibrator {
    projection: Projection,
    layers: Vec<Quantiles>,
}

impl TealCalibrator {
    /// Starts with no observations.
    ///
    /// # Errors
    /// [`Error::Shape`] for no layers.
    pub fn new(projection: Projection, n_layers: usize) -> Result<Self> {
        if n_layers == 0 {
            return Err(Error::Shape { what: "n_layers", expected: "at least 1", got: 0 });
        }
        Ok(TealCalibrator { projection, layers: vec![Quantiles::default(); n_layers] })
    }

    /// Finds, for each layer, the smallest threshold, to within 0.05%, that leaves at most the fraction `kept` of the observed
    /// inputs above it; 0 if all may be kept.
    ///
    /// # Errors
    /// [`Error::Value`] for a fraction outside (0, 1], and one that keeps nothing in a layer, [`Error::Shape`] if a layer has seen nothing.
    pub fn finish(&self, kept: f32) -> Result<Teal> {
        Teal::new(self.projection, self.thresholds(kept)?.into_iter().map(|found| found.threshold).collect())
    }

    fn thresholds(&self, kept: f32) -> Result<Vec<Threshold>> {
        self.layers.iter().map(|layer| layer.threshold(kept)).collect()
    }

    /// As [`TealCalibrator::finish`], of one layer.
    pub(super) fn threshold(&self, layer: usize, kept: f32) -> Result<Threshold> {
        check_layer(layer, self.layers.len())?;
        self.layers[layer].threshold(kept)
    }

    /// The quantiles of each layer, see [`Quantiles::table`].
    pub(super) fn quantiles(&self) -> Result<Vec<Vec<f32>>> {
        self.layers.iter().map(Quantiles::table).collect()
    }
}

impl Calibration for TealCalibrator {
    fn values(&self) -> Values {
        Values::Inputs(self.projection)
    }

    fn observe(&mut self, layer: usize, inputs: &[f32]) -> Result<()> {
        check_layer(layer, self.layers.len())?;
        check_finite("inputs", inputs)?;
        self.layers[layer].count(inputs);
        Ok(())
    }
}
