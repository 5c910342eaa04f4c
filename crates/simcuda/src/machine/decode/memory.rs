//! Loads, stores, atomics and asynchronous copies.

use super::super::exec::atomic::{Atom, Atomic};
use super::super::exec::block::WINDOW_SHIFT;
use super::super::exec::control::Nop;
use super::super::exec::memory::*;
use super::super::exec::{Handler, Slot, handler};
use super::super::meter::Class;
use super::super::parse::ast::{Operand, RegKind, Space};
use super::builder::Builder;
use super::opcode::{Opcode, Type};
use super::operand::{elements, window};
use super::{Result, malformed, unsupported};

/// The handler of a memory form by element, count and address kind.
macro_rules! by_space {
    ($form:ident, $t:ty, $v:literal, $size:literal, $space:expr) => {
        Some(match $space {
            GLOBAL => handler::<$form<$t, $v, $size, GLOBAL>>(),
            SHARED => handler::<$form<$t, $v, $size, SHARED>>(),
            _ => handler::<$form<$t, $v, $size, GENERIC>>(),
        })
    };
}

fn store_form(bytes: u32, count: usize, space: u8) -> Option<Handler> {
    match (bytes, count) {
        (1, 1) => by_space!(Store, u8, 1, 1, space),
        (1, 2) => by_space!(Store, u8, 2, 2, space),
        (1, 4) => by_space!(Store, u8, 4, 4, space),
        (2, 1) => by_space!(Store, u16, 1, 2, space),
        (2, 2) => by_space!(Store, u16, 2, 4, space),
        (2, 4) => by_space!(Store, u16, 4, 8, space),
        (4, 1) => by_space!(Store, u32, 1, 4, space),
        (4, 2) => by_space!(Store, u32, 2, 8, space),
        (4, 4) => by_space!(Store, u32, 4, 16, space),
        (8, 1) => by_space!(Store, u64, 1, 8, space),
        (8, 2) => by_space!(Store, u64, 2, 16, space),
        _ => None,
    }
}

fn load_form(bytes: u32, signed: bool, count: usize, space: u8) -> Option<Handler> {
    match (bytes, count) {
        (1, 1) if signed => by_space!(Load, i8, 1, 1, space),
        (1, 2) if signed => by_space!(Load, i8, 2, 2, space),
        (1, 4) if signed => by_space!(Load, i8, 4, 4, space),
        (2, 1) if signed => by_space!(Load, i16, 1, 2, space),
        (2, 2) if signed => by_space!(Load, i16, 2, 4, space),
        (2, 4) if signed => by_space!(Load, i16, 4, 8, space),
        (1, 1) => by_space!(Load, u8, 1, 1, space),
        (1, 2) => by_space!(Load, u8, 2, 2, space),
        (1, 4) => by_space!(Load, u8, 4, 4, space),
        (2, 1) => by_space!(Load, u16, 1, 2, space),
        (2, 2) => by_space!(Load, u16, 2, 4, space),
        (2, 4) => by_space!(Load, u16, 4, 8, space),
        (4, 1) => by_space!(Load, u32, 1, 4, space),
        (4, 2) => by_space!(Load, u32, 2, 8, space),
        (4, 4) => by_space!(Load, u32, 4, 16, space),
        (8, 1) => by_space!(Load, u64, 1, 8, space),
        (8, 2) => by_space!(Load, u64, 2, 16, space),
        _ => None,
    }
}

/// Where an access goes: kind of address, base, displacement, and the window in `target`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub kind: u8,
    pub base: Slot,
    pub offset: i64,
    pub target: u32,
    pub class: Class,
}

