//! Tokens that stand beside `tokenizer.json`, in the order in which transformers adds them.
//!
//! `added_tokens_decoder` of `tokenizer_config.json` counts as it is, by id; where it is absent, `added_tokens.json` does, and
//! special tokens are named in `special_tokens_map.json` too. Then come the special tokens that are none of the added ones yet.
//!
//! # Source
//! `_from_pretrained` and `TokenizersBackend.__init__` of transformers 5.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::text_bounds::token_text;
use crate::error::{Error, Result};

/// Keys of special tokens, in order.
const NAMED: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// Keys of lists of further special tokens; the first that is there and not empty counts.
const FURTHER: [&str; 2] = ["extra_special_tokens", "additional_special_tokens"];

/// Tokens to add to what `tokenizer.json` has.
#[derive(Debug, Default)]
pub(crate) struct AddedTokens {
    /// Tokens with the ids that they must have.
    pub(crate) by_id: BTreeMap<u32, AddedToken>,
    /// Special tokens, which are added only if they are not there.
    pub(crate) special: Vec<AddedToken>,
}

impl AddedTokens {
    /// Reads them from the files' values, which are null where a file is absent.
    ///
    /// # Errors
    /// [`Error::Malformed`] for entries of another form.
    pub(crate) fn read(directory: &Path, config: &Value, special_map: &Value, added: &Value) -> Result<Self> {
        let mut tokens = AddedTokens::default();
        let mut named: Map<String, Value> = config.as_object().cloned().unwrap_or_default();
        match config.get("added_tokens_decoder").filter(|value| !value.is_null()) {
            Some(decoder) => {
                let path = directory.join("tokenizer_config.json");
                let entries = decoder.as_object();
                let wrong = |got: &Value| Error::malformed(&path, "added_tokens_decoder", "tokens by their ids", got);
                for (id, value) in entries.ok_or_else(|| wrong(decoder))? {
                    let (Ok(number), Some(token)) = (id.parse(), added_token(value, false)) else {
                        return Err(wrong(value));
                    };
                    tokens.by_id.insert(number, token);
                }
            }
            None => {
                named.extend(special_map.as_object().cloned().unwrap_or_default());
                let special: Vec<AddedToken> = special_tokens(&named);
                for (token, id) in added.as_object().into_iter().flatten() {
                    let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
                    let id = id.ok_or_else(|| {
                        Error::malformed(
                            &directory.join("added_tokens.json"),
                            token.as_str(),
                            "a token id",
                            "another value",
                        )
                    })?;
                    let is_special = special.iter().any(|special| special.content == *token);
                    tokens.by_id.insert(id, AddedToken::from(token, is_special));
                }
            }
        }
        tokens.special = special_tokens(&named);
        Ok(tokens)
    }
}

/// The special tokens that keys name, each once.
fn special_tokens(named: &Map<String, Value>) -> Vec<AddedToken> {
    let own = |(key, _): &(&String, &Value)| key.ends_with("_token") && !NAMED.contains(&key.as_str());
    let further = FURTHER.iter().filter_map(|key| named.get(*key));
    let further = further.filter(|value| value.as_array().is_none_or(|list| !list.is_empty())).take(1);
    let listed = further.flat_map(|value| match value {
        Value::Array(list) => list.iter().collect(),
        Value::Object(map) => map.values().collect(),
        _ => Vec::new(),
    });
    let single = NAMED.iter().filter_map(|key| named.get(*key));
    let mut tokens: Vec<AddedToken> = Vec::new();
    for value in single.chain(listed).chain(named.iter().filter(own).map(|(_, value)| value)) {
        let Some(token) = added_token(value, true) else { continue };
        if tokens.iter().all(|other| other.content != token.content) {
            tokens.push(token);
        }
    }
    tokens
}

/// A token that is a text, or an object with its content and flags.
fn added_token(value: &Value, special: bool) -> Option<AddedToken> {
    let content = token_text(value)?;
    let flag = |key: &str, default: bool| value.get(key).and_then(Value::as_bool).unwrap_or(default);
    let special = special || flag("special", false);
    let token = AddedToken::from(content, special);
    let normalized = flag("normalized", token.normalized);
    let token =
        token.single_word(flag("single_word", false)).lstrip(flag("lstrip", false)).rstrip(flag("rstrip", false));
    Some(token.normalized(normalized))
}
