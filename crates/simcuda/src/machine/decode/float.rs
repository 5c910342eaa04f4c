//! f32 and f64 forms.

use super::super::exec::float::*;
use super::super::exec::lanewise::{M1, M2, M3};
use super::super::exec::{Handler, handler};
use super::super::meter::Class;
use super::super::parse::ast::Operand;
use super::builder::Builder;
use super::opcode::{Opcode, Type};
use super::{Result, malformed, unsupported};

/// The handler of an f32 function with the flags of an opcode.
macro_rules! with_flags {
    ($op:expr, $form:ident, $function:ident) => {
        Some(match ($op.has("ftz"), $op.has("sat")) {
            (false, false) => handler::<$form<$function<false, false>>>(),
            (true, false) => handler::<$form<$function<true, false>>>(),
            (false, true) => handler::<$form<$function<false, true>>>(),
            (true, true) => handler::<$form<$function<true, true>>>(),
        })
    };
}

/// The same for functions that do not saturate.
macro_rules! with_ftz {
    ($op:expr, $form:ident, $function:ident) => {
        Some(if $op.has("ftz") {
            handler::<$form<$function<true, false>>>()
        } else {
            handler::<$form<$function<false, false>>>()
        })
    };
}

fn f32_form(op: &Opcode<'_>, operands: usize) -> Option<Handler> {
    match (op.name, operands) {
        ("add", 2) => with_flags!(op, M2, FAdd),
        ("sub", 2) => with_flags!(op, M2, FSub),
        ("mul", 2) => with_flags!(op, M2, FMul),
        ("fma" | "mad", 3) => with_flags!(op, M3, FFma),
        ("div", 2) => with_ftz!(op, M2, FDiv),
        ("min", 2) if op.has("xorsign") => with_ftz!(op, M2, FMinXorsign),
        ("max", 2) if op.has("xorsign") => with_ftz!(op, M2, FMaxXorsign),
        ("min", 2) if op.has("NaN") => with_ftz!(op, M2, FMinNan),
        ("max", 2) if op.has("NaN") => with_ftz!(op, M2, FMaxNan),
        ("min", 2) => with_ftz!(op, M2, FMin),
        ("max", 2) => with_ftz!(op, M2, FMax),
        ("min", 3) if !op.has("NaN") => with_ftz!(op, M3, FMin3),
        ("max", 3) if !op.has("NaN") => with_ftz!(op, M3, FMax3),
        ("abs", 1) if op.has("ftz") => Some(handler::<M1<FAbsFtz>>()),
        ("abs", 1) => Some(handler::<M1<FAbs>>()),
        ("neg", 1) if op.has("ftz") => Some(handler::<M1<FNegFtz>>()),
        ("neg", 1) => Some(handler::<M1<FNeg>>()),
        ("copysign", 2) => Some(handler::<M2<FCopysign>>()),
        ("rcp", 1) => with_ftz!(op, M1, FRcp),
        ("sqrt", 1) => with_ftz!(op, M1, FSqrt),
        ("rsqrt", 1) => with_ftz!(op, M1, FRsqrt),
        ("sin", 1) => with_ftz!(op, M1, FSin),
        ("cos", 1) => with_ftz!(op, M1, FCos),
        ("lg2", 1) => with_ftz!(op, M1, FLg2),
        ("ex2", 1) => with_ftz!(op, M1, FEx2),
        ("tanh", 1) => with_ftz!(op, M1, FTanh),
        _ => None,
    }
}

fn f64_form(op: &Opcode<'_>, operands: usize) -> Option<Handler> {
    let approximate = op.has("approx");
    Some(match (op.name, operands) {
        ("add", 2) => handler::<M2<DAdd>>(),
        ("sub", 2) => handler::<M2<DSub>>(),
        ("mul", 2) => handler::<M2<DMul>>(),
        ("fma" | "mad", 3) => handler::<M3<DFma>>(),
        ("div", 2) => handler::<M2<DDiv>>(),
        ("min", 2) => handler::<M2<DMin>>(),
        ("max", 2) => handler::<M2<DMax>>(),
        ("abs", 1) => handler::<M1<DAbs>>(),
        ("neg", 1) => handler::<M1<DNeg>>(),
        ("copysign", 2) => handler::<M2<DCopysign>>(),
        ("rcp", 1) if approximate => handler::<M1<DRcpApprox>>(),
        ("rcp", 1) => handler::<M1<DRcp>>(),
        ("sqrt", 1) => handler::<M1<DSqrt>>(),
        ("rsqrt", 1) => handler::<M1<DRsqrtApprox>>(),
        _ => return None,
    })
}

/// Forms with a rounding mode other than to nearest.
fn directed(op: &Opcode<'_>, double: bool) -> Option<Handler> {
    macro_rules! pick {
        ($op:ident) => {
            Some(if double { handler::<DirectedF64<$op>>() } else { handler::<Directed<$op>>() })
        };
    }
    match op.name {
        "add" => pick!(OP_ADD),
        "sub" => pick!(OP_SUB),
        "mul" => pick!(OP_MUL),
        "fma" | "mad" if !double => pick!(OP_FMA),
        "div" => pick!(OP_DIV),
        "rcp" => pick!(OP_RCP),
        "sqrt" => pick!(OP_SQRT),
        _ => None,
    }
}

impl<'a> Builder<'a, '_> {
    pub(super) fn floating(&mut self, op: &Opcode<'a>, args: &[Operand<'a>]) -> Result<bool> {
        let names = [
            "add", "sub", "mul", "fma", "mad", "div", "min", "max", "abs", "neg", "copysign", "rcp", "sqrt", "rsqrt",
            "sin", "cos", "lg2", "ex2", "tanh",
        ];
        if !names.contains(&op.name) || !matches!(op.last_type()?, Type::F32 | Type::F64) {
            return Ok(false);
        }
        let (ty, operands) = (op.last_type()?, args.len().saturating_sub(1));
        if op.types.len() > 1 {
            return unsupported("mixed operand types");
        }
        let double = ty == Type::F64;
        let run = if op.rounding() != 0 {
            directed(op, double)
        } else if double {
            f64_form(op, operands)
        } else {
            f32_form(op, operands)
        };
        let Some(run) = run else {
            let directed_only = op.rounding() != 0;
            let unary_or_more = (1..=3).contains(&operands);
            return if directed_only || unary_or_more {
                unsupported("this form")
            } else {
                malformed("expected 2 to 4 operands")
            };
        };
        let dst = self.dst(&args[0], ty)?;
        let mut slots = [Default::default(); 3];
        for (slot, arg) in slots.iter_mut().zip(&args[1..]) {
            *slot = self.source(arg, ty)?;
        }
        let extra = u32::from(op.has("ftz")) | u32::from(op.has("sat")) << 1;
        let (class, mode) = (if double { Class::Float64 } else { Class::Float32 }, op.rounding());
        self.emit_handler(run, class, |i| {
            (i.dst, i.a, i.b, i.c, i.extra, i.target) = (dst, slots[0], slots[1], slots[2], extra, mode);
        });
        Ok(true)
    }
}
