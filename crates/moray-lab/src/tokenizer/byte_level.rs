//! Byte-level BPE ("gpt2") vocabularies of GGUF files, built on the tokenizers library.
//!
//! Every byte is written as one printable character, merges then join characters. What differs between families is how a
//! text is cut into words before merging; a GGUF file names the family in `tokenizer.ggml.pre`.

use ahash::AHashMap;
use serde::Deserialize;
use serde_json::{Value, json};
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, PostProcessorWrapper, PreTokenizerWrapper, SplitDelimiterBehavior};

use super::Library;
use super::splitting::{GPT2, Splitting};
use crate::error::{Error, Result};
use crate::gguf::{TokenType, Vocabulary};
use crate::text_bounds::TextBounds;

/// One digit.
const DIGIT: &str = r"\p{N}";
/// Words of llama 3: any case of contractions, up to three digits, line ends kept with punctuation.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// As llama 3, one digit at a time.
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Mistral's tekken: words end where an upper-case letter follows a lower-case one.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Files without a family: punctuation first, then GPT-2's words, digits apart and in threes.
const DEFAULT: [&str; 4] = [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"];

/// What a name in `tokenizer.ggml.pre` stands for.
struct Family {
    names: &'static [&'static str],
    /// Patterns applied one after another; matches and what lies between them become pieces.
    patterns: &'static [&'static str],
    /// Whether a word that is a token is taken as it is, without merging.
    ignore_merges: bool,
    /// Whether texts are composed (NFC) before they are cut. Files do not say so; the families' own tokenizers do it.
    composes: bool,
    /// Whether texts begin with BOS where a file does not say.
    begins_with_bos: bool,
}

impl Family {
    const fn new(names: &'static [&'static str], patterns: &'static [&'static str]) -> Self {
        Self { names, patterns, ignore_merges: false, composes: false, begins_with_bos: false }
    }

    const fn composing(self) -> Self {
        Self { composes: true, ..self }
    }

    const fn whole_words(self) -> Self {
        Self { ignore_merges: true, begins_with_bos: true, ..self }
    }
}

const FAMILIES: [Family; 9] = [
    Family::new(&["gpt-2", "phi-2", "jina-es", "jina-de", "gigachat", "trillion"], &[GPT2]),
    Family::new(&["olmo", "mpt"], &[GPT2]).composing(),
    Family::new(&["smollm", "starcoder", "refact", "codeshell", "exaone", "minerva-7b"], &[DIGIT, GPT2]),
    Family::new(&["command-r"], &[DIGIT, GPT2]).composing(),
    Family::new(&["llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral"], &[LLAMA3]).whole_words(),
    Family::new(&["smaug-bpe", "dbrx"], &[LLAMA3]),
    Family::new(&["qwen2", "stablelm2", "deepseek-r1-qwen", "hunyuan"], &[QWEN2]).composing(),
    Family::new(&["tekken"], &[TEKKEN]).whole_words(),
    Family::new(&["default"], &DEFAULT),
];

fn family(pre: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|family| family.names.contains(&pre))
}

/// Every expression of every family.
#[cfg(test)]
pub(super) fn patterns() -> Vec<&'static str> {
    FAMILIES.iter().flat_map(|family| family.patterns).copied().collect()
}

/// Whether texts of a family begin with BOS where a file does not say.
pub(crate) fn begins_with_bos(pre: &str) -> bool {
    family(pre).is_some_and(|family| family.begins_with_bos)
}

/// Builds the library's tokenizer from a GGUF vocabulary.
///
/// # Errors
/// [`Error::Unsupported`] for an unknown family, [`Error::Tokenizer`] for duplicate tokens, and merges of or into
/// tokens that do not exist.
pub(super) fn build(vocabulary: &Vocabulary<'_>, bounds: &TextBounds) -> Result<Library> {
    let path = vocabulary.path;
    let expected = "the gpt-2, smollm, llama-bpe, qwen2, tekken or default family";
    let unknown = || Error::unsupported(path, "pre-tokenizer", expected, vocabulary.pre);
    let family = family(vocabulary.pre).ok_or_else(unknown)?;
    let failed = |error| Error::tokenizer(path, error);
    let mut ids = AHashMap::with_capacity(vocabulary.len());
    for (id, token) in vocabulary.tokens().enumerate() {
        if let Some(first) = ids.insert(token?.to_owned(), id as u32) {
            return Err(failed(format!("expected each token once, got token {first} again as {id}").into()));
        }
    }
    let merges = read_merges(vocabulary, &ids)?;
    let model = BPE::builder().vocab_and_merges(ids, merges).ignore_merges(family.ignore_merges);
    let mut tokenizer = Library::new(model.build().map_err(failed)?.into());
    if family.composes {
        tokenizer.with_normalizer(Some(NFC)).map_err(failed)?;
    }
    let mut pieces: Vec<PreTokenizerWrapper> = Vec::new();
    for pattern in family.patterns {
        let pattern = SplitPattern::Regex((*pattern).into());
        pieces.push(Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map_err(failed)?.into());
    }
    pieces.push(ByteLevel::new(false, true, false).into());
    let splitting = Splitting::try_from(PreTokenizerWrapper::from(Sequence::new(pieces)));
    tokenizer.with_pre_tokenizer(Some(splitting.map_err(|error| Error::tokenizer(path, error))?));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    let template = template(&tokenizer, bounds).map_err(failed)?;
    tokenizer.with_post_processor(template);
    tokenizer.add_tokens(added_tokens(vocabulary)?).map_err(failed)?;
    Ok(tokenizer)
}

