//! `cvt` of pairs, to tf32, and with saturation into packed integers.

use super::float::NAN_F32;
use super::lanewise::F2;
use super::rounding::{self, BF16, E4M3, E5M2, F16, Format, Mode};
use super::{Block, Flow, Inst, Isa, LANES, Op, Warp};

/// Packed narrowing of two f32 to f16x2, bf16x2, e4m3x2 or e5m2x2 (`target`), the mode in the low bits of `extra`; bit 2 is
/// relu, bit 3 saturates to the largest finite value.
pub(crate) struct NarrowPair;

impl F2 for NarrowTf32 {
    type A = f32;
    type B = u32;
    type D = u32;
    /// Rounds half away from zero to the 10 fraction bits of tf32.
    #[inline(always)]
    fn f(a: f32, _: u32) -> u32 {
        if a.is_nan() { NAN_F32 } else { a.to_bits().wrapping_add(0x1000) & !0x1fff }
    }
}

/// `cvt.rna.tf32.f32`
pub(crate) struct NarrowTf32;

/// The formats that pairs convert to and from.
const PAIR_FORMATS: [Format; 4] = [F16, BF16, E4M3, E5M2];

impl Op for NarrowPair {
    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, _: &mut Block, i: &Inst) -> Flow {
        narrow_pairs(w, i);
        Flow::Next
    }
}

fn narrow_pairs(w: &mut Warp, i: &Inst) {
    let (a, b) = (w.words(i.a), w.words(i.b));
    let format = PAIR_FORMATS[i.target as usize & 3];
    // Pairs of f16 as source come in one register.
    let packed = i.extra >> 4 & 1 == 1;
    for lane in w.lanes() {
        let narrow = |x: f64| {
            let x = if i.extra >> 2 & 1 == 1 && x < 0.0 { 0.0 } else { x };
            let finite = i.extra >> 3 & 1 == 1;
            let x = if finite && !x.is_nan() { x.clamp(-format.max, format.max) } else { x };
            rounding::encode(x, format, Mode::from_index(i.extra))
        };
        let (high, low) = if packed {
            (rounding::decode(a[lane] >> 16, F16), rounding::decode(a[lane] & 0xffff, F16))
        } else {
            (f32::from_bits(a[lane]).into(), f32::from_bits(b[lane]).into())
        };
        w.words_mut(i.dst)[lane] = narrow(high) << format.bits | narrow(low);
    }
}

/// Packed widening of e4m3x2 or e5m2x2 (`target`) to f16x2.
pub(crate) struct WidenPair;

impl Op for WidenPair {
    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, _: &mut Block, i: &Inst) -> Flow {
        let a = w.words(i.a);
        let format = PAIR_FORMATS[i.target as usize & 3];
        for lane in w.lanes() {
            let wide = |bits: u32| {
                let value = rounding::decode(bits & 0xff, format);
                let value = if i.extra >> 2 & 1 == 1 && value < 0.0 { 0.0 } else { value };
                rounding::encode(value, F16, Mode::Nearest)
            };
            w.words_mut(i.dst)[lane] = wide(a[lane] >> 8) << 16 | wide(a[lane]);
        }
        Flow::Next
    }
}

/// `cvt.pack.sat`: `target` is the result type (0 u16, 1 s16, 2 u8, 3 s8; 4 u4 and s4 are not there); with 8-bit results the
/// third operand supplies the upper half.
pub(crate) struct Pack;

impl Op for Pack {
    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, _: &mut Block, i: &Inst) -> Flow {
        let (a, b, c) = (w.words(i.a), w.words(i.b), w.words(i.c));
        let (low, high, bits) = match i.target {
            0 => (0, 0xffff, 16),
            1 => (-0x8000, 0x7fff, 16),
            2 => (0, 0xff, 8),
            _ => (-0x80, 0x7f, 8),
        };
        let mut d = [0; LANES];
        for lane in 0..LANES {
            let pack = |x: u32| (x as i32).clamp(low, high) as u32 & (u32::MAX >> (32 - bits));
            let pair = pack(a[lane]) << bits | pack(b[lane]);
            d[lane] = if bits == 8 { c[lane] << 16 | pair } else { pair };
        }
        w.set_words(i.dst, d);
        Flow::Next
    }
}
