//! How texts are cut before merging: the library's pre-tokenizers, but for their regular expressions.
//!
//! The library's engine backtracks, gives up after a number of steps (a million blanks are enough), and takes the rest of the
//! text as one piece without a word. Here an expression that gives up is an error, and the usual one does not backtrack: all
//! families end with `\s+(?!\S)|\s+`, blanks up to the last before a word, which is looked for by hand; what comes before it has
//! no look-around, and the `regex` crate finds it in linear time.

use serde::{Deserialize, Serialize};
use tokenizers::pattern::{Invert, Pattern};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{Offsets, PreTokenizedString, PreTokenizer, PreTokenizerWrapper, Result, SplitDelimiterBehavior};

/// The words of GPT-2, which the library has in its code: English contractions, then letters, digits or the rest, each with the
/// space before it.
pub(super) const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// Blanks up to the last before a word, or all of them: what most expressions end with.
const BLANKS: &str = r"|\s+(?!\S)|\s+";

/// A pre-tokenizer, and what it does step by step.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "PreTokenizerWrapper", into = "PreTokenizerWrapper")]
pub(super) struct Splitting {
    whole: PreTokenizerWrapper,
    steps: Vec<Step>,
}

#[derive(Debug, Clone)]
enum Step {
    Split {
        expression: Expression,
        behavior: SplitDelimiterBehavior,
        invert: bool,
    },
    /// GPT-2's words, before which a space may be put, in the byte-level alphabet.
    Gpt2 {
        expression: Expression,
        add_prefix_space: bool,
    },
    /// What has no expression, or one of a text.
    Other(PreTokenizerWrapper),
}

/// A regular expression.
#[derive(Debug, Clone)]
enum Expression {
    /// `words`, then [`BLANKS`].
    Words(regex::Regex),
    /// What may backtrack.
    Any(fancy_regex::Regex),
}

impl TryFrom<PreTokenizerWrapper> for Splitting {
    type Error = fancy_regex::Error;

    fn try_from(whole: PreTokenizerWrapper) -> std::result::Result<Self, Self::Error> {
        let mut steps = Vec::new();
        append_steps(&whole, &mut steps)?;
        Ok(Self { whole, steps })
    }
}

impl From<Splitting> for PreTokenizerWrapper {
    fn from(splitting: Splitting) -> Self {
        splitting.whole
    }
}

fn append_steps(whole: &PreTokenizerWrapper, steps: &mut Vec<Step>) -> std::result::Result<(), fancy_regex::Error> {
    match whole {
        PreTokenizerWrapper::Sequence(sequence) => {
            return sequence.as_ref().iter().try_for_each(|inner| append_steps(inner, steps));
        }
        PreTokenizerWrapper::Split(Split { pattern: SplitPattern::Regex(pattern), behavior, invert, .. }) => {
            let expression = Expression::new(pattern)?;
            steps.push(Step::Split { expression, behavior: *behavior, invert: *invert });
        }
        PreTokenizerWrapper::ByteLevel(ByteLevel { use_regex: true, add_prefix_space, .. }) => {
            steps.push(Step::Gpt2 { expression: Expression::new(GPT2)?, add_prefix_space: *add_prefix_space });
        }
        other => steps.push(Step::Other(other.clone())),
    }
    Ok(())
}

impl PreTokenizer for Splitting {
    fn pre_tokenize(&self, text: &mut PreTokenizedString) -> Result<()> {
        for step in &self.steps {
            match step {
                Step::Split { expression, behavior, invert: false } => {
                    text.split(|_, piece| piece.split(expression, *behavior))?;
                }
                Step::Split { expression, behavior, invert: true } => {
                    text.split(|_, piece| piece.split(Invert(expression), *behavior))?;
                }
                Step::Gpt2 { expression, add_prefix_space } => {
                    text.split(|_, mut piece| {
                        if *add_prefix_space && !piece.get().starts_with(' ') {
                            piece.prepend(" ");
                        }
                        piece.split(expression, SplitDelimiterBehavior::Isolated)
                    })?;
                    ByteLevel::new(false, true, false).pre_tokenize(text)?;
                }
                Step::Other(pre_tokenizer) => pre_tokenizer.pre_tokenize(text)?,
            }
        }
        Ok(())
    }
}

impl Expression {
    fn new(pattern: &str) -> std::result::Result<Self, fancy_regex::Error> {
        match pattern.strip_suffix(BLANKS).and_then(plain) {
            Some(words) if !words.is_match("") => Ok(Expression::Words(words)),
            _ => fancy_regex::Regex::new(pattern).map(Expression::Any),
        }
    }
}