/// What puts a text between its bounds when the tokenizer is written; here they are put there by [`super::Tokenizer::encode`].
fn template(tokenizer: &Library, bounds: &TextBounds) -> tokenizers::Result<Option<PostProcessorWrapper>> {
    if bounds.before.is_empty() && bounds.after.is_empty() {
        return Ok(None);
    }
    let text = |id: &u32| tokenizer.id_to_token(*id).unwrap_or_default();
    let special = |id: &u32| json!({"SpecialToken": {"id": text(id), "type_id": 0}});
    let mut single: Vec<Value> = bounds.before.iter().map(special).collect();
    single.push(json!({"Sequence": {"id": "A", "type_id": 0}}));
    single.extend(bounds.after.iter().map(special));
    let mut tokens = serde_json::Map::new();
    for id in bounds.before.iter().chain(&bounds.after) {
        tokens.insert(text(id), json!({"id": text(id), "ids": [id], "tokens": [text(id)]}));
    }
    let pair = json!([{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}]);
    let template = json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens});
    Ok(Some(PostProcessorWrapper::deserialize(template)?))
}

/// Reads the merges, each "left right", and checks that both parts and their union are tokens.
fn read_merges(vocabulary: &Vocabulary<'_>, ids: &AHashMap<String, u32>) -> Result<Vec<(String, String)>> {
    let path = vocabulary.path;
    let merges = vocabulary.merges().ok_or_else(|| Error::missing_key(path, "tokenizer.ggml.merges"))?;
    let mut union = String::new();
    let read = |merge: Result<&str>| {
        let merge = merge?;
        let (left, right) = merge
            .split_once(' ')
            .ok_or_else(|| Error::tokenizer(path, format!("expected a merge of two tokens, got {merge:?}")))?;
        union.clear();
        union.extend([left, right]);
        if [left, right, &union].into_iter().all(|token| ids.contains_key(token)) {
            return Ok((left.to_owned(), right.to_owned()));
        }
        Err(Error::tokenizer(path, format!("expected a merge of two tokens into a token, got {merge:?}")))
    };
    merges.map(read).collect()
}

/// Control and user-defined tokens are recognised in the text before anything else.
fn added_tokens(vocabulary: &Vocabulary<'_>) -> Result<Vec<AddedToken>> {
    let types = vocabulary.types()?;
    let mut added = Vec::new();
    for (token, kind) in vocabulary.tokens().zip(types) {
        let token = token?;
        match kind {
            TokenType::Control => added.push(AddedToken::from(token, true)),
            TokenType::UserDefined => added.push(AddedToken::from(token, false).normalized(false)),
            _ => {}
        }
    }
    Ok(added)
}

/// Appends the bytes of one token of a GGUF file; control and user-defined tokens are written as they are read.
pub(super) fn append_token(tokenizer: &Library, id: u32, out: &mut Vec<u8>) {
    match tokenizer.get_added_vocabulary().get_added_tokens_decoder().get(&id) {
        Some(added) => out.extend_from_slice(added.content.as_bytes()),
        None => tokenizer.id_to_token(id).iter().for_each(|token| append_bytes(token, out)),
    }
}

/// Appends a token's bytes: each character of the byte-level alphabet is one byte. A token with any other character
/// is plain text.
pub(super) fn append_bytes(token: &str, out: &mut Vec<u8>) {
    let start = out.len();
    for character in token.chars() {
        match byte_of(character) {
            Some(byte) => out.push(byte),
            None => {
                out.truncate(start);
                out.extend_from_slice(token.as_bytes());
                return;
            }
        }
    }
}

/// Returns the byte that a character of GPT-2's alphabet stands for.
///
/// Printable Latin-1 bytes (0x21..=0x7e, 0xa1..=0xac, 0xae..=0xff) are themselves; the other 68, in order, are the
/// characters from U+0100 on.
fn byte_of(character: char) -> Option<u8> {
    let code = u32::from(character);
    match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => Some(code as u8),
        0x100..=0x120 => Some((code - 0x100) as u8),        // 0x00..=0x20
        0x121..=0x142 => Some((code - 0x121 + 0x7f) as u8), // 0x7f..=0xa0
        0x143 => Some(0xad),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn byte_of_matches_the_library_alphabet_over_all_of_unicode() {
        let alphabet = ByteLevel::alphabet();
        let mut bytes = HashSet::new();
        for character in '\0'..=char::MAX {
            let byte = byte_of(character);
            assert_eq!(byte.is_some(), alphabet.contains(&character), "{character:?}");
            if let Some(byte) = byte {
                assert!(bytes.insert(byte), "{character:?} repeats byte {byte}");
            }
        }
        assert_eq!(bytes.len(), 256);
    }
}
