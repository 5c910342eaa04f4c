//! TEAL with thresholds at which the next weight that is spared costs the model's distribution as much in every matrix.

use std::sync::Arc;

use super::quantiles::STEPS;
use super::table::{Arguments, Context, Policies};
use super::teal::{calibrators, one_at};
use super::{Effect, Found, ModelSizes, PolicyConfig, Projection, Teal, check_fraction};
use crate::error::{Error, Result};

/// Of the inputs of a matrix, in steps of [`STEPS`], those that are left out while what that costs is measured: 0.4.
const PROBE: usize = STEPS * 2 / 5;

/// Of the inputs of a matrix, the most that may be left out, in the same steps: 0.95.
const MOST: usize = STEPS * 19 / 20;

/// What a matrix costs at least, beside the mean of the layers' matrices of its kind: one that costs less on a short text is not trusted further.
const LEAST_COST: f64 = 0.05;

/// The same in nats, where a text shows no cost of any of them.
const LEAST_NATS: f64 = 1e-9;

/// Powers of 2 that λ is looked for in, and halvings of them.
const EXPONENTS: f64 = 256.0;
const HALVINGS: usize = 60;

/// Keeps input k of a matrix for a token iff |x\[k\]| > threshold\[layer\], as [`Teal`], with thresholds at which a weight costs as much everywhere.
///
/// Inputs that are left out of one matrix move the model's distribution by about c · E(t) nats, E(t) the mean square of the inputs of at most t, where
/// the others count as 0, and c what was measured with 0.4 of this matrix's inputs left out alone, over the E of these. What the matrices do adds up
/// while it is small. So the least is lost where the next input left out costs as much for each of its weights in all of them: t = √(λ · n / c), n the
/// matrix's weights, and λ such that the kept inputs read the share `kept` of all weights of the layers. At most 0.95 of a matrix's inputs are left out.
///
/// What is found does not depend on the share: `sizes`, quantiles of |x|, f32 \[4, layers, [`STEPS`]\], and `costs`, nats, f32 \[4, layers\].
#[derive(Debug)]
pub(super) struct TealKl;

impl TealKl {
    /// Finds the quantiles, and what each matrix costs. What keeps everything needs neither.
    pub(super) fn find(arguments: &Arguments, context: &mut dyn Context) -> Result<Found> {
        let mut found = Found::default();
        if arguments.fraction == 1.0 {
            return Ok(found);
        }
        let model = context.model();
        let (mut sizes, mut costs) = (Vec::new(), Vec::new());
        for (place, calibrate) in calibrators(context)?.iter().enumerate() {
            let quantiles = calibrate.with(|calibrator| calibrator.quantiles())?;
            for (layer, quantiles) in quantiles.into_iter().enumerate() {
                let thresholds = one_at(place, quantiles[probe(&quantiles)]);
                costs.push(context.effect(layer, thresholds, Effect::Divergence)? as f32);
                sizes.extend(quantiles);
            }
        }
        found.put_f32("sizes", &[Projection::ALL.len(), model.n_layers, STEPS], sizes)?;
        found.put_f32("costs", &[Projection::ALL.len(), model.n_layers], costs)?;
        Ok(found)
    }

    pub(super) fn make(arguments: &Arguments, model: &ModelSizes, found: &Found) -> Policies {
        let n_layers = model.n_layers;
        let thresholds = if arguments.fraction == 1.0 {
            vec![0.0; Projection::ALL.len() * n_layers]
        } else {
            let sizes = found.f32("sizes", &[Projection::ALL.len(), n_layers, STEPS])?;
            let costs = found.f32("costs", &[Projection::ALL.len(), n_layers])?;
            allocate(&matrices(model, sizes, costs)?, arguments.fraction)?
        };
        let teal = |(projection, thresholds): (Projection, &[f32])| {
            Ok(Arc::new(Teal::new(projection, thresholds.to_vec())?) as Arc<dyn PolicyConfig>)
        };
        Projection::ALL.into_iter().zip(thresholds.chunks_exact(n_layers)).map(teal).collect()
    }
}

/// The step at which the cost of a matrix is measured: the first from [`PROBE`] on at which not all that is left out is 0.
fn probe(quantiles: &[f32]) -> usize {
    (PROBE..MOST).find(|&step| quantiles[step] > 0.0).unwrap_or(MOST)
}

