//! `wmma` forms.

use super::super::exec::matrix::{BF16, F16, S4, S8, TF32, U4, U8};
use super::super::exec::memory::{GLOBAL, SHARED};
use super::super::exec::wmma::*;
use super::super::exec::{Handler, handler};
use super::super::meter::Class;
use super::super::parse::ast::Operand;
use super::builder::Builder;
use super::opcode::{Opcode, Type};
use super::operand::elements;
use super::{Result, malformed, unsupported};

/// M, N and K of a modifier such as `m16n16k16`.
fn shape(op: &Opcode<'_>) -> Option<[u32; 3]> {
    op.modifiers().iter().find_map(|text| {
        let (m, rest) = text.strip_prefix('m')?.split_once('n')?;
        let (n, k) = rest.split_once('k')?;
        Some([m.parse().ok()?, n.parse().ok()?, k.parse().ok()?])
    })
}

/// Element types among the modifiers, in order.
fn element_types(op: &Opcode<'_>) -> Vec<u8> {
    let named = |m: &&str| {
        Some(match *m {
            "f16" => F16,
            "bf16" => BF16,
            "tf32" => TF32,
            "s8" => S8,
            "u8" => U8,
            "s4" => S4,
            "u4" => U4,
            "f32" => F32,
            "s32" => S32,
            _ => return None,
        })
    };
    op.modifiers().iter().filter_map(named).collect()
}

/// Whether A or B of this type come in a shape.
fn has_shape(element: u8, shape: [u32; 3]) -> bool {
    match element {
        F16 | BF16 | S8 | U8 => matches!(shape, [16, 16, 16] | [32, 8, 16] | [8, 32, 16]),
        TF32 => shape == [16, 16, 8],
        S4 | U4 => shape == [8, 8, 32],
        _ => matches!(shape, [16, 16, 16 | 8] | [32, 8, 16] | [8, 32, 16] | [8, 8, 32]),
    }
}

/// Registers of a fragment of `count` elements; A and B of f16 have eight whatever their size.
fn registers(element: u8, count: u32, is_input: bool) -> u32 {
    if is_input && element == F16 { 8 } else { count * bits_of(element) / 1024 }
}

