//! Arithmetic of f16 and bf16, single and packed.
//!
//! Values widen to f32 (exactly), are computed there or in f64, and are rounded once. NaN results are 0x7fff.

use std::marker::PhantomData;

use super::rounding::{self, BF16, F16, Format, Mode};
use super::undefined::Spread;
use super::{Block, Flow, Inst, Isa, LANES, Op, Warp};

/// A 16-bit floating-point format.
pub(crate) trait Half {
    const FORMAT: Format;
    /// Widens the low 16 bits of each lane.
    fn widen<I: Isa>(bits: &[u32; LANES]) -> [f32; LANES];
    /// Rounds to nearest even; NaN becomes 0x7fff.
    fn narrow<I: Isa>(values: &[f32; LANES]) -> [u32; LANES];
    /// a * b + c rounded once.
    fn fma<I: Isa>(a: &[f32; LANES], b: &[f32; LANES], c: &[f32; LANES]) -> [u32; LANES];
    /// a * b rounded once.
    fn product<I: Isa>(a: &[f32; LANES], b: &[f32; LANES]) -> [u32; LANES];
}

pub(crate) struct Fp16;
pub(crate) struct Bf16;

/// Widens one f16.
#[inline(always)]
pub(crate) fn widen_f16(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let magnitude = u32::from(bits & 0x7fff) << 13;
    // Multiplying by 2^112 moves the exponent and normalises subnormals; infinity and NaN need their exponent restored.
    let value = f32::from_bits(magnitude) * f32::from_bits(0x7780_0000);
    let special = if magnitude >= 0x7c00 << 13 { 0x7f80_0000 } else { 0 };
    f32::from_bits(value.to_bits() | special | sign)
}

/// Rounds one f32 to the nearest f16.
#[inline(always)]
pub(crate) fn narrow_f16(x: f32) -> u32 {
    let bits = x.to_bits();
    let sign = bits >> 16 & 0x8000;
    let magnitude = bits & 0x7fff_ffff;
    if magnitude > 0x7f80_0000 {
        return 0x7fff;
    }
    if magnitude >= 0x4780_0000 {
        return sign | 0x7c00;
    }
    if magnitude < 0x3880_0000 {
        // Adding 1/2 aligns the last place of a subnormal f16 with that of the sum, which rounds to nearest even.
        let sum = f32::from_bits(magnitude) + 0.5;
        return sign | (sum.to_bits() - 0x3f00_0000);
    }
    let odd = magnitude >> 13 & 1;
    sign | (magnitude - 0x3800_0000 + 0xfff + odd) >> 13
}

/// Rounds one f32 to the nearest bf16.
#[inline(always)]
pub(crate) fn narrow_bf16(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + (bits >> 16 & 1))) >> 16;
    if x.is_nan() { 0x7fff } else { rounded }
}

impl Half for Fp16 {
    const FORMAT: Format = F16;

