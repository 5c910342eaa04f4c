//! Text to token ids and back, with the model's own vocabulary.
//!
//! Three sources: a `tokenizer.json` as it is, a GGUF byte-level BPE vocabulary ("gpt2"), and a GGUF SentencePiece
//! vocabulary ("llama"). The first two run on the tokenizers library.

mod byte_level;
mod decoder;
mod sentencepiece;
mod stream;

use std::path::{Path, PathBuf};

pub use stream::TokenStream;

pub(crate) use byte_level::begins_with_bos;

use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::gguf::Vocabulary;
use crate::text_bounds::TextBounds;
use decoder::Decoder;
use sentencepiece::SentencePiece;

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
        tokenizer: Box<tokenizers::Tokenizer>,
        decoder: Decoder,
    },
    /// A GGUF file's vocabulary in the byte-level alphabet.
    ByteLevel(Box<tokenizers::Tokenizer>),
    SentencePiece(Box<SentencePiece>),
}

impl Tokenizer {
    /// Builds a tokenizer from the contents of a `tokenizer.json`.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the library cannot read it, [`Error::Vocabulary`] if it has more tokens than the
    /// embedding has rows (fewer are usual: embeddings are padded).
    pub fn from_json(path: &Path, bytes: &[u8], config: &ModelConfig) -> Result<Self> {
        let mut tokenizer = tokenizers::Tokenizer::from_bytes(bytes).map_err(|error| Error::tokenizer(path, error))?;
        // Limits for training batches have no place in generation.
        tokenizer.with_truncation(None).map_err(|error| Error::tokenizer(path, error))?;
        tokenizer.with_padding(None);
        let got = tokenizer.get_vocab_size(true);
        if got > config.vocab {
            return Err(Error::Vocabulary { path: path.into(), expected: config.vocab, got });
        }
        let decoder = Decoder::new(tokenizer.get_decoder());
        let model = Model::Json { tokenizer: Box::new(tokenizer), decoder };
        Ok(Self { path: path.into(), model, bos: config.bos, bounds: config.bounds.clone(), vocab: config.vocab })
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

    /// Number of tokens; at most the embedding's rows.
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
