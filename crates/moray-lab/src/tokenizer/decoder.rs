//! Decoders of a `tokenizer.json`, token by token: what they emit is what the tokenizers library makes of all tokens at once.
//!
//! A decoder is a chain of steps from lists of tokens to lists of tokens. Some steps look at one token, some at runs of
//! tokens (bytes become a character, or not, once the run is over), and some join all tokens into one; what follows those
//! sees a single token, of which it gets one fragment after another. A step holds back exactly what a later token could change.

use tokenizers::{Decoder as _, DecoderWrapper};

use super::byte_level;
use super::stream::complete_text;

/// A chain of steps in the middle of a text.
#[derive(Debug, Clone)]
pub(super) struct Decoder {
    steps: Vec<Step>,
}

#[derive(Debug, Clone)]
enum Step {
    /// Each token on its own; the first of a text may differ.
    Each { decoder: DecoderWrapper, begun: bool },
    /// Each token on its own; the last of a text differs.
    UntilLast { decoder: DecoderWrapper, held: Option<String> },
    /// Each token on its own, repetitions once.
    Distinct { decoder: DecoderWrapper, previous: Option<String> },
    /// Runs of tokens like `<0x0A>` become their characters, or one U+FFFD for each byte if any of the run's are none.
    Bytes(Vec<u8>),
    /// Tokens in the byte-level alphabet become one text.
    Alphabet(Vec<u8>),
    /// At most `start` leading and `stop` trailing `content` go from each token.
    Strip { content: char, start: usize, stop: usize },
    /// Spaces between tokens: what there is without a decoder.
    Spaces { begun: bool },
    /// All tokens become one.
    Fuse,
    /// Fragments of one token, each decoded as if it was the whole.
    Fragment(DecoderWrapper),
    /// Fragments of one token, of which at most `left` leading `content` go.
    StripStart { content: char, left: usize },
    /// Fragments of one token, in which `pattern` is replaced; what may be the beginning of another is held.
    ReplaceText { pattern: String, content: String, held: String },
    /// Fragments of one token that are held until it is complete.
    Complete { step: Box<Step>, held: String },
}

impl Decoder {
    pub(super) fn new(decoder: Option<&DecoderWrapper>) -> Self {
        let mut steps = Vec::new();
        match decoder {
            Some(decoder) => append_steps(decoder, &mut steps, &mut false),
            None => steps.push(Step::Spaces { begun: false }),
        }
        Decoder { steps }
    }

    /// Takes the next token and returns the text that no later one can change.
    pub(super) fn push(&mut self, token: String) -> String {
        self.run(vec![token], false)
    }

    /// Ends the text and returns what was held. More tokens may follow; they do not begin a text.
    pub(super) fn finish(&mut self) -> String {
        self.run(Vec::new(), true)
    }

    fn run(&mut self, mut pieces: Vec<String>, last: bool) -> String {
        for step in &mut self.steps {
            let mut out = Vec::new();
            for piece in pieces {
                step.push(piece, &mut out);
            }
            if last {
                step.finish(&mut out);
            }
            pieces = out;
        }
        pieces.concat()
    }
}

/// Appends a decoder's steps; `fused` says that it sees a single token, and is set by those that make it so.
fn append_steps(decoder: &DecoderWrapper, steps: &mut Vec<Step>, fused: &mut bool) {
    if let DecoderWrapper::Sequence(sequence) = decoder {
        return sequence.get_decoders().iter().for_each(|decoder| append_steps(decoder, steps, fused));
    }
    let by_token = match decoder {
        DecoderWrapper::BPE(_) => Step::UntilLast { decoder: decoder.clone(), held: None },
        DecoderWrapper::CTC(_) => Step::Distinct { decoder: decoder.clone(), previous: None },
        DecoderWrapper::ByteFallback(_) => Step::Bytes(Vec::new()),
        DecoderWrapper::ByteLevel(_) => Step::Alphabet(Vec::new()),
        DecoderWrapper::Fuse(_) => Step::Fuse,
        DecoderWrapper::Strip(strip) => Step::Strip { content: strip.content, start: strip.start, stop: strip.stop },
        _ => Step::Each { decoder: decoder.clone(), begun: false },
    };
    steps.push(match (decoder, by_token) {
        (_, step) if !*fused => step,
        (_, Step::Fuse) => Step::Fuse,
        (_, Step::Strip { content, start, stop: 0 }) => Step::StripStart { content, left: start },
        (DecoderWrapper::Metaspace(_), _) => Step::Fragment(decoder.clone()),
        (DecoderWrapper::Replace(_), step) => match literal(decoder) {
            Some((pattern, content)) => Step::ReplaceText { pattern, content, held: String::new() },
            None => Step::Complete { step: Box::new(step), held: String::new() },
        },
        (_, step) => Step::Complete { step: Box::new(step), held: String::new() },
    });
    *fused |= matches!(decoder, DecoderWrapper::Fuse(_) | DecoderWrapper::ByteLevel(_));
}

