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
