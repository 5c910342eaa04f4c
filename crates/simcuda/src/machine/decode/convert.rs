//! `cvt` forms.

use super::super::exec::convert::*;
use super::super::exec::convert_pair::*;
use super::super::exec::half::{self, Fp16};
use super::super::exec::int::Mov;
use super::super::exec::lanewise::{M1, M2};
use super::super::exec::rounding::Mode;
use super::super::exec::{Handler, Slot, handler};
use super::super::meter::Class;
use super::super::parse::ast::Operand;
use super::builder::Builder;
use super::opcode::{Opcode, Type};
use super::operand::exactly;
use super::{Result, malformed, unsupported};

fn number(ty: Type) -> Option<Number> {
    Some(match ty {
        Type::U8 => Number::U8,
        Type::S8 => Number::S8,
        Type::U16 => Number::U16,
        Type::S16 => Number::S16,
        Type::U32 => Number::U32,
        Type::S32 => Number::S32,
        Type::U64 => Number::U64,
        Type::S64 => Number::S64,
        Type::F16 => Number::F16,
        Type::Bf16 => Number::Bf16,
        Type::F32 => Number::F32,
        Type::F64 => Number::F64,
        _ => return None,
    })
}

/// The fast handler of a conversion without flags, if it has one.
fn fast(conversion: &Conversion) -> Option<Handler> {
    use Number::*;
    let c = conversion;
    if c.saturate || c.relu {
        return None;
    }
    let (nearest, zero) = (c.mode == Mode::Nearest, c.mode == Mode::Zero);
    Some(match (c.to, c.from) {
        (U32 | S32, U8) | (U16 | S16, U8) | (U8, U16 | U32) => handler::<M1<ZeroExtend8>>(),
        (U32 | S32, S8) | (U16 | S16, S8) | (S8, S16 | S32) => handler::<M1<SignExtend8>>(),
        (U32 | S32, U16) | (U16, U32 | S32) => handler::<M1<ZeroExtend16>>(),
        (U32 | S32, S16) | (S16, U32 | S32) => handler::<M1<SignExtend16>>(),
        (U32 | S32, U32 | S32) => handler::<M1<Mov<u32>>>(),
        (U64 | S64, U64 | S64) => handler::<M1<Mov<u64>>>(),
        (U64 | S64, U32) => handler::<M1<ZeroExtend32>>(),
        (U64 | S64, S32) => handler::<M1<SignExtend32>>(),
        (U32 | S32, U64 | S64) => handler::<Truncate>(),
        (F32, S32) if nearest => handler::<M1<SignedToF32>>(),
        (F32, U32) if nearest => handler::<M1<UnsignedToF32>>(),
        (S32, F32) if zero && !c.ftz => handler::<M1<F32ToSigned>>(),
        (S32, F32) if nearest && !c.ftz => handler::<M1<F32ToSignedNearest>>(),
        (F32, F16) if !c.integral => handler::<F16ToF32<false>>(),
        (F16, F32) if nearest && !c.ftz && !c.integral => handler::<F32ToHalf<Fp16, false>>(),
        (Bf16, F32) if nearest && !c.ftz && !c.integral => handler::<F32ToHalf<half::Bf16, false>>(),
        (F64, F32) if !c.integral && !c.ftz => handler::<M1<F32ToF64>>(),
        (F32, F64) if nearest && !c.integral && !c.ftz => handler::<M1<F64ToF32>>(),
        _ => return None,
    })
}

