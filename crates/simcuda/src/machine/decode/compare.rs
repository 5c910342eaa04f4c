//! Comparison and selection forms.

use super::super::exec::compare::*;
use super::super::exec::{Handler, Slot, handler};
use super::super::meter::Class;
use super::super::parse::ast::Operand;
use super::builder::Builder;
use super::opcode::{Opcode, Type};
use super::operand::exactly;
use super::{Result, malformed};

/// Names of the operators in the order of their numbers; the unsigned names of integers follow.
const OPERATORS: [&str; 18] = [
    "eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan", "lo", "ls", "hi", "hs",
];

fn operator(op: &Opcode<'_>) -> Result<u8> {
    match op.choose(&OPERATORS) {
        Some(index @ 14..) => Ok([LT, LE, GT, GE][index - 14]),
        Some(index) => Ok(index as u8),
        None => malformed("expected a comparison operator"),
    }
}

/// The handler of a comparison form for a type and operator.
macro_rules! comparison {
    ($form:ident, $ty:expr, $operator:expr) => {
        match $ty {
            Type::U16 => int_comparison!($form, u16, $operator),
            Type::S16 => int_comparison!($form, i16, $operator),
            Type::U32 => int_comparison!($form, u32, $operator),
            Type::S32 => int_comparison!($form, i32, $operator),
            Type::U64 => int_comparison!($form, u64, $operator),
            Type::S64 => int_comparison!($form, i64, $operator),
            Type::F32 => float_comparison!($form, f32, $operator),
            Type::F64 => float_comparison!($form, f64, $operator),
            Type::F16 => float_comparison!($form, F16Lane, $operator),
            Type::Bf16 => float_comparison!($form, Bf16Lane, $operator),
            _ => None,
        }
    };
}

macro_rules! int_comparison {
    ($form:ident, $t:ty, $operator:expr) => {
        Some(match $operator {
            EQ => handler::<$form<$t, EQ>>(),
            NE => handler::<$form<$t, NE>>(),
            LT => handler::<$form<$t, LT>>(),
            LE => handler::<$form<$t, LE>>(),
            GT => handler::<$form<$t, GT>>(),
            GE => handler::<$form<$t, GE>>(),
            _ => return malformed("expected an operator for integers"),
        })
    };
}

macro_rules! float_comparison {
    ($form:ident, $t:ty, $operator:expr) => {
        Some(match $operator {
            EQU => handler::<$form<$t, EQU>>(),
            NEU => handler::<$form<$t, NEU>>(),
            LTU => handler::<$form<$t, LTU>>(),
            LEU => handler::<$form<$t, LEU>>(),
            GTU => handler::<$form<$t, GTU>>(),
            GEU => handler::<$form<$t, GEU>>(),
            NUM => handler::<$form<$t, NUM>>(),
            NAN => handler::<$form<$t, NAN>>(),
            EQ => handler::<$form<$t, EQ>>(),
            NE => handler::<$form<$t, NE>>(),
            LT => handler::<$form<$t, LT>>(),
            LE => handler::<$form<$t, LE>>(),
            GT => handler::<$form<$t, GT>>(),
            _ => handler::<$form<$t, GE>>(),
        })
    };
}

fn is_packed(ty: Type) -> bool {
    matches!(ty, Type::F16x2 | Type::Bf16x2)
}

