//! The definition.

use super::forward::check;
use super::kept::is_kept;
use super::weight::Weight;
use crate::error::Result;
use crate::w4a8::Epilogue;

/// Multiplies by the definition, one output after another: what [`super::linear`] is tested against.
///
/// # Errors
/// As [`super::linear`].
pub fn linear_reference(
    weight: &Weight,
    x: &[f32],
    threshold: f32,
    epilogue: Epilogue<'_, f32>,
    y: &mut [f32],
) -> Result<()> {
    check(weight, x, threshold, &epilogue, y)?;
    let (n, k) = (weight.n(), weight.k());
    let mut row = vec![0.0; k];
    for feature in 0..n {
        weight.row(feature, &mut row)?;
        for (m, x) in x.chunks_exact(k).enumerate() {
            let kept = x.iter().zip(&row).filter(|(x, _)| is_kept(**x, threshold));
            let sum = kept.fold(0.0f32, |sum, (x, w)| w.mul_add(*x, sum));
            let bias = epilogue.bias.map_or(0.0, |bias| bias[feature]);
            let residual = epilogue.residual.map_or(0.0, |residual| residual[m * n + feature]);
            y[m * n + feature] = sum + bias + residual;
        }
    }
    Ok(())
}
