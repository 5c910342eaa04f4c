//! What a quantization is asked to do.

use std::fmt;
use std::str::FromStr;

use moray::w4a8::{Bits, Format};
use serde::{Deserialize, Serialize};

use super::solve::SolveOptions;
use crate::weights::{WeightScheme, format_named, format_names};

/// How codes are chosen: each is a set of defaults for the single switches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Every weight to the nearest level.
    Rtn,
    /// Error feedback against the layer's own output on unquantized activations.
    Gptq,
    /// Rotation, a search for clipped scales, and error feedback, as QQQ recommends; with `--smooth on --rotate off` its
    /// paper's form.
    Qqq,
    /// All of it: rotation, int8 activations while calibrating, targets nearer to the unquantized model's outputs, fitted
    /// scales.
    Full,
}

/// What a quantization is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Options {
    /// How codes are chosen.
    pub method: Method,
    /// Codes and scales.
    #[serde(rename = "mode", with = "format_name")]
    pub format: Format,
    /// Smoothing of the inputs' outlier channels, by search.
    pub smooth: bool,
    /// Rotation of the hidden state.
    pub rotate: bool,
    /// Columns of large inputs first.
    pub act_order: bool,
    /// Scales that clip where that pays.
    pub clip_search: bool,
    /// Inputs are int8 while Hessians are gathered, as they will be at run time.
    pub int8_aware: bool,
    /// Targets are a quarter of the way to the unquantized model's outputs.
    pub correct: bool,
    /// Rounds of refinement after error feedback.
    pub refinements: usize,
    /// Calibration tokens at most.
    pub tokens: usize,
    /// Tokens of a window.
    pub context: usize,
    /// Seed of the rotation.
    pub seed: u64,
}

impl Options {
    /// A method's defaults: 128 windows of 512 tokens.
    pub fn new(method: Method, format: Format) -> Self {
        let full = method == Method::Full;
        let qqq = full || method == Method::Qqq;
        Options {
            method,
            format,
            smooth: false,
            rotate: qqq,
            act_order: method != Method::Rtn,
            clip_search: qqq,
            int8_aware: full,
            correct: full,
            refinements: if full { 3 } else { 0 },
            tokens: 128 * 512,
            context: 512,
            seed: 0,
        }
    }

    /// The part that concerns a single matrix.
    pub fn solve(&self) -> SolveOptions {
        SolveOptions {
            format: self.format,
            gptq: self.method != Method::Rtn,
            act_order: self.act_order,
            clip_search: self.clip_search,
            refinements: self.refinements,
        }
    }
}

/// A format of 4 bits by its name on the command line and in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FormatName(pub Format);

impl FormatName {
    fn all() -> impl Iterator<Item = (&'static str, Format)> {
        format_names().filter(|(_, format)| format.bits == Bits::Four)
    }
}

impl FromStr for FormatName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Self::all().map(|(name, _)| name).collect::<Vec<_>>().join(", ");
        let found = format_named(text).filter(|format| format.bits == Bits::Four);
        found.map(FormatName).ok_or_else(|| format!("expected one of {}, got {text}", names()))
    }
}

impl fmt::Display for FormatName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", WeightScheme::Quantized(self.0))
    }
}

mod format_name {
    use super::{Format, FormatName};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(format: &Format, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&FormatName(*format))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Format, D::Error> {
        String::deserialize(deserializer)?.parse::<FormatName>().map(|name| name.0).map_err(D::Error::custom)
    }
}

impl FromStr for Method {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "rtn" => Ok(Method::Rtn),
            "gptq" => Ok(Method::Gptq),
            "qqq" => Ok(Method::Qqq),
            "full" => Ok(Method::Full),
            _ => Err(format!("expected rtn, gptq, qqq or full, got {text}")),
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Method::Rtn => "rtn",
            Method::Gptq => "gptq",
            Method::Qqq => "qqq",
            Method::Full => "full",
        })
    }
}
