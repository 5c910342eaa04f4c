//! Sums over scored positions.

use moray::Cpu;

use super::{AgainstDense, CHUNK_ROWS, Evaluation, Scored};
use crate::error::Result;
use crate::statistics::{Mean, MeanError};

/// What one position adds.
#[derive(Debug, Clone, Copy, Default)]
struct Position {
    nll: f64,
    dense_nll: f64,
    kl: f64,
    agrees: bool,
}

/// What all positions add up to.
#[derive(Debug, Default)]
pub(super) struct Tally {
    nll: Mean,
    dense_nll: Mean,
    kl: Mean,
    agreed: usize,
    pub(super) windows: usize,
}

impl Tally {
    /// Takes in the logits \[targets, vocab\] of a chunk of no more than [`CHUNK_ROWS`] targets, whose logarithms the CPU's threads
    /// take.
    ///
    /// # Errors
    /// [`Error::Kernel`] for logits that are not finite.
    ///
    /// [`Error::Kernel`]: crate::error::Error::Kernel
    pub(super) fn add(&mut self, cpu: &Cpu, rows: &[f32], dense: Option<&[f32]>, targets: &[u32]) -> Result<()> {
        let vocab = rows.len() / targets.len();
        let mut positions = [Position::default(); CHUNK_ROWS];
        let positions = &mut positions[..targets.len()];
        cpu.team().for_pieces_mut(positions, 1, |index, position| {
            let row = index * vocab..(index + 1) * vocab;
            let run = Distribution::new(&rows[row.clone()]);
            let target = targets[index] as usize;
            position[0].nll = -run.ln_probability(target);
            if let Some(dense) = dense {
                let dense = Distribution::new(&dense[row]);
                position[0].dense_nll = -dense.ln_probability(target);
                position[0].kl = dense.divergence_of(&run);
                position[0].agrees = dense.largest == run.largest;
            }
        });
        for position in positions {
            if !(position.nll.is_finite() && position.kl.is_finite()) {
                let got = position.nll as f32;
                return Err(moray::Error::Value { what: "logits", expected: "finite logits", got }.into());
            }
            self.nll.add(position.nll);
            self.dense_nll.add(position.dense_nll);
            self.kl.add(position.kl);
            self.agreed += usize::from(position.agrees);
        }
        Ok(())
    }

    /// Positions so far.
    pub(super) fn count(&self) -> usize {
        self.nll.count()
    }

    /// The means and their errors; what policies kept is not among them.
    pub(super) fn evaluation(&self, scored: Scored, has_dense: bool) -> Evaluation {
        let perplexity = |nll: MeanError| (nll.mean.exp(), nll.mean.exp() * nll.se);
        let against_dense = || {
            let ((perplexity, perplexity_se), kl) = (perplexity(self.dense_nll.value()), self.kl.value());
            let n = self.nll.count() as f64;
            let agreement = self.agreed as f64 / n;
            AgainstDense {
                perplexity,
                perplexity_se,
                kl: kl.mean,
                kl_se: kl.se,
                agreement_percent: 100.0 * agreement,
                agreement_percent_se: 100.0 * (agreement * (1.0 - agreement) / n).sqrt(),
            }
        };
        let nll = self.nll.value();
        let (perplexity, perplexity_se) = perplexity(nll);
        Evaluation {
            perplexity,
            perplexity_se,
            nll: nll.mean,
            nll_se: nll.se,
            scored_tokens: self.nll.count(),
            windows: self.windows,
            scored,
            kept_neurons: None,
            kept_heads: None,
            dense: has_dense.then(against_dense),
        }
    }
}

/// The distribution that logits stand for.
struct Distribution<'a> {
    logits: &'a [f32],
    /// The first of the largest.
    largest: usize,
    /// ln Σ exp(logit).
    ln_sum: f64,
}

impl<'a> Distribution<'a> {
    fn new(logits: &'a [f32]) -> Self {
        let largest =
            logits.iter().enumerate().fold(0, |best, (i, &logit)| if logit > logits[best] { i } else { best });
        let top = logits[largest];
        // terms in f32, each below 1; the sum in f64
        let sum: f64 = logits.iter().map(|&logit| f64::from((logit - top).exp())).sum();
        Distribution { logits, largest, ln_sum: f64::from(top) + sum.ln() }
    }

    fn ln_probability(&self, token: usize) -> f64 {
        f64::from(self.logits[token]) - self.ln_sum
    }

    /// D(self ‖ other) = Σ p_self · (logit_self − logit_other) − ln_sum_self + ln_sum_other.
    fn divergence_of(&self, other: &Self) -> f64 {
        let term = |(&own, &other): (&f32, &f32)| {
            let probability = f64::from(((f64::from(own) - self.ln_sum) as f32).exp());
            probability * (f64::from(own) - f64::from(other))
        };
        self.logits.iter().zip(other.logits).map(term).sum::<f64>() - self.ln_sum + other.ln_sum
    }
}
