//! Rotary position embedding.

use super::{Span, check_head_dim};
use crate::cpu::Cpu;
use crate::error::{Error, Result, check_len};
use crate::simd::{Kernel, Simd};

/// How frequencies change for contexts longer than the model was first trained on.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub enum RopeScaling {
    /// Not at all.
    #[default]
    Default,
    /// Every frequency divided by `factor`.
    Linear {
        /// At least 1 in practice; any positive number.
        factor: f64,
    },
    /// Llama 3's: with wavelength λ = 2π / frequency and c = `original_context`, frequencies with λ > c / `low_freq_factor`
    /// are divided by `factor`, those with λ < c / `high_freq_factor` stay, and between them s = (c / λ − low) / (high − low)
    /// blends: (1 − s) · frequency / factor + s · frequency.
    Llama3 {
        /// Division of the low frequencies.
        factor: f64,
        /// `low_freq_factor`.
        low_freq_factor: f64,
        /// `high_freq_factor`, above `low_freq_factor`.
        high_freq_factor: f64,
        /// `original_max_position_embeddings`.
        original_context: usize,
    },
    /// Frequency i divided by `factors[i]`, as a checkpoint's table of `head_dim / 2` numbers gives them.
    Factors(Vec<f32>),
    /// YaRN: with h = head_dim / 2 and the pair at which a frequency turns r times in the original context,
    /// p(r) = h · ln(original_context / (2π · r)) / ln θ, frequencies of pairs up to low = p(beta_fast) stay, those from
    /// high = p(beta_slow) on are divided by `factor`, and between them s = (i − low) / (high − low) blends:
    /// (1 − s) · frequency + s · frequency / factor. low and high are rounded down and up where `truncate` says so, and kept within
    /// 0 and head_dim − 1. What is rotated is multiplied by `attention_factor`. From arXiv 2309.00071.
    Yarn {
        /// Division of the low frequencies.
        factor: f64,
        /// Turns from which frequencies stay, usually 32.
        beta_fast: f64,
        /// Turns up to which frequencies are divided, usually 1.
        beta_slow: f64,
        /// `original_max_position_embeddings`.
        original_context: usize,
        /// Usually 0.1 · ln factor + 1.
        attention_factor: f64,
        /// Whether the blend begins and ends at whole pairs.
        truncate: bool,
    },
    /// Frequency i divided by `factors[i]`, and what is rotated multiplied by `attention_factor`, as LongRoPE (arXiv 2402.13753) does.
    LongRope {
        /// `head_dim / 2` divisors.
        factors: Vec<f32>,
        /// sqrt(1 + ln factor / ln original_context) by default.
        attention_factor: f64,
    },
}

impl RopeScaling {
    /// What rotated queries and keys are multiplied by.
    pub fn attention_factor(&self) -> f64 {
        match self {
            RopeScaling::Yarn { attention_factor, .. } | RopeScaling::LongRope { attention_factor, .. } => {
                *attention_factor
            }
            _ => 1.0,
        }
    }
}

/// A table of rotations: pair (i, i + head_dim / 2) of a head at position t turns by t · θ^(−2i / head_dim), scaled, and grows by
/// [`RopeScaling::attention_factor`].
///
/// x′\[i\] = x\[i\] cos − x\[i + h\] sin, x′\[i + h\] = x\[i + h\] cos + x\[i\] sin with h = head_dim / 2. Angles are computed in f64,
/// their cosine and sine rounded to f32; the products are f32, each rounded.
///
/// # Source
/// RoFormer (arXiv 2104.09864), in the half-split pairing of LLaMA checkpoints in the Hugging Face layout.
///
/// # Example
/// ```
/// use moray::attention::{Rope, RopeScaling, Span};
/// let rope = Rope::new(64, 10_000.0, &RopeScaling::Default, 128)?;
/// let mut q = vec![1.0; 2 * 3 * 64]; // two tokens, three heads
/// rope.apply(&moray::Cpu::detect(), &[Span { slot: 0, start: 0, len: 2 }], 3, &mut q)?;
/// assert_eq!(q[0], 1.0); // position 0 does not turn
/// assert_eq!(q[3 * 64], 1f32.cos() - 1f32.sin());
/// # Ok::<(), moray::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Rope {
    head_dim: usize,
    /// [head_dim / 2], radians per position.
    frequencies: Vec<f64>,
    /// Multiplies cosines and sines.
    attention_factor: f64,
    /// [context][head_dim]: head_dim / 2 cosines, then as many sines.
    table: Vec<f32>,
}

