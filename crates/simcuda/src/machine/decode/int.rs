//! Integer arithmetic forms.

use super::super::exec::int::*;
use super::super::exec::lanewise::{M1, M2, M3};
use super::super::exec::{Handler, handler};
use super::super::meter::Class;
use super::super::parse::ast::Operand;
use super::builder::Builder;
use super::opcode::{Opcode, Type};
use super::operand::exactly;
use super::{Result, malformed};

/// The handler of `$form<$function<type>>` for an integer type.
macro_rules! by_int {
    ($ty:expr, $form:ident, $function:ident) => {
        match $ty {
            Type::U16 => Some(handler::<$form<$function<u16>>>()),
            Type::S16 => Some(handler::<$form<$function<i16>>>()),
            Type::U32 => Some(handler::<$form<$function<u32>>>()),
            Type::S32 => Some(handler::<$form<$function<i32>>>()),
            Type::U64 => Some(handler::<$form<$function<u64>>>()),
            Type::S64 => Some(handler::<$form<$function<i64>>>()),
            _ => None,
        }
    };
}
pub(super) use by_int;

/// The same for 32 and 64 bits only.
macro_rules! by_wide_int {
    ($ty:expr, $form:ident, $function:ident) => {
        match $ty {
            Type::U32 => Some(handler::<$form<$function<u32>>>()),
            Type::S32 => Some(handler::<$form<$function<i32>>>()),
            Type::U64 => Some(handler::<$form<$function<u64>>>()),
            Type::S64 => Some(handler::<$form<$function<i64>>>()),
            _ => None,
        }
    };
}

fn halves(ty: Type, name: &str) -> Option<Handler> {
    Some(match (name, ty) {
        ("add", Type::U16x2 | Type::S16x2) => handler::<M2<Halves<Add<u16>>>>(),
        ("min", Type::U16x2) => handler::<M2<Halves<Min<u16>>>>(),
        ("min", Type::S16x2) => handler::<M2<Halves<Min<i16>>>>(),
        ("max", Type::U16x2) => handler::<M2<Halves<Max<u16>>>>(),
        ("max", Type::S16x2) => handler::<M2<Halves<Max<i16>>>>(),
        _ => return None,
    })
}

/// Two-operand forms of one type.
fn binary(op: &Opcode<'_>, ty: Type) -> Option<Handler> {
    let (sat, relu) = (op.has("sat"), op.has("relu"));
    match op.name {
        "add" if sat => (ty == Type::S32).then(handler::<M2<AddSat<i32>>>),
        "sub" if sat => (ty == Type::S32).then(handler::<M2<SubSat<i32>>>),
        "min" if relu && ty == Type::S16x2 => Some(handler::<M2<Halves<MinRelu<i16>>>>()),
        "max" if relu && ty == Type::S16x2 => Some(handler::<M2<Halves<MaxRelu<i16>>>>()),
        "min" if relu => (ty == Type::S32).then(handler::<M2<MinRelu<i32>>>),
        "max" if relu => (ty == Type::S32).then(handler::<M2<MaxRelu<i32>>>),
        "add" | "min" | "max" if matches!(ty, Type::U16x2 | Type::S16x2) => halves(ty, op.name),
        "add" => by_int!(ty, M2, Add),
        "sub" => by_int!(ty, M2, Sub),
        "mul" if op.has("hi") => by_int!(ty, M2, MulHigh),
        "mul" if op.has("lo") => by_int!(ty, M2, Mul),
        "div" => by_int!(ty, M2, Div),
        "rem" => by_int!(ty, M2, Rem),
        "min" => by_int!(ty, M2, Min),
        "max" => by_int!(ty, M2, Max),
        "mul24" => match (ty, op.has("hi")) {
            (Type::U32, false) => Some(handler::<M2<Mul24<u32>>>()),
            (Type::S32, false) => Some(handler::<M2<Mul24<i32>>>()),
            (Type::U32, true) => Some(handler::<M2<Mul24High<u32>>>()),
            (Type::S32, true) => Some(handler::<M2<Mul24High<i32>>>()),
            _ => None,
        },
        _ => None,
    }
}

