//! Branches, ends and runtime calls.

use super::super::exec::control::*;
use super::super::exec::memory::{GENERIC, Load, TARGET_WINDOW_SHIFT};
use super::super::exec::{Slot, handler};
use super::super::meter::Class;
use super::super::parse::ast::Operand;
use super::builder::Builder;
use super::opcode::{Opcode, Type};
use super::{Result, malformed, unsupported};

/// Marks in `imm` of control instructions: `extra` is a label, or a list of `target` labels.
pub(super) const BRANCH: i64 = 1;
pub(super) const TABLE: i64 = 2;

impl<'a> Builder<'a, '_> {
    pub(super) fn flow(&mut self, op: &Opcode<'a>, args: &[Operand<'a>]) -> Result<bool> {
        match op.name {
            "bra" => {
                let [Operand::Label(label)] = args else { return malformed("expected a label") };
                let label = *label;
                self.emit::<Branch>(Class::Control, |i| (i.extra, i.imm) = (label, BRANCH));
            }
            "brx" => {
                let [index, Operand::Label(label)] = args else {
                    return malformed("expected an index and a list of labels");
                };
                let Some(targets) = self.func.branch_targets.get(label).cloned() else {
                    return malformed("expected a list of branch targets");
                };
                let a = self.word(index, Type::U32)?;
                let (count, extra) = (targets.len() as u32, self.list(targets));
                self.emit::<BranchTable>(Class::Control, |i| {
                    (i.a, i.extra, i.target, i.imm) = (a, extra, count, TABLE)
                });
            }
            "exit" | "ret" => self.emit::<Exit>(Class::Control, |_| {}),
            "trap" | "brkpt" => self.emit::<Trap>(Class::Other, |_| {}),
            "call" => self.runtime_call(args)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// `call (result), vprintf, (format, arguments);` and `call __assertfail, (…);`
    fn runtime_call(&mut self, args: &[Operand<'a>]) -> Result<()> {
        let Some(at) = args.iter().position(|a| matches!(a, Operand::Name(_))) else {
            return unsupported("indirect calls");
        };
        let (Operand::Name(name), Some(Operand::List(passed))) = (&args[at], args.get(at + 1)) else {
            return malformed("expected a function and its arguments");
        };
        let mut entries = Vec::new();
        for operand in passed {
            let Operand::Var(var) = operand else { return malformed("expected `.param` variables") };
            let bytes = self.func.vars[*var as usize].size_bytes;
            let Some((offset, space)) = self.constant_address(operand)? else {
                return malformed("expected a variable");
            };
            let (base, dst) = (self.constant_double(offset), self.temp(bytes == 8));
            let target = ((super::operand::window(space) >> 56) as u32) << TARGET_WINDOW_SHIFT;
            let run =
                if bytes == 8 { handler::<Load<u64, 1, 8, GENERIC>>() } else { handler::<Load<u32, 1, 4, GENERIC>>() };
            self.emit_handler(run, Class::Local, |i| (i.dst, i.a, i.target) = (dst, base, target));
            entries.extend([dst.0, u32::from(bytes == 8)]);
        }
        let (count, extra) = (passed.len(), self.list(entries));
        match (*name, count) {
            ("vprintf", 2) => self.emit::<Printf>(Class::Other, |i| i.extra = extra),
            ("__assertfail", 3..) => self.emit::<AssertFail>(Class::Other, |i| i.extra = extra),
            _ => return malformed(format!("expected other arguments for `{name}`")),
        }
        if let Some(Operand::List(results)) = args.first().filter(|_| at > 0)
            && let [result] = results.as_slice()
        {
            // The count of printed characters is nobody's concern; the variable is set so that it can be read.
            self.zero_variable(result)?;
        }
        Ok(())
    }

    fn zero_variable(&mut self, operand: &Operand<'a>) -> Result<()> {
        use super::super::exec::memory::Store;
        let Some((offset, space)) = self.constant_address(operand)? else { return malformed("expected a variable") };
        let (base, zero): (Slot, Slot) = (self.constant_double(offset), self.constant_word(0));
        let target = ((super::operand::window(space) >> 56) as u32) << TARGET_WINDOW_SHIFT;
        let list = self.list([zero.0]);
        self.emit_handler(handler::<Store<u32, 1, 4, GENERIC>>(), Class::Local, |i| {
            (i.dst, i.a, i.extra, i.target) = (zero, base, list, target);
        });
        Ok(())
    }
}
