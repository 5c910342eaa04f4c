//! Means and their standard errors.

/// A running mean and variance (Welford's recurrence, which does not cancel).
#[derive(Debug, Clone, Copy, Default)]
pub struct Mean {
    count: usize,
    mean: f64,
    /// Σ (xᵢ − mean)².
    squares: f64,
}

/// A mean with its standard error.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MeanError {
    /// Σ xᵢ / n.
    pub mean: f64,
    /// √(Σ (xᵢ − mean)² / (n − 1) / n); 0 for fewer than two values.
    pub se: f64,
}

impl Mean {
    /// Takes in one value.
    pub fn add(&mut self, value: f64) {
        self.count += 1;
        let delta = value - self.mean;
        self.mean += delta / self.count as f64;
        self.squares += delta * (value - self.mean);
    }

    /// Values so far.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The mean and its standard error, as if the values were independent.
    pub fn value(&self) -> MeanError {
        let n = self.count as f64;
        let se = if self.count < 2 { 0.0 } else { (self.squares / (n - 1.0) / n).sqrt() };
        MeanError { mean: self.mean, se }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_and_standard_error_match_the_textbook_formula_far_from_zero() {
        let values = [1e9 + 1.0, 1e9 + 2.0, 1e9 + 4.0, 1e9 + 9.0];
        let mut mean = Mean::default();
        values.iter().for_each(|&value| mean.add(value));
        // deviations from 4: −3, −2, 0, 5, squares 38; 38 / 3 / 4
        let MeanError { mean, se } = mean.value();
        assert_eq!(mean, 1e9 + 4.0);
        // 1e9 has an ulp of 2⁻²³; the deviations carry a few of them
        assert!((se - (38.0f64 / 12.0).sqrt()).abs() < 8.0 / f64::from(1 << 23), "{se}");
    }

    #[test]
    fn one_value_has_no_standard_error() {
        let mut mean = Mean::default();
        mean.add(3.0);
        assert_eq!(mean.value(), MeanError { mean: 3.0, se: 0.0 });
    }
}
