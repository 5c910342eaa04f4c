//! Choosing the next token from logits.

use crate::error::{Error, Result};

/// How a token is chosen. All settings at once: temperature first, then the most probable tokens that make up `top_p`,
/// then those of at least `min_p` times the largest probability, then a draw.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the largest logit (the first of equals).
    pub temperature: f32,
    /// Keeps the smallest set of most probable tokens with at least this probability; 1 keeps all.
    pub top_p: f32,
    /// Keeps tokens with at least this fraction of the largest probability; 0 keeps all.
    pub min_p: f32,
}

impl Sampling {
    /// The largest logit, always.
    pub const GREEDY: Sampling = Sampling { temperature: 0.0, top_p: 1.0, min_p: 0.0 };
}

/// A seeded sampler: the same seed and logits give the same tokens on every machine.
///
/// # Example
/// ```
/// use moray::llama::{Sampler, Sampling};
///
/// let mut greedy = Sampler::new(Sampling::GREEDY, 0)?;
/// assert_eq!(greedy.sample(&[0.1, 2.0, -1.0])?, 1);
/// let mut drawn = Sampler::new(Sampling { temperature: 1.0, top_p: 0.5, min_p: 0.0 }, 7)?;
/// assert_eq!(drawn.sample(&[0.1, 2.0, -1.0])?, 1); // token 1 alone has more than half
/// # Ok::<(), moray::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Sampler {
    sampling: Sampling,
    state: u64,
    /// (logit, token), kept between calls.
    candidates: Vec<(f32, u32)>,
}

impl Sampler {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`Error::Value`] for a negative or non-finite temperature, a `top_p` outside (0, 1] or a `min_p` outside \[0, 1\].
    pub fn new(sampling: Sampling, seed: u64) -> Result<Self> {
        let Sampling { temperature, top_p, min_p } = sampling;
        if !(temperature >= 0.0 && temperature.is_finite()) {
            return Err(Error::Value { what: "temperature", expected: "a number of at least 0", got: temperature });
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return Err(Error::Value { what: "top_p", expected: "a number in (0, 1]", got: top_p });
        }
        if !(0.0..=1.0).contains(&min_p) {
            return Err(Error::Value { what: "min_p", expected: "a number in [0, 1]", got: min_p });
        }
        Ok(Sampler { sampling, state: seed, candidates: Vec::new() })
    }

    /// Chooses a token.
    ///
    /// # Errors
    /// [`Error::Length`] for no logits, [`Error::Value`] if one is NaN or +∞, or all are −∞.
    pub fn sample(&mut self, logits: &[f32]) -> Result<u32> {
        let mut best = (f32::NEG_INFINITY, 0);
        for (token, &logit) in logits.iter().enumerate() {
            if logit.is_nan() || logit == f32::INFINITY {
                return Err(Error::Value { what: "logits", expected: "finite logits", got: logit });
            }
            if logit > best.0 {
                best = (logit, token as u32);
            }
        }
        if logits.is_empty() {
            return Err(Error::Length { what: "logits", expected: 1, got: 0 });
        }
        if best.0 == f32::NEG_INFINITY {
            return Err(Error::Value { what: "logits", expected: "finite logits", got: best.0 });
        }
        if self.sampling.temperature == 0.0 { Ok(best.1) } else { Ok(self.draw(logits, best.0)) }
    }

    fn draw(&mut self, logits: &[f32], largest: f32) -> u32 {
        let Sampling { temperature, top_p, min_p } = self.sampling;
        let weight = |logit: f32| f64::from((logit - largest) / temperature).exp();
        // min_p against the largest, whose weight is 1
        let candidates = logits.iter().enumerate().map(|(token, &logit)| (logit, token as u32));
        self.candidates.clear();
        // at once for all, as the next call may keep more
        self.candidates.reserve(logits.len());
        self.candidates.extend(candidates.filter(|&(logit, _)| weight(logit) >= f64::from(min_p)));
        if top_p < 1.0 {
            self.candidates.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            let all: f64 = logits.iter().map(|&logit| weight(logit)).sum();
            let mut sum = 0.0;
            let kept = self.candidates.iter().take_while(|(logit, _)| {
                let more = sum < f64::from(top_p) * all;
                sum += weight(*logit);
                more
            });
            let kept = kept.count();
            self.candidates.truncate(kept.max(1));
        }
        let total: f64 = self.candidates.iter().map(|&(logit, _)| weight(logit)).sum();
        let mut left = self.uniform() * total;
        for &(logit, token) in &self.candidates {
            left -= weight(logit);
            if left < 0.0 {
                return token;
            }
        }
        // rounding may leave a remainder past the last candidate
        self.candidates.last().map_or(0, |&(_, token)| token)
    }

    /// The next number in \[0, 1) of a SplitMix64 sequence.
    fn uniform(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}
