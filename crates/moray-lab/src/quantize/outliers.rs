//! How far the largest value of a row stands out: what rotation and smoothing are there to lower.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::forward::{Pass, project};
use super::layer::{FloatLayer, Half};
use crate::error::Result;

/// Mean over rows of max|v| / rms(v); 1 if all are equal, √K if one is alone.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Peaks {
    /// Over the rows of a site's weights.
    pub weight: f64,
    /// Over the tokens' inputs of a site.
    pub input: f64,
}

/// The mean over rows of width k.
pub fn peak(values: &[f32], k: usize) -> f64 {
    let ratio = |row: &[f32]| {
        let square = row.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>() / k as f64;
        let max = row.iter().fold(0.0f32, |max, v| max.max(v.abs()));
        if square > 0.0 { f64::from(max) / square.sqrt() } else { 1.0 }
    };
    let rows = values.len() / k;
    values.par_chunks_exact(k).map(ratio).sum::<f64>() / rows.max(1) as f64
}

/// The four sites' peaks for a layer and hidden states before it, \[T, d\] in windows; the hidden state after it replaces them.
///
/// # Errors
/// What the pass refuses.
pub fn layer_peaks(pass: &Pass<'_>, layer: &FloatLayer, hidden: &mut [f32], windows: &[usize]) -> Result<[Peaks; 4]> {
    let mut peaks = [Peaks::default(); 4];
    for half in Half::ALL {
        pass.run(half, layer.norm(half), windows, hidden, &mut |site, x| {
            let weight = &layer.site(site).weight;
            peaks[site as usize] =
                Peaks { weight: peak(&weight.data, weight.columns), input: peak(&x, weight.columns) };
            Ok(Some(project(layer.site(site), &x)))
        })?;
    }
    Ok(peaks)
}

#[cfg(test)]
mod tests {
    use super::peak;

    #[test]
    fn peaks_match_their_bounds_and_a_mean_by_hand() {
        // 1 for equal sizes, √K for a value alone, and 1 for nothing at all
        assert_eq!(peak(&[2.0, -2.0, 2.0, 2.0], 4), 1.0);
        assert_eq!(peak(&[0.0, 0.0, -3.0, 0.0], 4), 2.0);
        assert_eq!(peak(&[0.0; 4], 4), 1.0);
        // rms of (1, 7) is 5: 7/5, beside a row of 1
        assert_eq!(peak(&[1.0, 7.0, 4.0, 4.0], 2), (7.0 / 5.0 + 1.0) / 2.0);
    }
}
