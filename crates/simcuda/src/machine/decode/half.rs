//! f16 and bf16 forms, single and packed.

use super::super::exec::half::*;
use super::super::exec::{Handler, handler};
use super::super::meter::Class;
use super::super::parse::ast::Operand;
use super::builder::Builder;
use super::opcode::{Opcode, Type};
use super::{Result, malformed, unsupported};

fn form(ty: Type, op: &Opcode<'_>) -> Option<Handler> {
    macro_rules! pick {
        ($op:ident) => {
            Some(match ty {
                Type::F16 => handler::<HalfOp<Fp16, $op, false>>(),
                Type::F16x2 => handler::<HalfOp<Fp16, $op, true>>(),
                Type::Bf16 => handler::<HalfOp<Bf16, $op, false>>(),
                _ => handler::<HalfOp<Bf16, $op, true>>(),
            })
        };
    }
    match op.name {
        "add" => pick!(ADD),
        "sub" => pick!(SUB),
        "mul" => pick!(MUL),
        "fma" => pick!(FMA),
        "min" if op.has("NaN") => pick!(MIN_NAN),
        "max" if op.has("NaN") => pick!(MAX_NAN),
        "min" => pick!(MIN),
        "max" => pick!(MAX),
        "abs" => pick!(ABS),
        "neg" => pick!(NEG),
        "ex2" => pick!(EX2),
        "tanh" => pick!(TANH),
        _ => None,
    }
}

impl<'a> Builder<'a, '_> {
    pub(super) fn half_operation(&mut self, op: &Opcode<'a>, args: &[Operand<'a>]) -> Result<bool> {
        let names = ["add", "sub", "mul", "fma", "min", "max", "abs", "neg", "ex2", "tanh"];
        let half = |ty| matches!(ty, Type::F16 | Type::F16x2 | Type::Bf16 | Type::Bf16x2);
        if !names.contains(&op.name) || !half(op.last_type()?) {
            return Ok(false);
        }
        if op.has("xorsign") || op.has("oob") || op.types.len() > 1 {
            return unsupported("this form");
        }
        let ty = op.last_type()?;
        let operands = match op.name {
            "fma" => 3,
            "abs" | "neg" | "ex2" | "tanh" => 1,
            _ => 2,
        };
        let Some(run) = form(ty, op) else { return Ok(false) };
        if args.len() != operands + 1 {
            return malformed(format!("expected {} operands, got {}", operands + 1, args.len()));
        }
        let dst = self.word_dst(&args[0])?;
        let mut slots = [Default::default(); 3];
        for (slot, arg) in slots.iter_mut().zip(&args[1..]) {
            *slot = self.word(arg, ty)?;
        }
        let flag = |name, bit| if op.has(name) { bit } else { 0 };
        let extra = flag("sat", SAT) | flag("relu", RELU) | flag("ftz", FTZ);
        self.emit_handler(run, Class::Half, |i| {
            (i.dst, i.a, i.b, i.c, i.extra) = (dst, slots[0], slots[1], slots[2], extra);
        });
        Ok(true)
    }
}
