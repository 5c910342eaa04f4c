//! Logic, shift and bit-field forms.

use super::super::exec::bits::*;
use super::super::exec::compare::{PRED_AND, PRED_OR, PRED_XOR, PredLogic};
use super::super::exec::int::{Shl, Shr};
use super::super::exec::lanewise::{M1, M2, M3};
use super::super::exec::{Handler, Slot, handler};
use super::super::meter::Class;
use super::super::parse::ast::Operand;
use super::builder::{Builder, TRUE};
use super::int::{by_int, by_wide_int};
use super::opcode::{Opcode, Type};
use super::operand::exactly;
use super::{Result, malformed};

/// Handler for the unsigned type of each width.
macro_rules! by_width {
    ($ty:expr, $form:ident, $function:ident) => {
        match $ty.bytes() {
            2 => handler::<$form<$function<u16>>>(),
            8 => handler::<$form<$function<u64>>>(),
            _ => handler::<$form<$function<u32>>>(),
        }
    };
}

/// `lop3` tables that kernels use most.
fn lop3_of(table: u32) -> Option<Handler> {
    Some(match table {
        0xc0 => handler::<M3<Lop3Of<0xc0>>>(),
        0xfc => handler::<M3<Lop3Of<0xfc>>>(),
        0x3c => handler::<M3<Lop3Of<0x3c>>>(),
        0xea => handler::<M3<Lop3Of<0xea>>>(),
        0xf8 => handler::<M3<Lop3Of<0xf8>>>(),
        0x6a => handler::<M3<Lop3Of<0x6a>>>(),
        0x78 => handler::<M3<Lop3Of<0x78>>>(),
        0x96 => handler::<M3<Lop3Of<0x96>>>(),
        0x80 => handler::<M3<Lop3Of<0x80>>>(),
        0xfe => handler::<M3<Lop3Of<0xfe>>>(),
        _ => return None,
    })
}