/// Three-operand forms of one type.
fn ternary(op: &Opcode<'_>, ty: Type) -> Option<Handler> {
    match op.name {
        "mad" if op.has("sat") => (ty == Type::S32 && op.has("hi")).then(handler::<M3<MadHighSat<i32>>>),
        "mad" if op.has("hi") => by_int!(ty, M3, MadHigh),
        "mad" if op.has("lo") => by_int!(ty, M3, Mad),
        "sad" => by_int!(ty, M3, Sad),
        "mad24" => match (ty, op.has("hi")) {
            (Type::U32, false) => Some(handler::<M3<Mad24<u32>>>()),
            (Type::S32, false) => Some(handler::<M3<Mad24<i32>>>()),
            (Type::U32, true) => Some(handler::<M3<Mad24High<u32>>>()),
            (Type::S32, true) => Some(handler::<M3<Mad24High<i32>>>()),
            _ => None,
        },
        _ => None,
    }
}

fn unary(name: &str, ty: Type) -> Option<Handler> {
    match name {
        "abs" => by_int!(ty, M1, Abs),
        "neg" => by_int!(ty, M1, Neg),
        _ => None,
    }
}

/// Extended precision: `add.cc`, `addc`, `sub.cc`, `subc`, `mad.cc`, `madc`.
fn carrying(op: &Opcode<'_>, ty: Type) -> Option<Handler> {
    macro_rules! kind {
        ($kind:ident) => {
            match ty {
                Type::U32 => Some(handler::<Carry<u32, $kind>>()),
                Type::S32 => Some(handler::<Carry<i32, $kind>>()),
                Type::U64 => Some(handler::<Carry<u64, $kind>>()),
                Type::S64 => Some(handler::<Carry<i64, $kind>>()),
                _ => None,
            }
        };
    }
    match op.name {
        "add" | "addc" => kind!(ADD),
        "sub" | "subc" => kind!(SUB),
        _ if op.has("hi") => kind!(MAD_HIGH),
        _ if op.has("lo") => kind!(MAD_LOW),
        _ => None,
    }
}

fn is_integer(ty: Type) -> bool {
    use Type::*;
    matches!(ty, U16 | S16 | U32 | S32 | U64 | S64 | U16x2 | S16x2)
}

