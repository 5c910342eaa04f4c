//! What a checkpoint says about its model, whatever file it came from.

use std::path::Path;

use crate::error::{Error, Result};
use crate::text_bounds::TextBounds;

/// The gate's activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[non_exhaustive]
pub enum Activation {
    /// x · sigmoid(x).
    Silu,
    /// max(x, 0).
    Relu,
}

impl Activation {
    /// Its name in a config.json and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Activation::Silu => "silu",
            Activation::Relu => "relu",
        }
    }
}

/// How rotary frequencies θ^(−2i / head_dim) are adapted to long contexts.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Every frequency is divided by `factor`.
    Linear {
        /// Divisor of every frequency.
        factor: f32,
    },
    /// Low frequencies are divided by `factor`, high ones kept, with a ramp between.
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f32,
        /// Wavelengths longer than original_context / low_freq_factor are low frequencies.
        low_freq_factor: f32,
        /// Wavelengths shorter than original_context / high_freq_factor are high frequencies.
        high_freq_factor: f32,
        /// Context length of the pretraining, in tokens.
        original_context: usize,
    },
    /// Frequency i is divided by `factors[i]`; `head_dim / 2` values. GGUF stores llama3 scaling in this form.
    Factors(Vec<f32>),
    /// YaRN: low frequencies are divided by `factor`, high ones kept, with a ramp over the pairs between, and queries and keys grow.
    Yarn {
        /// Divisor of the low frequencies.
        factor: f32,
        /// Turns in the original context from which frequencies are kept.
        beta_fast: f32,
        /// Turns in the original context up to which frequencies are divided.
        beta_slow: f32,
        /// Context length of the pretraining, in tokens.
        original_context: usize,
        /// Multiplies rotated queries and keys.
        attention_factor: f32,
        /// Whether the ramp begins and ends at whole pairs.
        truncate: bool,
    },
    /// LongRoPE within the original context: frequency i is divided by `factors[i]`, and queries and keys grow.
    LongRope {
        /// `head_dim / 2` divisors.
        factors: Vec<f32>,
        /// Multiplies rotated queries and keys.
        attention_factor: f32,
    },
}

/// The shape and constants of a llama model.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ModelConfig {
    /// The model's name for people, or its architecture.
    pub name: String,
    /// What the file calls the architecture.
    pub architecture: String,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Neurons of one MLP.
    pub d_ff: usize,
    /// Transformer layers.
    pub n_layers: usize,
    /// Query heads.
    pub n_q_heads: usize,
    /// Key/value heads; divides `n_q_heads`.
    pub n_kv_heads: usize,
    /// Elements of a head; even. Not necessarily `hidden / n_q_heads`.
    pub head_dim: usize,
    /// Rows of the embedding.
    pub vocab: usize,
    /// Largest number of positions the model runs correctly with (at most a sliding window's width), in tokens.
    pub context_length: usize,
    /// Added to the mean square in RMSNorm.
    pub rms_eps: f32,
    /// Base of the rotary frequencies.
    pub rope_theta: f32,
    /// Adaptation of the rotary frequencies.
    pub rope_scaling: RopeScaling,
    /// The gate's activation.
    pub activation: Activation,
    /// Whether an attention projection has a bias; each bias may still be absent (the output's in qwen2).
    pub attention_bias: bool,
    /// Whether an MLP projection has a bias.
    pub mlp_bias: bool,
    /// Whether the output projection is the embedding.
    pub tied_embeddings: bool,
    /// Token that begins a text.
    pub bos: Option<u32>,
    /// Whether a text should stand between the tokens of `bounds`; they begin with `bos`.
    pub add_bos: bool,
    /// Tokens that end a generation; sorted, without duplicates.
    pub eos: Vec<u32>,
    /// What `bos`, `add_bos` and `eos` follow from, and who says so.
    pub bounds: TextBounds,
    /// Jinja template of a conversation.
    pub chat_template: Option<String>,
}

impl ModelConfig {
    /// Whether query and key heads are normalised before RoPE.
    pub fn qk_norm(&self) -> bool {
        self.architecture == "qwen3"
    }

    /// Output features of the query projection.
    pub fn q_features(&self) -> usize {
        self.n_q_heads * self.head_dim
    }

    /// Output features of the key and of the value projection.
    pub fn kv_features(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }

    /// The token that a window of a text begins with, if texts begin with one.
    pub fn window_start(&self) -> Option<u32> {
        self.bounds.before.first().copied()
    }

    /// Takes over where texts begin and end.
    pub(crate) fn set_bounds(&mut self, bounds: TextBounds) {
        let named = bounds.bos.as_ref().map(|bos| bos.token);
        self.bos = bounds.before.first().copied().or(named);
        self.add_bos = !(bounds.before.is_empty() && bounds.after.is_empty());
        self.eos = bounds.ends.iter().map(|end| end.token).collect();
        self.bounds = bounds;
    }

