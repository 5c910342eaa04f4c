//! SentencePiece BPE ("llama") vocabularies of GGUF files.
//!
//! Spaces are written ▁. A text starts as single characters; of all neighbours whose union is a piece, those with
//! the best score are joined, the leftmost first, until none is left; what is no piece is spelled in bytes. The
//! tokenizers library ranks merges instead of scoring pieces, which differs where scores tie, so this is its own
//! implementation.
//!
//! # Source
//! Kudo and Richardson, SentencePiece (EMNLP 2018); its BPE model's definition.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

use crate::error::{Error, Result};
use crate::gguf::{TokenType, Vocabulary};

const SPACE: char = '▁';

/// Pieces, scores and types by id.
#[derive(Debug)]
pub(super) struct SentencePiece {
    pieces: Vec<Box<str>>,
    scores: Vec<f32>,
    types: Vec<TokenType>,
    ids: HashMap<Box<str>, u32>,
    /// Ids of the 256 bytes, where the vocabulary has them.
    byte_ids: Vec<Option<u32>>,
    unknown: Option<u32>,
    /// Control pieces and unknown ones, recognised in the text.
    controls: Matcher,
    /// User-defined pieces, recognised after spaces are written ▁.
    user_defined: Matcher,
    add_space_prefix: bool,
}

/// Finds pieces in a text: of those that begin at the same place, the longest.
#[derive(Debug, Default)]
struct Matcher {
    /// Pieces and their ids by first byte, the longest first.
    by_first_byte: HashMap<u8, Vec<(Box<str>, u32)>>,
}

impl Matcher {
    fn add(&mut self, piece: &str, id: u32) {
        let Some(&first) = piece.as_bytes().first() else { return };
        let pieces = self.by_first_byte.entry(first).or_default();
        let at = pieces.partition_point(|(other, _)| other.len() >= piece.len());
        pieces.insert(at, (piece.into(), id));
    }

    /// Cuts a text before the first piece; also returns that piece's length in bytes and id.
    fn split<'t>(&self, text: &'t str) -> (&'t str, Option<(usize, u32)>) {
        if self.by_first_byte.is_empty() {
            return (text, None);
        }
        for (at, byte) in text.bytes().enumerate() {
            let Some(pieces) = self.by_first_byte.get(&byte) else { continue };
            let here = &text.as_bytes()[at..];
            if let Some((piece, id)) = pieces.iter().find(|(piece, _)| here.starts_with(piece.as_bytes())) {
                return (&text[..at], Some((piece.len(), *id)));
            }
        }
        (text, None)
    }
}

/// A run of text that is a piece already or still one character; neighbours are linked by index.
struct Symbol {
    start: usize,
    len: usize,
    previous: Option<usize>,
    next: Option<usize>,
}

/// Two neighbours that could be joined. Stale once either has changed, which `len` tells.
struct Candidate {
    score: f32,
    left: usize,
    right: usize,
    len: usize,
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        // The heap's greatest: best score, then leftmost.
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Candidate {}

impl SentencePiece {
    /// Reads the vocabulary and checks that any text can be spelled.
    pub(super) fn build(vocabulary: &Vocabulary<'_>) -> Result<Self> {
        let path = vocabulary.path;
        let (scores, types) = (vocabulary.scores()?, vocabulary.types()?);
        let mut model = Self {
            pieces: Vec::with_capacity(types.len()),
            scores,
            ids: HashMap::with_capacity(types.len()),
            byte_ids: vec![None; 256],
            unknown: types.iter().position(|&kind| kind == TokenType::Unknown).map(|id| id as u32),
            controls: Matcher::default(),
            user_defined: Matcher::default(),
            add_space_prefix: vocabulary.add_space_prefix,
            types,
        };
        for (id, piece) in vocabulary.tokens().enumerate() {
            let piece = piece?;
            model.pieces.push(piece.into());
            match model.types[id] {
                TokenType::Control | TokenType::Unknown => model.controls.add(piece, id as u32),
                TokenType::UserDefined => model.user_defined.add(piece, id as u32),
                TokenType::Byte => match parse_byte(piece) {
                    Some(byte) => model.byte_ids[usize::from(byte)] = Some(id as u32),
                    None => {
                        let message = format!("expected a byte token like <0x0A>, got {piece:?}");
                        return Err(Error::tokenizer(path, message));
                    }
                },
                _ => {}
            }
            if let Some(first) = model.ids.insert(piece.into(), id as u32) {
                let message = format!("expected each token once, got token {first} again as {id}");
                return Err(Error::tokenizer(path, message));
            }
        }
        if model.unknown.is_none() && model.byte_ids.contains(&None) {
            let message = "expected an unknown token or all 256 byte tokens, got neither";
            return Err(Error::tokenizer(path, message));
        }
        Ok(model)
    }

    pub(super) fn len(&self) -> usize {
        self.pieces.len()
    }

    pub(super) fn piece(&self, id: u32) -> Option<&str> {
        self.pieces.get(id as usize).map(|piece| &**piece)
    }

    pub(super) fn id(&self, piece: &str) -> Option<u32> {
        self.ids.get(piece).copied()
    }

    pub(super) fn is_control(&self, id: u32) -> bool {
        self.types.get(id as usize) == Some(&TokenType::Control)
    }

