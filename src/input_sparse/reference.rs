//! The definition.

use super::forward::check;
use super::kept::is_kept;
use super::weight::Weight;
use crate::column_sums::splits;
use crate::error::{Error, Result};
use crate::w4a8::Epilogue;
use std::ops::Range;

/// Multiplies by the definition, one output after another: what [`super::linear`] is tested against where weights are in floating
/// point. Those in 4 bits are defined by [`crate::w4a8::linear_reference`], with codes of 0 for what a token drops.
///
/// # Errors
/// As [`super::linear`]; [`Error::Unsupported`] for weights in 4 bits.
pub fn linear_reference(
    weight: &Weight,
    x: &[f32],
    threshold: f32,
    epilogue: Epilogue<'_, f32>,
    y: &mut [f32],
) -> Result<()> {
    if weight.is_integer() {
        let (expected, got) = ("weights in floating point", "4 bits".into());
        return Err(Error::Unsupported { what: "weight", expected, got });
    }
    check(weight, x, threshold, &epilogue, y.len())?;
    let (n, k) = (weight.n(), weight.k());
    let mut row = vec![0.0; k];
    for feature in 0..n {
        weight.row(feature, &mut row)?;
        for (m, x) in x.chunks_exact(k).enumerate() {
            let chain = |split: Range<usize>| {
                let kept = x[split.clone()].iter().zip(&row[split]).filter(|(x, _)| is_kept(**x, threshold));
                kept.fold(0.0f32, |sum, (x, w)| w.mul_add(*x, sum))
            };
            let [a, b, c, d] = splits(k).map(chain);
            let sum = ((a + b) + c) + d;
            let bias = epilogue.bias.map_or(0.0, |bias| bias[feature]);
            let residual = epilogue.residual.map_or(0.0, |residual| residual[m * n + feature]);
            y[m * n + feature] = sum + bias + residual;
        }
    }
    Ok(())
}
