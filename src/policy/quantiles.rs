//! Quantiles of the sizes of many values.

use super::check_fraction;
use super::found::Threshold;
use crate::error::{Error, Result};

/// Octaves that have bins of their own: 2⁻²⁴ to 2⁸.
const OCTAVES: u32 = 32;
const LOWEST: u32 = 127 - 24;

/// Bins of an octave, as a power of two: a bin is 2⁻¹¹ of its value wide, so a threshold is within 0.05% of the quantile.
const BIN_BITS: u32 = 11;

const BINS: usize = (OCTAVES << BIN_BITS) as usize;

/// Quantiles in a table of them: of shares 0, 1/100 and so on, below 1.
pub(super) const STEPS: usize = 100;

/// Sizes of values, counted in bins: memory does not grow with their number, and their order does not matter.
#[derive(Debug, Clone)]
pub(super) struct Quantiles(Vec<u64>);

impl Default for Quantiles {
    fn default() -> Self {
        Quantiles(vec![0; BINS])
    }
}

impl Quantiles {
    /// Counts finite values.
    pub(super) fn count(&mut self, values: &[f32]) {
        values.iter().for_each(|v| self.0[bin(*v)] += 1);
    }

    /// The smallest threshold at a bin's upper edge that leaves at most the fraction `kept` of the sizes above it; 0 if all may
    /// be kept. One that keeps nothing where there is more than 0 is refused.
    pub(super) fn threshold(&self, kept: f32) -> Result<Threshold> {
        check_fraction("kept fraction", kept)?;
        let total: u64 = self.0.iter().sum();
        if total == 0 {
            let expected = "activations of every layer";
            return Err(Error::Shape { what: "calibration", expected, got: 0 });
        }
        // values in the lowest bin count as 0
        let largest = self.0.iter().rposition(|&count| count > 0).filter(|&bin| bin > 0).map_or(0.0, upper_edge);
        let may_keep = (total as f64 * f64::from(kept)).round() as u64;
        if may_keep >= total {
            return Ok(Threshold { threshold: 0.0, largest });
        }
        let mut above = total;
        let found = self.0.iter().position(|&count| {
            above -= count;
            above <= may_keep
        });
        let threshold = Threshold { threshold: upper_edge(found.unwrap_or(BINS - 1)), largest };
        threshold.check()?;
        Ok(threshold)
    }
}

impl Quantiles {
    /// For each share i / [`STEPS`], the smallest size at a bin's upper edge that at least so many of the sizes do not exceed; 0 for the share 0,
    /// and where so many are below all bins.
    ///
    /// # Errors
    /// [`Error::Shape`] before any size.
    pub(super) fn table(&self) -> Result<Vec<f32>> {
        let total: u64 = self.0.iter().sum();
        if total == 0 {
            let expected = "activations of every layer";
            return Err(Error::Shape { what: "calibration", expected, got: 0 });
        }
        let (mut bin, mut below) = (0, self.0[0]);
        let size = |step: usize| {
            while (below as f64) < total as f64 * step as f64 / STEPS as f64 {
                bin += 1;
                below += self.0[bin];
            }
            // values in the lowest bin count as 0
            if bin == 0 { 0.0 } else { upper_edge(bin) }
        };
        Ok((0..STEPS).map(size).collect())
    }
}

fn bin(value: f32) -> usize {
    let bits = value.abs().to_bits() >> (23 - BIN_BITS);
    let first = LOWEST << BIN_BITS;
    (bits.saturating_sub(first) as usize).min(BINS - 1)
}

/// The largest number of a bin.
fn upper_edge(bin: usize) -> f32 {
    let next = (LOWEST << BIN_BITS) + bin as u32 + 1;
    f32::from_bits((next << (23 - BIN_BITS)) - 1)
}
