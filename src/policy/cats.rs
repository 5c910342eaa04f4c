//! CATS: a threshold on the gate, calibrated as a quantile.

use std::sync::Arc;

use super::found::Threshold;
use super::observed::tokens_of;
use super::quantiles::Quantiles;
use super::table::{Arguments, Context, Policies};
use super::{
    Calibrate, Calibration, Found, Kept, ModelSizes, Observed, Policy, PolicyConfig, Site, Sizes, Values, Wanted,
    check_layer,
};
use crate::attention::Span;
use crate::error::{Error, Result};
use crate::sparse_mlp::{Score, ScoreOn, Selection, check_finite};

/// Keeps neuron j for a token iff |act(x·gate_j)| > threshold\[layer\].
///
/// # Source
/// CATS: contextually-aware thresholding for sparsity.
#[derive(Debug, Clone, PartialEq)]
pub struct Cats {
    thresholds: Vec<f32>,
}

impl Cats {
    /// Takes one threshold for each layer.
    ///
    /// # Errors
    /// [`Error::Value`] for a threshold that is negative or not finite.
    pub fn new(thresholds: Vec<f32>) -> Result<Self> {
        match thresholds.iter().find(|t| !(t.is_finite() && **t >= 0.0)) {
            Some(&got) => Err(Error::Value { what: "threshold", expected: "a finite number of at least 0", got }),
            None => Ok(Cats { thresholds }),
        }
    }

    /// The thresholds, one for each layer.
    pub fn thresholds(&self) -> &[f32] {
        &self.thresholds
    }

    pub(super) fn find(arguments: &Arguments, context: &mut dyn Context) -> Result<Found> {
        let n_layers = context.model().n_layers;
        let calibrate = Calibrate::new(CatsCalibrator::new(n_layers)?);
        context.run(vec![Arc::new(calibrate.clone())])?;
        let mut found = Found::default();
        found.put_thresholds(&[n_layers], calibrate.with(|calibrator| calibrator.thresholds(arguments.fraction))?)?;
        Ok(found)
    }

    pub(super) fn make(_: &Arguments, model: &ModelSizes, found: &Found) -> Policies {
        Ok(vec![Arc::new(Cats::new(found.thresholds(&[model.n_layers])?.to_vec())?)])
    }
}

impl PolicyConfig for Cats {
    fn policy(&self, sizes: &Sizes) -> Result<Box<dyn Policy>> {
        crate::error::check_len("cats thresholds", sizes.model.n_layers, self.thresholds.len())?;
        Ok(Box::new(self.clone()))
    }
}

impl Policy for Cats {
    fn site(&self) -> Site {
        Site::Neurons
    }

    /// On a device the gates stay there: what it keeps is not counted.
    fn wants(&self, _: &[Span]) -> Wanted {
        Wanted::AtHand(Values::Gate)
    }

    fn select(&mut self, layer: usize, _: &[Span]) -> Result<Selection<'_>> {
        check_layer(layer, self.thresholds.len())?;
        Ok(Selection::Threshold { score: Score::plain(ScoreOn::Gate), threshold: self.thresholds[layer] })
    }

    fn observe(&mut self, layer: usize, spans: &[Span], observed: &Observed<'_>) -> Result<Kept> {
        check_layer(layer, self.thresholds.len())?;
        let (mut kept, threshold) = (Kept::default(), self.thresholds[layer]);
        for gate in (0..tokens_of(spans)).map(|token| observed.token(token)) {
            kept += Kept::each(1, gate.iter().filter(|gate| gate.abs() > threshold).count(), gate.len());
        }
        Ok(kept)
    }

    fn is_settled(&self, _: &[Span]) -> bool {
        true
    }
}

/// Collects |act(x·gate)| over calibration text and finds the thresholds.
///
/// Values are counted in bins, a threshold is within 0.05% of the quantile: memory does not grow with the text, and no split of it
/// changes the result.
///
/// # Example
/// ```
/// use moray::policy::{Calibration, CatsCalibrator};
///
/// let mut calibrator = CatsCalibrator::new(1)?;
/// calibrator.observe(0, &[0.1, -0.2, 0.3, -0.4])?;
/// let cats = calibrator.finish(0.5)?;
/// let threshold = cats.thresholds()[0];
/// assert!((0.2..0.3).contains(&threshold)); // 0.3 and −0.4 are kept: one half
/// # Ok::<(), moray::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct CatsCalibrator {
    layers: Vec<Quantiles>,
}

impl CatsCalibrator {
    /// Starts with no observations.
    ///
    /// # Errors
    /// [`Error::Shape`] for no layers.
    pub fn new(n_layers: usize) -> Result<Self> {
        if n_layers == 0 {
            return Err(Error::Shape { what: "n_layers", expected: "at least 1", got: 0 });
        }
        Ok(CatsCalibrator { layers: vec![Quantiles::default(); n_layers] })
    }

    /// Finds, for each layer, the smallest threshold at a bin's upper edge that leaves at most the fraction `kept` of the
    /// observed values above it; 0 if all may be kept.
    ///
    /// # Errors
    /// [`Error::Value`] for a fraction outside (0, 1], and one that keeps nothing in a layer, [`Error::Shape`] if a layer has seen nothing.
    pub fn finish(&self, kept: f32) -> Result<Cats> {
        Cats::new(self.thresholds(kept)?.into_iter().map(|found| found.threshold).collect())
    }

    fn thresholds(&self, kept: f32) -> Result<Vec<Threshold>> {
        self.layers.iter().map(|layer| layer.threshold(kept)).collect()
    }
}

impl Calibration for CatsCalibrator {
    fn values(&self) -> Values {
        Values::Gate
    }

    /// Counts act(x·gate), of any number of tokens; nothing is counted where an error is returned.
    fn observe(&mut self, layer: usize, gate: &[f32]) -> Result<()> {
        check_layer(layer, self.layers.len())?;
        check_finite("gate", gate)?;
        self.layers[layer].count(gate);
        Ok(())
    }
}
