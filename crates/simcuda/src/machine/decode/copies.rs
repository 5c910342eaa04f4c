//! Moves, and registers that only stand for a parameter, a special register or a literal.

use super::super::exec::bits::And;
use super::super::exec::compare::{PRED_OR, PredLogic};
use super::super::exec::control::{Clock, CtaRank, IsSpace, Mapa};
use super::super::exec::int::{Add, Mov};
use super::super::exec::lanewise::{M1, M2};
use super::super::exec::pack::{Join, Pack, Split, Unpack};
use super::super::exec::{LaunchRow, Slot, handler};
use super::super::meter::Class;
use super::super::parse::ast::{Operand, RegKind, Space};
use super::builder::{Builder, FALSE};
use super::opcode::{Opcode, Type};
use super::operand::{exactly, window};
use super::{Result, malformed, registers, unsupported};

/// The row that holds a kernel parameter, if a load of it is as simple as that.
fn parameter_row(b: &mut Builder<'_, '_>, op: &Opcode<'_>, operand: &Operand<'_>) -> Result<Option<Slot>> {
    let Operand::Address { .. } = operand else { return Ok(None) };
    let Some((offset, Space::Param)) = constant_base(b, operand)? else { return Ok(None) };
    let ty = op.last_type()?;
    if op.choose(&["v2", "v4", "v8"]).is_some() || !matches!(ty.bytes(), 1 | 2 | 4 | 8) {
        return Ok(None);
    }
    let signed = matches!(ty, Type::S8 | Type::S16);
    Ok(Some(b.launch_row(LaunchRow::Param { offset: offset as u32, bytes: ty.bytes() as u8, signed })))
}

fn constant_base(b: &Builder<'_, '_>, operand: &Operand<'_>) -> Result<Option<(u64, Space)>> {
    match operand {
        Operand::Address { base, .. } if matches!(base.as_ref(), Operand::Reg(_) | Operand::Int(_)) => Ok(None),
        other => b.constant_address(other),
    }
}

/// Finds registers with one unguarded definition that only copies what a row holds already: they become that row.
pub(super) fn find_aliases(b: &mut Builder<'_, '_>) -> Result<()> {
    let mut definitions = vec![0u32; b.func.regs.len()];
    for stmt in &b.func.body {
        registers::effects(stmt, |reg| definitions[reg as usize] += 1, |_| {});
    }
    let func = b.func;
    for stmt in &func.body {
        let (None, [Operand::Reg(reg), source]) = (stmt.guard, stmt.args.as_slice()) else { continue };
        let kind = b.kind(*reg);
        if definitions[*reg as usize] != 1 || !matches!(kind, RegKind::Word | RegKind::Double) {
            continue;
        }
        let op = Opcode::new(stmt.opcode);
        let slot = match (op.name, source) {
            ("ld", _)
                if op.has("param") && op.last_type().is_ok_and(|t| t.is_double() == (kind == RegKind::Double)) =>
            {
                parameter_row(b, &op, source)?
            }
            ("mov", Operand::Special(name)) if kind == RegKind::Word && !name.starts_with("%clock") => {
                b.special_word(name).ok()
            }
            ("mov", Operand::Int(value) | Operand::F64(value)) if kind == RegKind::Double => {
                Some(b.constant_double(*value))
            }
            ("mov", Operand::Int(value)) => Some(b.constant_word(*value as u32)),
            ("mov", Operand::F32(bits)) => Some(b.constant_word(*bits)),
            ("mov", Operand::Var(_) | Operand::Name(_) | Operand::Address { .. }) => match constant_base(b, source)? {
                Some((value, _)) if kind == RegKind::Double => Some(b.constant_double(value)),
                Some((value, _)) => Some(b.constant_word(value as u32)),
                None => None,
            },
            ("cvta", Operand::Reg(from)) if op.has("global") || op.has("const") => b.aliases.get(from).copied(),
            _ => None,
        };
        if let Some(slot) = slot {
            b.aliases.insert(*reg, slot);
        }
    }
    Ok(())
}

