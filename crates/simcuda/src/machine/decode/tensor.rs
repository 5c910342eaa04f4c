//! Matrix forms.

use super::super::exec::ldmatrix::*;
use super::super::exec::matrix::*;
use super::super::exec::{Handler, handler};
use super::super::meter::Class;
use super::super::parse::ast::Operand;
use super::builder::Builder;
use super::opcode::{Opcode, Type};
use super::operand::{elements, exactly};
use super::{Result, malformed, unsupported};

/// Registers of D, A, B and C, and the handler, of an `mma`.
fn mma_form(op: &Opcode<'_>) -> Option<([usize; 4], Handler)> {
    let types: Vec<&str> = op
        .modifiers()
        .iter()
        .copied()
        .filter(|m| matches!(*m, "f16" | "bf16" | "tf32" | "f32" | "s32" | "s8" | "u8" | "s4" | "u4"))
        .collect();
    let [d, a, b, c] = types[..] else { return None };
    let shape = op.modifiers().iter().copied().find(|m| m.starts_with('m') && m.contains('k') && *m != "mma")?;
    macro_rules! int {
        ($words:literal) => {
            Some(match (a, b) {
                ("s8", "s8") => handler::<MmaInt<$words, S8, S8>>(),
                ("s8", "u8") => handler::<MmaInt<$words, S8, U8>>(),
                ("u8", "s8") => handler::<MmaInt<$words, U8, S8>>(),
                ("u8", "u8") => handler::<MmaInt<$words, U8, U8>>(),
                ("s4", "s4") => handler::<MmaInt<$words, S4, S4>>(),
                ("s4", "u4") => handler::<MmaInt<$words, S4, U4>>(),
                ("u4", "s4") => handler::<MmaInt<$words, U4, S4>>(),
                ("u4", "u4") => handler::<MmaInt<$words, U4, U4>>(),
                _ => return None,
            })
        };
    }
    let four_bit = matches!(a, "s4" | "u4");
    let float = |run: Handler, outputs: usize, words: usize| Some(([outputs, words / 2, words / 4, outputs], run));
    match (shape, d, a, b, c) {
        ("m16n8k16", "s32", "s8" | "u8", "s8" | "u8", "s32") => int!(4).map(|run| ([4, 2, 1, 4], run)),
        ("m16n8k32", "s32", "s8" | "u8", "s8" | "u8", "s32") => int!(8).map(|run| ([4, 4, 2, 4], run)),
        ("m16n8k32", "s32", _, _, "s32") if four_bit => int!(4).map(|run| ([4, 2, 1, 4], run)),
        ("m16n8k64", "s32", _, _, "s32") if four_bit => int!(8).map(|run| ([4, 4, 2, 4], run)),
        ("m16n8k16", "f32", "f16", "f16", "f32") => float(handler::<MmaFloat<8, F16, false>>(), 4, 8),
        ("m16n8k8", "f32", "f16", "f16", "f32") => float(handler::<MmaFloat<4, F16, false>>(), 4, 4),
        ("m16n8k16", "f16", "f16", "f16", "f16") => float(handler::<MmaFloat<8, F16, true>>(), 2, 8),
        ("m16n8k8", "f16", "f16", "f16", "f16") => float(handler::<MmaFloat<4, F16, true>>(), 2, 4),
        ("m16n8k16", "f32", "bf16", "bf16", "f32") => float(handler::<MmaFloat<8, BF16, false>>(), 4, 8),
        ("m16n8k8", "f32", "bf16", "bf16", "f32") => float(handler::<MmaFloat<4, BF16, false>>(), 4, 4),
        ("m16n8k8", "f32", "tf32", "tf32", "f32") => float(handler::<MmaFloat<8, TF32, false>>(), 4, 8),
        ("m16n8k4", "f32", "tf32", "tf32", "f32") => float(handler::<MmaFloat<4, TF32, false>>(), 4, 4),
        _ => None,
    }
}

