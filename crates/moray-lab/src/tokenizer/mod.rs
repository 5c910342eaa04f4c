//! Text to token ids and back, with the model's own vocabulary.
//!
//! Three sources: a `tokenizer.json` as it is, a GGUF byte-level BPE vocabulary ("gpt2"), and a GGUF SentencePiece
//! vocabulary ("llama"). The first two run on the tokenizers library.

mod byte_level;
mod decoder;
mod sentencepiece;
mod splitting;
mod stream;

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use tokenizers::{DecoderWrapper, ModelWrapper, NormalizerWrapper, PostProcessorWrapper};

pub use stream::TokenStream;

pub(crate) use byte_level::begins_with_bos;

use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::gguf::Vocabulary;
use crate::hf::AddedTokens;
use crate::text_bounds::TextBounds;
use decoder::Decoder;
use sentencepiece::SentencePiece;
use splitting::{Splitting, plain};

/// The tokenizers library, with cuts that do not end silently.
type Library =
    tokenizers::TokenizerImpl<ModelWrapper, NormalizerWrapper, Splitting, PostProcessorWrapper, DecoderWrapper>;

/// A model's tokenizer.
#[derive(Debug)]
pub struct Tokenizer {
    path: PathBuf,
    model: Model,
    bos: Option<u32>,
    bounds: TextBounds,
    /// Rows of the model's embedding; no id reaches it.
    vocab: usize,
}

#[derive(Debug)]
enum Model {
    /// A `tokenizer.json`, and its decoder at the beginning of a text.
    Json {
        tokenizer: Box<Library>,
        decoder: Decoder,
    },
    /// A GGUF file's vocabulary in the byte-level alphabet.
    ByteLevel(Box<Library>),
    SentencePiece(Box<SentencePiece>),
}

impl Tokenizer {
    /// Builds a tokenizer from the contents of a `tokenizer.json`.
    ///
    /// It may have tokens for which the embedding has no row, such as one for padding: a text that uses one is refused.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the library cannot read it, [`Error::Unsupported`] for replacements by expressions that may end
    /// early.
    pub fn from_json(path: &Path, bytes: &[u8], config: &ModelConfig) -> Result<Self> {
        check_replacements(path, bytes)?;
        let mut tokenizer = Library::from_bytes(bytes).map_err(|error| Error::tokenizer(path, error))?;
        // Limits for training batches have no place in generation.
        tokenizer.with_truncation(None).map_err(|error| Error::tokenizer(path, error))?;
        tokenizer.with_padding(None);
        let decoder = Decoder::new(tokenizer.get_decoder());
        let model = Model::Json { tokenizer: Box::new(tokenizer), decoder };
        Ok(Self { path: path.into(), model, bos: config.bos, bounds: config.bounds.clone(), vocab: config.vocab })
    }

    /// Adds tokens that stand beside `tokenizer.json`, in the directory's other files.
    ///
    /// # Errors
    /// [`Error::Malformed`] if a token's id is not the one that it has or gets, [`Error::Tokenizer`] if the library fails.
    pub(crate) fn add_tokens(&mut self, tokens: AddedTokens) -> Result<()> {
        let Model::Json { tokenizer, .. } = &mut self.model else { return Ok(()) };
        let AddedTokens { by_id, special } = tokens;
        let path = &self.path;
        tokenizer.add_tokens(by_id.values().cloned()).map_err(|error| Error::tokenizer(path, error))?;
        for (id, token) in by_id.iter().filter(|(_, token)| !token.content.is_empty()) {
            let got = tokenizer.token_to_id(&token.content);
            if got != Some(*id) {
                let what = format!("id of the added token {:?}", token.content);
                let expected = got.map_or("one".to_owned(), |got| format!("{got}, as the vocabulary has or continues"));
                return Err(Error::malformed(path, what, expected, id));
            }
        }
        let added = tokenizer.get_added_vocabulary().get_vocab();
        let special: Vec<_> = special.into_iter().filter(|token| !added.contains_key(&token.content)).collect();
        tokenizer.add_tokens(special).map(drop).map_err(|error| Error::tokenizer(path, error))
    }

    /// Builds a tokenizer from a GGUF vocabulary.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for unknown kinds, [`Error::Tokenizer`] for lists that contradict each other.
    pub fn from_vocabulary(vocabulary: &Vocabulary<'_>, config: &ModelConfig) -> Result<Self> {
        let path = vocabulary.path;
        let model = match vocabulary.model {
            "gpt2" => Model::ByteLevel(Box::new(byte_level::build(vocabulary, &config.bounds)?)),
            "llama" => Model::SentencePiece(Box::new(SentencePiece::build(vocabulary)?)),
            other => return Err(Error::unsupported(path, "tokenizer model", "gpt2 or llama", other)),
        };
        Ok(Self { path: path.into(), model, bos: config.bos, bounds: config.bounds.clone(), vocab: config.vocab })
    }

