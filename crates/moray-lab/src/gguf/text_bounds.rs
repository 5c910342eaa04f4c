//! Where texts begin and end by a GGUF file: its keys, then what llama.cpp takes where they are silent.
//!
//! # Source
//! `src/llama-vocab.cpp` of llama.cpp: defaults by the kind of vocabulary and by the family in `tokenizer.ggml.pre`, and tokens
//! that end a turn by their text alone.

use std::collections::BTreeSet;

use super::config::Pairs;
use super::vocabulary::{TokenType, Vocabulary};
use crate::error::{Error, Result};
use crate::text_bounds::{Bound, TextBounds};
use crate::tokenizer::begins_with_bos;

/// Tokens that end a generation by their text.
const END_TEXTS: [&str; 33] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
    // padding and borders of files where the middle is filled in
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<PAD>",
    "[PAD]",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
    "<|file_sep|>",
];

/// Texts that do not end a generation where others of the same vocabulary do, and what such a token is then.
const EXCEPTIONS: [(&str, &[&str], TokenType); 3] = [
    ("<|end|>", &["<|return|>", "<|call|>"], TokenType::UserDefined),
    ("<|end|>", &["<|calls|>", "<|flush|>"], TokenType::UserDefined),
    ("</s>", &["<|tool_response>"], TokenType::Normal),
];

/// Keys of tokens that end a generation.
const END_KEYS: [&str; 6] =
    ["eos_token_id", "eot_token_id", "eom_token_id", "fim_pad_token_id", "fim_rep_token_id", "fim_sep_token_id"];

/// Decides where texts begin and end.
///
/// # Errors
/// [`Error::Malformed`] for keys of another type, [`Error::MissingKey`] if texts are to begin or end with a token that is not
/// named.
pub(super) fn text_bounds(pairs: &Pairs<'_>, vocabulary: &Vocabulary<'_>) -> Result<TextBounds> {
    // begin and end of text where the file names none
    let (begin, end) = if vocabulary.model == "llama" { (1, 2) } else { (11, 11) };
    let named = |key: &str, default: u32| -> Result<Option<Bound>> {
        let key = format!("tokenizer.ggml.{key}");
        Ok(match pairs.token(&key)? {
            Some(token) => Some(Bound::new(token, key)),
            None if (default as usize) < vocabulary.len() => Some(Bound::new(default, default_origin(vocabulary))),
            None => None,
        })
    };
    let (bos, eos) = (named("bos_token_id", begin)?, named("eos_token_id", end)?);
    let mut bounds = TextBounds { bos, ..TextBounds::default() };
    if let Some(eos) =
        eos.as_ref().filter(|eos| vocabulary.model != "llama" && eos.origin == default_origin(vocabulary))
    {
        bounds
            .notes
            .push(format!("the file names no end of text: token {} is taken for one as llama.cpp does", eos.token));
    }
    let stated = pairs.bool("tokenizer.ggml.add_bos_token")?;
    bounds.origin = match stated {
        Some(_) => "tokenizer.ggml.add_bos_token".into(),
        None => format!("llama.cpp's default for {} of kind {}", vocabulary.pre, vocabulary.model),
    };
    let missing = |key: &str| Error::missing_key(vocabulary.path, key);
    if stated.unwrap_or(vocabulary.model == "llama" || begins_with_bos(vocabulary.pre)) {
        let bos = bounds.bos.as_ref().ok_or_else(|| missing("tokenizer.ggml.bos_token_id"))?;
        bounds.before.push(bos.token);
    }
    if pairs.bool("tokenizer.ggml.add_eos_token")? == Some(true) {
        let eos = eos.as_ref().ok_or_else(|| missing("tokenizer.ggml.eos_token_id"))?;
        bounds.after.push(eos.token);
        bounds.origin.push_str(" and add_eos_token");
    }
    if let Some(eos) = eos {
        bounds.add_end(eos.token, eos.origin);
    }
    for key in END_KEYS {
        let key = format!("tokenizer.ggml.{key}");
        if let Some(token) = pairs.token(&key)? {
            bounds.add_end(token, key);
        }
    }
    for (token, text, kind) in end_tokens(vocabulary)? {
        if kind == TokenType::Control {
            bounds.add_end(token, format!("its text {text}, as in llama.cpp"));
        } else {
            bounds.ends.retain(|end| end.token != token);
        }
    }
    Ok(bounds)
}

/// Says that a file is silent and what llama.cpp takes then.
fn default_origin(vocabulary: &Vocabulary<'_>) -> String {
    format!("llama.cpp's default for vocabularies of kind {}", vocabulary.model)
}

/// The tokens that end a generation by their text, which makes them control tokens; those of which the rest of the vocabulary
/// says that they do not end one are another kind.
///
/// # Errors
/// [`Error::Malformed`] for a token that is not text.
pub(super) fn end_tokens<'a>(vocabulary: &Vocabulary<'a>) -> Result<Vec<(u32, &'a str, TokenType)>> {
    let mut found = Vec::new();
    for (id, token) in vocabulary.tokens().enumerate() {
        let token = token?;
        if END_TEXTS.contains(&token) {
            found.push((id as u32, token, TokenType::Control));
        }
    }
    let texts: BTreeSet<&str> = found.iter().map(|(_, text, _)| *text).collect();
    for (_, text, kind) in &mut found {
        let excepted = |(except, others, _): &&(&str, &[&str], TokenType)| {
            except == text && others.iter().all(|other| texts.contains(other))
        };
        if let Some((_, _, other)) = EXCEPTIONS.iter().find(excepted) {
            *kind = *other;
        }
    }
    Ok(found)
}
