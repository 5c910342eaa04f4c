//! Decoding token by token: text comes out as soon as its bytes are complete.

use super::decoder::Decoder;
use super::{Model, Tokenizer, byte_level};

/// The state of a decoding; emits only what no later token can change.
///
/// The pieces concatenated, with [`TokenStream::finish`], are [`Tokenizer::decode`] of the tokens.
#[derive(Debug)]
pub struct TokenStream<'a> {
    tokenizer: &'a Tokenizer,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Bytes of an unfinished character, and whether the next token begins a text.
    Bytes { pending: Vec<u8>, at_start: bool },
    /// The decoder of a `tokenizer.json`.
    Steps(Decoder),
}

impl<'a> TokenStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, prompt: &[u32]) -> Self {
        let state = match &tokenizer.model {
            Model::Json { decoder, .. } => State::Steps(decoder.clone()),
            Model::ByteLevel(_) => State::Bytes { pending: Vec::new(), at_start: prompt.is_empty() },
            Model::SentencePiece(model) => {
                let at_start = prompt.last().is_none_or(|&last| model.is_control(last));
                State::Bytes { pending: Vec::new(), at_start }
            }
        };
        let mut stream = Self { tokenizer, state };
        if matches!(stream.state, State::Steps(_)) && !prompt.is_empty() {
            // a prompt is whole characters: what it is held for ends with it
            prompt.iter().for_each(|&id| drop(stream.push(id)));
            stream.finish();
        }
        stream
    }

    /// Takes the next token and returns the text that is complete with it, which may be empty.
    pub fn push(&mut self, id: u32) -> String {
        match (&mut self.state, &self.tokenizer.model) {
            (State::Steps(decoder), _) => self.tokenizer.token(id).map(|token| decoder.push(token)).unwrap_or_default(),
            (State::Bytes { pending, at_start }, Model::SentencePiece(model)) => {
                model.append_bytes(id, at_start, pending);
                complete_text(pending)
            }
            (State::Bytes { pending, .. }, Model::ByteLevel(tokenizer)) => {
                byte_level::append_token(tokenizer, id, pending);
                complete_text(pending)
            }
            (State::Bytes { .. }, Model::Json { .. }) => String::new(), // `new` never builds it
        }
    }

    /// Ends the text: an unfinished character becomes U+FFFD. Decoding may go on afterwards.
    pub fn finish(&mut self) -> String {
        match &mut self.state {
            State::Steps(decoder) => decoder.finish(),
            State::Bytes { pending, .. } => String::from_utf8_lossy(&std::mem::take(pending)).into_owned(),
        }
    }
}

/// Takes the complete characters off the front of `pending`; invalid bytes become U+FFFD as in lossy decoding.
pub(super) fn complete_text(pending: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut taken = 0;
    for chunk in pending.utf8_chunks() {
        text.push_str(chunk.valid());
        taken += chunk.valid().len();
        let incomplete = taken + chunk.invalid().len() == pending.len() && is_incomplete(chunk.invalid());
        if chunk.invalid().is_empty() || incomplete {
            break;
        }
        text.push(char::REPLACEMENT_CHARACTER);
        taken += chunk.invalid().len();
    }
    pending.drain(..taken);
    text
}

/// Whether more bytes could make these a character.
fn is_incomplete(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}
