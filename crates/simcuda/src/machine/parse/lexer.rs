//! Tokens of a PTX text.

/// One token; words keep their dots, so `add.rn.f32` and `%tid.x` are single tokens. Directives end at the next dot: `.reg.b32`
/// is the same as `.reg .b32`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Token<'a> {
    /// Name, opcode with its modifiers, directive or register.
    Word(&'a str),
    /// Integer literal, as its 64 bits.
    Int(u64),
    /// `0f` literal.
    F32(u32),
    /// `0d` or decimal literal.
    F64(u64),
    /// Quoted text without its quotes.
    Text(&'a str),
    /// One character of punctuation.
    Punct(u8),
    /// End of the text.
    End,
}

impl std::fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Word(w) => write!(f, "`{w}`"),
            Self::Int(i) => write!(f, "{i}"),
            Self::F32(b) => write!(f, "0f{b:08X}"),
            Self::F64(b) => write!(f, "0d{b:016X}"),
            Self::Text(t) => write!(f, "\"{t}\""),
            Self::Punct(c) => write!(f, "`{}`", *c as char),
            Self::End => write!(f, "the end of the text"),
        }
    }
}

/// Reads tokens one by one and knows the line of the last.
pub(crate) struct Lexer<'a> {
    text: &'a str,
    at: usize,
    line: u32,
}

fn is_word_start(c: u8) -> bool {
    c.is_ascii_alphabetic() || matches!(c, b'_' | b'$' | b'%' | b'.')
}

fn is_word(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'_' | b'$' | b'.')
}

