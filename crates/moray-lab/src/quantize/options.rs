//! What a quantization is asked to do.

use std::fmt;
use std::str::FromStr;

use moray::w4a8::Mode;
use serde::{Deserialize, Serialize};

use super::solve::SolveOptions;
use crate::weights::WeightScheme;

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
    #[serde(with = "mode_name")]
    pub mode: Mode,
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
    pub fn new(method: Method, mode: Mode) -> Self {
        let full = method == Method::Full;
        let qqq = full || method == Method::Qqq;
        Options {
            method,
            mode,
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
            mode: self.mode,
            gptq: self.method != Method::Rtn,
            act_order: self.act_order,
            clip_search: self.clip_search,
            refinements: self.refinements,
        }
    }
}

/// Names of modes on the command line and in files.
const MODES: [(&str, Mode); 11] = [
    ("per-channel", Mode::PerChannel),
    ("g32", Mode::PerGroup { group_size: 32, offset: false }),
    ("g64", Mode::PerGroup { group_size: 64, offset: false }),
    ("g128", Mode::PerGroup { group_size: 128, offset: false }),
    ("g32o", Mode::PerGroup { group_size: 32, offset: true }),
    ("g64o", Mode::PerGroup { group_size: 64, offset: true }),
    ("g128o", Mode::PerGroup { group_size: 128, offset: true }),
    ("two-level-g32", Mode::TwoLevel { group_size: 32 }),
    ("two-level", Mode::TwoLevel { group_size: 64 }),
    ("two-level-g128", Mode::TwoLevel { group_size: 128 }),
    ("qqq", Mode::Qqq),
];

/// A mode by its name on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModeName(pub Mode);

impl FromStr for ModeName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || MODES.map(|(name, _)| name).join(", ");
        let found = MODES.iter().find(|(name, _)| *name == text).map(|(_, mode)| ModeName(*mode));
        found.ok_or_else(|| format!("expected one of {}, got {text}", names()))
    }
}

impl fmt::Display for ModeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match MODES.iter().find(|(_, mode)| *mode == self.0) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "{}", WeightScheme::Quantized(self.0)),
        }
    }
}

mod mode_name {
    use super::{Mode, ModeName};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(mode: &Mode, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&ModeName(*mode))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Mode, D::Error> {
        String::deserialize(deserializer)?.parse::<ModeName>().map(|name| name.0).map_err(D::Error::custom)
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
