//! Operands of instructions.

use super::ast::Operand;
use super::body::Context;
use super::lexer::Token;
use super::{Parser, Result};

impl<'a> Parser<'a> {
    pub(super) fn operand(&mut self, cx: &Context<'a>) -> Result<Operand<'a>> {
        let first = match self.token {
            Token::Punct(b'{') => self.list(cx, b'}')?,
            Token::Punct(b'(') => self.list(cx, b')')?,
            Token::Punct(b'[') => return self.address(cx),
            Token::Punct(b'!') => {
                self.advance()?;
                let name = self.word("a predicate")?;
                match cx.register(name) {
                    Some(reg) => Operand::Not(reg),
                    None => return self.error(format!("expected a register, got `{name}`")),
                }
            }
            _ => self.simple(cx)?,
        };
        if self.eat(b'|')? {
            let second = self.simple(cx)?;
            return Ok(Operand::Pair(Box::new(first), Box::new(second)));
        }
        // `symbol + 4` as a value
        if matches!(first, Operand::Var(_) | Operand::Name(_)) && matches!(self.token, Token::Punct(b'+' | b'-')) {
            let offset = self.offset()?;
            return Ok(Operand::Address { base: Box::new(first), offset });
        }
        Ok(first)
    }

    fn list(&mut self, cx: &Context<'a>, close: u8) -> Result<Operand<'a>> {
        self.advance()?;
        let mut items = Vec::new();
        while !self.eat(close)? {
            if !items.is_empty() {
                self.expect(b',')?;
            }
            items.push(self.simple(cx)?);
        }
        Ok(Operand::List(items))
    }

    /// A register, literal or name.
    fn simple(&mut self, cx: &Context<'a>) -> Result<Operand<'a>> {
        let negative = self.eat(b'-')?;
        let operand = match self.token {
            Token::Int(value) => Operand::Int(if negative { value.wrapping_neg() } else { value }),
            Token::F32(bits) => Operand::F32(bits ^ (u32::from(negative) << 31)),
            Token::F64(bits) => Operand::F64(bits ^ (u64::from(negative) << 63)),
            Token::Word("_") => Operand::Sink,
            Token::Word(name) if !negative => self.name(cx, name)?,
            _ => return self.expected("an operand"),
        };
        self.advance()?;
        Ok(operand)
    }

    fn name(&self, cx: &Context<'a>, name: &'a str) -> Result<Operand<'a>> {
        if let Some(reg) = cx.register(name) {
            return Ok(Operand::Reg(reg));
        }
        if let Some(var) = cx.variable(name) {
            return Ok(Operand::Var(var));
        }
        if name == "WARP_SZ" {
            return Ok(Operand::Int(32));
        }
        if name.starts_with('%') {
            return Ok(Operand::Special(name));
        }
        if name.starts_with('.') {
            return self.error(format!("expected an operand, got `{name}`"));
        }
        Ok(Operand::Name(name))
    }

    /// A signed offset after `+` or `-`; `+-4` is how nvcc writes negative ones.
    fn offset(&mut self) -> Result<i64> {
        let mut negative = false;
        while let Token::Punct(sign @ (b'+' | b'-')) = self.token {
            negative ^= sign == b'-';
            self.advance()?;
        }
        let value = self.int("an offset")? as i64;
        Ok(if negative { value.wrapping_neg() } else { value })
    }

    fn address(&mut self, cx: &Context<'a>) -> Result<Operand<'a>> {
        self.advance()?;
        let base = self.simple(cx)?;
        let mut offset = 0;
        if matches!(self.token, Token::Punct(b'+' | b'-')) {
            offset = self.offset()?;
        }
        let address = Operand::Address { base: Box::new(base), offset };
        if self.eat(b',')? {
            // A tensor map and its coordinates.
            let braced = self.token == Token::Punct(b'{');
            let coordinates = if braced { self.list(cx, b'}')? } else { self.simple(cx)? };
            self.expect(b']')?;
            return Ok(Operand::List(vec![address, coordinates]));
        }
        self.expect(b']')?;
        Ok(address)
    }
}
