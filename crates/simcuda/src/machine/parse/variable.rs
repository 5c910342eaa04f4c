//! Variable declarations: `.global .align 4 .b8 table[16] = {1, 2};`

use super::ast::{Init, Space, Var};
use super::lexer::Token;
use super::{Parser, Result};

/// Largest alignment that is believed.
const MAX_ALIGN_BYTES: usize = 4096;
/// Most extents of an array.
const MAX_EXTENTS: u32 = 16;

/// Size in bytes of a fundamental type.
pub(super) fn type_bytes(name: &str) -> Option<usize> {
    Some(match name {
        ".b8" | ".u8" | ".s8" => 1,
        ".b16" | ".u16" | ".s16" | ".f16" | ".bf16" => 2,
        ".b32" | ".u32" | ".s32" | ".f32" | ".f16x2" | ".bf16x2" => 4,
        ".b64" | ".u64" | ".s64" | ".f64" => 8,
        ".b128" => 16,
        _ => return None,
    })
}

impl<'a> Parser<'a> {
    /// Parses a declaration from its space directive to its semicolon.
    pub(super) fn variables(&mut self, is_extern: bool) -> Result<Vec<Var<'a>>> {
        let space = match self.word("a state space")? {
            ".global" => Space::Global,
            ".const" => Space::Const,
            ".shared" => Space::Shared,
            ".local" => Space::Local,
            ".param" => Space::Param,
            other => return self.error(format!("expected a state space, got `{other}`")),
        };
        let (align, elem) = self.var_type()?;
        let mut vars = Vec::new();
        loop {
            vars.push(self.declarator(space, align, elem, is_extern)?);
            if !self.eat(b',')? {
                break;
            }
        }
        self.expect(b';')?;
        Ok(vars)
    }

    /// Alignment and element type: (alignment, 0 for the type's own; element bytes).
    pub(super) fn var_type(&mut self) -> Result<(usize, usize)> {
        let (mut align, mut vector) = (0, 1);
        loop {
            let word = self.word("a type")?;
            match word {
                ".align" => align = self.int("an alignment")? as usize,
                ".v2" => vector = 2,
                ".v4" => vector = 4,
                ".attribute" => {
                    while !self.eat(b')')? {
                        self.advance()?;
                    }
                }
                _ => {
                    let Some(bytes) = type_bytes(word) else {
                        return self.error(format!("expected a type, got `{word}`"));
                    };
                    if align != 0 && (!align.is_power_of_two() || align > MAX_ALIGN_BYTES) {
                        let most = MAX_ALIGN_BYTES;
                        return self.error(format!("expected a power of two up to {most} as alignment, got {align}"));
                    }
                    return Ok((align, bytes * vector));
                }
            }
        }
    }

    /// Parses name, extents and initialiser of one variable.
    pub(super) fn declarator(&mut self, space: Space, align: usize, elem: usize, is_extern: bool) -> Result<Var<'a>> {
        let mut align_bytes = align.max(elem);
        // Kernel parameters may say what they point to: `.ptr .global .align 16`.
        while let Token::Word(word @ (".ptr" | ".global" | ".const" | ".shared" | ".local" | ".align")) = self.token {
            self.advance()?;
            if word == ".align" {
                self.int("an alignment")?;
            }
        }
        if align != 0 {
            align_bytes = align;
        }
        let line = self.line;
        let name = self.word("a variable name")?;
        let (mut count, mut open) = (1usize, false);
        while self.eat(b'[')? {
            if self.eat(b']')? {
                open = true;
                continue;
            }
            let extent = self.int("an extent")? as usize;
            self.expect(b']')?;
            count = count.saturating_mul(extent);
        }
        let mut init = Vec::new();
        if self.eat(b'=')? {
            self.initialiser(&mut init, elem, 0)?;
            if open {
                count = init.len();
                open = false;
            }
        }
        let size_bytes = if open { 0 } else { count.saturating_mul(elem) };
        if size_bytes > 1 << 40 || init.len() > count {
            return self.error(format!("expected `{name}` to hold its {} values in {size_bytes} bytes", init.len()));
        }
        Ok(Var { name, space, align_bytes, elem_bytes: elem, size_bytes, init, is_extern: is_extern || open, line })
    }

    fn initialiser(&mut self, init: &mut Vec<Init<'a>>, elem: usize, depth: u32) -> Result<()> {
        if depth > MAX_EXTENTS {
            return self.error(format!("expected at most {MAX_EXTENTS} nested braces"));
        }
        if !self.eat(b'{')? {
            init.push(self.init_value(elem)?);
            return Ok(());
        }
        while !self.eat(b'}')? {
            self.initialiser(init, elem, depth + 1)?;
            if !self.eat(b',')? && self.token != Token::Punct(b'}') {
                return self.expected("`,` or `}`");
            }
        }
        Ok(())
    }

    fn init_value(&mut self, elem: usize) -> Result<Init<'a>> {
        match self.token {
            Token::F32(bits) => {
                self.advance()?;
                Ok(Init::Bits(bits.into()))
            }
            Token::F64(bits) => {
                self.advance()?;
                // A decimal literal takes the width of its variable.
                let narrow = u64::from((f64::from_bits(bits) as f32).to_bits());
                Ok(Init::Bits(if elem == 4 { narrow } else { bits }))
            }
            Token::Word(mut name) => {
                self.advance()?;
                if name == "generic" {
                    self.expect(b'(')?;
                    name = self.word("a variable name")?;
                    self.expect(b')')?;
                }
                let offset = if self.eat(b'+')? { self.int("an offset")? as i64 } else { 0 };
                Ok(Init::Address(name, offset))
            }
            _ => Ok(Init::Bits(self.int("an initial value")?)),
        }
    }
}
