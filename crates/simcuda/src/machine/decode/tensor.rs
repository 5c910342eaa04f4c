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
        .filter(|m| matches!(*m, "f16" | "bf16" | "tf32" | "f32" | "s32" | "s8" | "u8" | "s4" | "u4" | "e4m3" | "e5m2"))
        .collect();
    let [d, a, b, c] = types[..] else { return None };
    let shape = op.modifiers().iter().copied().find(|m| m.starts_with('m') && m.contains('k') && *m != "mma")?;
    // A row of A or column of B has four bytes for each of its words.
    macro_rules! int {
        ($rows:literal, $words:literal) => {{
            let run = match (a, b) {
                ("s8", "s8") => handler::<MmaInt<$rows, $words, S8, S8>>(),
                ("s8", "u8") => handler::<MmaInt<$rows, $words, S8, U8>>(),
                ("u8", "s8") => handler::<MmaInt<$rows, $words, U8, S8>>(),
                ("u8", "u8") => handler::<MmaInt<$rows, $words, U8, U8>>(),
                ("s4", "s4") => handler::<MmaInt<$rows, $words, S4, S4>>(),
                ("s4", "u4") => handler::<MmaInt<$rows, $words, S4, U4>>(),
                ("u4", "s4") => handler::<MmaInt<$rows, $words, U4, S4>>(),
                ("u4", "u4") => handler::<MmaInt<$rows, $words, U4, U4>>(),
                _ => return None,
            };
            Some(([$rows / 4, $words * $rows / 32, $words / 4, $rows / 4], run))
        }};
    }
    macro_rules! float {
        ($words:literal, $a:ident, $b:ident) => {
            match (d, c) {
                ("f32", "f32") => Some(([4, $words / 2, $words / 4, 4], handler::<MmaFloat<$words, $a, $b, false>>())),
                ("f16", "f16") => Some(([2, $words / 2, $words / 4, 2], handler::<MmaFloat<$words, $a, $b, true>>())),
                _ => None,
            }
        };
    }
    let (bytes, nibbles) = (matches!(a, "s8" | "u8"), matches!(a, "s4" | "u4"));
    if bytes || nibbles {
        return match (shape, d, c) {
            ("m8n8k16", "s32", "s32") if bytes => int!(8, 4),
            ("m8n8k32", "s32", "s32") if nibbles => int!(8, 4),
            ("m16n8k16", "s32", "s32") if bytes => int!(16, 4),
            ("m16n8k32", "s32", "s32") if bytes => int!(16, 8),
            ("m16n8k32", "s32", "s32") if nibbles => int!(16, 4),
            ("m16n8k64", "s32", "s32") if nibbles => int!(16, 8),
            _ => None,
        };
    }
    match (shape, a, b) {
        ("m16n8k16", "f16", "f16") => float!(8, F16, F16),
        ("m16n8k8", "f16", "f16") => float!(4, F16, F16),
        ("m16n8k16", "bf16", "bf16") if d == "f32" => float!(8, BF16, BF16),
        ("m16n8k8", "bf16", "bf16") if d == "f32" => float!(4, BF16, BF16),
        ("m16n8k8", "tf32", "tf32") if d == "f32" => float!(8, TF32, TF32),
        ("m16n8k4", "tf32", "tf32") if d == "f32" => float!(4, TF32, TF32),
        ("m16n8k32", "e4m3", "e4m3") => float!(8, E4M3, E4M3),
        ("m16n8k32", "e4m3", "e5m2") => float!(8, E4M3, E5M2),
        ("m16n8k32", "e5m2", "e4m3") => float!(8, E5M2, E4M3),
        ("m16n8k32", "e5m2", "e5m2") => float!(8, E5M2, E5M2),
        ("m16n8k16", "e4m3", "e4m3") => float!(4, E4M3, E4M3),
        ("m16n8k16", "e4m3", "e5m2") => float!(4, E4M3, E5M2),
        ("m16n8k16", "e5m2", "e4m3") => float!(4, E5M2, E4M3),
        ("m16n8k16", "e5m2", "e5m2") => float!(4, E5M2, E5M2),
        _ => None,
    }
}

impl<'a> Builder<'a, '_> {
    pub(super) fn tensor_operation(&mut self, op: &Opcode<'a>, args: &[Operand<'a>]) -> Result<bool> {
        match op.name {
            "mma" => self.multiply(op, args)?,
            "wmma" => self.warp_matrix(op, args)?,
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
        // `.kind::f8f6f4` with types of 8 bits is the plain form.
        let plain = |m: &&str| *m == "kind::f8f6f4";
        if op.has("sp") || op.modifiers().iter().any(|m| m.starts_with("sp:") || m.starts_with("kind") && !plain(m)) {
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
