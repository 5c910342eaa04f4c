//! TEAL's own allocation of shares to the matrices of a block.

use super::quantiles::STEPS;
use super::table::{Arguments, Context};
use super::teal::calibrators;
use super::{Effect, Found, ModelSizes, Projection, check_fraction};
use crate::error::{Error, Result};

/// Of the weights of a block, those that a step of the search leaves out more.
const STEP: f64 = 0.02;

/// Of the inputs of a matrix, the most that are left out.
const MOST: f64 = 0.95;

/// Finds thresholds as [`super::Teal`] has them, with shares of its own for each matrix: in each block, the same share of whose weights is
/// read, a step at a time is left out of the matrix where the block's output then has the least error, until the share is reached.
///
/// # Source
/// TEAL (arXiv 2408.14690), block-wise greedy optimization, over the four places where the inputs of its seven matrices are.
pub(super) fn find(arguments: &Arguments, context: &mut dyn Context) -> Result<Found> {
    check_fraction("kept fraction", arguments.fraction)?;
    let model = context.model();
    let mut quantiles = Vec::with_capacity(Projection::ALL.len());
    let calibrates = calibrators(context)?;
    for calibrate in &calibrates {
        quantiles.push(calibrate.with(|calibrator| calibrator.quantiles())?);
    }
    let mut kept = vec![[1.0f32; 4]; model.n_layers];
    for (layer, kept) in kept.iter_mut().enumerate() {
        let at = |dropped: [f64; 4]| std::array::from_fn(|place| size_at(&quantiles[place][layer], dropped[place]));
        let dropped = shares(&model, arguments.fraction, |dropped| context.effect(layer, at(dropped), Effect::Block))?;
        *kept = dropped.map(|dropped| (1.0 - dropped) as f32);
    }
    let mut thresholds = Vec::with_capacity(4 * model.n_layers);
    for (place, calibrate) in calibrates.iter().enumerate() {
        for (layer, kept) in kept.iter().enumerate() {
            thresholds.push(calibrate.with(|calibrator| calibrator.threshold(layer, kept[place]))?);
        }
    }
    let mut found = Found::default();
    found.put_thresholds(&[Projection::ALL.len(), model.n_layers], thresholds)?;
    Ok(found)
}

/// The shares that are left out of a block's matrices, by the errors of its output.
fn shares(model: &ModelSizes, kept: f32, mut error: impl FnMut([f64; 4]) -> Result<f64>) -> Result<[f64; 4]> {
    let weights = Projection::ALL.map(|projection| model.weights(projection) as f64);
    let all: f64 = weights.iter().sum();
    let (mut dropped, mut left) = ([0.0f64; 4], (1.0 - f64::from(kept)) * all);
    // what is left over after whole steps is rounding
    while left > all * 1e-9 {
        let step = left.min(STEP * all);
        let mut best: Option<(f64, [f64; 4])> = None;
        for place in 0..4 {
            let mut next = dropped;
            next[place] += step / weights[place];
            if next[place] > MOST {
                continue;
            }
            let error = error(next)?;
            if best.is_none_or(|(least, _)| error < least) {
                best = Some((error, next));
            }
        }
        let Some((_, next)) = best else {
            let expected = "no less than is read where 0.95 of every matrix's inputs are left out";
            return Err(Error::Value { what: "kept fraction", expected, got: kept });
        };
        (dropped, left) = (next, left - step);
    }
    Ok(dropped)
}

/// The size that a share of the inputs is at most, on the line between quantiles.
fn size_at(quantiles: &[f32], dropped: f64) -> f32 {
    let place = dropped * STEPS as f64;
    let low = (place as usize).min(STEPS - 2);
    let (from, to) = (f64::from(quantiles[low]), f64::from(quantiles[low + 1]));
    (from + (to - from) * (place - low as f64)) as f32
}
