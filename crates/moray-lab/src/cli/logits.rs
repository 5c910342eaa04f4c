//! `--logits`.

use std::fmt;
use std::num::NonZeroUsize;
use std::str::FromStr;

/// Which logits of a token are computed exactly: all of them, or as many of the largest as a copy of the output layer in few bits says.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct LogitsSwitch(pub Option<Looked>);

/// A look at the logits in few bits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Looked {
    /// Logits that are computed exactly.
    pub exact: NonZeroUsize,
    /// Share of the inputs that the look reads, in (0, 1].
    pub read: f32,
}

impl FromStr for LogitsSwitch {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let looked = text.strip_prefix("preview:").and_then(|rest| {
            let (exact, read) = match rest.split_once(':') {
                Some((exact, read)) => (exact, read.parse().ok()?),
                None => (rest, 1.0),
            };
            (read > 0.0 && read <= 1.0).then_some(Looked { exact: exact.parse().ok()?, read })
        });
        match (text, looked) {
            ("all", _) => Ok(LogitsSwitch(None)),
            (_, Some(looked)) => Ok(LogitsSwitch(Some(looked))),
            _ => Err(format!(
                "expected all, preview:N or preview:N:K, N logits of at least 1 and K a share of the inputs in (0, 1], got {text}"
            )),
        }
    }
}

impl fmt::Display for LogitsSwitch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("all"),
            Some(Looked { exact, read: 1.0 }) => write!(f, "preview:{exact}"),
            Some(Looked { exact, read }) => write!(f, "preview:{exact}:{read}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_is_read_as_it_is_shown() {
        for text in ["all", "preview:64", "preview:1:0.7"] {
            assert_eq!(text.parse::<LogitsSwitch>().unwrap().to_string(), text);
        }
        assert_eq!("preview:64:1".parse::<LogitsSwitch>(), "preview:64".parse());
        for text in ["", "preview", "preview:0", "preview:2:0", "preview:2:1.5", "preview:2:nan", "preview:2:0.5:1"] {
            assert!(text.parse::<LogitsSwitch>().unwrap_err().contains("preview:N:K"), "{text}");
        }
    }
}
