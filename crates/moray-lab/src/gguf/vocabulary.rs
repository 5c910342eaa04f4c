//! The vocabulary of a GGUF file, still as the file stores it.

use std::path::Path;

use super::header::Header;
use super::metadata::{Array, Value};
use super::text_bounds::end_tokens;
use crate::error::{Error, Result};
use crate::mapped_file::MappedFile;

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenType {
    /// Ordinary text.
    Normal,
    /// Stands for what the vocabulary cannot express.
    Unknown,
    /// Steers the model and is not text.
    Control,
    /// Text that is always one token.
    UserDefined,
    /// Never produced.
    Unused,
    /// One byte, written `<0xAB>`.
    Byte,
}

impl TokenType {
    fn from_id(id: i64) -> Option<Self> {
        Some(match id {
            // 0 is what programs leave that do not say
            0 | 1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }
}

/// A file's tokenizer keys, checked against each other when opened.
#[derive(Debug)]
pub struct Vocabulary<'a> {
    /// Where messages say it comes from.
    pub path: &'a Path,
    /// `tokenizer.ggml.model`: "gpt2" or "llama" are known.
    pub model: &'a str,
    /// `tokenizer.ggml.pre`: the way text is cut before merging.
    pub pre: &'a str,
    /// Whether a SentencePiece text gets a space in front; what the file says, else yes.
    pub add_space_prefix: bool,
    tokens: Array<'a>,
    types: Option<Array<'a>>,
    scores: Option<Array<'a>>,
    merges: Option<Array<'a>>,
}

impl<'a> Vocabulary<'a> {
    /// Finds the tokenizer keys and checks that lists of one entry per token have the same length.
    ///
    /// # Errors
    /// [`Error::MissingKey`], or [`Error::Malformed`] for a wrong type or length.
    pub fn open(file: &'a MappedFile, header: &Header) -> Result<Self> {
        let path = file.path();
        let get = |key: &str| header.metadata.get(path, file.bytes(), &format!("tokenizer.ggml.{key}"));
        let array = |key: &str| match get(key)? {
            None => Ok(None),
            Some(Value::Array(array)) => Ok(Some(array)),
            Some(got) => Err(Error::malformed(path, format!("tokenizer.ggml.{key}"), "an array", format!("{got:?}"))),
        };
        let text = |key: &str| match get(key)? {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Error::malformed(path, format!("tokenizer.ggml.{key}"), "text", "another type")),
        };
        let missing = |key: &str| Error::missing_key(path, format!("tokenizer.ggml.{key}"));
        let tokens = array("tokens")?.ok_or_else(|| missing("tokens"))?;
        let (types, scores) = (array("token_type")?, array("scores")?);
        for (key, list) in [("token_type", &types), ("scores", &scores)] {
            if let Some(list) = list.as_ref().filter(|list| list.len() != tokens.len()) {
                let expected = format!("{} values, one a token", tokens.len());
                return Err(Error::malformed(path, format!("tokenizer.ggml.{key}"), expected, list.len()));
            }
        }
        Ok(Self {
            path,
            model: text("model")?.ok_or_else(|| missing("model"))?,
            pre: text("pre")?.unwrap_or("default"),
            add_space_prefix: match get("add_space_prefix")? {
                None => true,
                Some(Value::Bool(value)) => value,
                Some(_) => {
                    let key = "tokenizer.ggml.add_space_prefix";
                    return Err(Error::malformed(path, key, "a truth value", "another type"));
                }
            },
            tokens,
            types,
            scores,
            merges: array("merges")?,
        })
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Reads the tokens' texts, in the order of their ids.
    pub fn tokens(&self) -> impl Iterator<Item = Result<&'a str>> + use<'a> {
        texts(self.path, "tokenizer.ggml.tokens", &self.tokens)
    }

    /// Reads the merges, best first; None if the file has no such list.
    pub fn merges(&self) -> Option<impl Iterator<Item = Result<&'a str>> + use<'a>> {
        self.merges.as_ref().map(|merges| texts(self.path, "tokenizer.ggml.merges", merges))
    }

    /// Reads the tokens' types; all normal where the file does not say. Tokens that end a turn by their text are control tokens
    /// whatever it says.
    ///
    /// # Errors
    /// [`Error::Malformed`] for an unknown type.
    pub fn types(&self) -> Result<Vec<TokenType>> {
        let mut types = self.stated_types()?;
        for (id, _, kind) in end_tokens(self)? {
            types[id as usize] = kind;
        }
        Ok(types)
    }

    fn stated_types(&self) -> Result<Vec<TokenType>> {
        let Some(types) = &self.types else { return Ok(vec![TokenType::Normal; self.len()]) };
        let read = |value: Result<Value<'_>>| match value? {
            Value::Signed(id) if TokenType::from_id(id).is_some() => Ok(TokenType::from_id(id)),
            Value::Unsigned(id) if id <= 6 && TokenType::from_id(id as i64).is_some() => {
                Ok(TokenType::from_id(id as i64))
            }
            got => Err(Error::malformed(self.path, "tokenizer.ggml.token_type", "0 to 6", format!("{got:?}"))),
        };
        types.iter().filter_map(|value| read(value).transpose()).collect()
    }

    /// Reads the tokens' scores; all 0 where the file does not say.
    ///
    /// # Errors
    /// [`Error::Malformed`] if one is no number.
    pub fn scores(&self) -> Result<Vec<f32>> {
        let Some(scores) = &self.scores else { return Ok(vec![0.0; self.len()]) };
        let read = |value: Result<Value<'_>>| match value? {
            Value::Float(score) if !score.is_nan() => Ok(score as f32),
            got => Err(Error::malformed(self.path, "tokenizer.ggml.scores", "a number", format!("{got:?}"))),
        };
        scores.iter().map(read).collect()
    }
}

fn texts<'a>(path: &'a Path, key: &'static str, array: &Array<'a>) -> impl Iterator<Item = Result<&'a str>> + use<'a> {
    array.iter().map(move |value| match value? {
        Value::String(text) => Ok(text),
        got => Err(Error::malformed(path, key, "text", format!("{got:?}"))),
    })
}
