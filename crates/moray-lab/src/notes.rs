//! What was noticed while a model's files were read, and is no reason to refuse them.

use std::fmt;

/// How much a remark matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NoteKind {
    /// Something is there that has no part in the numbers.
    Ignored,
    /// The files contradict each other or were taken in a way that not every reader takes them: who runs the model should know.
    Unusual,
}

/// One remark.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Note {
    /// How much it matters.
    pub kind: NoteKind,
    /// A sentence that names the file or key.
    pub text: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The remarks on one model, in the order in which they were made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notes(Vec<Note>);

impl Notes {
    /// Says that something has no part in the numbers.
    pub(crate) fn ignored(&mut self, text: impl Into<String>) {
        self.0.push(Note { kind: NoteKind::Ignored, text: text.into() });
    }

    /// Says what who runs the model should know.
    pub(crate) fn unusual(&mut self, text: impl Into<String>) {
        self.0.push(Note { kind: NoteKind::Unusual, text: text.into() });
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Note> {
        self.0.iter()
    }

    /// Those that who runs the model should know.
    pub fn unusual_ones(&self) -> impl Iterator<Item = &Note> {
        self.iter().filter(|note| note.kind == NoteKind::Unusual)
    }
}
