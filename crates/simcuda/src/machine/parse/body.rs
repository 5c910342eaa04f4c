//! Function bodies: nested scopes, registers, labels and instructions.

use std::collections::HashMap;

use super::ast::{Func, Operand, RegKind, Space, Stmt, Var};
use super::lexer::Token;
use super::variable::type_bytes;
use super::{Parser, Result};

/// Names of one `{}` scope.
#[derive(Default)]
pub(super) struct Scope<'a> {
    regs: HashMap<&'a str, u32>,
    /// `%r<9>`: prefix -> (first register, count)
    ranges: HashMap<&'a str, (u32, u32)>,
    vars: HashMap<&'a str, u32>,
    labels: HashMap<&'a str, u32>,
    /// Label ids handed out for names that no label defined yet.
    pending: HashMap<&'a str, u32>,
}

/// The function being parsed.
pub(super) struct Context<'a> {
    pub(super) func: Func<'a>,
    scopes: Vec<Scope<'a>>,
    loc: (u32, u32),
    /// Label id -> the id that stands for it, where an outer scope resolved it.
    aliases: Vec<u32>,
}

/// Position of a label that was referred to and never defined.
const UNPLACED: usize = usize::MAX;
/// Registers a function may declare; more is a corrupt count.
const MAX_REGS: usize = 1 << 20;

impl<'a> Context<'a> {
    /// Finds a register by its name.
    pub(super) fn register(&self, name: &'a str) -> Option<u32> {
        let digits = name.bytes().rev().take_while(u8::is_ascii_digit).count();
        let (prefix, number) = name.split_at(name.len() - digits);
        let number: Option<u32> = number.parse().ok().filter(|_| digits == 1 || !number.starts_with('0'));
        self.scopes.iter().rev().find_map(|scope| {
            let ranged = || {
                let &(first, count) = scope.ranges.get(prefix)?;
                number.filter(|&n| n < count).map(|n| first + n)
            };
            scope.regs.get(name).copied().or_else(ranged)
        })
    }

    pub(super) fn variable(&self, name: &str) -> Option<u32> {
        self.scopes.iter().rev().find_map(|scope| scope.vars.get(name).copied())
    }

    /// The id of a label, known or to be defined in this scope or an outer one.
    pub(super) fn label(&mut self, name: &'a str) -> u32 {
        if let Some(id) = self.scopes.iter().rev().find_map(|s| s.labels.get(name)) {
            return *id;
        }
        let next = self.func.labels.len() as u32;
        let Some(scope) = self.scopes.last_mut() else { return next };
        let id = *scope.pending.entry(name).or_insert(next);
        if id == next {
            self.func.labels.push(UNPLACED);
            self.aliases.push(next);
        }
        id
    }

    fn define_label(&mut self, name: &'a str) -> bool {
        let at = self.func.body.len();
        let next = self.func.labels.len() as u32;
        let Some(scope) = self.scopes.last_mut() else { return false };
        let id = scope.pending.remove(name).unwrap_or(next);
        if id == next {
            self.func.labels.push(at);
            self.aliases.push(next);
        } else {
            self.func.labels[id as usize] = at;
        }
        scope.labels.insert(name, id).is_none()
    }

    /// Closes a scope; its unresolved labels become the outer scope's.
    fn close_scope(&mut self) {
        let Some(inner) = self.scopes.pop() else { return };
        for (name, id) in inner.pending {
            let Some(outer) = self.scopes.last_mut() else { continue };
            match outer.labels.get(name).or_else(|| outer.pending.get(name)) {
                Some(&same) => self.aliases[id as usize] = same,
                None => drop(outer.pending.insert(name, id)),
            }
        }
    }

    fn add_register(&mut self, kind: RegKind) -> u32 {
        self.func.regs.push(kind);
        self.func.regs.len() as u32 - 1
    }

    fn add_variable(&mut self, var: Var<'a>) {
        let id = self.func.vars.len() as u32;
        if let Some(scope) = self.scopes.last_mut() {
            scope.vars.insert(var.name, id);
        }
        self.func.vars.push(var);
    }

    /// The label an alias chain ends at.
    fn resolve(&self, mut id: u32) -> u32 {
        while self.aliases[id as usize] != id {
            id = self.aliases[id as usize];
        }
        id
    }
}

