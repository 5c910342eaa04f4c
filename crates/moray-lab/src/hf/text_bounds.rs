//! Where texts begin and end by the files of a directory, weighed as transformers does.
//!
//! What stands in front of a text and behind it is what the post-processor of `tokenizer.json` puts there, and nothing else:
//! `add_bos_token` has no part in it where there is a `tokenizer.json`. What ends a generation is said by
//! `generation_config.json`, else by `config.json`, else by the end of text that the tokenizer's files name, else by the family.
//!
//! # Source
//! transformers 5: its tokenizers over the tokenizers library, its generation, the configurations of llama and mistral.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use tokenizers::{Encoding, PostProcessor, PostProcessorWrapper};

use super::config::token_ids;
use crate::error::{Error, Result};
use crate::text_bounds::{Bound, TextBounds};

/// Families whose configuration begins with token 1 and ends with token 2 where `config.json` does not have the key.
const FAMILY_DEFAULTS: [(&str, [u32; 2]); 2] = [("llama", [1, 2]), ("mistral", [1, 2])];

/// The files that say where texts begin and end; those that are absent are null.
pub(super) struct Stated<'a> {
    /// The directory, for messages.
    pub(super) directory: &'a Path,
    pub(super) config: &'a Value,
    pub(super) generation_config: &'a Value,
    pub(super) tokenizer_config: &'a Value,
    pub(super) special_tokens_map: &'a Value,
    /// The bytes of `tokenizer.json`.
    pub(super) tokenizer: Option<&'a [u8]>,
}

/// Of `tokenizer.json` what begins and ends texts.
#[derive(Deserialize)]
struct TokenizerFile {
    post_processor: Option<Value>,
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
}

/// Its vocabulary, which is parsed only if a token is not among the added ones.
#[derive(Deserialize)]
struct VocabularyFile {
    #[serde(default)]
    model: Value,
}

/// Decides where texts begin and end.
///
/// # Errors
/// [`Error::Tokenizer`] for a `tokenizer.json` that is none, [`Error::Malformed`] for ids that are no ids.
pub(super) fn text_bounds(stated: &Stated<'_>) -> Result<TextBounds> {
    let path = stated.directory.join("tokenizer.json");
    let failed = |error: serde_json::Error| Error::tokenizer(&path, error);
    let file: Option<TokenizerFile> = stated.tokenizer.map(serde_json::from_slice).transpose().map_err(failed)?;
    let mut bounds = TextBounds::default();
    match &file {
        Some(TokenizerFile { post_processor: Some(processor), .. }) if !processor.is_null() => {
            let processor = PostProcessorWrapper::deserialize(processor).map_err(failed)?;
            (bounds.before, bounds.after) = around(&path, &processor)?;
            bounds.origin = "the post-processor of tokenizer.json".into();
        }
        Some(_) => bounds.origin = "tokenizer.json, which has no post-processor".into(),
        None => bounds.origin = "no tokenizer.json".into(),
    }
    bounds.bos = match bounds.before.first() {
        Some(&token) => Some(Bound::new(token, bounds.origin.clone())),
        None => named(stated, &file, "bos", 0)?.into_iter().next(),
    };
    for Bound { token, origin } in named(stated, &file, "eos", 1)? {
        bounds.add_end(token, origin);
    }
    if file.is_some() {
        bounds.notes = contradictions(stated, &bounds);
    }
    Ok(bounds)
}

/// What other files say than the post-processor does.
fn contradictions(stated: &Stated<'_>, bounds: &TextBounds) -> Vec<String> {
    let mut notes = Vec::new();
    for (key, tokens) in [("add_bos_token", &bounds.before), ("add_eos_token", &bounds.after)] {
        let flag = stated.tokenizer_config.get(key).and_then(Value::as_bool);
        if let Some(flag) = flag.filter(|&flag| flag == tokens.is_empty()) {
            notes.push(format!("{key} of tokenizer_config.json is {flag} and does not count beside tokenizer.json, as in transformers 5"));
        }
    }
    let id = stated.config.get("bos_token_id").and_then(Value::as_u64);
    if let (Some(id), Some(&first)) = (id, bounds.before.first())
        && id != u64::from(first)
    {
        notes.push(format!("bos_token_id of config.json is {id}, texts begin with {first}"));
    }
    notes
}

/// The tokens that a post-processor puts in front of a text and behind it.
fn around(path: &Path, processor: &PostProcessorWrapper) -> Result<(Vec<u32>, Vec<u32>)> {
    // an id that no vocabulary has stands for the text
    const TEXT: u32 = u32::MAX;
    let text = Encoding::from_tokens(vec![tokenizers::Token::new(TEXT, "x".into(), (0, 1))], 0);
    let processed = processor.process(text, None, true).map_err(|error| Error::tokenizer(path, error))?;
    let ids = processed.get_ids();
    let at = ids.iter().position(|&id| id == TEXT);
    let at =
        at.ok_or_else(|| Error::tokenizer(path, "expected a post-processor that keeps the text, got one without it"))?;
    Ok((ids[..at].to_vec(), ids[at + 1..].to_vec()))
}

/// What the files name as begin ("bos") or end ("eos") of a text; `default` is its place in [`FAMILY_DEFAULTS`].
fn named(stated: &Stated<'_>, file: &Option<TokenizerFile>, kind: &str, default: usize) -> Result<Vec<Bound>> {
    let key = format!("{kind}_token_id");
    for (name, value) in [("generation_config.json", stated.generation_config), ("config.json", stated.config)] {
        let ids = token_ids(&stated.directory.join(name), &key, value.get(&key))?;
        if !ids.is_empty() {
            return Ok(ids.into_iter().map(|id| Bound::new(id, format!("{key} of {name}"))).collect());
        }
    }
    let key = format!("{kind}_token");
    let files =
        [("tokenizer_config.json", stated.tokenizer_config), ("special_tokens_map.json", stated.special_tokens_map)];
    for (name, value) in files {
        let Some(token) = value.get(&key).and_then(token_text) else { continue };
        if let Some(id) = file.as_ref().and_then(|file| token_id(file, stated.tokenizer, token)) {
            return Ok(vec![Bound::new(id, format!("{key} {token} of {name}"))]);
        }
    }
    let model_type = stated.config.get("model_type").and_then(Value::as_str);
    let family = FAMILY_DEFAULTS.iter().find(|(name, _)| model_type == Some(*name));
    let vocab = stated.config.get("vocab_size").and_then(Value::as_u64).unwrap_or(0);
    Ok(match family {
        Some((name, ids))
            if stated.config.get(format!("{kind}_token_id")).is_none() && u64::from(ids[default]) < vocab =>
        {
            vec![Bound::new(ids[default], format!("the default of {name} models"))]
        }
        _ => Vec::new(),
    })
}

/// The text of a special token, which is a string or an object with its `content`.
pub(super) fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

fn token_id(file: &TokenizerFile, bytes: Option<&[u8]>, token: &str) -> Option<u32> {
    if let Some(added) = file.added_tokens.iter().find(|added| added.content == token) {
        return Some(added.id);
    }
    let VocabularyFile { model } = serde_json::from_slice(bytes?).ok()?;
    let id = match model.get("vocab")? {
        Value::Object(ids) => ids.get(token)?.as_u64()?,
        // a Unigram vocabulary is a list of pieces and scores
        Value::Array(pieces) => {
            pieces.iter().position(|piece| piece.get(0).and_then(Value::as_str) == Some(token))? as u64
        }
        _ => return None,
    };
    u32::try_from(id).ok()
}