impl<'a> Builder<'a, '_> {
    pub(super) fn memory_access(&mut self, op: &Opcode<'a>, args: &[Operand<'a>]) -> Result<bool> {
        match op.name {
            "ld" | "ldu" => self.load(op, args)?,
            "st" => self.store(op, args)?,
            "atom" => self.atomic(op, args, true)?,
            "red" => self.atomic(op, args, false)?,
            "prefetch" | "prefetchu" | "applypriority" | "discard" => {
                self.emit::<Nop>(Class::Other, |_| {});
            }
            "createpolicy" => {
                let Some(dst) = args.first() else { return malformed("expected a destination") };
                let (dst, a) = (self.double_dst(dst)?, self.constant_double(0));
                self.emit::<super::super::exec::lanewise::M1<super::super::exec::int::Mov<u64>>>(Class::Other, |i| {
                    (i.dst, i.a) = (dst, a)
                });
            }
            "cp" => self.asynchronous(op, args)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The place of an access in the space that the opcode names.
    pub(super) fn place(&mut self, op: &Opcode<'a>, operand: &Operand<'a>) -> Result<Place> {
        let address = self.address(operand)?;
        let names = [
            "shared",
            "shared::cta",
            "shared::cluster",
            "global",
            "const",
            "local",
            "param",
            "param::entry",
            "param::func",
        ];
        let kinds = [
            Space::Shared,
            Space::Shared,
            Space::Shared,
            Space::Global,
            Space::Const,
            Space::Local,
            Space::Param,
            Space::Param,
            Space::Param,
        ];
        let mut space = op.choose(&names).map(|n| kinds[n]);
        // `.param` variables of calls are local; an address of a variable without a space is that of its space.
        if space == Some(Space::Param) || space.is_none() {
            space = address.space.or(space);
        }
        let synchronising = op.choose(&["volatile", "relaxed", "acquire", "release", "mmio"]).is_some();
        let flags = if synchronising { SYNCHRONISING } else { 0 };
        let generic = |class, window: u64| {
            let target = flags | ((window >> WINDOW_SHIFT) as u32) << TARGET_WINDOW_SHIFT;
            Place { kind: GENERIC, base: address.base, offset: address.offset, target, class }
        };
        if !address.double {
            if space != Some(Space::Shared) {
                return malformed("expected a 64-bit address");
            }
            return Ok(Place {
                kind: SHARED,
                base: address.base,
                offset: address.offset,
                target: flags,
                class: Class::Shared,
            });
        }
        Ok(match (space, address.constant) {
            (Some(Space::Shared), Some(value)) => {
                let base = self.constant_word(value as u32);
                Place { kind: SHARED, base, offset: 0, target: flags, class: Class::Shared }
            }
            (Some(Space::Shared), None) => generic(Class::Shared, window(Space::Shared)),
            (Some(space @ (Space::Local | Space::Param)), _) => generic(Class::Local, window(space)),
            (Some(Space::Global | Space::Const), _) => {
                Place { kind: GLOBAL, base: address.base, offset: address.offset, target: flags, class: Class::Global }
            }
            (None, _) => generic(Class::Global, 0),
        })
    }

    fn load(&mut self, op: &Opcode<'a>, args: &[Operand<'a>]) -> Result<()> {
        let (dst, source) = match args {
            [dst, source] | [dst, source, _] => (dst, source),
            _ => return malformed(format!("expected 2 operands, got {}", args.len())),
        };
        let (ty, parts) = (op.last_type()?, elements(dst));
        if parts.len() != vector_length(op) {
            return malformed(format!("expected {} destinations, got {}", vector_length(op), parts.len()));
        }
        let place = self.place(op, source)?;
        let signed = matches!(ty, Type::S8 | Type::S16);
        let Some(run) = load_form(ty.bytes(), signed, parts.len(), place.kind) else {
            return unsupported("a vector of this length");
        };
        // A destination wider than the element takes a temporary and an extension.
        let mut widened = Vec::new();
        let mut slots = Vec::new();
        for part in parts {
            let wide = matches!(part, Operand::Reg(reg) if self.kind(*reg) == RegKind::Double);
            if wide && !ty.is_double() {
                let (narrow, dst) = (self.temp(false), self.double_dst(part)?);
                widened.push((dst, narrow));
                slots.push(narrow);
            } else {
                slots.push(self.dst(part, ty)?);
            }
        }
        let extra = self.list(slots.iter().map(|s| s.0));
        self.emit_handler(run, place.class, |i| {
            (i.dst, i.a, i.imm, i.extra, i.target) = (slots[0], place.base, place.offset, extra, place.target);
        });
        let signed = signed || ty == Type::S32;
        widened.into_iter().for_each(|(dst, narrow)| self.extend(dst, narrow, signed));
        Ok(())
    }

    fn store(&mut self, op: &Opcode<'a>, args: &[Operand<'a>]) -> Result<()> {
        let (target, source) = match args {
            [target, source] | [target, source, _] => (target, source),
            _ => return malformed(format!("expected 2 operands, got {}", args.len())),
        };
        if op.has("async") {
            return unsupported("asynchronous stores");
        }
        let (ty, parts) = (op.last_type()?, elements(source));
        if parts.len() != vector_length(op) {
            return malformed(format!("expected {} sources, got {}", vector_length(op), parts.len()));
        }
        let place = self.place(op, target)?;
        let Some(run) = store_form(ty.bytes(), parts.len(), place.kind) else {
            return unsupported("a vector of this length");
        };
        let slots = parts.iter().map(|p| self.narrow_source(p, ty)).collect::<Result<Vec<Slot>>>()?;
        let extra = self.list(slots.iter().map(|s| s.0));
        // The first source is in the list only: special rows are moved there, not in `dst`.
        let first = if slots.len() == 1 { self.settled(slots[0]) } else { slots[0] };
        self.emit_handler(run, place.class, |i| {
            (i.dst, i.a, i.imm, i.extra, i.target) = (first, place.base, place.offset, extra, place.target);
        });
        Ok(())
    }

    /// A slot that may stand in `dst`: a special register is copied to a temporary.
    fn settled(&mut self, slot: Slot) -> Slot {
        if !self.is_thread_row(slot) {
            return slot;
        }
        let dst = self.temp(false);
        self.emit::<super::super::exec::lanewise::M1<super::super::exec::int::Mov<u32>>>(Class::Move, |i| {
            (i.dst, i.a) = (dst, slot)
        });
        dst
    }

    fn atomic(&mut self, op: &Opcode<'a>, args: &[Operand<'a>], returns: bool) -> Result<()> {
        let (dst, args) = if returns { (args.first(), args.get(1..).unwrap_or(&[])) } else { (None, args) };
        let ty = op.last_type()?;
        let Some(atomic) = atomic_of(op, ty) else { return unsupported("this atomic") };
        if op.has("async") {
            return unsupported("asynchronous reductions");
        }
        let (target, a, b) = match args {
            [target, a, b, ..] if atomic == Atomic::CompareAndSwap => (target, a, b),
            [target, a, ..] if atomic != Atomic::CompareAndSwap => (target, a, a),
            _ => return malformed(format!("expected an address and values, got {} operands", args.len())),
        };
        let vector = vector_length(op);
        if elements(a).len() != vector {
            return malformed(format!("expected {vector} values"));
        }
        let place = self.place(op, target)?;
        let run = match (ty.bytes(), place.kind) {
            (2, GLOBAL) => handler::<Atom<2, GLOBAL>>(),
            (2, SHARED) => handler::<Atom<2, SHARED>>(),
            (2, _) => handler::<Atom<2, GENERIC>>(),
            (4, GLOBAL) => handler::<Atom<4, GLOBAL>>(),
            (4, SHARED) => handler::<Atom<4, SHARED>>(),
            (4, _) => handler::<Atom<4, GENERIC>>(),
            (8, GLOBAL) => handler::<Atom<8, GLOBAL>>(),
            (8, SHARED) => handler::<Atom<8, SHARED>>(),
            (8, _) => handler::<Atom<8, GENERIC>>(),
            _ => return unsupported("this width"),
        };
        // An atomic of several elements is that many atomics.
        for index in 0..vector {
            let pick = |operand: &Operand<'a>| elements(operand)[index].clone();
            let (a, b) = (self.source(&pick(a), ty)?, self.source(&pick(b), ty)?);
            let dst = match dst {
                Some(dst) => self.dst(&pick(dst), ty)?,
                None => Slot::default(),
            };
            let offset = place.offset + (index as u32 * ty.bytes()) as i64;
            self.emit_handler(run, Class::Atomic, |i| {
                (i.dst, i.a, i.b, i.c, i.imm) = (dst, place.base, a, b, offset);
                (i.extra, i.target) = (atomic as u32, place.target);
            });
        }
        Ok(())
    }

    /// An address with its displacement added: slot, and whether it has 64 bits.
    pub(super) fn summed_address(&mut self, operand: &Operand<'a>) -> Result<(Slot, bool)> {
        use super::super::exec::int::Add;
        use super::super::exec::lanewise::M2;
        let address = self.address(operand)?;
        if address.offset == 0 {
            return Ok((address.base, address.double));
        }
        let dst = self.temp(address.double);
        if address.double {
            let b = self.constant_double(address.offset as u64);
            self.emit::<M2<Add<u64>>>(Class::Integer, |i| (i.dst, i.a, i.b) = (dst, address.base, b));
        } else {
            let b = self.constant_word(address.offset as u32);
            self.emit::<M2<Add<u32>>>(Class::Integer, |i| (i.dst, i.a, i.b) = (dst, address.base, b));
        }
        Ok((dst, address.double))
    }
}