    #[inline(always)]
    fn widen<I: Isa>(bits: &[u32; LANES]) -> [f32; LANES] {
        let mut values = [0f32; LANES];
        #[cfg(target_arch = "x86_64")]
        if I::AVX2 {
            use std::arch::x86_64::*;
            for part in 0..2 {
                // SAFETY: compiled for and run with AVX2 and F16C; both arrays have 16 elements at 16 * part.
                unsafe {
                    let from = bits.as_ptr().add(16 * part);
                    let first = _mm256_and_si256(_mm256_loadu_si256(from.cast()), _mm256_set1_epi32(0xffff));
                    let second = _mm256_and_si256(_mm256_loadu_si256(from.add(8).cast()), _mm256_set1_epi32(0xffff));
                    // Quarters of both come in turns.
                    let packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(first, second), 0b11_01_10_00);
                    let to = values.as_mut_ptr().add(16 * part);
                    _mm256_storeu_ps(to, _mm256_cvtph_ps(_mm256_castsi256_si128(packed)));
                    _mm256_storeu_ps(to.add(8), _mm256_cvtph_ps(_mm256_extracti128_si256(packed, 1)));
                }
            }
            return values;
        }
        for lane in 0..LANES {
            values[lane] = widen_f16(bits[lane] as u16);
        }
        values
    }

    #[inline(always)]
    fn narrow<I: Isa>(values: &[f32; LANES]) -> [u32; LANES] {
        let mut bits = [0; LANES];
        #[cfg(target_arch = "x86_64")]
        if I::AVX2 {
            use std::arch::x86_64::*;
            for part in 0..4 {
                // SAFETY: as in `widen`.
                unsafe {
                    let wide = _mm256_loadu_ps(values.as_ptr().add(8 * part));
                    let halves = _mm256_cvtepu16_epi32(_mm256_cvtps_ph(wide, _MM_FROUND_TO_NEAREST_INT));
                    let nan = _mm256_castps_si256(_mm256_cmp_ps(wide, wide, _CMP_UNORD_Q));
                    let out = _mm256_blendv_epi8(halves, _mm256_set1_epi32(0x7fff), nan);
                    _mm256_storeu_si256(bits.as_mut_ptr().add(8 * part).cast(), out);
                }
            }
            return bits;
        }
        for lane in 0..LANES {
            bits[lane] = narrow_f16(values[lane]);
        }
        bits
    }

    /// The product of two f16 is exact in f32; the sum is rounded to odd there, which is enough bits for f16.
    #[inline(always)]
    fn fma<I: Isa>(a: &[f32; LANES], b: &[f32; LANES], c: &[f32; LANES]) -> [u32; LANES] {
        let mut sums = [0f32; LANES];
        for lane in 0..LANES {
            let (p, c) = (a[lane] * b[lane], c[lane]);
            let s = p + c;
            let part = s - p;
            let error = (p - (s - part)) + (c - part);
            let inexact = u32::from((error != 0.0) & s.is_finite() & !error.is_nan());
            let towards_zero = (error.to_bits() ^ s.to_bits()) >> 31 & inexact;
            sums[lane] = f32::from_bits(s.to_bits().wrapping_sub(towards_zero) | inexact);
        }
        Self::narrow::<I>(&sums)
    }

    #[inline(always)]
    fn product<I: Isa>(a: &[f32; LANES], b: &[f32; LANES]) -> [u32; LANES] {
        let mut p = [0f32; LANES];
        for lane in 0..LANES {
            p[lane] = a[lane] * b[lane];
        }
        Self::narrow::<I>(&p)
    }
}

impl Half for Bf16 {
    const FORMAT: Format = BF16;

    #[inline(always)]
    fn widen<I: Isa>(bits: &[u32; LANES]) -> [f32; LANES] {
        let mut values = [0f32; LANES];
        for lane in 0..LANES {
            values[lane] = f32::from_bits(bits[lane] << 16);
        }
        values
    }

    #[inline(always)]
    fn narrow<I: Isa>(values: &[f32; LANES]) -> [u32; LANES] {
        let mut bits = [0; LANES];
        for lane in 0..LANES {
            bits[lane] = narrow_bf16(values[lane]);
        }
        bits
    }

    #[inline(always)]
    fn fma<I: Isa>(a: &[f32; LANES], b: &[f32; LANES], c: &[f32; LANES]) -> [u32; LANES] {
        let mut bits = [0; LANES];
        for lane in 0..LANES {
            let sum = rounding::sum_to_odd(f64::from(a[lane]) * f64::from(b[lane]), f64::from(c[lane]));
            bits[lane] = rounding::encode(sum, BF16, Mode::Nearest);
        }
        bits
    }

    #[inline(always)]
    fn product<I: Isa>(a: &[f32; LANES], b: &[f32; LANES]) -> [u32; LANES] {
        let mut bits = [0; LANES];
        for lane in 0..LANES {
            bits[lane] = rounding::encode(f64::from(a[lane]) * f64::from(b[lane]), BF16, Mode::Nearest);
        }
        bits
    }
}

/// What a half form computes.
pub(crate) const ADD: u8 = 0;
pub(crate) const SUB: u8 = 1;
pub(crate) const MUL: u8 = 2;
pub(crate) const FMA: u8 = 3;
pub(crate) const MIN: u8 = 4;
pub(crate) const MAX: u8 = 5;
pub(crate) const MIN_NAN: u8 = 6;
pub(crate) const MAX_NAN: u8 = 7;
pub(crate) const ABS: u8 = 8;
pub(crate) const NEG: u8 = 9;
pub(crate) const EX2: u8 = 10;
pub(crate) const TANH: u8 = 11;