impl<'a> Builder<'a, '_> {
    pub(super) fn bit_operation(&mut self, op: &Opcode<'a>, args: &[Operand<'a>]) -> Result<bool> {
        match op.name {
            "and" | "or" | "xor" | "not" if op.last_type()? == Type::Pred => self.predicate_logic(op, args)?,
            "and" | "or" | "xor" | "not" | "cnot" => {
                let ty = op.last_type()?;
                let run = match op.name {
                    "and" => by_width!(ty, M2, And),
                    "or" => by_width!(ty, M2, Or),
                    "xor" => by_width!(ty, M2, Xor),
                    "not" => by_width!(ty, M1, Not),
                    _ => by_width!(ty, M1, Cnot),
                };
                if args.len() != if matches!(op.name, "not" | "cnot") { 2 } else { 3 } {
                    return malformed(format!("expected 2 or 3 operands, got {}", args.len()));
                }
                self.fixed(run, ty, args, 0)?;
            }
            "shl" | "shr" => {
                let ([dst, a, b], ty) = (exactly(args)?, op.last_type()?);
                let run = if op.name == "shl" { by_int!(ty, M2, Shl) } else { by_int!(ty, M2, Shr) };
                let Some(run) = run else { return malformed("expected an integer type") };
                let (dst, a, b) = (self.dst(dst, ty)?, self.source(a, ty)?, self.word(b, Type::U32)?);
                self.emit_handler(run, Class::Integer, |i| (i.dst, i.a, i.b) = (dst, a, b));
            }
            "shf" => {
                let [dst, a, b, c] = exactly(args)?;
                let run = match (op.has("r"), op.has("wrap")) {
                    (false, false) => handler::<M3<Funnel<false, false>>>(),
                    (false, true) => handler::<M3<Funnel<false, true>>>(),
                    (true, false) => handler::<M3<Funnel<true, false>>>(),
                    (true, true) => handler::<M3<Funnel<true, true>>>(),
                };
                self.fixed(run, Type::U32, &[dst.clone(), a.clone(), b.clone(), c.clone()], 0)?;
            }
            "lop3" => self.lop3(op, args)?,
            "prmt" => self.permute(op, args)?,
            "popc" | "clz" | "bfind" | "brev" => self.count(op, args)?,
            "bfe" => {
                let ([dst, a, at, len], ty) = (exactly(args)?, op.last_type()?);
                let Some(run) = by_wide_int!(ty, M3, Bfe) else { return malformed("expected a 32 or 64-bit type") };
                let (dst, a) = (self.dst(dst, ty)?, self.source(a, ty)?);
                let (b, c) = (self.word(at, Type::U32)?, self.word(len, Type::U32)?);
                self.emit_handler(run, Class::Integer, |i| (i.dst, i.a, i.b, i.c) = (dst, a, b, c));
            }
            "bfi" => {
                let ([dst, a, b, at, len], ty) = (exactly(args)?, op.last_type()?);
                let run = if ty.is_double() { handler::<Bfi<u64>>() } else { handler::<Bfi<u32>>() };
                let (dst, a, b) = (self.dst(dst, ty)?, self.source(a, ty)?, self.source(b, ty)?);
                let (c, len) = (self.word(at, Type::U32)?, self.word(len, Type::U32)?);
                // The length is read through `extra`, which is not moved with the special rows.
                let len = self.plain(len);
                self.emit_handler(run, Class::Integer, |i| (i.dst, i.a, i.b, i.c, i.extra) = (dst, a, b, c, len.0));
            }
            "bmsk" | "szext" => {
                let [dst, a, b] = exactly(args)?;
                let run = match (op.name, op.has("wrap"), op.last_type()? == Type::S32) {
                    ("bmsk", false, _) => handler::<M2<Bmsk<false>>>(),
                    ("bmsk", true, _) => handler::<M2<Bmsk<true>>>(),
                    (_, false, false) => handler::<M2<Szext<false, false>>>(),
                    (_, true, false) => handler::<M2<Szext<false, true>>>(),
                    (_, false, true) => handler::<M2<Szext<true, false>>>(),
                    (_, true, true) => handler::<M2<Szext<true, true>>>(),
                };
                self.fixed(run, Type::U32, &[dst.clone(), a.clone(), b.clone()], 0)?;
            }
            "fns" => {
                let [dst, a, b, c] = exactly(args)?;
                self.fixed(handler::<M3<Fns>>(), Type::U32, &[dst.clone(), a.clone(), b.clone(), c.clone()], 0)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// A copy of a special register's row in a temporary; other slots as they are.
    fn plain(&mut self, slot: Slot) -> Slot {
        if !self.is_thread_row(slot) {
            return slot;
        }
        let dst = self.temp(false);
        self.emit::<M1<super::super::exec::int::Mov<u32>>>(Class::Move, |i| (i.dst, i.a) = (dst, slot));
        dst
    }

    fn predicate_logic(&mut self, op: &Opcode<'a>, args: &[Operand<'a>]) -> Result<()> {
        let extra = match op.name {
            "and" | "not" => PRED_AND,
            "or" => PRED_OR,
            _ => PRED_XOR,
        };
        let (dst, (a, flip_a)) = match args {
            [dst, a, ..] => (self.pred_dst(dst)?, self.pred(a)?),
            _ => return malformed("expected operands"),
        };
        let (b, flip_b) = match args {
            [_, _] if op.name == "not" => (TRUE, 0),
            [_, _, b] if op.name != "not" => self.pred(b)?,
            _ => return malformed(format!("expected 2 or 3 operands, got {}", args.len())),
        };
        let flip_a = if op.name == "not" { !flip_a } else { flip_a };
        let target = flip_a & 1 | (flip_b & 1) << 1;
        self.emit::<PredLogic>(Class::Compare, |i| {
            (i.dst, i.a, i.b, i.extra, i.target) = (Slot(dst), Slot(a), Slot(b), extra, target);
        });
        Ok(())
    }

    fn lop3(&mut self, op: &Opcode<'a>, args: &[Operand<'a>]) -> Result<()> {
        let table = |operand: &Operand<'a>| match operand {
            Operand::Int(value) if *value < 256 => Ok(*value as u32),
            _ => malformed("expected a table of 8 bits"),
        };
        if let Some(and) = op.choose(&["or", "and"]) {
            let [dst, a, b, c, lut, joined] = exactly(args)?;
            let Operand::Pair(word, pred) = dst else { return malformed("expected a register and a predicate") };
            let (dst, target) = (self.word_dst(word)?, self.pred_dst(pred)?);
            let (x, y, z) = (self.word(a, Type::U32)?, self.word(b, Type::U32)?, self.word(c, Type::U32)?);
            let ((other, flip), extra) = (self.pred(joined)?, table(lut)?);
            if flip != 0 {
                return malformed("expected a predicate that is not negated");
            }
            self.emit::<Lop3Pred>(Class::Integer, |i| {
                (i.dst, i.a, i.b, i.c, i.extra) = (dst, x, y, z, extra);
                (i.target, i.imm) = (target, i64::from(other) | (and as i64) << 32);
            });
            return Ok(());
        }
        let [dst, a, b, c, lut] = exactly(args)?;
        let extra = table(lut)?;
        let run = lop3_of(extra).unwrap_or_else(handler::<Lop3>);
        self.fixed(run, Type::U32, &[dst.clone(), a.clone(), b.clone(), c.clone()], extra)
    }

    fn permute(&mut self, op: &Opcode<'a>, args: &[Operand<'a>]) -> Result<()> {
        let [dst, a, b, c] = exactly(args)?;
        let run = match op.choose(&["f4e", "b4e", "rc8", "ecl", "ecr", "rc16"]) {
            None => handler::<Prmt>(),
            Some(0) => handler::<M3<PrmtMode<0>>>(),
            Some(1) => handler::<M3<PrmtMode<1>>>(),
            Some(2) => handler::<M3<PrmtMode<2>>>(),
            Some(3) => handler::<M3<PrmtMode<3>>>(),
            Some(4) => handler::<M3<PrmtMode<4>>>(),
            Some(_) => handler::<M3<PrmtMode<5>>>(),
        };
        self.fixed(run, Type::U32, &[dst.clone(), a.clone(), b.clone(), c.clone()], 0)
    }

    /// Forms whose result is a count or position in 32 bits; `brev` keeps its type.
    fn count(&mut self, op: &Opcode<'a>, args: &[Operand<'a>]) -> Result<()> {
        let ([dst, a], ty) = (exactly(args)?, op.last_type()?);
        let shift = op.has("shiftamt");
        let run = match (op.name, ty) {
            ("popc", Type::U32) => handler::<M1<Popc<u32>>>(),
            ("popc", Type::U64) => handler::<M1<Popc<u64>>>(),
            ("clz", Type::U32) => handler::<M1<Clz<u32>>>(),
            ("clz", Type::U64) => handler::<M1<Clz<u64>>>(),
            ("brev", Type::U32) => handler::<M1<Brev<u32>>>(),
            ("brev", Type::U64) => handler::<M1<Brev<u64>>>(),
            ("bfind", _) if shift => match by_wide_int!(ty, M1, BfindShift) {
                Some(run) => run,
                None => return malformed("expected a 32 or 64-bit type"),
            },
            ("bfind", _) => match by_wide_int!(ty, M1, Bfind) {
                Some(run) => run,
                None => return malformed("expected a 32 or 64-bit type"),
            },
            _ => return malformed("expected a 32 or 64-bit type"),
        };
        let a = self.source(a, ty)?;
        let dst = if op.name == "brev" { self.dst(dst, ty)? } else { self.word_dst(dst)? };
        self.emit_handler(run, Class::Integer, |i| (i.dst, i.a) = (dst, a));
        Ok(())
    }
}