impl<'a> Parser<'a> {
    pub(super) fn body(&mut self, func: Func<'a>) -> Result<Func<'a>> {
        let line = self.line;
        self.expect(b'{')?;
        let mut outer = Scope::default();
        for (i, var) in func.vars.iter().enumerate() {
            outer.vars.insert(var.name, i as u32);
        }
        let mut cx = Context { func, scopes: vec![outer, Scope::default()], loc: (0, 0), aliases: Vec::new() };
        while cx.scopes.len() > 1 {
            self.statement(&mut cx)?;
        }
        let undefined = cx.scopes[0].pending.keys().next().copied();
        if let Some(name) = undefined {
            return Err((line, format!("expected label `{name}` in function `{}`, got none", cx.func.name)));
        }
        let ids: Vec<usize> =
            (0..cx.func.labels.len()).map(|i| cx.func.labels[cx.resolve(i as u32) as usize]).collect();
        cx.func.labels = ids;
        Ok(cx.func)
    }

    fn statement(&mut self, cx: &mut Context<'a>) -> Result<()> {
        if self.eat(b'{')? {
            if cx.scopes.len() > 200 {
                return self.error("expected at most 200 nested scopes".into());
            }
            cx.scopes.push(Scope::default());
            return Ok(());
        }
        if self.eat(b'}')? {
            cx.close_scope();
            return Ok(());
        }
        if self.eat(b';')? {
            return Ok(());
        }
        let guard = if self.eat(b'@')? { Some(self.guard(cx)?) } else { None };
        let line = self.line;
        let word = self.word("an instruction")?;
        if guard.is_none() && self.eat(b':')? {
            if !cx.define_label(word) {
                return self.error(format!("expected one label `{word}`, got a second"));
            }
            return self.target_list(word, cx);
        }
        if word.starts_with('.') {
            return self.directive(word, cx);
        }
        self.instruction(cx, line, guard, word)
    }

    fn guard(&mut self, cx: &Context<'a>) -> Result<(u32, bool)> {
        let negated = self.eat(b'!')?;
        let name = self.word("a predicate")?;
        match cx.register(name) {
            Some(reg) if cx.func.regs[reg as usize] == RegKind::Pred => Ok((reg, negated)),
            _ => self.error(format!("expected a predicate register, got `{name}`")),
        }
    }

    /// `name: .branchtargets L1, L2;` and `name: .callprototype …;`
    fn target_list(&mut self, name: &'a str, cx: &mut Context<'a>) -> Result<()> {
        match self.token {
            Token::Word(".branchtargets") => {
                self.advance()?;
                let mut targets = Vec::new();
                loop {
                    let target = self.word("a label")?;
                    targets.push(cx.label(target));
                    if !self.eat(b',')? {
                        break;
                    }
                }
                let id = cx.label(name);
                cx.func.branch_targets.insert(id, targets);
                self.expect(b';')
            }
            Token::Word(".callprototype" | ".calltargets") => self.skip_to_semicolon(),
            _ => Ok(()),
        }
    }

    fn directive(&mut self, word: &'a str, cx: &mut Context<'a>) -> Result<()> {
        match word {
            ".reg" => self.registers(cx),
            ".loc" => {
                // `loc` passes its own directive, which was read already.
                let (file, line) = (self.small("a file number")?, self.small("a line")?);
                self.int("a column")?;
                cx.loc = (file, line);
                self.inlined_at()
            }
            ".pragma" => self.skip_to_semicolon(),
            ".shared" | ".local" | ".param" | ".global" | ".const" => {
                let space = match word {
                    ".shared" => Space::Shared,
                    ".param" => Space::Param,
                    ".local" => Space::Local,
                    ".const" => Space::Const,
                    _ => Space::Global,
                };
                let (align, elem) = self.var_type()?;
                loop {
                    let var = self.declarator(space, align, elem, false)?;
                    if matches!(space, Space::Global | Space::Const) {
                        self.ast.vars.push(var);
                    } else {
                        cx.add_variable(var);
                    }
                    if !self.eat(b',')? {
                        return self.expect(b';');
                    }
                }
            }
            _ => self.error(format!("expected an instruction, got `{word}`")),
        }
    }

    fn inlined_at(&mut self) -> Result<()> {
        if !self.eat(b',')? {
            return Ok(());
        }
        self.word("`function_name`")?;
        self.word("a label")?;
        if self.eat(b'+')? {
            self.int("an offset")?;
        }
        self.expect(b',')?;
        self.word("`inlined_at`")?;
        (0..3).try_for_each(|_| self.int("a number").map(drop))
    }

    /// `.reg .b32 %r<9>, x;`
    fn registers(&mut self, cx: &mut Context<'a>) -> Result<()> {
        let ty = self.word("a register type")?;
        let kind = match type_bytes(ty) {
            _ if ty == ".pred" => RegKind::Pred,
            Some(1..=4) => RegKind::Word,
            Some(8) => RegKind::Double,
            Some(16) => RegKind::Quad,
            _ => return self.error(format!("expected a register type, got `{ty}`")),
        };
        loop {
            let name = self.word("a register name")?;
            if self.eat(b'<')? {
                let count = self.small("a register count")?;
                self.expect(b'>')?;
                let first = cx.func.regs.len();
                if first + count as usize > MAX_REGS {
                    return self.error(format!("expected at most {MAX_REGS} registers, got {count} more"));
                }
                cx.func.regs.resize(first + count as usize, kind);
                if let Some(scope) = cx.scopes.last_mut() {
                    scope.ranges.insert(name, (first as u32, count));
                }
            } else {
                let id = cx.add_register(kind);
                if let Some(scope) = cx.scopes.last_mut() {
                    scope.regs.insert(name, id);
                }
            }
            if !self.eat(b',')? {
                return self.expect(b';');
            }
        }
    }

    fn instruction(
        &mut self,
        cx: &mut Context<'a>,
        line: u32,
        guard: Option<(u32, bool)>,
        opcode: &'a str,
    ) -> Result<()> {
        let mut args = Vec::new();
        if self.token != Token::Punct(b';') {
            loop {
                let operand = self.operand(cx)?;
                args.push(operand);
                if !self.eat(b',')? {
                    break;
                }
            }
        }
        if !self.eat(b';')? {
            return self.expected(&format!("`;` after `{opcode}`"));
        }
        if matches!(opcode.split('.').next(), Some("bra" | "brx"))
            && let Some(Operand::Name(name)) = args.last()
        {
            let id = cx.label(name);
            args.pop();
            args.push(Operand::Label(id));
        }
        cx.func.body.push(Stmt { line, loc: cx.loc, guard, opcode, args });
        Ok(())
    }
}
