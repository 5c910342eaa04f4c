//! JSON as Python's `json` module writes and reads it, which is what configurations are: of equal keys the last counts, and
//! `NaN`, `Infinity` and `-Infinity` are numbers.

use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result};

/// Parses a configuration. A number that JSON does not have becomes the text of its name, which nothing that asks for a
/// number takes.
///
/// # Errors
/// [`Error::Malformed`] for anything else that is not JSON, with the place.
pub(crate) fn parse(path: &Path, bytes: &[u8]) -> Result<Value> {
    let parsed = serde_json::from_slice(bytes).or_else(|_| serde_json::from_slice(&quoted(bytes)));
    parsed.map_err(|error| Error::malformed(path, "content", "JSON", error))
}

/// The same text with the three names in quotation marks.
fn quoted(bytes: &[u8]) -> Vec<u8> {
    const NAMES: [&[u8]; 3] = [b"NaN", b"-Infinity", b"Infinity"];
    let mut out = Vec::with_capacity(bytes.len());
    let (mut in_text, mut at) = (false, 0);
    while let Some(&byte) = bytes.get(at) {
        let name = NAMES.into_iter().find(|name| !in_text && bytes[at..].starts_with(name));
        let taken = match name {
            Some(name) => {
                out.extend([b"\"", name, b"\""].concat());
                name.len()
            }
            None => {
                // a backslash takes the next character with it
                let len = if in_text && byte == b'\\' { 2 } else { 1 };
                in_text ^= byte == b'"';
                out.extend_from_slice(&bytes[at..bytes.len().min(at + len)]);
                len
            }
        };
        at += taken;
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parsed(text: &str) -> Result<Value> {
        parse(Path::new("config.json"), text.as_bytes())
    }

    #[test]
    fn what_python_writes_is_read_as_python_reads_it() {
        let text = r#"{"a": 1, "b": [NaN, -Infinity], "a": 2, "c\"NaN": "Infinity \\", "d": Infinity}"#;
        let expected = json!({"a": 2, "b": ["NaN", "-Infinity"], "c\"NaN": "Infinity \\", "d": "Infinity"});
        assert_eq!(parsed(text).unwrap(), expected);
        assert_eq!(parsed(r#"{"NaN": "a NaN"}"#).unwrap(), json!({"NaN": "a NaN"}));
    }

    #[test]
    fn what_python_refuses_is_refused_with_the_place() {
        for text in ["", "{", "{\"a\": Nan}", "{\"a\": 1,}", "NaNNaN", "\"\\", "{\"a\": -NaN}"] {
            let error = parsed(text).unwrap_err().to_string();
            assert!(error.contains("content: expected JSON") && error.contains("line"), "{text}: {error}");
        }
    }
}
