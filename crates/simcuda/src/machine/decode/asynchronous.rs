//! `cp.async` and bulk copies.

use super::super::exec::Slot;
use super::super::exec::asynchronous::*;
use super::super::exec::bulk::*;
use super::super::exec::control::Nop;
use super::super::meter::Class;
use super::super::parse::ast::{Operand, RegKind};
use super::builder::Builder;
use super::opcode::{Opcode, Type};
use super::{Result, malformed, unsupported};

impl<'a> Builder<'a, '_> {
    /// `cp.async` and its kin.
    pub(super) fn asynchronous(&mut self, op: &Opcode<'a>, args: &[Operand<'a>]) -> Result<()> {
        if op.has("bulk") {
            return self.bulk(op, args);
        }
        if op.has("commit_group") {
            self.emit::<CpCommit>(Class::Async, |_| {});
            return Ok(());
        }
        if op.has("wait_group") || op.has("wait_all") {
            let imm = match args {
                [Operand::Int(n)] if op.has("wait_group") => i64::from(*n as u32),
                [] if op.has("wait_all") => -1,
                _ => return malformed("expected a number of groups"),
            };
            self.emit::<CpWait>(Class::Async, |i| i.imm = imm);
            return Ok(());
        }
        if op.has("mbarrier") {
            let [address] = super::operand::exactly(args)?;
            let (a, imm) = self.shared_address(address)?;
            let extra = u32::from(op.has("noinc"));
            self.emit::<CpArrive>(Class::Async, |i| (i.a, i.imm, i.extra) = (a, imm, extra));
            return Ok(());
        }
        // A cache policy may follow, with its modifier.
        let operands = if op.has("L2::cache_hint") { args.len().saturating_sub(1) } else { args.len() };
        let (to, from, size, source) = match &args[..operands] {
            [to, from, Operand::Int(size)] => (to, from, *size as u32, None),
            [to, from, Operand::Int(size), source] => (to, from, *size as u32, Some(source)),
            _ => return malformed("expected destination, source and size"),
        };
        if !matches!(size, 4 | 8 | 16) || (op.has("cg") && size != 16) {
            return malformed(format!("expected a size of 4, 8 or 16 (16 with .cg), got {size}"));
        }
        let (a, to_offset) = self.shared_address(to)?;
        let from = self.address(from)?;
        if !from.double || i32::try_from(from.offset).is_err() || i32::try_from(to_offset).is_err() {
            return malformed("expected a 64-bit source address and displacements of 32 bits");
        }
        let ignored = matches!(source, Some(Operand::Reg(reg)) if self.kind(*reg) == RegKind::Pred);
        if ignored {
            return unsupported("the ignore-src predicate");
        }
        let (c, target) = match source {
            Some(source) => (self.word(source, Type::U32)?, 1),
            None => (Slot::default(), 0),
        };
        let imm = from.offset << 32 | to_offset & 0xffff_ffff;
        self.emit::<CpAsync>(Class::Async, |i| {
            (i.a, i.b, i.c, i.imm, i.extra, i.target) = (a, from.base, c, imm, size, target);
        });
        Ok(())
    }

    fn bulk(&mut self, op: &Opcode<'a>, args: &[Operand<'a>]) -> Result<()> {
        if op.has("commit_group") {
            self.emit::<BulkCommit>(Class::Async, |_| {});
            return Ok(());
        }
        if op.has("wait_group") {
            let [Operand::Int(groups)] = args else { return malformed("expected a number of groups") };
            let imm = i64::from(*groups as u32);
            self.emit::<BulkWait>(Class::Async, |i| i.imm = imm);
            return Ok(());
        }
        if op.has("prefetch") {
            self.emit::<Nop>(Class::Async, |_| {});
            return Ok(());
        }
        if op.has("tensor") || op.has("multicast::cluster") || op.has("cp_mask") || op.name != "cp" || op.has("reduce")
        {
            return unsupported("tensor maps, multicast and reductions");
        }
        let to_shared = op.modifiers().iter().position(|m| m.starts_with("shared"));
        let global = op.modifiers().iter().position(|m| *m == "global");
        let direction = match (to_shared, global) {
            (Some(shared), Some(global)) if shared < global => BULK_GLOBAL_TO_SHARED,
            (Some(_), Some(_)) => BULK_SHARED_TO_GLOBAL,
            (Some(_), None) => BULK_SHARED_TO_CLUSTER,
            _ => return malformed("expected the spaces of destination and source"),
        };
        let needed = if direction == BULK_SHARED_TO_GLOBAL { 3 } else { 4 };
        if args.len() < needed {
            return malformed(format!("expected {needed} operands, got {}", args.len()));
        }
        let mut entries = Vec::new();
        for (index, arg) in args[..needed].iter().enumerate() {
            if index == 2 {
                entries.extend([self.word(arg, Type::U32)?.0, 0]);
            } else {
                let (slot, double) = self.summed_address(arg)?;
                entries.extend([slot.0, u32::from(double)]);
            }
        }
        let extra = self.list(entries);
        self.emit::<CpBulk>(Class::Async, |i| (i.extra, i.target) = (extra, direction));
        Ok(())
    }
}
