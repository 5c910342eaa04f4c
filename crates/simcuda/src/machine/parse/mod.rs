//! The PTX parser: text to [`ast::Ast`], with every name of a function resolved.

pub(crate) mod ast;
mod body;
mod lexer;
mod operand;
mod variable;

use ast::{Ast, Func, Space};
use lexer::{Lexer, Token};

/// Line and message of a refused text.
pub(crate) type Error = (u32, String);
type Result<T> = std::result::Result<T, Error>;

/// The parser's position: one token of look-ahead.
pub(crate) struct Parser<'a> {
    lexer: Lexer<'a>,
    token: Token<'a>,
    /// Line of `token`.
    line: u32,
    ast: Ast<'a>,
}

/// Parses a PTX module.
pub(crate) fn parse(text: &str) -> Result<Ast<'_>> {
    let mut parser = Parser { lexer: Lexer::new(text), token: Token::End, line: 1, ast: Ast::default() };
    parser.advance()?;
    parser.header()?;
    while parser.token != Token::End {
        parser.item()?;
    }
    Ok(parser.ast)
}

impl<'a> Parser<'a> {
    fn error<T>(&self, message: String) -> Result<T> {
        Err((self.line, message))
    }

    fn expected<T>(&self, what: &str) -> Result<T> {
        self.error(format!("expected {what}, got {}", self.token))
    }