impl<'a> Lexer<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, at: 0, line: 1 }
    }

    pub(crate) fn line(&self) -> u32 {
        self.line
    }

    fn byte(&self, at: usize) -> u8 {
        self.text.as_bytes().get(at).copied().unwrap_or(0)
    }

    /// Skips blanks and comments.
    fn skip(&mut self) -> Result<(), String> {
        loop {
            match (self.byte(self.at), self.byte(self.at + 1)) {
                (b'\n', _) => {
                    self.line += 1;
                    self.at += 1;
                }
                (b' ' | b'\t' | b'\r', _) => self.at += 1,
                (b'/', b'/') => {
                    self.at += self.text.as_bytes()[self.at..].iter().take_while(|&&c| c != b'\n').count();
                }
                (b'/', b'*') => {
                    let body = &self.text.as_bytes()[self.at + 2..];
                    let len =
                        body.windows(2).position(|w| w == b"*/").ok_or("expected `*/`, got the end of the text")?;
                    self.line += body[..len].iter().filter(|&&c| c == b'\n').count() as u32;
                    self.at += len + 4;
                }
                _ => return Ok(()),
            }
        }
    }

    /// Reads the next token.
    pub(crate) fn next(&mut self) -> Result<Token<'a>, String> {
        self.skip()?;
        let start = self.at;
        if start >= self.text.len() {
            return Ok(Token::End);
        }
        let c = self.byte(start);
        if is_word_start(c) {
            return Ok(Token::Word(self.word()));
        }
        if c.is_ascii_digit() {
            return self.number();
        }
        if c == b'"' {
            let len = self.text.as_bytes()[start + 1..].iter().position(|&c| c == b'"' || c == b'\n');
            let end = start + 1 + len.ok_or("expected a closing quote, got the end of the text")?;
            self.at = end + 1;
            return Ok(Token::Text(&self.text[start + 1..end]));
        }
        if !c.is_ascii_graphic() {
            return Err(format!("expected PTX, got byte {c:#04x}"));
        }
        self.at += 1;
        Ok(Token::Punct(c))
    }

    /// A word may hold `::` (as in `shared::cta` and `L2::128B`), never a single colon, which ends a label.
    fn word(&mut self) -> &'a str {
        let start = self.at;
        let directive = self.byte(start) == b'.';
        self.at += 1;
        loop {
            if is_word(self.byte(self.at)) && !(directive && self.byte(self.at) == b'.') {
                self.at += 1;
            } else if self.byte(self.at) == b':'
                && self.byte(self.at + 1) == b':'
                && self.byte(self.at + 2).is_ascii_alphanumeric()
            {
                self.at += 2;
            } else {
                return &self.text[start..self.at];
            }
        }
    }

    fn number(&mut self) -> Result<Token<'a>, String> {
        let start = self.at;
        while self.byte(self.at).is_ascii_alphanumeric()
            || self.byte(self.at) == b'.'
            || (matches!(self.byte(self.at), b'+' | b'-') && self.exponent_before(start))
        {
            self.at += 1;
        }
        let text = &self.text[start..self.at];
        let bad = || format!("expected a number, got `{text}`");
        let rest = text.get(2..).unwrap_or("");
        match text.get(..2) {
            Some("0f" | "0F") => Ok(Token::F32(u32::from_str_radix(rest, 16).map_err(|_| bad())?)),
            Some("0d" | "0D") => Ok(Token::F64(u64::from_str_radix(rest, 16).map_err(|_| bad())?)),
            _ if text.contains('.') => Ok(Token::F64(text.parse::<f64>().map_err(|_| bad())?.to_bits())),
            prefix => {
                let digits = text.trim_end_matches('U');
                let value = match prefix {
                    Some("0x" | "0X") => u64::from_str_radix(&digits[2..], 16),
                    Some("0b" | "0B") => u64::from_str_radix(&digits[2..], 2),
                    Some(p) if p.starts_with('0') => u64::from_str_radix(digits, 8),
                    _ => digits.parse(),
                };
                match value {
                    Ok(v) => Ok(Token::Int(v)),
                    Err(_) => text.parse::<f64>().map(|v| Token::F64(v.to_bits())).map_err(|_| bad()),
                }
            }
        }
    }

    /// Whether the sign here belongs to a decimal exponent, as in `1.5e-3`.
    fn exponent_before(&self, start: usize) -> bool {
        let text = &self.text[start..self.at];
        text.contains('.') && text.ends_with(['e', 'E'])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Vec<Token<'_>> {
        let mut lexer = Lexer::new(text);
        std::iter::from_fn(|| Some(lexer.next().expect("valid")).filter(|&t| t != Token::End)).collect()
    }

    #[test]
    fn words_keep_dots_and_double_colons() {
        let expected = [
            Token::Word("ld.shared::cta.v2.b32"),
            Token::Word("%r1"),
            Token::Punct(b','),
            Token::Punct(b'['),
            Token::Word("%rd2"),
            Token::Punct(b'+'),
            Token::Punct(b'-'),
            Token::Int(4),
            Token::Punct(b']'),
            Token::Punct(b';'),
        ];
        assert_eq!(tokens("ld.shared::cta.v2.b32 %r1, [%rd2+-4]; // end"), expected);
        assert_eq!(tokens("$L__BB0_1:\n"), [Token::Word("$L__BB0_1"), Token::Punct(b':')]);
        let cached = "ld.global.L1::no_allocate.L2::128B.v4.u32";
        assert_eq!(tokens(cached), [Token::Word(cached)]);
        assert_eq!(tokens("L1: ret"), [Token::Word("L1"), Token::Punct(b':'), Token::Word("ret")]);
    }

    #[test]
    fn directives_match_with_and_without_blanks() {
        for text in [".reg .v2 .b32 %r1", ".reg.v2.b32 %r1", ".reg.v2.b32%r1", ".reg .v2.b32\t%r1"] {
            assert_eq!(tokens(text), [".reg", ".v2", ".b32", "%r1"].map(Token::Word), "{text}");
        }
    }

    #[test]
    fn numbers_match_their_values_in_every_base() {
        let expected = [
            Token::Int(255),
            Token::Int(5),
            Token::Int(8),
            Token::F32(0x3f80_0000),
            Token::F64(0x3ff0_0000_0000_0000),
            Token::F64(0.0015f64.to_bits()),
            Token::Int(7),
        ];
        assert_eq!(tokens("0xff 0b101 010 0f3F800000 0d3FF0000000000000 1.5e-3 7U"), expected);
    }

    #[test]
    fn bad_tokens_are_refused() {
        for text in ["\"open", "/* open", "0x", "12abc", "\u{1}"] {
            let mut lexer = Lexer::new(text);
            assert!(lexer.next().is_err(), "{text:?}");
        }
    }

    #[test]
    fn lines_count_through_comments() {
        let mut lexer = Lexer::new("a /* x\n y */\n// z\nb");
        assert_eq!((lexer.next(), lexer.line()), (Ok(Token::Word("a")), 1));
        assert_eq!((lexer.next(), lexer.line()), (Ok(Token::Word("b")), 4));
    }
}