    /// The tokenizer as a `tokenizer.json`; none for a GGUF file's SentencePiece vocabulary, which has no such form here.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the library cannot write it.
    pub fn to_json(&self) -> Result<Option<String>> {
        match &self.model {
            Model::Json { tokenizer, .. } | Model::ByteLevel(tokenizer) => {
                tokenizer.to_string(false).map(Some).map_err(|error| Error::tokenizer(&self.path, error))
            }
            Model::SentencePiece(_) => Ok(None),
        }
    }

    /// Encodes a text. Special tokens written in the text become themselves; `add_bos` puts what begins texts in front and what ends
    /// them behind, which is BOS in front if the model's texts have neither.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if BOS is asked for and the model has none or the library fails, [`Error::Index`] for an
    /// id beyond the embedding.
    pub fn encode(&self, text: &str, add_bos: bool) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        let none = TextBounds::default();
        let TextBounds { before, after, .. } = if add_bos { &self.bounds } else { &none };
        ids.extend(before);
        if add_bos && before.is_empty() && after.is_empty() {
            let missing = || Error::tokenizer(&self.path, "expected a BOS token to begin the text with, got none");
            ids.push(self.bos.ok_or_else(missing)?);
        }
        match &self.model {
            Model::Json { tokenizer, .. } | Model::ByteLevel(tokenizer) => {
                let encoding = tokenizer.encode_fast(text, false);
                ids.extend(encoding.map_err(|error| Error::tokenizer(&self.path, error))?.get_ids());
            }
            Model::SentencePiece(model) => model.encode(text, &mut ids),
        }
        ids.extend(after);
        match ids.iter().find(|&&id| id as usize >= self.vocab) {
            Some(&got) => Err(Error::Index { what: "token".into(), limit: self.vocab, got: got as usize }),
            None => Ok(ids),
        }
    }

    /// Decodes tokens that begin a text. Special tokens appear as they are written, ids beyond the vocabulary not at
    /// all, bytes that are no UTF-8 as U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut stream = self.stream();
        let mut text = String::new();
        for &id in ids {
            text.push_str(&stream.push(id));
        }
        text.push_str(&stream.finish());
        text
    }

    /// Starts decoding token by token at the beginning of a text.
    pub fn stream(&self) -> TokenStream<'_> {
        TokenStream::new(self, &[])
    }

    /// Starts decoding token by token after `prompt`, so that a space between both is kept.
    pub fn stream_after(&self, prompt: &[u32]) -> TokenStream<'_> {
        TokenStream::new(self, prompt)
    }

    /// The token's text as the vocabulary writes it (in the byte-level alphabet, or with ▁ for a space).
    pub fn token(&self, id: u32) -> Option<String> {
        match &self.model {
            Model::Json { tokenizer, .. } | Model::ByteLevel(tokenizer) => tokenizer.id_to_token(id),
            Model::SentencePiece(model) => model.piece(id).map(str::to_owned),
        }
    }

    /// The id of a token by its text as the vocabulary writes it.
    pub fn token_id(&self, text: &str) -> Option<u32> {
        match &self.model {
            Model::Json { tokenizer, .. } | Model::ByteLevel(tokenizer) => tokenizer.token_to_id(text),
            Model::SentencePiece(model) => model.id(text),
        }
    }

    /// Number of tokens. Embeddings are padded to more rows, and may lack those of added tokens, which [`Tokenizer::encode`] then
    /// refuses.
    pub fn vocab_size(&self) -> usize {
        match &self.model {
            Model::Json { tokenizer, .. } | Model::ByteLevel(tokenizer) => tokenizer.get_vocab_size(true),
            Model::SentencePiece(model) => model.len(),
        }
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }
}

/// Checks that a normalizer or decoder replaces nothing by an expression that may end early, which the library does not tell.
fn check_replacements(path: &Path, bytes: &[u8]) -> Result<()> {
    #[derive(Deserialize)]
    struct File {
        #[serde(default)]
        normalizer: Value,
        #[serde(default)]
        decoder: Value,
    }
    fn check(path: &Path, value: &Value) -> Result<()> {
        match value {
            Value::Object(map) => {
                let expression = value.pointer("/pattern/Regex").and_then(Value::as_str);
                match expression.filter(|expression| plain(expression).is_none()) {
                    Some(got) => Err(Error::unsupported(path, "replacement", "an expression without look-around", got)),
                    None => map.values().try_for_each(|value| check(path, value)),
                }
            }
            Value::Array(list) => list.iter().try_for_each(|value| check(path, value)),
            _ => Ok(()),
        }
    }
    let File { normalizer, decoder } = serde_json::from_slice(bytes).map_err(|error| Error::tokenizer(path, error))?;
    [normalizer, decoder].iter().try_for_each(|value| check(path, value))
}