/// One matrix of one layer.
struct Matrix<'a> {
    /// Quantiles of |x|, \[STEPS\].
    sizes: &'a [f32],
    /// Its weights.
    weights: f64,
    /// c, for each of its weights; 0 where 0.95 of its inputs are 0.
    rate: f64,
}

/// The matrices, in the order of the arrays.
fn matrices<'a>(model: &ModelSizes, sizes: &'a [f32], costs: &[f32]) -> Result<Vec<Matrix<'a>>> {
    let mut all = Vec::with_capacity(costs.len());
    let of_projection = sizes.chunks_exact(model.n_layers * STEPS).zip(costs.chunks_exact(model.n_layers));
    for (projection, (sizes, costs)) in Projection::ALL.into_iter().zip(of_projection) {
        let weights = model.weights(projection) as f64;
        if let Some(&got) = costs.iter().find(|cost| **cost < -1e-3) {
            return Err(Error::Value { what: "cost of a matrix", expected: "a divergence, at least 0", got });
        }
        let costs: Vec<f64> = costs.iter().map(|&cost| f64::from(cost).max(0.0)).collect();
        let least = (LEAST_COST * costs.iter().sum::<f64>() / costs.len() as f64).max(LEAST_NATS);
        for (sizes, cost) in sizes.chunks_exact(STEPS).zip(costs) {
            if let Some(pair) = sizes.windows(2).find(|pair| pair[0] > pair[1] || pair[0] < 0.0) {
                let expected = "quantiles, which do not fall";
                return Err(Error::Value { what: "size of inputs", expected, got: pair[1] });
            }
            let energy = energy(sizes, probe(sizes));
            let rate = if energy > 0.0 { cost.max(least) / energy / weights } else { 0.0 };
            all.push(Matrix { sizes, weights, rate });
        }
    }
    Ok(all)
}

/// The mean square of the inputs, those above the quantile of `step` counted as 0.
fn energy(sizes: &[f32], step: usize) -> f64 {
    let square = |pair: &[f32]| {
        let middle = f64::midpoint(f64::from(pair[0]), f64::from(pair[1]));
        middle * middle
    };
    sizes[..=step].windows(2).map(square).sum::<f64>() / STEPS as f64
}

impl Matrix<'_> {
    /// t = √(λ / rate), at most the size of which 0.95 of the inputs are below.
    fn threshold(&self, lambda: f64) -> f32 {
        let most = self.sizes[MOST];
        if self.rate > 0.0 { ((lambda / self.rate).sqrt() as f32).min(most) } else { most }
    }

    /// The share of the inputs of at most `threshold`, on the line between quantiles.
    fn dropped(&self, threshold: f32) -> f64 {
        let next = self.sizes[..=MOST].partition_point(|&size| size <= threshold);
        if next > MOST {
            return MOST as f64 / STEPS as f64;
        }
        let (low, high) = (if next > 0 { self.sizes[next - 1] } else { 0.0 }, self.sizes[next]);
        let part = f64::from(threshold - low) / f64::from(high - low);
        (next as f64 - 1.0 + part).max(0.0) / STEPS as f64
    }
}

/// Thresholds at which the share `kept` of all weights is read.
fn allocate(matrices: &[Matrix<'_>], kept: f32) -> Result<Vec<f32>> {
    check_fraction("kept fraction", kept)?;
    let all: f64 = matrices.iter().map(|matrix| matrix.weights).sum();
    let read = |lambda: f64| {
        let of_matrix = |matrix: &Matrix<'_>| matrix.weights * (1.0 - matrix.dropped(matrix.threshold(lambda)));
        matrices.iter().map(of_matrix).sum::<f64>() / all
    };
    // where every matrix leaves out the most
    let most = |matrix: &Matrix<'_>| f64::from(matrix.sizes[MOST]).powi(2) * matrix.rate;
    let most = matrices.iter().map(most).fold(f64::MIN_POSITIVE, f64::max) * 2.0;
    if read(most) > f64::from(kept) + 0.5 / STEPS as f64 {
        let expected = "no less than is read where 0.95 of every matrix's inputs are left out";
        return Err(Error::Value { what: "kept fraction", expected, got: kept });
    }
    // λ = most / 2^x reads enough at `high`, and no more than enough at `low`
    let (mut low, mut high) = (0.0, EXPONENTS);
    for _ in 0..HALVINGS {
        let middle = f64::midpoint(low, high);
        if read(most * (-middle).exp2()) > f64::from(kept) { high = middle } else { low = middle }
    }
    Ok(matrices.iter().map(|matrix| matrix.threshold(most * (-low).exp2())).collect())
}