impl<'a> Builder<'a, '_> {
    /// `wmma.load`, `wmma.store` and `wmma.mma`.
    pub(super) fn warp_matrix(&mut self, op: &Opcode<'a>, args: &[Operand<'a>]) -> Result<()> {
        let Some(shape) = shape(op) else { return malformed("expected a shape such as m16n16k16") };
        match op.choose(&["load", "store", "mma"]) {
            Some(2) => self.warp_multiply(op, shape, args),
            Some(moved) => self.warp_transfer(op, shape, moved == 1, args),
            None => malformed("expected load, store or mma"),
        }
    }

    fn warp_transfer(&mut self, op: &Opcode<'a>, shape: [u32; 3], store: bool, args: &[Operand<'a>]) -> Result<()> {
        let (fragment, address, stride) = match (args, store) {
            ([fragment, address, stride @ ..], false) | ([address, fragment, stride @ ..], true)
                if stride.len() <= 1 =>
            {
                (fragment, address, stride.first())
            }
            _ => return malformed(format!("expected 2 or 3 operands, got {}", args.len())),
        };
        let ([m, n, k], Some(&element)) = (shape, element_types(op).last()) else {
            return unsupported("this type");
        };
        let row_major = op.has("row");
        // Direction of counting, across it, and whether rows of memory run in that direction.
        let (along, across, contiguous) = match op.choose(&["a", "b", "c", "d"]) {
            Some(0) => (k, m, row_major),
            Some(1) => (k, n, !row_major),
            Some(_) => (n, m, row_major),
            None => return malformed("expected a, b, c or d"),
        };
        let is_input = op.choose(&["a", "b"]).is_some();
        let fits = if is_input { !matches!(element, F32 | S32) } else { matches!(element, F16 | F32 | S32) };
        if !has_shape(element, shape) || !fits {
            return unsupported("this shape or type");
        }
        let parts = elements(fragment);
        let registers = registers(element, along * across, is_input);
        if parts.len() != registers as usize {
            return malformed(format!("expected {registers} registers, got {}", parts.len()));
        }
        let pair = if bits_of(element) == 4 { 2 } else { 1 };
        if pair == 2 && !contiguous {
            return malformed("expected elements of 4 bits along K");
        }
        let tile = Tile {
            along: along / pair,
            across,
            contiguous,
            element_bytes: (bits_of(element) / 8).max(1),
            stride_unit: pair,
            registers,
        };
        let stride = match stride {
            Some(stride) => self.word(stride, Type::U32)?,
            None => self.constant_word(if contiguous { along } else { across }),
        };
        let slot = |b: &mut Self, part: &Operand<'a>| if store { b.word(part, Type::F32) } else { b.word_dst(part) };
        let slots = parts.iter().map(|p| slot(self, p).map(|s| s.0)).collect::<Result<Vec<_>>>()?;
        let extra = self.list(tile.entries().into_iter().chain(slots));
        let place = self.place(op, address)?;
        let run: Handler = match (store, place.kind) {
            (false, GLOBAL) => handler::<WmmaLoad<GLOBAL>>(),
            (false, SHARED) => handler::<WmmaLoad<SHARED>>(),
            (false, _) => handler::<WmmaLoad<{ super::super::exec::memory::GENERIC }>>(),
            (true, GLOBAL) => handler::<WmmaStore<GLOBAL>>(),
            (true, SHARED) => handler::<WmmaStore<SHARED>>(),
            (true, _) => handler::<WmmaStore<{ super::super::exec::memory::GENERIC }>>(),
        };
        self.emit_handler(run, place.class, |i| {
            (i.a, i.b, i.imm, i.extra, i.target) = (place.base, stride, place.offset, extra, place.target);
        });
        Ok(())
    }

    fn warp_multiply(&mut self, op: &Opcode<'a>, shape: [u32; 3], args: &[Operand<'a>]) -> Result<()> {
        let types = match element_types(op)[..] {
            // Of f16 only the accumulators are named.
            [d, c] => [d, F16, F16, c],
            [d, a, b, c] => [d, a, b, c],
            _ => return unsupported("these types"),
        };
        let accumulators = match types[1] {
            F16 => [types[0], types[3]].iter().all(|t| matches!(*t, F16 | F32)),
            BF16 | TF32 => types[0] == F32 && types[3] == F32,
            _ => types[0] == S32 && types[3] == S32,
        };
        let alike =
            bits_of(types[1]) == bits_of(types[2]) && matches!(types[1], S8 | U8 | S4 | U4) || types[1] == types[2];
        if !accumulators || !alike || !has_shape(types[1], shape) || op.has("popc") {
            return unsupported("this shape or type");
        }
        let [m, n, k] = shape;
        let counts = [m * n, m * k, k * n, m * n];
        let lengths = std::array::from_fn(|i| registers(types[i], counts[i], i == 1 || i == 2));
        let product = Product { m, n, k, types, registers: lengths };
        if args.len() != 4 {
            return malformed(format!("expected 4 operands, got {}", args.len()));
        }
        let mut entries: Vec<u32> = product.entries().collect();
        for (index, (operand, length)) in args.iter().zip(lengths).enumerate() {
            let parts = elements(operand);
            if parts.len() != length as usize {
                return malformed(format!("expected {length} registers in operand {index}, got {}", parts.len()));
            }
            for part in parts {
                entries.push(if index == 0 { self.word_dst(part)?.0 } else { self.word(part, Type::F32)?.0 });
            }
        }
        let (extra, target) = (self.list(entries), u32::from(op.has("satfinite")));
        self.emit::<WmmaMultiply>(Class::Tensor, |i| (i.extra, i.target) = (extra, target));
        Ok(())
    }
}
