//! The prompt statistics: of GRIFFIN and TDA, and of CoreInfer.

use super::{check_activations, check_fraction, kept_count};
use crate::error::{Error, Result, check_len};

/// Accumulates s_j = ‖R\[:, j\]‖₂ over tokens, R\[t, :\] = A\[t, :\] / ‖A\[t, :\]‖₂, A = act(x·gate) ⊙ (x·up).
///
/// One for each layer and sequence. Tokens are added in order in f64, so any split of a prompt into chunks gives the
/// same bits. A token of zeros adds nothing but is counted.
///
/// # Source
/// GRIFFIN; TDA (arXiv 2408.11393). s_j grows as √P, hence [`PromptStatistic::normalised`].
///
/// # Example
/// ```
/// use moray::policy::PromptStatistic;
///
/// let mut statistic = PromptStatistic::new(2)?;
/// statistic.observe(&[3.0, 4.0, 0.0, 2.0])?; // rows become (0.6, 0.8) and (0, 1)
/// assert_eq!(statistic.tokens(), 2);
/// assert!((statistic.normalised(0) - (0.36f64 / 2.0).sqrt()).abs() < 1e-7);
/// # Ok::<(), moray::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct PromptStatistic {
    /// Σ_t R\[t, j\]².
    squares: Vec<f64>,
    tokens: usize,
    /// Share of a token's positive activations that count as its core; none where R are the activations themselves.
    core: Option<f32>,
    /// Whether a core is of sizes.
    by_size: bool,
}

impl PromptStatistic {
    /// Starts with no tokens.
    ///
    /// # Errors
    /// [`Error::Shape`] for no neurons.
    pub fn new(d_ff: usize) -> Result<Self> {
        if d_ff == 0 {
            return Err(Error::Shape { what: "d_ff", expected: "at least 1", got: 0 });
        }
        Ok(PromptStatistic { squares: vec![0.0; d_ff], tokens: 0, core: None, by_size: false })
    }

    /// Starts with no tokens, for R\[t, j\] = 1 where A\[t, j\] is among the largest `core` of the token's positive activations, the lower
    /// index first where equal, and 0 elsewhere: s_j² is how many tokens have neuron j in their core.
    ///
    /// # Errors
    /// [`Error::Shape`] for no neurons, [`Error::Value`] for a share outside (0, 1].
    ///
    /// # Source
    /// CoreInfer (arXiv 2410.18311).
    pub fn of_cores(d_ff: usize, core: f32) -> Result<Self> {
        check_fraction("share of a token's core", core)?;
        Ok(PromptStatistic { core: Some(core), ..Self::new(d_ff)? })
    }

    /// Takes the largest of the sizes above 0, in place of the positive activations, as a token's core.
    pub fn by_size(self) -> Self {
        PromptStatistic { by_size: true, ..self }
    }

    /// Adds A, f32 \[tokens, d_ff\] row-major, any number of tokens.
    ///
    /// # Errors
    /// [`Error::Shape`] unless it is whole rows, [`Error::Value`] for a value that is not finite; nothing is added then.
    pub fn observe(&mut self, activations: &[f32]) -> Result<()> {
        self.tokens += check_activations(activations, self.squares.len())?;
        for row in activations.chunks_exact(self.squares.len()) {
            if let Some(core) = self.core {
                self.count_core(row, core)?;
                continue;
            }
            let norm: f64 = row.iter().map(|&a| f64::from(a) * f64::from(a)).sum();
            if norm > 0.0 {
                let square = |a: f32| f64::from(a) * f64::from(a) / norm;
                self.squares.iter_mut().zip(row).for_each(|(s, &a)| *s += square(a));
            }
        }
        Ok(())
    }

    fn count_core(&mut self, row: &[f32], core: f32) -> Result<()> {
        let value = |j: usize| if self.by_size { row[j].abs() } else { row[j] };
        let mut positive: Vec<usize> = (0..row.len()).filter(|&j| value(j) > 0.0).collect();
        if !positive.is_empty() {
            let count = kept_count(core, positive.len())?;
            positive.sort_unstable_by(|&a, &b| value(b).total_cmp(&value(a)).then(a.cmp(&b)));
            positive[..count].iter().for_each(|&j| self.squares[j] += 1.0);
        }
        Ok(())
    }

    /// Forgets all tokens.
    pub fn clear(&mut self) {
        self.squares.fill(0.0);
        self.tokens = 0;
    }

    /// Neurons.
    pub fn d_ff(&self) -> usize {
        self.squares.len()
    }

    /// Tokens seen.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// s_j / √P, 0 before any token; at most 1.
    ///
    /// # Panics
    /// If `neuron` is not below d_ff.
    pub fn normalised(&self, neuron: usize) -> f64 {
        if self.tokens == 0 { 0.0 } else { (self.squares[neuron] / self.tokens as f64).sqrt() }
    }

    /// All s_j / √P.
    pub fn all_normalised(&self) -> Vec<f64> {
        (0..self.d_ff()).map(|j| self.normalised(j)).collect()
    }

    /// Mixes two statistics by the mean squares of their rows: (1 − weight) · self + weight · other. One without tokens
    /// leaves the other as it is.
    ///
    /// # Errors
    /// [`Error::Length`] for another d_ff, [`Error::Value`] for a weight outside 0..=1.
    pub fn mixed(&self, other: &PromptStatistic, weight: f32) -> Result<PromptStatistic> {
        check_len("statistic", self.d_ff(), other.d_ff())?;
        if !(0.0..=1.0).contains(&weight) {
            return Err(Error::Value { what: "weight", expected: "a number in 0..=1", got: weight });
        }
        let weight = match (self.tokens, other.tokens) {
            (_, 0) => 0.0,
            (0, _) => 1.0,
            _ => f64::from(weight),
        };
        let tokens = self.tokens + other.tokens;
        let (p, r) = (self.tokens.max(1) as f64, other.tokens.max(1) as f64);
        let mix = |(a, b): (&f64, &f64)| ((1.0 - weight) * a / p + weight * b / r) * tokens as f64;
        Ok(PromptStatistic {
            squares: self.squares.iter().zip(&other.squares).map(mix).collect(),
            tokens,
            core: self.core,
            by_size: self.by_size,
        })
    }
}

/// Checks that a statistic has tokens.
pub(super) fn check_seen(statistic: &PromptStatistic) -> Result<()> {
    if statistic.tokens() == 0 {
        return Err(Error::Shape { what: "prompt", expected: "at least 1 token", got: 0 });
    }
    Ok(())
}
