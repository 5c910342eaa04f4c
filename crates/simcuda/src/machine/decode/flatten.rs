//! Calls: device functions are expanded where they are called.
//!
//! A parameter of the callee is the caller's `.param` variable itself; registers, labels and other variables are renewed for
//! each expansion, so that a flat function remains.

use std::collections::HashMap;

use super::super::parse::ast::{Ast, Func, Operand, Stmt};

/// Expansion stops here: recursion, or a program too large.
const MAX_DEPTH: usize = 32;
const MAX_STATEMENTS: usize = 1 << 20;

/// Line and message.
type Error = (u32, String);

/// Functions of the device runtime that stay calls.
pub(super) fn is_runtime(name: &str) -> bool {
    matches!(name, "vprintf" | "__assertfail")
}

/// How a callee's names map into the flat function.
struct Frame {
    first_reg: u32,
    vars: Vec<u32>,
    /// Callee label -> flat label.
    first_label: u32,
    /// Where `ret` goes; none in the entry.
    end: Option<u32>,
}

struct Flattener<'a, 'b> {
    functions: HashMap<&'a str, &'b Func<'a>>,
    out: Func<'a>,
}

/// Makes a flat function of an entry.
pub(super) fn flatten<'a>(ast: &Ast<'a>, entry: &Func<'a>) -> Result<Func<'a>, Error> {
    let calls = entry.body.iter().any(|s| s.opcode.starts_with("call"));
    if !calls {
        return Ok(entry.clone());
    }
    let mut out = entry.clone();
    out.body.clear();
    out.labels.clear();
    out.branch_targets.clear();
    let functions = ast.funcs.iter().filter(|f| !f.is_prototype && !f.is_entry).map(|f| (f.name, f)).collect();
    let mut flattener = Flattener { functions, out };
    flattener.out.labels.resize(entry.labels.len(), usize::MAX);
    let frame = Frame { first_reg: 0, vars: (0..entry.vars.len() as u32).collect(), first_label: 0, end: None };
    flattener.expand(entry, &frame, 0)?;
    Ok(flattener.out)
}