impl<'a> Builder<'a, '_> {
    pub(super) fn tensor_operation(&mut self, op: &Opcode<'a>, args: &[Operand<'a>]) -> Result<bool> {
        match op.name {
            "mma" => self.multiply(op, args)?,
            "ldmatrix" => self.load_matrix(op, args)?,
            "stmatrix" => self.store_matrix(op, args)?,
            "movmatrix" => {
                let [dst, a] = exactly(args)?;
                let (dst, a) = (self.word_dst(dst)?, self.word(a, Type::U32)?);
                self.emit::<MovMatrix>(Class::Move, |i| (i.dst, i.a) = (dst, a));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn multiply(&mut self, op: &Opcode<'a>, args: &[Operand<'a>]) -> Result<()> {
        if op.has("sp") || op.modifiers().iter().any(|m| m.starts_with("sp:") || m.starts_with("kind")) {
            return unsupported("sparse and block-scaled forms");
        }
        let Some((lengths, run)) = mma_form(op) else { return unsupported("this shape or type") };
        let [d, a, b, c] = exactly(args)?;
        let mut entries = Vec::new();
        for (index, (operand, length)) in [d, a, b, c].into_iter().zip(lengths).enumerate() {
            let parts = elements(operand);
            if parts.len() != length {
                return malformed(format!("expected {length} registers in operand {index}, got {}", parts.len()));
            }
            for part in parts {
                let slot = if index == 0 { self.word_dst(part)? } else { self.word(part, Type::F32)? };
                entries.push(slot.0);
            }
        }
        let extra = self.list(entries);
        let target = u32::from(op.has("satfinite"));
        self.emit_handler(run, Class::Tensor, |i| (i.extra, i.target) = (extra, target));
        Ok(())
    }

    fn load_matrix(&mut self, op: &Opcode<'a>, args: &[Operand<'a>]) -> Result<()> {
        let [dst, address] = exactly(args)?;
        let parts = elements(dst);
        let layout = match op.choose(&["m8n8", "m8n16", "m16n16"]) {
            Some(0) if op.has("trans") => TRANSPOSED,
            Some(0) => PLAIN,
            Some(1) if op.has("s8") && op.has("s4") => WIDEN_S4,
            Some(1) if op.has("b8x16") && op.has("b4x16_p64") => WIDEN_U4,
            Some(2) if op.has("trans") && op.has("b8") => BYTES_TRANSPOSED,
            _ => return unsupported("this shape or type"),
        };
        let count = match op.choose(&["x1", "x2", "x4"]) {
            Some(n) => 1 << n,
            None => return malformed("expected a number of matrices"),
        };
        let registers = if layout == BYTES_TRANSPOSED { count * 2 } else { count };
        if parts.len() != registers || registers > 4 {
            return malformed(format!("expected {registers} destinations, got {}", parts.len()));
        }
        let run = match count {
            1 => handler::<LdMatrix<1>>(),
            2 => handler::<LdMatrix<2>>(),
            _ => handler::<LdMatrix<4>>(),
        };
        let slots = parts.iter().map(|p| self.word_dst(p).map(|s| s.0)).collect::<Result<Vec<_>>>()?;
        let (a, imm) = self.shared_address(address)?;
        let extra = self.list(slots);
        self.emit_handler(run, Class::Shared, |i| (i.a, i.imm, i.extra, i.target) = (a, imm, extra, layout));
        Ok(())
    }

    fn store_matrix(&mut self, op: &Opcode<'a>, args: &[Operand<'a>]) -> Result<()> {
        let [address, source] = exactly(args)?;
        let parts = elements(source);
        if !op.has("m8n8") {
            return unsupported("this shape");
        }
        let run = match parts.len() {
            1 => handler::<StMatrix<1>>(),
            2 => handler::<StMatrix<2>>(),
            4 => handler::<StMatrix<4>>(),
            n => return malformed(format!("expected 1, 2 or 4 sources, got {n}")),
        };
        let slots = parts.iter().map(|p| self.word(p, Type::U32).map(|s| s.0)).collect::<Result<Vec<_>>>()?;
        let (a, imm) = self.shared_address(address)?;
        let extra = self.list(slots);
        let target = if op.has("trans") { TRANSPOSED } else { PLAIN };
        self.emit_handler(run, Class::Shared, |i| (i.a, i.imm, i.extra, i.target) = (a, imm, extra, target));
        Ok(())
    }
}
