//! Whether a model can stand beside another as its reference: token for token the same text.

use std::path::Path;

use super::Run;
use crate::error::{Error, Result};

/// Checks that `reference` reads `text` as `run` does. Rows that only one of both embeddings has are padding, and no obstacle.
///
/// # Errors
/// [`Error::Malformed`] with the reference's path for tokens that differ, other ids of the text, another beginning of texts, and
/// fewer positions than `context`.
pub(super) fn check(run: &Run, reference: &Run, text: (&Path, &str), context: usize) -> Result<()> {
    let path = reference.checkpoint.path();
    let (ours, theirs) = (run.checkpoint.config(), reference.checkpoint.config());
    let refuse = |what: String, expected: String, got: String| Err(Error::malformed(path, what, expected, got));
    let named = |token: Option<String>| token.map_or("none".to_owned(), |token| format!("{token:?}"));
    for id in 0..ours.vocab.min(theirs.vocab) as u32 {
        // a row without a token is padding; its name in the other file means nothing
        let (Some(expected), Some(got)) = (run.tokenizer.token(id), reference.tokenizer.token(id)) else { continue };
        if expected != got {
            return refuse(
                format!("token {id}"),
                format!("{expected:?} as in the model that it is compared with"),
                format!("{got:?}"),
            );
        }
    }
    if ours.window_start() != theirs.window_start() {
        let name = |run: &Run| named(run.checkpoint.config().window_start().and_then(|id| run.tokenizer.token(id)));
        return refuse("beginning of a text".into(), name(run), name(reference));
    }
    let (expected, got) = (run.tokenizer.encode(text.1, false)?, reference.tokenizer.encode(text.1, false)?);
    if let Some(at) = (0..expected.len().max(got.len())).find(|&at| expected.get(at) != got.get(at)) {
        let name = |run: &Run, ids: &[u32]| named(ids.get(at).and_then(|&id| run.tokenizer.token(id)));
        let what = format!("tokenizer: token {at} of {}", text.0.display());
        return refuse(what, name(run, &expected), name(reference, &got));
    }
    if context > theirs.context_length {
        return refuse(
            "context".into(),
            format!("at least the {context} positions of a window"),
            theirs.context_length.to_string(),
        );
    }
    Ok(())
}