impl<'a> Builder<'a, '_> {
    fn is_aliased(&self, operand: &Operand<'a>) -> bool {
        matches!(operand, Operand::Reg(reg) if self.aliases.contains_key(reg))
    }

    /// `mov`, `cvta`, parameter loads, `mapa` and its kin.
    pub(super) fn data_movement(&mut self, op: &Opcode<'a>, args: &[Operand<'a>]) -> Result<bool> {
        match op.name {
            "mov" => {
                let [dst, source] = exactly(args)?;
                if !self.is_aliased(dst) {
                    self.mov(op, dst, source)?;
                }
            }
            "ld" if op.has("param") || op.has("param::entry") => {
                let [dst, source] = exactly(args)?;
                if self.is_aliased(dst) {
                    return Ok(true);
                }
                let Some(a) = parameter_row(self, op, source)? else { return Ok(false) };
                let double = op.last_type()?.is_double();
                if !double && matches!(dst, Operand::Reg(r) if self.kind(*r) == RegKind::Double) {
                    return Ok(false);
                }
                self.copy(dst, a, double)?;
            }
            "cvta" => self.convert_address(op, args)?,
            "isspacep" => {
                let [dst, source] = exactly(args)?;
                let (dst, a) = (self.pred_dst(dst)?, self.double(source)?);
                let spaces =
                    ["global", "shared", "local", "param", "const", "shared::cta", "shared::cluster", "param::entry"];
                let extra = match op.choose(&spaces) {
                    Some(space) => [0, 1, 2, 3, 4, 1, 1, 3][space],
                    None => return malformed("expected a state space"),
                };
                self.emit::<IsSpace>(Class::Compare, |i| (i.dst, i.a, i.extra) = (Slot(dst), a, extra));
            }
            "mapa" => {
                let [dst, source, rank] = exactly(args)?;
                let double = op.last_type()?.is_double();
                let rank = self.word(rank, Type::U32)?;
                let a = self.source(source, op.last_type()?)?;
                let dst = self.dst(dst, op.last_type()?)?;
                self.emit::<Mapa>(Class::Integer, |i| (i.dst, i.a, i.b, i.extra) = (dst, a, rank, u32::from(double)));
            }
            "getctarank" => {
                let [dst, source] = exactly(args)?;
                let (dst, a) = (self.word_dst(dst)?, self.source(source, op.last_type()?)?);
                let extra = u32::from(op.last_type()?.is_double());
                self.emit::<CtaRank>(Class::Integer, |i| (i.dst, i.a, i.extra) = (dst, a, extra));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn copy(&mut self, dst: &Operand<'a>, a: Slot, double: bool) -> Result<()> {
        if double {
            let dst = self.double_dst(dst)?;
            self.emit::<M1<Mov<u64>>>(Class::Move, |i| (i.dst, i.a) = (dst, a));
        } else {
            let dst = self.word_dst(dst)?;
            self.emit::<M1<Mov<u32>>>(Class::Move, |i| (i.dst, i.a) = (dst, a));
        }
        Ok(())
    }

    fn mov(&mut self, op: &Opcode<'a>, dst: &Operand<'a>, source: &Operand<'a>) -> Result<()> {
        let ty = op.last_type()?;
        match (dst, source) {
            _ if ty == Type::Pred => {
                let (dst, (a, flip)) = (self.pred_dst(dst)?, self.pred(source)?);
                self.emit::<PredLogic>(Class::Compare, |i| {
                    (i.dst, i.a, i.b, i.extra, i.target) = (Slot(dst), Slot(a), Slot(FALSE), PRED_OR, flip & 1);
                });
            }
            (
                _,
                Operand::Special(name @ ("%clock" | "%clock_hi" | "%clock64" | "%globaltimer" | "%globaltimer_lo")),
            ) => {
                let double = matches!(*name, "%clock64" | "%globaltimer");
                let dst = if double { self.double_dst(dst)? } else { self.word_dst(dst)? };
                self.emit::<Clock>(Class::Other, |i| (i.dst, i.extra) = (dst, u32::from(double)));
            }
            (Operand::List(parts), _) => self.unpack(ty, parts, source)?,
            (_, Operand::List(parts)) => self.pack(ty, dst, parts)?,
            (_, Operand::Special("%gridid")) if ty.is_double() => {
                let a = self.constant_double(0);
                self.copy(dst, a, true)?;
            }
            (_, Operand::Name(name)) if !self.symbols.contains_key(name) => {
                return unsupported(format!("address of function `{name}`"));
            }
            _ => {
                let a = self.source(source, ty)?;
                self.copy(dst, a, ty.is_double())?;
            }
        }
        Ok(())
    }

    /// `mov.b64 {lo, hi}, d` and narrower.
    fn unpack(&mut self, ty: Type, parts: &[Operand<'a>], source: &Operand<'a>) -> Result<()> {
        if !parts.len().is_power_of_two() || !(2..=4).contains(&parts.len()) || ty == Type::B128 {
            return unsupported("this split of a register");
        }
        let width = ty.bytes() * 8 / parts.len() as u32;
        let a = self.source(source, ty)?;
        let slots = parts.iter().map(|p| self.word_dst(p).map(|s| s.0)).collect::<Result<Vec<_>>>()?;
        let extra = self.list_with_twins(&slots);
        let (count, double) = (parts.len() as u32, ty.is_double());
        if count == 2 && matches!(ty.bytes(), 4 | 8) {
            let run = if double { handler::<Split<true>>() } else { handler::<Split<false>>() };
            self.emit_handler(run, Class::Move, |i| (i.a, i.extra) = (a, extra));
            return Ok(());
        }
        self.emit::<Unpack>(Class::Move, |i| {
            (i.a, i.extra, i.target, i.imm) = (a, extra, count << 8 | width, i64::from(double));
        });
        Ok(())
    }

    /// `mov.b64 d, {lo, hi}` and narrower.
    fn pack(&mut self, ty: Type, dst: &Operand<'a>, parts: &[Operand<'a>]) -> Result<()> {
        if !parts.len().is_power_of_two() || !(2..=4).contains(&parts.len()) || ty == Type::B128 {
            return unsupported("this join of registers");
        }
        let width = ty.bytes() * 8 / parts.len() as u32;
        let slots = parts.iter().map(|p| self.word(p, Type::U32).map(|s| s.0)).collect::<Result<Vec<_>>>()?;
        let (extra, dst) = (self.list_with_twins(&slots), self.dst(dst, ty)?);
        let (count, double) = (parts.len() as u32, ty.is_double());
        if count == 2 && matches!(ty.bytes(), 4 | 8) {
            let run = if double { handler::<Join<true>>() } else { handler::<Join<false>>() };
            self.emit_handler(run, Class::Move, |i| (i.dst, i.extra) = (dst, extra));
            return Ok(());
        }
        self.emit::<Pack>(Class::Move, |i| {
            (i.dst, i.extra, i.target, i.imm) = (dst, extra, count << 8 | width, i64::from(double));
        });
        Ok(())
    }

    fn convert_address(&mut self, op: &Opcode<'a>, args: &[Operand<'a>]) -> Result<()> {
        let [dst, source] = exactly(args)?;
        if self.is_aliased(dst) {
            return Ok(());
        }
        let spaces = ["global", "const", "shared", "shared::cta", "shared::cluster", "local", "param", "param::entry"];
        let kinds = [
            Space::Global,
            Space::Const,
            Space::Shared,
            Space::Shared,
            Space::Shared,
            Space::Local,
            Space::Param,
            Space::Param,
        ];
        let Some(space) = op.choose(&spaces) else { return malformed("expected a state space") };
        if !op.last_type()?.is_double() {
            return unsupported("32-bit generic addresses");
        }
        let (a, dst) = (self.double(source)?, self.double_dst(dst)?);
        let window = window(kinds[space]);
        if window == 0 {
            self.emit::<M1<Mov<u64>>>(Class::Move, |i| (i.dst, i.a) = (dst, a));
        } else if op.has("to") {
            let b = self.constant_double((1 << super::super::exec::block::WINDOW_SHIFT) - 1);
            self.emit::<M2<And<u64>>>(Class::Move, |i| (i.dst, i.a, i.b) = (dst, a, b));
        } else {
            let b = self.constant_double(window);
            self.emit::<M2<Add<u64>>>(Class::Move, |i| (i.dst, i.a, i.b) = (dst, a, b));
        }
        Ok(())
    }
}