    /// Moves to the next token and returns the one passed.
    fn advance(&mut self) -> Result<Token<'a>> {
        let passed = self.token;
        self.token = self.lexer.next().map_err(|m| (self.lexer.line(), m))?;
        self.line = self.lexer.line();
        Ok(passed)
    }

    fn eat(&mut self, punct: u8) -> Result<bool> {
        let hit = self.token == Token::Punct(punct);
        if hit {
            self.advance()?;
        }
        Ok(hit)
    }

    fn expect(&mut self, punct: u8) -> Result<()> {
        if self.eat(punct)? { Ok(()) } else { self.expected(&format!("`{}`", punct as char)) }
    }

    fn eat_word(&mut self, word: &str) -> Result<bool> {
        let hit = self.token == Token::Word(word);
        if hit {
            self.advance()?;
        }
        Ok(hit)
    }

    fn word(&mut self, what: &str) -> Result<&'a str> {
        match self.token {
            Token::Word(word) => {
                self.advance()?;
                Ok(word)
            }
            _ => self.expected(what),
        }
    }

    fn int(&mut self, what: &str) -> Result<u64> {
        let negative = self.eat(b'-')?;
        match self.token {
            Token::Int(value) => {
                self.advance()?;
                Ok(if negative { value.wrapping_neg() } else { value })
            }
            _ => self.expected(what),
        }
    }

    /// A number that must fit 32 bits, as of threads, lines and versions.
    fn small(&mut self, what: &str) -> Result<u32> {
        let value = self.int(what)?;
        u32::try_from(value).or_else(|_| self.error(format!("expected {what} below 2^32, got {value}")))
    }

    /// `.version`, `.target` and `.address_size`, which open every module.
    fn header(&mut self) -> Result<()> {
        if !self.eat_word(".version")? {
            return self.expected("`.version`");
        }
        match self.advance()? {
            Token::F64(_) | Token::Int(_) => {}
            other => return self.error(format!("expected a version number, got {other}")),
        }
        if !self.eat_word(".target")? {
            return self.expected("`.target`");
        }
        let target = self.word("a target such as sm_80")?;
        let digits: String = target.trim_start_matches("sm_").chars().take_while(char::is_ascii_digit).collect();
        self.ast.arch = match digits.parse() {
            Ok(arch) if target.starts_with("sm_") => arch,
            _ => return self.error(format!("expected a target such as sm_80, got `{target}`")),
        };
        while self.eat(b',')? {
            self.word("a target option")?;
        }
        if self.eat_word(".address_size")? && self.int("an address size")? != 64 {
            return self.error("expected 64-bit addresses".into());
        }
        Ok(())
    }

    fn item(&mut self) -> Result<()> {
        let mut is_extern = false;
        loop {
            let Token::Word(word) = self.token else {
                if self.eat(b';')? {
                    return Ok(());
                }
                return self.expected("a directive");
            };
            match word {
                ".visible" | ".weak" | ".common" => drop(self.advance()?),
                ".extern" => {
                    is_extern = true;
                    self.advance()?;
                }
                ".entry" => return self.function(true),
                ".func" => return self.function(false),
                ".global" | ".const" | ".shared" => {
                    let vars = self.variables(is_extern)?;
                    self.ast.vars.extend(vars);
                    return Ok(());
                }
                ".file" => return self.file(),
                ".section" => return self.section(),
                ".pragma" | ".alias" => return self.skip_to_semicolon(),
                ".loc" => return self.loc().map(drop),
                _ => return self.error(format!("expected a directive, got `{word}`")),
            }
        }
    }

    fn skip_to_semicolon(&mut self) -> Result<()> {
        while !self.eat(b';')? {
            if self.token == Token::End {
                return self.expected("`;`");
            }
            self.advance()?;
        }
        Ok(())
    }

    fn file(&mut self) -> Result<()> {
        self.advance()?;
        let number = self.small("a file number")?;
        let Token::Text(path) = self.token else { return self.expected("a quoted path") };
        self.advance()?;
        self.ast.files.insert(number, path);
        while self.eat(b',')? {
            self.int("a number")?;
        }
        Ok(())
    }

    /// Debug sections carry nothing that runs.
    fn section(&mut self) -> Result<()> {
        self.advance()?;
        // A name may have several dots.
        while let Token::Word(_) | Token::Int(_) = self.token {
            self.advance()?;
        }
        self.expect(b'{')?;
        while !self.eat(b'}')? {
            if self.token == Token::End {
                return self.expected("`}`");
            }
            self.advance()?;
        }
        Ok(())
    }

    /// `.loc file line column [, function_name label, inlined_at file line column]`
    fn loc(&mut self) -> Result<(u32, u32)> {
        self.advance()?;
        let (file, line) = (self.small("a file number")?, self.small("a line")?);
        self.int("a column")?;
        if self.eat(b',')? {
            self.word("`function_name`")?;
            self.word("a label")?;
            if self.eat(b'+')? {
                self.int("an offset")?;
            }
            self.expect(b',')?;
            self.word("`inlined_at`")?;
            for _ in 0..3 {
                self.int("a number")?;
            }
        }
        Ok((file, line))
    }

    fn function(&mut self, is_entry: bool) -> Result<()> {
        let line = self.line;
        self.advance()?;
        let mut returns = Vec::new();
        if !is_entry {
            while self.token == Token::Word(".attribute") || self.token == Token::Word(".noreturn") {
                self.advance()?;
            }
            if self.token == Token::Punct(b'(') {
                returns = self.parameters()?;
            }
        }
        let name = self.word("a function name")?;
        let params = if self.token == Token::Punct(b'(') { self.parameters()? } else { Vec::new() };
        let mut func = Func {
            name,
            line,
            is_entry,
            is_prototype: false,
            vars: returns.iter().chain(&params).cloned().collect(),
            returns,
            params,
            regs: Vec::new(),
            body: Vec::new(),
            labels: Vec::new(),
            branch_targets: Default::default(),
            max_threads: None,
            min_blocks: None,
            max_registers: None,
            cluster: None,
        };
        self.performance_directives(&mut func)?;
        if self.eat(b';')? {
            func.is_prototype = true;
        } else {
            func = self.body(func)?;
        }
        self.ast.funcs.push(func);
        Ok(())
    }

    fn parameters(&mut self) -> Result<Vec<ast::Var<'a>>> {
        self.expect(b'(')?;
        let mut params = Vec::new();
        while !self.eat(b')')? {
            if !params.is_empty() {
                self.expect(b',')?;
            }
            if !matches!(self.token, Token::Word(".param" | ".reg")) {
                return self.expected("`.param`");
            }
            self.advance()?;
            let (align, elem) = self.var_type()?;
            params.push(self.declarator(Space::Param, align, elem, false)?);
        }
        Ok(params)
    }

    /// What stands between a function's parameters and its body.
    fn performance_directives(&mut self, func: &mut Func<'a>) -> Result<()> {
        while let Token::Word(word) = self.token {
            self.advance()?;
            match word {
                ".maxntid" | ".reqntid" => {
                    let shape = self.up_to_three()?;
                    func.max_threads = Some(shape.iter().fold(1, |n, &d| n.saturating_mul(d)));
                }
                ".reqnctapercluster" => func.cluster = Some(self.up_to_three()?),
                ".minnctapersm" => func.min_blocks = Some(self.small("a number")?),
                ".maxnreg" => func.max_registers = Some(self.small("a number")?),
                ".maxnctapersm" | ".maxclusterrank" => drop(self.int("a number")?),
                ".noreturn" | ".explicitcluster" | ".blocksareclusters" => {}
                ".pragma" => self.skip_to_semicolon()?,
                _ => return self.error(format!("expected a function body, got `{word}`")),
            }
        }
        Ok(())
    }

    fn up_to_three(&mut self) -> Result<[u32; 3]> {
        let mut shape = [1; 3];
        shape[0] = self.small("a number")?;
        for extent in &mut shape[1..] {
            if self.eat(b',')? {
                *extent = self.small("a number")?;
            }
        }
        Ok(shape)
    }
}

#[cfg(test)]
mod tests;
