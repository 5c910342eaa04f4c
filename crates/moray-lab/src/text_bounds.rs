//! Where texts begin and end: the tokens, and which file says so.

use serde::Serialize;

/// A token with a part in where a text begins or ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bound {
    /// Its id.
    pub token: u32,
    /// What says so: a file and its key, or whose default it is.
    pub origin: String,
}

impl Bound {
    pub(crate) fn new(token: u32, origin: impl Into<String>) -> Self {
        Self { token, origin: origin.into() }
    }
}

/// The tokens around a text. Readers of checkpoints decide them once; everything else asks here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TextBounds {
    /// Tokens in front of every text, in order.
    pub before: Vec<u32>,
    /// Tokens behind every text, in order.
    pub after: Vec<u32>,
    /// What says which tokens are in front and behind.
    pub origin: String,
    /// The token that is named as the beginning of a text, whether it is put in front or not.
    pub bos: Option<Bound>,
    /// Tokens that end a generation, ascending.
    pub ends: Vec<Bound>,
    /// What other files say to the contrary, and what no file says.
    pub notes: Vec<String>,
}

impl TextBounds {
    /// Adds a token that ends a generation; what says so first counts.
    pub(crate) fn add_end(&mut self, token: u32, origin: impl Into<String>) {
        if let Err(at) = self.ends.binary_search_by_key(&token, |end| end.token) {
            self.ends.insert(at, Bound::new(token, origin));
        }
    }

    /// Says what was decided and who says so, a line each; `name` is a token's text.
    pub fn describe(&self, name: impl Fn(u32) -> Option<String>) -> Vec<String> {
        let named =
            |&token: &u32| format!("{} ({token})", name(token).unwrap_or_else(|| "a token without a name".into()));
        let around = |tokens: &[u32]| match tokens {
            [] => "nothing".to_owned(),
            tokens => tokens.iter().map(named).collect::<Vec<_>>().join(" "),
        };
        let mut lines = vec![format!("in front of a text: {}, by {}", around(&self.before), self.origin)];
        if !self.after.is_empty() {
            lines.push(format!("behind a text: {}, by {}", around(&self.after), self.origin));
        }
        lines
            .extend(self.ends.iter().map(|end| format!("ends a generation: {}, by {}", named(&end.token), end.origin)));
        if self.ends.is_empty() {
            lines.push("ends a generation: nothing, no file names a token".into());
        }
        lines.extend(self.notes.iter().cloned());
        lines
    }
}
