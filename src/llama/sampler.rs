//! Choosing the next token from logits.

use crate::error::{Error, Result};

/// How a token is chosen. All settings at once: temperature first, then the most probable tokens that make up `top_p`
/// (of equally probable ones the first), of these the ones of at least `min_p` times the largest probability, then a draw.
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

/// A seeded sampler: the same seed and logits give the same tokens on every machine and device.
///
/// With p_v = exp((logit_v − max logit) / temperature) in f32, a token weighs w_v = ⌊2³⁹ · p_v⌋, and all sums are of these integers:
/// their order does not matter, so a GPU draws the same token. A token of less than 2⁻³⁹ of the largest probability is not drawn.
///
/// # Source
/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
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
    /// p of every token, kept between calls.
    probabilities: Vec<f32>,
}

/// The most logits: so many weights of up to 2³⁹ are summed in 64 bits.
const MAX_VOCAB: usize = 1 << 24;

/// Which tokens `top_p` keeps: those whose p has larger bits, and the first of those with these.
#[derive(Debug, Clone, Copy)]
struct Cut {
    bits: u32,
    ties: u64,
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
        Ok(Sampler { sampling, state: seed, probabilities: Vec::new() })
    }

    /// Chooses a token.
    ///
    /// # Errors
    /// [`Error::Length`] for no logits, [`Error::Shape`] for more than 2²⁴, [`Error::Value`] if one is NaN or +∞, or all are −∞.
    pub fn sample(&mut self, logits: &[f32]) -> Result<u32> {
        if logits.len() > MAX_VOCAB {
            return Err(Error::Shape { what: "logits", expected: "at most 2^24", got: logits.len() });
        }
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
        if self.sampling.temperature == 0.0 { Ok(best.1) } else { Ok(self.draw(logits, best)) }
    }

    fn draw(&mut self, logits: &[f32], best: (f32, u32)) -> u32 {
        let Sampling { temperature, min_p, .. } = self.sampling;
        self.probabilities.clear();
        self.probabilities.extend(logits.iter().map(|&logit| exp_to_one((logit - best.0) / temperature)));
        let cut = match self.top_p_in_64_bits() {
            0 => Cut { bits: 0, ties: u64::MAX },
            top_p => self.cut(top_p),
        };
        let random = next_random(&mut self.state);
        let total: u64 = self.kept(cut, min_p).map(|(_, weight)| weight).sum();
        let mut left = ((u128::from(random) * u128::from(total)) >> 64) as u64;
        for (token, weight) in self.kept(cut, min_p) {
            if left < weight {
                return token;
            }
            left -= weight;
        }
        // not reached: the largest is kept, so `left` is below the sum
        best.1
    }

    /// The tokens that are kept, in their order, and their weights.
    fn kept(&self, cut: Cut, min_p: f32) -> impl Iterator<Item = (u32, u64)> + '_ {
        let mut ties = cut.ties;
        let mut keeps = move |p: f32| {
            let tie = p.to_bits() == cut.bits && ties > 0;
            ties -= u64::from(tie);
            p >= min_p && (p.to_bits() > cut.bits || tie)
        };
        let tokens = self.probabilities.iter().copied().zip(0..);
        tokens.filter(move |&(p, _)| keeps(p)).map(|(p, token)| (token, weight(p)))
    }

    /// `top_p` in units of 2⁻⁶⁴; 0 keeps all.
    fn top_p_in_64_bits(&self) -> u64 {
        let top_p = self.sampling.top_p;
        if top_p < 1.0 { ((f64::from(top_p) * 2f64.powi(64)) as u64).max(1) } else { 0 }
    }

    /// Finds the largest bits at which the tokens from there up weigh `top_p` of all or more, by bisection.
    fn cut(&self, top_p: u64) -> Cut {
        let mass = |bits: u32| -> u64 {
            self.probabilities.iter().map(|p| if p.to_bits() >= bits { weight(*p) } else { 0 }).sum()
        };
        // rounded up: what is below it is below top_p of the total
        let wanted = (u128::from(mass(0)) * u128::from(top_p)).div_ceil(1 << 64) as u64;
        let (mut enough, mut too_little) = (0, 1f32.to_bits() + 1);
        while too_little - enough > 1 {
            let middle = enough + (too_little - enough) / 2;
            if mass(middle) >= wanted {
                enough = middle;
            } else {
                too_little = middle;
            }
        }
        Cut { bits: enough, ties: (wanted - mass(too_little)).div_ceil(weight(f32::from_bits(enough))) }
    }

    /// What a device needs of it: the random numbers' state, `top_p` in units of 2⁻⁶⁴, and temperature and `min_p` as bits.
    #[cfg(feature = "cuda")]
    pub(super) fn words(&self) -> [u64; 3] {
        let [temperature, min_p] = [self.sampling.temperature, self.sampling.min_p].map(|x| u64::from(x.to_bits()));
        [self.state, self.top_p_in_64_bits(), min_p << 32 | temperature]
    }
}

fn weight(p: f32) -> u64 {
    (p * (1u64 << 39) as f32) as u64
}

/// e^z for z ≤ 0: at most 1, and 1 for 0; 0 below 2⁻¹²⁶. Products and sums are rounded one by one, so that every machine and
/// device has the same bits; the relative error, 2⁻²² + 2⁻²⁴ · |z|, is that of z itself.
fn exp_to_one(z: f32) -> f32 {
    /// e^(f ln 2) = 1 + f·(c₀ + c₁f + … + c₅f⁵) on \[−½, ½\].
    const COEFFICIENTS: [f32; 7] =
        [0.000_153_533_62, 0.001_339_887_5, 0.009_618_437, 0.055_503_324, 0.240_226_48, std::f32::consts::LN_2, 1.0];
    /// Added and taken away, it rounds to the nearest integer.
    const ROUND: f32 = 12_582_912.0;
    let t = z * std::f32::consts::LOG2_E;
    if !(t >= -126.0) {
        return 0.0;
    }
    let n = (t + ROUND) - ROUND;
    let f = t - n;
    let p = COEFFICIENTS[1..].iter().fold(COEFFICIENTS[0], |p, c| p * f + c);
    p * f32::from_bits(((n as i32 + 127) as u32) << 23)
}

/// The next number of a SplitMix64 sequence.
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