/// An expression that means the same to both engines and cannot backtrack: no look-around, no reference, nothing possessive.
pub(super) fn plain(pattern: &str) -> Option<regex::Regex> {
    let counted = |(at, _): (usize, &str)| {
        let count = pattern[..at].rfind('{').map_or("", |open| &pattern[open + 1..at]);
        !count.is_empty() && count.chars().all(|c| c.is_ascii_digit() || c == ',')
    };
    let possessive = ["?+", "*+", "++"].into_iter().any(|quantifier| pattern.contains(quantifier));
    if possessive || pattern.match_indices("}+").any(counted) { None } else { regex::Regex::new(pattern).ok() }
}

impl Pattern for &Expression {
    fn find_matches(&self, text: &str) -> Result<Vec<(Offsets, bool)>> {
        let mut pieces = Pieces { pieces: Vec::new(), end: 0 };
        match self {
            Expression::Words(words) => find_words(words, text, &mut pieces),
            Expression::Any(expression) => {
                for found in expression.find_iter(text) {
                    let found = found.map_err(|error| format!("cutting a text of {} bytes: {error}", text.len()))?;
                    pieces.push(found.start(), found.end());
                }
            }
        }
        if pieces.end < text.len() || text.is_empty() {
            pieces.pieces.push(((pieces.end, text.len()), false));
        }
        Ok(pieces.pieces)
    }
}

/// What is found in a text, and what lies between.
struct Pieces {
    pieces: Vec<(Offsets, bool)>,
    end: usize,
}

impl Pieces {
    fn push(&mut self, start: usize, end: usize) {
        if self.end < start {
            self.pieces.push(((self.end, start), false));
        }
        self.pieces.push(((start, end), true));
        self.end = end;
    }
}

/// Finds what `words` or else [`BLANKS`] match, one after another from the left.
fn find_words(words: &regex::Regex, text: &str, pieces: &mut Pieces) {
    let mut word = words.find(text);
    while pieces.end < text.len() {
        let at = pieces.end;
        if word.is_some_and(|word| word.start() < at) {
            word = words.find_at(text, at);
        }
        let limit = word.map_or(text.len(), |word| word.start());
        match (text[at..limit].find(char::is_whitespace), word) {
            (Some(blank), _) => {
                let start = at + blank;
                pieces.push(start, start + blanks(&text[start..]));
            }
            (None, Some(word)) => pieces.push(word.start(), word.end()),
            (None, None) => return,
        }
    }
}

/// The length of what [`BLANKS`] match at the beginning of a text that begins with a blank.
fn blanks(text: &str) -> usize {
    let run = text.len() - text.trim_start().len();
    let last = text[..run].chars().next_back().map_or(0, char::len_utf8);
    // before a word the last one is left to it, if there are others
    if run < text.len() && run > last { run - last } else { run }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the engine of the library finds, where it does not give up.
    fn definition(pattern: &str, text: &str) -> Vec<(Offsets, bool)> {
        (&fancy_regex::Regex::new(pattern).unwrap()).find_matches(text).unwrap()
    }

    proptest! {
        #[test]
        fn pieces_match_the_librarys_expression_for_any_text(
            family in prop::sample::select(super::super::byte_level::patterns()),
            text in "[ \\t\\n\\r\u{a0}\u{3000}\u{200b}ab'sé1٣!/._日e\u{301}]{0,24}|\\PC{0,24}",
        ) {
            let expression = Expression::new(family).unwrap();
            prop_assert_eq!((&expression).find_matches(&text).unwrap(), definition(family, &text));
        }
    }

    #[test]
    fn the_families_expressions_do_not_backtrack() {
        for pattern in super::super::byte_level::patterns().into_iter().filter(|pattern| pattern.ends_with(BLANKS)) {
            assert!(matches!(Expression::new(pattern).unwrap(), Expression::Words(_)), "{pattern}");
        }
        let blanks = " ".repeat(1 << 21);
        let text = format!("{blanks}a{blanks}");
        let found = (&Expression::new(GPT2).unwrap()).find_matches(&text).unwrap();
        let last = blanks.len() - 1;
        let expected = [((0, last), true), ((last, last + 2), true), ((last + 2, text.len()), true)];
        assert_eq!(found, expected);
    }

    #[test]
    fn an_expression_that_gives_up_is_an_error() {
        let expression = Expression::new(r"\s+(?!\S)|\w+").unwrap();
        let text = format!("{}a", " ".repeat(1 << 20));
        let error = (&expression).find_matches(&text).unwrap_err().to_string();
        assert!(error.contains("cutting a text of 1048577 bytes"), "{error}");
        for pattern in [
            r"[^\r\n\p{L}]?+\p{L}+|\s+(?!\S)|\s+",
            r"a{1,2}+|\s+(?!\S)|\s+",
            r"(?=a)b|\s+(?!\S)|\s+",
            r"a*|\s+(?!\S)|\s+",
        ] {
            assert!(matches!(Expression::new(pattern).unwrap(), Expression::Any(_)), "{pattern}");
        }
    }
}
