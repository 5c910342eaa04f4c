//! Decoding token by token: text comes out as soon as its bytes are complete.

use super::{Model, Tokenizer, byte_level};

/// Tokens of the prompt that a library decoder sees before the first new one.
const CONTEXT_TOKENS: usize = 6;
/// A character has at most four bytes, so after this many tokens an incomplete end stays incomplete.
const MAX_PENDING_TOKENS: usize = 4;

/// The state of a decoding; emits whole characters only.
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
    /// Tokens since before the last emission, of which the first `context` were already emitted.
    Window { ids: Vec<u32>, context: usize },
}

impl<'a> TokenStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, prompt: &[u32]) -> Self {
        let state = match &tokenizer.model {
            Model::Library { bytes: false, .. } => {
                let ids = prompt[prompt.len().saturating_sub(CONTEXT_TOKENS)..].to_vec();
                State::Window { context: ids.len(), ids }
            }
            Model::Library { .. } => State::Bytes { pending: Vec::new(), at_start: prompt.is_empty() },
            Model::SentencePiece(model) => {
                let at_start = prompt.last().is_none_or(|&last| model.is_control(last));
                State::Bytes { pending: Vec::new(), at_start }
            }
        };
        Self { tokenizer, state }
    }

    /// Takes the next token and returns the text that is complete with it, which may be empty.
    pub fn push(&mut self, id: u32) -> String {
        match (&mut self.state, &self.tokenizer.model) {
            (State::Bytes { pending, at_start }, Model::SentencePiece(model)) => {
                model.append_bytes(id, at_start, pending);
                complete_text(pending)
            }
            (State::Bytes { pending, .. }, Model::Library { tokenizer, .. }) => {
                if let Some(token) = tokenizer.id_to_token(id) {
                    byte_level::append_bytes(&token, pending);
                }
                complete_text(pending)
            }
            (State::Window { ids, context }, Model::Library { tokenizer, .. }) => {
                ids.push(id);
                window_text(tokenizer, ids, context, false)
            }
            (State::Window { .. }, Model::SentencePiece(_)) => String::new(), // `new` never builds it
        }
    }

    /// Ends the text: an unfinished character becomes U+FFFD. Decoding may go on afterwards.
    pub fn finish(&mut self) -> String {
        match (&mut self.state, &self.tokenizer.model) {
            (State::Bytes { pending, .. }, _) => String::from_utf8_lossy(&std::mem::take(pending)).into_owned(),
            (State::Window { ids, context }, Model::Library { tokenizer, .. }) if ids.len() > *context => {
                window_text(tokenizer, ids, context, true)
            }
            (State::Window { .. }, _) => String::new(),
        }
    }
}

/// Takes the complete characters off the front of `pending`; invalid bytes become U+FFFD as in lossy decoding.
fn complete_text(pending: &mut Vec<u8>) -> String {
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

/// Returns what the tokens after `context` add to the text of those before, once it ends in a whole character.
fn window_text(tokenizer: &tokenizers::Tokenizer, ids: &mut Vec<u32>, context: &mut usize, last: bool) -> String {
    let decode = |ids: &[u32]| tokenizer.decode(ids, false).unwrap_or_default();
    let (before, all) = (decode(&ids[..*context]), decode(ids));
    let waiting = all.ends_with(char::REPLACEMENT_CHARACTER) && ids.len() - *context <= MAX_PENDING_TOKENS;
    if waiting && !last {
        return String::new();
    }
    let new = all.get(before.len()..).unwrap_or_default().to_owned();
    // The tokens just emitted are the context of the next ones.
    ids.drain(..*context);
    *context = ids.len();
    new
}