/// Flags of half forms, in `extra`.
pub(crate) const SAT: u32 = 1;
pub(crate) const RELU: u32 = 2;
pub(crate) const FTZ: u32 = 4;

/// A form on one or two 16-bit values per lane.
pub(crate) struct HalfOp<H, const OP: u8, const PACKED: bool>(PhantomData<H>);

impl<H: Half, const OP: u8, const PACKED: bool> Op for HalfOp<H, OP, PACKED> {
    const SPREAD: Spread = if PACKED { Spread::Halves } else { Spread::Any };

    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, _: &mut Block, i: &Inst) -> Flow {
        let (a, b, c) = (w.words(i.a), w.words(i.b), w.words(i.c));
        let mut d = compute::<I, H, OP>(&a, &b, &c, i.extra);
        if PACKED {
            let upper = |row: [u32; LANES]| {
                let mut high = row;
                high.iter_mut().for_each(|x| *x >>= 16);
                high
            };
            let high = compute::<I, H, OP>(&upper(a), &upper(b), &upper(c), i.extra);
            for lane in 0..LANES {
                d[lane] |= high[lane] << 16;
            }
        }
        w.set_words(i.dst, d);
        Flow::Next
    }
}

/// Computes on the low halves of three rows.
#[inline(always)]
fn compute<I: Isa, H: Half, const OP: u8>(
    a: &[u32; LANES],
    b: &[u32; LANES],
    c: &[u32; LANES],
    flags: u32,
) -> [u32; LANES] {
    let mut d = [0; LANES];
    if matches!(OP, ABS | NEG) {
        for lane in 0..LANES {
            d[lane] = if OP == ABS { a[lane] & 0x7fff } else { a[lane] & 0xffff ^ 0x8000 };
        }
        return d;
    }
    let ready =
        |row: &[u32; LANES]| if flags & FTZ != 0 { H::widen::<I>(&flushed::<H>(row)) } else { H::widen::<I>(row) };
    let (x, y) = (ready(a), ready(b));
    match OP {
        FMA => d = H::fma::<I>(&x, &y, &ready(c)),
        MUL => d = H::product::<I>(&x, &y),
        _ => {
            let mut z = [0f32; LANES];
            for lane in 0..LANES {
                let (x, y) = (x[lane], y[lane]);
                z[lane] = match OP {
                    ADD => x + y,
                    SUB => x - y,
                    MIN => lesser(x, y),
                    MAX => -lesser(-x, -y),
                    MIN_NAN if x.is_nan() | y.is_nan() => f32::NAN,
                    MIN_NAN => lesser(x, y),
                    MAX_NAN if x.is_nan() | y.is_nan() => f32::NAN,
                    MAX_NAN => -lesser(-x, -y),
                    EX2 => super::float::exp2(x),
                    _ => x.tanh(),
                };
            }
            d = H::narrow::<I>(&z);
        }
    }
    if flags != 0 {
        finish::<H>(&mut d, flags);
    }
    d
}

#[inline(always)]
fn lesser(a: f32, b: f32) -> f32 {
    let equal = f32::from_bits(a.to_bits() | b.to_bits());
    let smaller = if a < b || b.is_nan() { a } else { b };
    if a == b { equal } else { smaller }
}

/// Replaces subnormals by zeros of their sign.
fn flushed<H: Half>(row: &[u32; LANES]) -> [u32; LANES] {
    let exponent = 0x7fff & !((1 << H::FORMAT.fraction) - 1);
    row.map(|x| if x & exponent == 0 { x & 0x8000 } else { x })
}

/// Applies flushing, saturation and relu to results.
fn finish<H: Half>(d: &mut [u32; LANES], flags: u32) {
    if flags & FTZ != 0 {
        *d = flushed::<H>(d);
    }
    let one = rounding::encode(1.0, H::FORMAT, Mode::Nearest);
    for bits in d {
        let nan = *bits & 0x7fff > H::FORMAT.infinity;
        let negative = *bits & 0x8000 != 0;
        if flags & SAT != 0 {
            *bits = if nan || negative { 0 } else { (*bits).min(one) };
        } else if flags & RELU != 0 && negative && !nan {
            *bits = 0;
        }
    }
}