    /// Appends the ids of a text: control pieces first, then what lies between them, each part beginning anew.
    pub(super) fn encode(&self, text: &str, out: &mut Vec<u32>) {
        let mut rest = text;
        while !rest.is_empty() {
            let (ordinary, control) = self.controls.split(rest);
            if !ordinary.is_empty() {
                self.encode_ordinary(ordinary, out);
            }
            let Some((len, id)) = control else { return };
            out.push(id);
            rest = &rest[ordinary.len() + len..];
        }
    }

    fn encode_ordinary(&self, text: &str, out: &mut Vec<u32>) {
        let mut spelled = String::with_capacity(text.len() + 3);
        if self.add_space_prefix {
            spelled.push(SPACE);
        }
        spelled.extend(text.chars().map(|c| if c == ' ' { SPACE } else { c }));
        let (mut rest, mut after_unknown) = (&*spelled, false);
        while !rest.is_empty() {
            let (words, user_defined) = self.user_defined.split(rest);
            let mut joined = HashMap::new();
            let symbols = self.join(words, &mut joined);
            let mut at = (!symbols.is_empty()).then_some(0);
            while let Some(index) = at {
                let symbol = &symbols[index];
                self.append_piece(&words[symbol.start..][..symbol.len], &joined, &mut after_unknown, out);
                at = symbol.next;
            }
            let Some((len, id)) = user_defined else { return };
            out.push(id);
            after_unknown = false;
            rest = &rest[words.len() + len..];
        }
    }

    /// Joins neighbours until no union is a piece. Unions that are unused pieces are noted in `joined` with the length
    /// of their left part, to be taken apart again.
    fn join<'t>(&self, text: &'t str, joined: &mut HashMap<&'t str, usize>) -> Vec<Symbol> {
        let count = text.chars().count();
        let mut symbols: Vec<Symbol> = text
            .char_indices()
            .enumerate()
            .map(|(index, (start, character))| Symbol {
                start,
                len: character.len_utf8(),
                previous: index.checked_sub(1),
                next: Some(index + 1).filter(|&next| next < count),
            })
            .collect();
        let mut heap = BinaryHeap::new();
        for left in 0..count.saturating_sub(1) {
            heap.extend(self.candidate(text, &symbols, left, left + 1));
        }
        while let Some(Candidate { left, right, len, .. }) = heap.pop() {
            let stale = symbols[left].len == 0 || symbols[right].len == 0;
            if stale || symbols[left].len + symbols[right].len != len {
                continue;
            }
            let union = &text[symbols[left].start..][..len];
            if self.id(union).is_some_and(|id| self.types[id as usize] == TokenType::Unused) {
                joined.insert(union, symbols[left].len);
            }
            symbols[left].len = len;
            symbols[right].len = 0;
            let (previous, next) = (symbols[left].previous, symbols[right].next);
            symbols[left].next = next;
            if let Some(next) = next {
                symbols[next].previous = Some(left);
                heap.extend(self.candidate(text, &symbols, left, next));
            }
            if let Some(previous) = previous {
                heap.extend(self.candidate(text, &symbols, previous, left));
            }
        }
        symbols
    }

    fn candidate(&self, text: &str, symbols: &[Symbol], left: usize, right: usize) -> Option<Candidate> {
        let len = symbols[left].len + symbols[right].len;
        let id = self.id(&text[symbols[left].start..][..len])? as usize;
        let joinable = matches!(self.types[id], TokenType::Normal | TokenType::Unused);
        joinable.then(|| Candidate { score: self.scores[id], left, right, len })
    }

    fn append_piece(&self, text: &str, joined: &HashMap<&str, usize>, after_unknown: &mut bool, out: &mut Vec<u32>) {
        let mut parts = vec![text];
        while let Some(part) = parts.pop() {
            let kind = self.id(part).map(|id| (id, self.types[id as usize]));
            match (kind, joined.get(part)) {
                (Some((_, TokenType::Unused)), Some(&left)) => {
                    parts.push(&part[left..]);
                    parts.push(&part[..left]);
                    continue;
                }
                (Some((id, TokenType::Normal)), _) => {
                    *after_unknown = false;
                    out.push(id);
                }
                _ => self.append_unknown(part, after_unknown, out),
            }
        }
    }

    /// Spells a character in bytes, or marks a run of unknown characters once.
    fn append_unknown(&self, text: &str, after_unknown: &mut bool, out: &mut Vec<u32>) {
        let bytes: Option<Vec<u32>> = text.bytes().map(|byte| self.byte_ids[usize::from(byte)]).collect();
        match (bytes, self.unknown) {
            (Some(bytes), _) => out.extend(bytes),
            (None, Some(unknown)) if !*after_unknown => {
                out.push(unknown);
                *after_unknown = true;
            }
            _ => {}
        }
    }

    /// Appends a token's bytes; `at_start` drops the space that encoding put in front and is updated.
    pub(super) fn append_bytes(&self, id: u32, at_start: &mut bool, out: &mut Vec<u8>) {
        let Some(piece) = self.piece(id) else { return };
        match self.types[id as usize] {
            TokenType::Byte => out.extend(parse_byte(piece)),
            TokenType::Control | TokenType::Unknown => out.extend_from_slice(piece.as_bytes()),
            _ => {
                let drop_space = *at_start && self.add_space_prefix;
                let piece = if drop_space { piece.strip_prefix(SPACE).unwrap_or(piece) } else { piece };
                out.extend_from_slice(piece.replace(SPACE, " ").as_bytes());
            }
        }
        *at_start = self.is_control(id);
    }
}

/// Reads `<0xAB>`.
fn parse_byte(piece: &str) -> Option<u8> {
    let digits = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
}
