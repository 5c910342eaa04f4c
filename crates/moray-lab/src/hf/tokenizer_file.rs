//! What must be known of `tokenizer.json` before the tokenizer library reads it.

use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::error::{Error, Result};

/// Checks that no merge is longer than the longest token, which the library takes for granted.
///
/// # Errors
/// [`Error::Tokenizer`] if one is, or if the file is not JSON.
pub(crate) fn check_merges(path: &Path, bytes: &[u8]) -> Result<()> {
    #[derive(Deserialize)]
    struct File {
        model: Option<Model>,
    }
    #[derive(Deserialize)]
    struct Model {
        #[serde(default)]
        vocab: LongestKey,
        #[serde(default)]
        merges: LongestMerge,
        continuing_subword_prefix: Option<String>,
    }
    let file: File = serde_json::from_slice(bytes).map_err(|error| Error::tokenizer(path, error))?;
    let Some(model) = file.model else { return Err(Error::missing_key(path, "model")) };
    let prefix = model.continuing_subword_prefix.map_or(0, |prefix| prefix.len());
    if model.merges.longest > model.vocab.0 + prefix {
        let message = format!(
            "expected merges of at most {} bytes, the longest token's, got one of {}",
            model.vocab.0, model.merges.longest
        );
        return Err(Error::tokenizer(path, message));
    }
    if prefix > 0 && model.merges.shortest_right < prefix {
        let message = format!("expected merges whose right part has the prefix of {prefix} bytes, got a shorter one");
        return Err(Error::tokenizer(path, message));
    }
    Ok(())
}

/// Length in bytes of the longest key of an object; 0 for anything else (a Unigram vocabulary is a list).
#[derive(Default)]
struct LongestKey(usize);

impl<'de> Deserialize<'de> for LongestKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Vocab;
        impl<'de> Visitor<'de> for Vocab {
            type Value = LongestKey;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a vocabulary")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<LongestKey, A::Error> {
                let mut longest = 0;
                while let Some(key) = map.next_key::<String>()? {
                    longest = longest.max(key.len());
                    map.next_value::<IgnoredAny>()?;
                }
                Ok(LongestKey(longest))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<LongestKey, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(LongestKey(0))
            }
        }
        deserializer.deserialize_any(Vocab)
    }
}

/// Lengths in bytes over all merges, which are `"a b"` or `["a", "b"]`.
struct LongestMerge {
    longest: usize,
    shortest_right: usize,
}

impl Default for LongestMerge {
    fn default() -> Self {
        Self { longest: 0, shortest_right: usize::MAX }
    }
}

impl<'de> Deserialize<'de> for LongestMerge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Merge {
            Text(String),
            Pair(String, String),
        }
        struct Merges;
        impl<'de> Visitor<'de> for Merges {
            type Value = LongestMerge;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of merges")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<LongestMerge, A::Error> {
                let mut lengths = LongestMerge::default();
                while let Some(merge) = seq.next_element::<Merge>()? {
                    let (left, right) = match &merge {
                        Merge::Text(text) => text.split_once(' ').unwrap_or((text, "")),
                        Merge::Pair(left, right) => (left.as_str(), right.as_str()),
                    };
                    lengths.longest = lengths.longest.max(left.len() + right.len());
                    lengths.shortest_right = lengths.shortest_right.min(right.len());
                }
                Ok(lengths)
            }
        }
        deserializer.deserialize_seq(Merges)
    }
}