impl<'a> Builder<'a, '_> {
    pub(super) fn integer(&mut self, op: &Opcode<'a>, args: &[Operand<'a>]) -> Result<bool> {
        let names = [
            "add", "sub", "mul", "mad", "div", "rem", "min", "max", "abs", "neg", "sad", "mul24", "mad24", "addc",
            "subc", "madc", "dp4a", "dp2a",
        ];
        if !names.contains(&op.name) || !is_integer(op.last_type()?) {
            return Ok(false);
        }
        let ty = op.last_type()?;
        if matches!(op.name, "dp4a" | "dp2a") {
            return self.dot(op, args).map(|()| true);
        }
        if op.has("wide") {
            return self.widening(op, ty, args).map(|()| true);
        }
        if op.has("cc") || matches!(op.name, "addc" | "subc" | "madc") {
            let Some(run) = carrying(op, ty) else { return malformed("expected a 32 or 64-bit type") };
            let extra = u32::from(op.name.ends_with('c')) | u32::from(op.has("cc")) << 1;
            self.fixed(run, ty, args, extra)?;
            return Ok(true);
        }
        let run = match args.len() {
            2 => unary(op.name, ty),
            3 => binary(op, ty),
            4 => ternary(op, ty),
            n => return malformed(format!("expected 2 to 4 operands, got {n}")),
        };
        let Some(run) = run else { return malformed("expected another type or number of operands") };
        self.fixed(run, ty, args, 0)?;
        Ok(true)
    }

    /// Emits a form whose operands all have one type.
    pub(super) fn fixed(&mut self, run: Handler, ty: Type, args: &[Operand<'a>], extra: u32) -> Result<()> {
        let dst = self.dst(&args[0], ty)?;
        let mut slots = [Default::default(); 3];
        for (slot, arg) in slots.iter_mut().zip(&args[1..]) {
            *slot = self.source(arg, ty)?;
        }
        self.emit_handler(run, Class::Integer, |i| {
            (i.dst, i.a, i.b, i.c, i.extra) = (dst, slots[0], slots[1], slots[2], extra)
        });
        Ok(())
    }

    fn widening(&mut self, op: &Opcode<'a>, ty: Type, args: &[Operand<'a>]) -> Result<()> {
        let run = match (op.name, ty) {
            ("mul", Type::U16) => handler::<M2<MulWide<u16>>>(),
            ("mul", Type::S16) => handler::<M2<MulWide<i16>>>(),
            ("mul", Type::U32) => handler::<M2<MulWide<u32>>>(),
            ("mul", Type::S32) => handler::<M2<MulWide<i32>>>(),
            ("mad", Type::U16) => handler::<M3<MadWide<u16>>>(),
            ("mad", Type::S16) => handler::<M3<MadWide<i16>>>(),
            ("mad", Type::U32) => handler::<M3<MadWide<u32>>>(),
            ("mad", Type::S32) => handler::<M3<MadWide<i32>>>(),
            _ => return malformed("expected a 16 or 32-bit type"),
        };
        let wide = if ty.bytes() == 4 { Type::U64 } else { Type::U32 };
        if args.len() != if op.name == "mul" { 3 } else { 4 } {
            return malformed(format!("expected 3 or 4 operands, got {}", args.len()));
        }
        let dst = self.dst(&args[0], wide)?;
        let (a, b) = (self.source(&args[1], ty)?, self.source(&args[2], ty)?);
        let c = if args.len() == 4 { self.source(&args[3], wide)? } else { Default::default() };
        self.emit_handler(run, Class::Integer, |i| (i.dst, i.a, i.b, i.c) = (dst, a, b, c));
        Ok(())
    }

    fn dot(&mut self, op: &Opcode<'a>, args: &[Operand<'a>]) -> Result<()> {
        let [dst, a, b, c] = exactly(args)?;
        let [Type::U32 | Type::S32, Type::U32 | Type::S32] = op.types[..] else {
            return malformed("expected two 32-bit types");
        };
        let signs = (op.types[0] == Type::S32, op.types[1] == Type::S32, op.has("hi"));
        let run = match (op.name, signs) {
            ("dp4a", (false, false, _)) => handler::<Dp4a<false, false>>(),
            ("dp4a", (false, true, _)) => handler::<Dp4a<false, true>>(),
            ("dp4a", (true, false, _)) => handler::<Dp4a<true, false>>(),
            ("dp4a", (true, true, _)) => handler::<Dp4a<true, true>>(),
            (_, (false, false, false)) => handler::<M3<Dp2a<false, false, false>>>(),
            (_, (false, true, false)) => handler::<M3<Dp2a<false, true, false>>>(),
            (_, (true, false, false)) => handler::<M3<Dp2a<true, false, false>>>(),
            (_, (true, true, false)) => handler::<M3<Dp2a<true, true, false>>>(),
            (_, (false, false, true)) => handler::<M3<Dp2a<false, false, true>>>(),
            (_, (false, true, true)) => handler::<M3<Dp2a<false, true, true>>>(),
            (_, (true, false, true)) => handler::<M3<Dp2a<true, false, true>>>(),
            (_, (true, true, true)) => handler::<M3<Dp2a<true, true, true>>>(),
        };
        let args = [dst.clone(), a.clone(), b.clone(), c.clone()];
        self.fixed(run, Type::U32, &args, 0)
    }
}

pub(super) use by_wide_int;
