//! `--logits`.

use std::fmt;
use std::num::NonZeroUsize;
use std::str::FromStr;

/// Which logits of a token are computed exactly: all of them, or as many of the largest as a copy of the output layer in few bits says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogitsSwitch(pub Option<NonZeroUsize>);

impl FromStr for LogitsSwitch {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let exact = text.strip_prefix("preview:").and_then(|count| count.parse().ok());
        match (text, exact) {
            ("all", _) => Ok(LogitsSwitch(None)),
            (_, Some(exact)) => Ok(LogitsSwitch(Some(exact))),
            _ => Err(format!("expected all or preview:N, N logits of at least 1, got {text}")),
        }
    }
}

impl fmt::Display for LogitsSwitch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("all"),
            Some(exact) => write!(f, "preview:{exact}"),
        }
    }
}