    /// The tokens at which texts begin and end, and who names them.
    fn bounding_tokens(&self) -> impl Iterator<Item = (&str, u32)> {
        let TextBounds { before, after, origin, bos, ends, notes: _ } = &self.bounds;
        let around = before.iter().chain(after).map(|&id| (origin.as_str(), id));
        let stated = self.eos.iter().chain(&self.bos).map(|&id| ("BOS or EOS token", id));
        bos.iter().chain(ends).map(|bound| (bound.origin.as_str(), bound.token)).chain(around).chain(stated)
    }

    /// Checks that the numbers make sense together; `path` is where they came from.
    pub(crate) fn check(&mut self, path: &Path) -> Result<()> {
        let sizes = [
            ("hidden size", self.hidden),
            ("feed-forward size", self.d_ff),
            ("layer count", self.n_layers),
            ("query head count", self.n_q_heads),
            ("key/value head count", self.n_kv_heads),
            ("head size", self.head_dim),
            ("vocabulary size", self.vocab),
            ("context length", self.context_length),
        ];
        for (what, got) in sizes {
            // Products of three such sizes must fit 64 bits with room to spare.
            if got == 0 || got > 1 << 28 {
                return Err(Error::malformed(path, what, "1 to 2^28", got));
            }
        }
        if !self.n_q_heads.is_multiple_of(self.n_kv_heads) {
            let expected = format!("a divisor of the {} query heads", self.n_q_heads);
            return Err(Error::malformed(path, "key/value head count", expected, self.n_kv_heads));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(Error::malformed(path, "head size", "an even number", self.head_dim));
        }
        if !(self.rms_eps.is_finite() && self.rms_eps >= 0.0) {
            return Err(Error::malformed(path, "RMSNorm epsilon", "a finite number of at least 0", self.rms_eps));
        }
        if !(self.rope_theta.is_finite() && self.rope_theta > 0.0) {
            return Err(Error::malformed(path, "rotary base", "a finite number above 0", self.rope_theta));
        }
        for (what, id) in self.bounding_tokens() {
            if id as usize >= self.vocab {
                return Err(Error::malformed(path, what, format!("a token id below {}", self.vocab), id));
            }
        }
        self.check_rope(path)
    }

    fn check_rope(&self, path: &Path) -> Result<()> {
        let positive = |what: &str, value: f32| positive(path, what, value);
        match &self.rope_scaling {
            RopeScaling::None => Ok(()),
            RopeScaling::Linear { factor } => positive("rope scaling factor", *factor),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                positive("rope scaling factor", *factor)?;
                positive("low_freq_factor", *low_freq_factor)?;
                positive("high_freq_factor", *high_freq_factor)?;
                if high_freq_factor <= low_freq_factor {
                    let expected = format!("more than low_freq_factor {low_freq_factor}");
                    return Err(Error::malformed(path, "high_freq_factor", expected, high_freq_factor));
                }
                if *original_context == 0 {
                    return Err(Error::malformed(path, "original_max_position_embeddings", "at least 1", 0));
                }
                Ok(())
            }
            RopeScaling::Yarn { factor, beta_fast, beta_slow, original_context, attention_factor, .. } => {
                positive("rope scaling factor", *factor)?;
                positive("beta_fast", *beta_fast)?;
                positive("beta_slow", *beta_slow)?;
                positive("attention_factor", *attention_factor)?;
                if *original_context == 0 {
                    return Err(Error::malformed(path, "original_max_position_embeddings", "at least 1", 0));
                }
                if self.rope_theta <= 1.0 {
                    return Err(Error::malformed(path, "rotary base", "more than 1 with YaRN", self.rope_theta));
                }
                Ok(())
            }
            RopeScaling::LongRope { factors, attention_factor } => {
                positive("attention_factor", *attention_factor)?;
                self.check_factors(path, factors)
            }
            RopeScaling::Factors(factors) => self.check_factors(path, factors),
        }
    }

    fn check_factors(&self, path: &Path, factors: &[f32]) -> Result<()> {
        if factors.len() != self.head_dim / 2 {
            let expected = format!("{} values", self.head_dim / 2);
            return Err(Error::malformed(path, "rotary factors", expected, factors.len()));
        }
        factors.iter().try_for_each(|factor| positive(path, "rotary factor", *factor))
    }
}

fn positive(path: &Path, what: &str, value: f32) -> Result<()> {
    if value.is_finite() && value > 0.0 {
        Ok(())
    } else {
        Err(Error::malformed(path, what, "a finite number above 0", value))
    }
}