impl Rope {
    /// Computes the table for positions below `context`.
    ///
    /// # Errors
    /// [`Error::Shape`] for an unsupported `head_dim` or a table too large, [`Error::Value`] if `theta` or a scaling factor
    /// is not finite and positive, [`Error::Length`] if `Factors` does not have `head_dim / 2` entries.
    pub fn new(head_dim: usize, theta: f64, scaling: &RopeScaling, context: usize) -> Result<Rope> {
        check_head_dim(head_dim)?;
        check_positive("rope theta", theta)?;
        check_scaling(scaling, head_dim)?;
        if let RopeScaling::Yarn { .. } = scaling
            && theta <= 1.0
        {
            return Err(Error::Value { what: "rope theta", expected: "a number above 1 with YaRN", got: theta as f32 });
        }
        let plain = |i: usize| theta.powf(-2.0 * i as f64 / head_dim as f64);
        let ramp = Ramp::new(head_dim, theta, scaling);
        let frequencies = (0..head_dim / 2).map(|i| scale(plain(i), i, scaling, ramp)).collect();
        let mut rope = Rope { head_dim, frequencies, attention_factor: scaling.attention_factor(), table: Vec::new() };
        rope.extend(context)?;
        Ok(rope)
    }

    /// Grows the table to positions below `context`; a longer table stays.
    ///
    /// # Errors
    /// [`Error::Shape`] if the table would not fit into memory.
    pub fn extend(&mut self, context: usize) -> Result<()> {
        let old = self.context();
        let Some(added) = context.checked_sub(old) else { return Ok(()) };
        let expected = "a context whose rope table can be allocated";
        let refused = Error::Shape { what: "rope context", expected, got: context };
        let elems = added.checked_mul(self.head_dim).ok_or(refused.clone())?;
        self.table.try_reserve_exact(elems).map_err(|_| refused)?;
        for position in old..context {
            let angles = self.frequencies.iter().map(|frequency| position as f64 * frequency);
            let factor = self.attention_factor;
            self.table.extend(angles.clone().map(|angle| (factor * angle.cos()) as f32));
            self.table.extend(angles.map(|angle| (factor * angle.sin()) as f32));
        }
        Ok(())
    }

    /// Positions in the table.
    pub fn context(&self) -> usize {
        self.table.len() / self.head_dim
    }

    /// The table, f32 \[context, head_dim\]: head_dim / 2 cosines of a position, then as many sines.
    pub fn table(&self) -> &[f32] {
        &self.table
    }

    /// Elements per head.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Turns every head of every token in place: x f32, [M, n_heads · head_dim], the spans' tokens one after another.
    ///
    /// # Errors
    /// [`Error::Length`] if x does not fit the spans, [`Error::Index`] for a position past the table.
    pub fn apply(&self, cpu: &Cpu, spans: &[Span], n_heads: usize, x: &mut [f32]) -> Result<()> {
        let width = n_heads * self.head_dim;
        let mut rows = 0usize;
        for span in spans {
            self.check_span(span)?;
            rows = rows.saturating_add(span.len);
        }
        check_len("x", rows.saturating_mul(width), x.len())?;
        let mut rest = x;
        for span in spans {
            let (tokens, later) = rest.split_at_mut(span.len * width);
            rest = later;
            cpu.team().for_pieces_mut(tokens, ROWS_PER_PIECE * width, |piece, tokens| {
                let start = span.start + piece * ROWS_PER_PIECE;
                cpu.simd().run(Rotate { rope: self, start, n_heads, tokens });
            });
        }
        Ok(())
    }

    pub(super) fn check_span(&self, span: &Span) -> Result<()> {
        let end = span.end();
        if end > self.context() {
            return Err(Error::Index { what: "rope position", limit: self.context(), got: end - 1 });
        }
        Ok(())
    }

    /// Turns `x` into `out`, [head_dim] each, at a checked position.
    #[inline(always)]
    pub(super) fn rotate_into(&self, position: usize, x: &[f32], out: &mut [f32]) {
        let half = self.head_dim / 2;
        let (cos, sin) = self.table[position * self.head_dim..][..self.head_dim].split_at(half);
        let (x0, x1) = x[..self.head_dim].split_at(half);
        let (out0, out1) = out[..self.head_dim].split_at_mut(half);
        for i in 0..half {
            out0[i] = x0[i] * cos[i] - x1[i] * sin[i];
            out1[i] = x1[i] * cos[i] + x0[i] * sin[i];
        }
    }

    #[inline(always)]
    fn rotate(&self, position: usize, x: &mut [f32]) {
        let half = self.head_dim / 2;
        let (cos, sin) = self.table[position * self.head_dim..][..self.head_dim].split_at(half);
        let (x0, x1) = x[..self.head_dim].split_at_mut(half);
        for i in 0..half {
            let (a, b) = (x0[i], x1[i]);
            x0[i] = a * cos[i] - b * sin[i];
            x1[i] = b * cos[i] + a * sin[i];
        }
    }
}

/// Tokens per parallel piece: some tens of kilobytes of q.
const ROWS_PER_PIECE: usize = 16;

