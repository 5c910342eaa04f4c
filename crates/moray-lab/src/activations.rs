//! How the inputs of a model's matrices are held while they are multiplied.

use std::fmt;
use std::str::FromStr;

use moray::w4a8::ActScales;

/// Matrices whose inputs are int8; the others run in 16 bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Int8 {
    /// Gate and up.
    GateUp,
    /// Gate, up and down.
    Mlp,
    /// Every matrix of a layer.
    #[default]
    All,
}

/// `--activations`: how finely int8 inputs are scaled, and which inputs are int8 where weights are integers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct ActivationScheme {
    /// A scale for each token, or for each token and 128 of K.
    pub scales: ActScales,
    /// Which inputs.
    pub int8: Int8,
}

/// A matrix of a layer, or several that share their input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Site {
    /// Query, key and value.
    Qkv,
    /// The output of attention.
    O,
    /// Gate and up.
    GateUp,
    /// Down.
    Down,
}

impl ActivationScheme {
    /// Says whether the inputs of a matrix are int8.
    pub fn is_int8(self, site: Site) -> bool {
        match self.int8 {
            Int8::All => true,
            Int8::Mlp => matches!(site, Site::GateUp | Site::Down),
            Int8::GateUp => site == Site::GateUp,
        }
    }
}

const SCALES: [(&str, ActScales); 2] = [("token", ActScales::Token), ("fine", ActScales::Fine)];

const INT8: [(&str, Int8); 3] = [("all", Int8::All), ("mlp", Int8::Mlp), ("gate_up", Int8::GateUp)];

fn named<T: Copy>(names: &[(&str, T)], text: &str) -> Result<T, String> {
    let all = || names.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let found = names.iter().find(|(name, _)| *name == text);
    found.map(|(_, value)| *value).ok_or_else(|| format!("expected one of {}, got {text}", all()))
}

impl FromStr for ActivationScheme {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (scales, int8) = text.split_once(':').unwrap_or((text, "all"));
        Ok(ActivationScheme { scales: named(&SCALES, scales)?, int8: named(&INT8, int8)? })
    }
}

impl fmt::Display for ActivationScheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scales = SCALES.iter().find(|(_, scales)| *scales == self.scales).map_or("", |(name, _)| name);
        let int8 = INT8.iter().find(|(_, int8)| *int8 == self.int8).map_or("", |(name, _)| name);
        if self.int8 == Int8::All { f.write_str(scales) } else { write!(f, "{scales}:{int8}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_others_refused() {
        for (scales, int8) in [("token", ""), ("fine", ""), ("token", ":mlp"), ("fine", ":gate_up")] {
            let text = format!("{scales}{int8}");
            assert_eq!(text.parse::<ActivationScheme>().unwrap().to_string(), text);
        }
        assert_eq!("fine:all".parse::<ActivationScheme>().unwrap().to_string(), "fine");
        for bad in ["", "coarse", "fine:", "fine:down"] {
            assert!(bad.parse::<ActivationScheme>().unwrap_err().starts_with("expected one of"), "{bad}");
        }
    }
}