/// What a replacement looks for and puts in its place, if that is a text and no expression.
fn literal(replace: &DecoderWrapper) -> Option<(String, String)> {
    let value = serde_json::to_value(replace).ok()?;
    let text = |pointer: &str| value.pointer(pointer)?.as_str().map(str::to_owned);
    Some((text("/pattern/String").filter(|pattern| !pattern.is_empty())?, text("/content")?))
}

impl Step {
    fn push(&mut self, token: String, out: &mut Vec<String>) {
        match self {
            Step::Each { decoder, begun } => out.extend(decode_one(decoder, token, std::mem::replace(begun, true))),
            Step::UntilLast { decoder, held } => {
                if let Some(token) = held.replace(token) {
                    // what stands after a token is looked at only for being there
                    out.extend(decode(decoder, vec![token, String::new()]).into_iter().next());
                }
            }
            Step::Distinct { decoder, previous } => {
                if previous.as_ref() != Some(&token) {
                    out.extend(decode(decoder, vec![token.clone()]));
                    *previous = Some(token);
                }
            }
            Step::Bytes(run) => match byte_of(&token) {
                Some(byte) => run.push(byte),
                None => {
                    out.extend(take_run(run));
                    out.push(token);
                }
            },
            Step::Alphabet(pending) => {
                byte_level::append_bytes(&token, pending);
                out.push(complete_text(pending));
            }
            Step::Strip { content, start, stop } => out.push(strip(&token, *content, *start, *stop).to_owned()),
            Step::Spaces { begun } => {
                out.push(if std::mem::replace(begun, true) { format!(" {token}") } else { token })
            }
            Step::Fuse => out.push(token),
            Step::Fragment(decoder) => out.extend(decode(decoder, vec![token])),
            Step::StripStart { content, left } => {
                let rest = strip(&token, *content, *left, 0);
                // the first other character ends it
                *left = if rest.is_empty() { *left - token.chars().count().min(*left) } else { 0 };
                out.push(rest.to_owned());
            }
            Step::ReplaceText { pattern, content, held } => {
                held.push_str(&token);
                out.push(replace_complete(held, pattern, content));
            }
            Step::Complete { held, .. } => held.push_str(&token),
        }
    }

    fn finish(&mut self, out: &mut Vec<String>) {
        match self {
            Step::UntilLast { decoder, held } => {
                out.extend(held.take().into_iter().flat_map(|token| decode(decoder, vec![token])))
            }
            Step::Bytes(run) => out.extend(take_run(run)),
            Step::Alphabet(pending) => out.push(String::from_utf8_lossy(&std::mem::take(pending)).into_owned()),
            Step::ReplaceText { held, .. } => out.push(std::mem::take(held)),
            Step::Complete { step, held } => {
                step.push(std::mem::take(held), out);
                step.finish(out);
            }
            _ => {}
        }
    }
}

fn decode(decoder: &DecoderWrapper, tokens: Vec<String>) -> Vec<String> {
    decoder.decode_chain(tokens).unwrap_or_default()
}

/// One token's text, which for some decoders depends on whether another came before it.
fn decode_one(decoder: &DecoderWrapper, token: String, begun: bool) -> Option<String> {
    let tokens = if begun { vec![String::new(), token] } else { vec![token] };
    decode(decoder, tokens).pop()
}

/// The byte of a token like `<0x0A>`.
fn byte_of(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
}

/// The tokens that a run of bytes becomes, none if there is no run.
fn take_run(run: &mut Vec<u8>) -> Vec<String> {
    let bytes = std::mem::take(run);
    match (bytes.len(), String::from_utf8(bytes)) {
        (0, _) => Vec::new(),
        (_, Ok(text)) => vec![text],
        (count, Err(_)) => vec![char::REPLACEMENT_CHARACTER.into(); count],
    }
}

fn strip(token: &str, content: char, start: usize, stop: usize) -> &str {
    let leading = token.chars().take(start).take_while(|&c| c == content).count();
    let rest = &token[leading * content.len_utf8()..];
    let trailing = rest.chars().rev().take(stop).take_while(|&c| c == content).count();
    &rest[..rest.len() - trailing * content.len_utf8()]
}

/// Replaces `pattern` in `held` and takes the result, but for an end that more text could make the pattern.
fn replace_complete(held: &mut String, pattern: &str, content: &str) -> String {
    let mut out = String::new();
    let mut rest = held.as_str();
    while let Some((before, after)) = rest.split_once(pattern) {
        out.push_str(before);
        out.push_str(content);
        rest = after;
    }
    let is_start = |at: &usize| rest.is_char_boundary(*at) && pattern.starts_with(&rest[*at..]);
    let first = rest.len().saturating_sub(pattern.len() - 1);
    let at = (first..rest.len()).find(is_start).unwrap_or(rest.len());
    out.push_str(&rest[..at]);
    *held = rest[at..].to_owned();
    out
}