struct Rotate<'a> {
    rope: &'a Rope,
    start: usize,
    n_heads: usize,
    tokens: &'a mut [f32],
}

impl Kernel for Rotate<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let d = self.rope.head_dim;
        for (i, token) in self.tokens.chunks_exact_mut((self.n_heads * d).max(1)).enumerate() {
            for head in token.chunks_exact_mut(d) {
                self.rope.rotate(self.start + i, head);
            }
        }
    }
}

/// The pairs between which YaRN blends.
#[derive(Clone, Copy)]
struct Ramp {
    low: f64,
    high: f64,
}

impl Ramp {
    /// Where the blend of [`RopeScaling::Yarn`] begins and ends; anything for other scalings.
    fn new(head_dim: usize, theta: f64, scaling: &RopeScaling) -> Self {
        let &RopeScaling::Yarn { beta_fast, beta_slow, original_context, truncate, .. } = scaling else {
            return Ramp { low: 0.0, high: 1.0 };
        };
        let pair = |turns: f64| {
            let wavelength = original_context as f64 / (std::f64::consts::TAU * turns);
            head_dim as f64 / 2.0 * wavelength.ln() / theta.ln()
        };
        let (low, high) = (pair(beta_fast), pair(beta_slow));
        let (low, high) = if truncate { (low.floor(), high.ceil()) } else { (low, high) };
        let (low, high) = (low.max(0.0), high.min(head_dim as f64 - 1.0));
        // a step where both meet
        Ramp { low, high: if low == high { high + 0.001 } else { high } }
    }

    /// How far pair `i` is between the two.
    fn at(self, i: usize) -> f64 {
        ((i as f64 - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }
}

fn scale(frequency: f64, i: usize, scaling: &RopeScaling, ramp: Ramp) -> f64 {
    match *scaling {
        RopeScaling::Default => frequency,
        RopeScaling::Linear { factor } => frequency / factor,
        RopeScaling::Llama3 { factor, low_freq_factor: low, high_freq_factor: high, original_context } => {
            let wavelengths_per_context = original_context as f64 * frequency / std::f64::consts::TAU;
            if wavelengths_per_context < low {
                frequency / factor
            } else if wavelengths_per_context > high {
                frequency
            } else {
                let smooth = (wavelengths_per_context - low) / (high - low);
                (1.0 - smooth) * frequency / factor + smooth * frequency
            }
        }
        RopeScaling::Yarn { factor, .. } => {
            let smooth = ramp.at(i);
            (1.0 - smooth) * frequency + smooth * frequency / factor
        }
        RopeScaling::Factors(ref factors) | RopeScaling::LongRope { ref factors, .. } => {
            frequency / f64::from(factors[i])
        }
    }
}

fn check_scaling(scaling: &RopeScaling, head_dim: usize) -> Result<()> {
    match scaling {
        RopeScaling::Default => Ok(()),
        RopeScaling::Linear { factor } => check_positive("rope factor", *factor),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            check_positive("rope factor", *factor)?;
            check_positive("rope low_freq_factor", *low_freq_factor)?;
            check_positive("rope high_freq_factor", *high_freq_factor)?;
            if high_freq_factor <= low_freq_factor {
                let (what, expected) = ("rope high_freq_factor", "a number above low_freq_factor");
                return Err(Error::Value { what, expected, got: *high_freq_factor as f32 });
            }
            check_original(*original_context)
        }
        RopeScaling::Yarn { factor, beta_fast, beta_slow, original_context, attention_factor, .. } => {
            check_positive("rope factor", *factor)?;
            check_positive("rope beta_fast", *beta_fast)?;
            check_positive("rope beta_slow", *beta_slow)?;
            check_positive("rope attention_factor", *attention_factor)?;
            check_original(*original_context)
        }
        RopeScaling::LongRope { factors, attention_factor } => {
            check_positive("rope attention_factor", *attention_factor)?;
            check_factors(factors, head_dim)
        }
        RopeScaling::Factors(factors) => check_factors(factors, head_dim),
    }
}

fn check_original(original_context: usize) -> Result<()> {
    if original_context == 0 {
        let what = "rope original_max_position_embeddings";
        return Err(Error::Shape { what, expected: "at least 1", got: 0 });
    }
    Ok(())
}

fn check_factors(factors: &[f32], head_dim: usize) -> Result<()> {
    check_len("rope factors", head_dim / 2, factors.len())?;
    factors.iter().try_for_each(|&factor| check_positive("rope factors", f64::from(factor)))
}

fn check_positive(what: &'static str, value: f64) -> Result<()> {
    if value.is_finite() && value > 0.0 {
        return Ok(());
    }
    Err(Error::Value { what, expected: "a finite number above 0", got: value as f32 })
}