fn vector_length(op: &Opcode<'_>) -> usize {
    match op.choose(&["v2", "v4", "v8"]) {
        Some(n) => 2 << n,
        None => 1,
    }
}

fn atomic_of(op: &Opcode<'_>, ty: Type) -> Option<Atomic> {
    let signed = matches!(ty, Type::S32 | Type::S64);
    let integer = matches!(ty, Type::U32 | Type::S32 | Type::U64 | Type::S64);
    let wide = ty.bytes() >= 4;
    Some(match op.choose(&["add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec"])? {
        0 => match ty {
            Type::F32 => Atomic::AddF32,
            Type::F64 => Atomic::AddF64,
            Type::F16 => Atomic::AddF16,
            Type::Bf16 => Atomic::AddBf16,
            Type::F16x2 => Atomic::AddF16x2,
            Type::Bf16x2 => Atomic::AddBf16x2,
            _ if integer => Atomic::Add,
            _ => return None,
        },
        1 if integer && signed => Atomic::MinSigned,
        1 if integer => Atomic::MinUnsigned,
        2 if integer && signed => Atomic::MaxSigned,
        2 if integer => Atomic::MaxUnsigned,
        3 if integer => Atomic::And,
        4 if integer => Atomic::Or,
        5 if integer => Atomic::Xor,
        6 if wide => Atomic::Exchange,
        7 => Atomic::CompareAndSwap,
        8 if ty == Type::U32 => Atomic::Increment,
        9 if ty == Type::U32 => Atomic::Decrement,
        _ => return None,
    })
}