impl<'a> Builder<'a, '_> {
    pub(super) fn conversion(&mut self, op: &Opcode<'a>, args: &[Operand<'a>]) -> Result<bool> {
        if op.name != "cvt" {
            return Ok(false);
        }
        if op.has("pack") {
            return self.saturating_pack(op, args).map(|()| true);
        }
        let [to, from] = op.types[..] else { return malformed("expected two types") };
        if to == Type::Tf32 {
            if !op.has("rna") {
                return unsupported("this rounding to tf32");
            }
            let [dst, a] = exactly(args)?;
            let (dst, a) = (self.word_dst(dst)?, self.word(a, Type::F32)?);
            self.emit::<M2<NarrowTf32>>(Class::Convert, |i| (i.dst, i.a, i.b) = (dst, a, a));
            return Ok(true);
        }
        if let Some(pair) = [Type::F16x2, Type::Bf16x2, Type::E4m3x2, Type::E5m2x2].iter().position(|&t| t == to) {
            return self.pair(op, pair as u32, from, args).map(|()| true);
        }
        let ([dst, a], Some(to_number), Some(from_number)) = (exactly(args)?, number(to), number(from)) else {
            return unsupported("these types");
        };
        let rounds_to_integer = op.choose(&["rni", "rzi", "rmi", "rpi"]).is_some();
        // Between floats of one width, or of any where it says so, `.rni` rounds to an integral value.
        let conversion = Conversion {
            from: from_number,
            to: to_number,
            mode: Mode::from_index(op.rounding()),
            integral: rounds_to_integer,
            saturate: op.has("sat"),
            ftz: op.has("ftz"),
            relu: op.has("relu"),
        };
        if let (Operand::Reg(reg), Operand::Reg(dst)) = (a, dst)
            && let Some(&half) = self.halves.get(reg)
        {
            // Read where it lies, see `halves`.
            let (dst, a) = (self.word_dst(&Operand::Reg(*dst))?, self.word(&Operand::Reg(half.word), Type::U32)?);
            let run = if half.high { handler::<F16ToF32<true>>() } else { handler::<F16ToF32<false>>() };
            self.emit_handler(run, Class::Convert, |i| (i.dst, i.a) = (dst, a));
            return Ok(true);
        }
        let a = self.narrow_source(a, from)?;
        // A result narrower than its register is extended to it.
        let wide = matches!(dst, Operand::Reg(reg) if self.kind(*reg) == super::super::parse::ast::RegKind::Double);
        if wide && !to.is_double() {
            let dst = self.double_dst(dst)?;
            let middle = self.temp(false);
            self.convert(&conversion, middle, a);
            let signed = matches!(to, Type::S8 | Type::S16 | Type::S32);
            self.extend(dst, middle, signed);
            return Ok(true);
        }
        let dst = self.dst(dst, to)?;
        self.convert(&conversion, dst, a);
        Ok(true)
    }

    fn convert(&mut self, conversion: &Conversion, dst: Slot, a: Slot) {
        let run = fast(conversion).unwrap_or_else(handler::<ConvertAny>);
        let extra = conversion.pack();
        self.emit_handler(run, Class::Convert, |i| (i.dst, i.a, i.extra) = (dst, a, extra));
    }

    /// Extends a word to 64 bits.
    pub(super) fn extend(&mut self, dst: Slot, a: Slot, signed: bool) {
        if signed {
            self.emit::<M1<SignExtend32>>(Class::Convert, |i| (i.dst, i.a) = (dst, a));
        } else {
            self.emit::<M1<ZeroExtend32>>(Class::Convert, |i| (i.dst, i.a) = (dst, a));
        }
    }

    /// Two values at once: to f16x2, bf16x2, e4m3x2 or e5m2x2 (`pair`).
    fn pair(&mut self, op: &Opcode<'a>, pair: u32, from: Type, args: &[Operand<'a>]) -> Result<()> {
        let relu = u32::from(op.has("relu")) << 2;
        if let Some(small) = [Type::E4m3x2, Type::E5m2x2].iter().position(|&t| t == from) {
            let [dst, a] = exactly(args)?;
            if pair != 0 {
                return unsupported("these types");
            }
            let (dst, a) = (self.word_dst(dst)?, self.word(a, Type::U16)?);
            self.emit::<WidenPair>(Class::Convert, |i| {
                (i.dst, i.a, i.target, i.extra) = (dst, a, small as u32 + 2, relu)
            });
            return Ok(());
        }
        let flags = op.rounding() | relu | u32::from(op.has("satfinite")) << 3;
        if from == Type::F16x2 && pair >= 2 {
            let [dst, a] = exactly(args)?;
            let (dst, a) = (self.word_dst(dst)?, self.word(a, from)?);
            self.emit::<NarrowPair>(Class::Convert, |i| {
                (i.dst, i.a, i.b, i.target, i.extra) = (dst, a, a, pair, flags | 1 << 4)
            });
            return Ok(());
        }
        if from != Type::F32 {
            return unsupported("these types");
        }
        let [dst, a, b] = exactly(args)?;
        let (dst, a, b) = (self.word_dst(dst)?, self.word(a, from)?, self.word(b, from)?);
        let run = match (pair, flags) {
            (0, 0) => handler::<F32ToHalf<Fp16, true>>(),
            (1, 0) => handler::<F32ToHalf<half::Bf16, true>>(),
            _ => handler::<NarrowPair>(),
        };
        self.emit_handler(run, Class::Convert, |i| (i.dst, i.a, i.b, i.target, i.extra) = (dst, a, b, pair, flags));
        Ok(())
    }

    /// `cvt.pack.sat.u8.s32.b32 d, a, b, c`
    fn saturating_pack(&mut self, op: &Opcode<'a>, args: &[Operand<'a>]) -> Result<()> {
        let target = match op.first_type()? {
            Type::U16 => 0,
            Type::S16 => 1,
            Type::U8 => 2,
            Type::S8 => 3,
            _ => return unsupported("this packed type"),
        };
        let (dst, a, b, c) = match args {
            [dst, a, b] if target < 2 => (dst, a, b, None),
            [dst, a, b, c] if target >= 2 => (dst, a, b, Some(c)),
            _ => return malformed(format!("expected 3 or 4 operands, got {}", args.len())),
        };
        let (dst, a, b) = (self.word_dst(dst)?, self.word(a, Type::S32)?, self.word(b, Type::S32)?);
        let c = match c {
            Some(c) => self.word(c, Type::U32)?,
            None => a,
        };
        self.emit::<Pack>(Class::Convert, |i| (i.dst, i.a, i.b, i.c, i.target) = (dst, a, b, c, target));
        Ok(())
    }
}