impl<'a> Flattener<'a, '_> {
    fn expand(&mut self, func: &Func<'a>, frame: &Frame, depth: usize) -> Result<(), Error> {
        let mut positions: Vec<Vec<usize>> = vec![Vec::new(); func.body.len() + 1];
        for (label, &at) in func.labels.iter().enumerate() {
            positions[at.min(func.body.len())].push(label);
        }
        for (label, targets) in &func.branch_targets {
            let targets = targets.iter().map(|t| t + frame.first_label).collect();
            self.out.branch_targets.insert(label + frame.first_label, targets);
        }
        for (at, stmt) in func.body.iter().enumerate() {
            self.place(&positions[at], frame);
            if self.out.body.len() > MAX_STATEMENTS {
                return Err((
                    stmt.line,
                    format!("expected at most {MAX_STATEMENTS} instructions with all calls expanded"),
                ));
            }
            let name = stmt.opcode.split('.').next().unwrap_or("");
            match name {
                "call" => self.call(stmt, frame, depth)?,
                "ret" if frame.end.is_some() => {
                    let label = frame.end.unwrap_or(0);
                    let args = vec![Operand::Label(label)];
                    self.out.body.push(Stmt { opcode: "bra", args, guard: guard(stmt, frame), ..stmt.clone() });
                }
                _ => {
                    let args = stmt.args.iter().map(|a| rename(a, frame)).collect();
                    self.out.body.push(Stmt { args, guard: guard(stmt, frame), ..stmt.clone() });
                }
            }
        }
        self.place(&positions[func.body.len()], frame);
        Ok(())
    }

    fn place(&mut self, labels: &[usize], frame: &Frame) {
        for label in labels {
            self.out.labels[label + frame.first_label as usize] = self.out.body.len();
        }
    }

    fn new_label(&mut self) -> u32 {
        self.out.labels.push(usize::MAX);
        self.out.labels.len() as u32 - 1
    }

    /// `call (returns), name, (arguments);`
    fn call(&mut self, stmt: &Stmt<'a>, frame: &Frame, depth: usize) -> Result<(), Error> {
        let fail = |message: String| Err((stmt.line, message));
        let Some(at) = stmt.args.iter().position(|a| matches!(a, Operand::Name(_))) else {
            return fail("expected a direct call, got one through a register, which is not supported".into());
        };
        let Operand::Name(name) = stmt.args[at] else { return Ok(()) };
        if is_runtime(name) {
            let args = stmt.args.iter().map(|a| rename(a, frame)).collect();
            self.out.body.push(Stmt { args, guard: guard(stmt, frame), ..stmt.clone() });
            return Ok(());
        }
        let Some(&callee) = self.functions.get(name) else {
            return fail(format!("expected a function `{name}` in the module, got none"));
        };
        if depth >= MAX_DEPTH {
            return fail(format!("expected at most {MAX_DEPTH} nested calls; recursion is not supported"));
        }
        let list = |operand: Option<&Operand<'a>>| match operand {
            Some(Operand::List(items)) => items.iter().map(|item| rename(item, frame)).collect(),
            _ => Vec::new(),
        };
        let returned: Vec<_> = if at > 0 { list(stmt.args.first()) } else { Vec::new() };
        let passed: Vec<_> = list(stmt.args.get(at + 1));
        if returned.len() != callee.returns.len() || passed.len() != callee.params.len() {
            let expected = (callee.returns.len(), callee.params.len());
            return fail(format!(
                "expected {} results and {} arguments for `{name}`, got {} and {}",
                expected.0,
                expected.1,
                returned.len(),
                passed.len()
            ));
        }
        let mut vars = Vec::new();
        for operand in returned.iter().chain(&passed) {
            match operand {
                Operand::Var(var) => vars.push(*var),
                _ => return fail(format!("expected `.param` variables in the call of `{name}`")),
            }
        }
        for var in &callee.vars[vars.len()..] {
            vars.push(self.out.vars.len() as u32);
            self.out.vars.push(var.clone());
        }
        let (end, skip) = (self.new_label(), guard(stmt, frame));
        if let Some((reg, negated)) = skip {
            let args = vec![Operand::Label(end)];
            self.out.body.push(Stmt { opcode: "bra", args, guard: Some((reg, !negated)), ..stmt.clone() });
        }
        let inner = Frame {
            first_reg: self.out.regs.len() as u32,
            vars,
            first_label: self.out.labels.len() as u32,
            end: Some(end),
        };
        self.out.regs.extend(&callee.regs);
        self.out.labels.resize(self.out.labels.len() + callee.labels.len(), usize::MAX);
        self.expand(callee, &inner, depth + 1)?;
        self.out.labels[end as usize] = self.out.body.len();
        Ok(())
    }
}

fn guard(stmt: &Stmt<'_>, frame: &Frame) -> Option<(u32, bool)> {
    stmt.guard.map(|(reg, negated)| (reg + frame.first_reg, negated))
}

fn rename<'a>(operand: &Operand<'a>, frame: &Frame) -> Operand<'a> {
    match operand {
        Operand::Reg(reg) => Operand::Reg(reg + frame.first_reg),
        Operand::Not(reg) => Operand::Not(reg + frame.first_reg),
        Operand::Var(var) => Operand::Var(frame.vars[*var as usize]),
        Operand::Label(label) => Operand::Label(label + frame.first_label),
        Operand::Address { base, offset } => Operand::Address { base: Box::new(rename(base, frame)), offset: *offset },
        Operand::List(items) => Operand::List(items.iter().map(|item| rename(item, frame)).collect()),
        Operand::Pair(a, b) => Operand::Pair(Box::new(rename(a, frame)), Box::new(rename(b, frame))),
        other => other.clone(),
    }
}