impl<'a> Builder<'a, '_> {
    pub(super) fn comparison(&mut self, op: &Opcode<'a>, args: &[Operand<'a>]) -> Result<bool> {
        match op.name {
            "setp" => self.set_predicate(op, args)?,
            "set" => self.set_register(op, args)?,
            "selp" => self.select(op, args)?,
            "slct" => self.select_by_sign(op, args)?,
            "testp" => {
                let [dst, a] = exactly(args)?;
                let names = ["finite", "infinite", "number", "notanumber", "normal", "subnormal"];
                let Some(test) = op.choose(&names) else { return malformed("expected a class of number") };
                let ty = op.last_type()?;
                let run = if ty == Type::F64 { handler::<Testp<true>>() } else { handler::<Testp<false>>() };
                let (dst, a) = (self.pred_dst(dst)?, self.source(a, ty)?);
                self.emit_handler(run, Class::Compare, |i| (i.dst, i.a, i.extra) = (Slot(dst), a, test as u32));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The predicate that a comparison is joined with, as `imm`.
    fn joined(&self, op: &Opcode<'a>, operand: Option<&Operand<'a>>) -> Result<i64> {
        // `.or` and its kin stand behind the comparison operator.
        match (op.choose(&["and", "or", "xor"]), operand) {
            (Some(how), Some(operand)) => {
                let (pred, flip) = self.pred(operand)?;
                Ok(i64::from(pred) | (how as i64 + 1) << 32 | i64::from(flip & 1) << 34)
            }
            (None, None) => Ok(0),
            _ => malformed("expected a predicate with an operator to join it"),
        }
    }

    fn set_predicate(&mut self, op: &Opcode<'a>, args: &[Operand<'a>]) -> Result<()> {
        let ([dst, a, b], rest) = match args {
            [dst, a, b, rest @ ..] if rest.len() <= 1 => ([dst, a, b], rest.first()),
            _ => return malformed(format!("expected 3 or 4 operands, got {}", args.len())),
        };
        let (ty, imm, operator) = (op.last_type()?, self.joined(op, rest)?, operator(op)?);
        let (p, q) = match dst {
            Operand::Pair(p, q) => (self.pred_dst(p)?, self.pred_dst(q)?),
            p => (self.pred_dst(p)?, 0),
        };
        let (x, y) = (self.source(a, ty)?, self.source(b, ty)?);
        if is_packed(ty) {
            if q == 0 {
                return malformed("expected two predicates for packed operands");
            }
            let target = u32::from(operator) | u32::from(ty == Type::Bf16x2) << 8;
            self.emit::<SetPacked<true>>(Class::Compare, |i| {
                (i.dst, i.c, i.a, i.b, i.target, i.imm) = (Slot(p), Slot(q), x, y, target, imm);
            });
            return Ok(());
        }
        let Some(run) = comparison!(Setp, ty, operator) else { return malformed("expected another type") };
        let extra = u32::from(op.has("ftz"));
        self.emit_handler(run, Class::Compare, |i| {
            (i.dst, i.a, i.b, i.target, i.imm, i.extra) = (Slot(p), x, y, q, imm, extra);
        });
        Ok(())
    }

    /// `set.op.dtype.stype`
    fn set_register(&mut self, op: &Opcode<'a>, args: &[Operand<'a>]) -> Result<()> {
        let ([dst, a, b], rest) = match args {
            [dst, a, b, rest @ ..] if rest.len() <= 1 => ([dst, a, b], rest.first()),
            _ => return malformed(format!("expected 3 or 4 operands, got {}", args.len())),
        };
        let (to, ty) = (op.first_type()?, op.last_type()?);
        let (imm, operator) = (self.joined(op, rest)?, operator(op)?);
        let (dst, x, y) = (self.word_dst(dst)?, self.source(a, ty)?, self.source(b, ty)?);
        if is_packed(ty) {
            let one = is_packed(to);
            let target = u32::from(operator) | u32::from(ty == Type::Bf16x2) << 8 | u32::from(one) << 9;
            self.emit::<SetPacked<false>>(Class::Compare, |i| {
                (i.dst, i.a, i.b, i.target, i.imm) = (dst, x, y, target, imm)
            });
            return Ok(());
        }
        let target = match to {
            Type::F32 => 1f32.to_bits(),
            Type::F16 => 0x3c00,
            Type::Bf16 => 0x3f80,
            Type::U16 | Type::S16 => 0xffff,
            Type::U32 | Type::S32 => u32::MAX,
            _ => return malformed("expected another result type"),
        };
        let Some(run) = comparison!(Set, ty, operator) else { return malformed("expected another type") };
        let extra = u32::from(op.has("ftz"));
        self.emit_handler(run, Class::Compare, |i| {
            (i.dst, i.a, i.b, i.target, i.imm, i.extra) = (dst, x, y, target, imm, extra);
        });
        Ok(())
    }

    fn select(&mut self, op: &Opcode<'a>, args: &[Operand<'a>]) -> Result<()> {
        let ([dst, a, b, p], ty) = (exactly(args)?, op.last_type()?);
        let (dst, a, b, (pred, flip)) = (self.dst(dst, ty)?, self.source(a, ty)?, self.source(b, ty)?, self.pred(p)?);
        let run: Handler = if ty.is_double() { handler::<Selp<u64>>() } else { handler::<Selp<u32>>() };
        self.emit_handler(run, Class::Move, |i| (i.dst, i.a, i.b, i.c, i.extra) = (dst, a, b, Slot(pred), flip));
        Ok(())
    }

    fn select_by_sign(&mut self, op: &Opcode<'a>, args: &[Operand<'a>]) -> Result<()> {
        let ([dst, a, b, c], ty, by) = (exactly(args)?, op.first_type()?, op.last_type()?);
        let run = match (ty.is_double(), by) {
            (false, Type::S32) => handler::<Slct<u32, i32>>(),
            (true, Type::S32) => handler::<Slct<u64, i32>>(),
            (false, Type::F32) => handler::<Slct<u32, f32>>(),
            (true, Type::F32) => handler::<Slct<u64, f32>>(),
            _ => return malformed("expected s32 or f32 as the type of the selector"),
        };
        let (dst, a, b, c) = (self.dst(dst, ty)?, self.source(a, ty)?, self.source(b, ty)?, self.word(c, by)?);
        let extra = u32::from(op.has("ftz"));
        self.emit_handler(run, Class::Move, |i| (i.dst, i.a, i.b, i.c, i.extra) = (dst, a, b, c, extra));
        Ok(())
    }
}
