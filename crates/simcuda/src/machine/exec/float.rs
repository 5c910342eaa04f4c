//! Arithmetic of f32 and f64.
//!
//! NaN results of f32 are the canonical 0x7fffffff, as on the device. The approximate functions return the correctly
//! rounded value (within one ulp for the transcendental ones), which lies inside the device's documented error.

use super::lanewise::{F1, F2, F3, lanewise};
use super::rounding::{self, Mode};
use super::{Block, Flow, Inst, Isa, LANES, Lane, Op, Warp};

/// The NaN that f32 instructions produce.
pub(crate) const NAN_F32: u32 = 0x7fff_ffff;

/// Replaces a subnormal by a zero of its sign.
#[inline(always)]
pub(crate) fn flush(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits(if bits & 0x7f80_0000 == 0 { bits & 0x8000_0000 } else { bits })
}

#[inline(always)]
fn input<const FTZ: bool>(x: f32) -> f32 {
    if FTZ { flush(x) } else { x }
}

/// Applies flushing, saturation and the canonical NaN to a result.
#[inline(always)]
pub(crate) fn output<const FTZ: bool, const SAT: bool>(x: f32) -> f32 {
    let x = if FTZ { flush(x) } else { x };
    if SAT {
        return saturate(x);
    }
    // On bits: of a float the compiler may choose the NaN itself, and take a test for one elsewhere.
    let bits = x.to_bits();
    f32::from_bits(if (bits & 0x7fff_ffff) as i32 > 0x7f80_0000 { NAN_F32 } else { bits })
}

/// Clamps to [0, 1]; NaN and -0 become +0.
#[inline(always)]
pub(crate) fn saturate(x: f32) -> f32 {
    let low = if x > 0.0 { x } else { 0.0 };
    if low > 1.0 { 1.0 } else { low }
}

/// Declares functions of f32 operands with flushing and saturation as parameters.
macro_rules! f32_ops {
    ($($name:ident: $trait:ident($($x:ident),*) = $e:expr;)*) => {$(
        pub(crate) struct $name<const FTZ: bool, const SAT: bool>;
        f32_ops! { @impl $trait $name ($($x),*) $e }
    )*};
    (@impl F1 $name:ident ($a:ident) $e:expr) => {
        impl<const FTZ: bool, const SAT: bool> F1 for $name<FTZ, SAT> {
            type A = f32;
            type D = f32;
            #[inline(always)]
            fn f($a: f32) -> f32 {
                let $a = input::<FTZ>($a);
                output::<FTZ, SAT>($e)
            }
        }
    };
    (@impl F2 $name:ident ($a:ident, $b:ident) $e:expr) => {
        impl<const FTZ: bool, const SAT: bool> F2 for $name<FTZ, SAT> {
            type A = f32;
            type B = f32;
            type D = f32;
            #[inline(always)]
            fn f($a: f32, $b: f32) -> f32 {
                let ($a, $b) = (input::<FTZ>($a), input::<FTZ>($b));
                output::<FTZ, SAT>($e)
            }
        }
    };
    (@impl F3 $name:ident ($a:ident, $b:ident, $c:ident) $e:expr) => {
        impl<const FTZ: bool, const SAT: bool> F3 for $name<FTZ, SAT> {
            type A = f32;
            type B = f32;
            type C = f32;
            type D = f32;
            #[inline(always)]
            fn f($a: f32, $b: f32, $c: f32) -> f32 {
                let ($a, $b, $c) = (input::<FTZ>($a), input::<FTZ>($b), input::<FTZ>($c));
                output::<FTZ, SAT>($e)
            }
        }
    };
}

f32_ops! {
    FAdd: F2(a, b) = a + b;
    FSub: F2(a, b) = a - b;
    FMul: F2(a, b) = a * b;
    FFma: F3(a, b, c) = a.mul_add(b, c);
    FDiv: F2(a, b) = a / b;
    FMin: F2(a, b) = lesser(a, b);
    FMax: F2(a, b) = -lesser(-a, -b);
    FMinNan: F2(a, b) = if a.is_nan() | b.is_nan() { f32::NAN } else { lesser(a, b) };
    FMaxNan: F2(a, b) = if a.is_nan() | b.is_nan() { f32::NAN } else { -lesser(-a, -b) };
    FMinXorsign: F2(a, b) = xorsign(lesser(a.abs(), b.abs()), a, b);
    FMaxXorsign: F2(a, b) = xorsign(-lesser(-a.abs(), -b.abs()), a, b);
    FMin3: F3(a, b, c) = lesser(lesser(a, b), c);
    FMax3: F3(a, b, c) = -lesser(lesser(-a, -b), -c);
    FRcp: F1(a) = 1.0 / a;
    FSqrt: F1(a) = a.sqrt();
    FRsqrt: F1(a) = (1.0 / f64::from(a).sqrt()) as f32;
    FSin: F1(a) = f64::from(a).sin() as f32;
    FCos: F1(a) = f64::from(a).cos() as f32;
    FLg2: F1(a) = f64::from(a).log2() as f32;
    FEx2: F1(a) = exp2(a);
    FTanh: F1(a) = f64::from(a).tanh() as f32;
}

/// The smaller of two, the other if one is NaN; -0 is smaller than +0.
#[inline(always)]
fn lesser(a: f32, b: f32) -> f32 {
    // For equal values (which may be zeros of both signs) the bits of either sign are joined.
    let equal = f32::from_bits(a.to_bits() | b.to_bits());
    let smaller = if a < b { a } else { b };
    let ordered = if a == b { equal } else { smaller };
    if b.is_nan() {
        a
    } else if a.is_nan() {
        b
    } else {
        ordered
    }
}

/// Gives a magnitude the exclusive or of two signs.
#[inline(always)]
fn xorsign(x: f32, a: f32, b: f32) -> f32 {
    f32::from_bits(x.to_bits() & 0x7fff_ffff | (a.to_bits() ^ b.to_bits()) & 0x8000_0000)
}

/// 2^x by a polynomial in f64 on [-1/2, 1/2], whose error of 2e-10 vanishes in the rounding to f32; written so that lanes
/// vectorise.
#[inline(always)]
pub(crate) fn exp2(x: f32) -> f32 {
    let clamped = f64::from(x).clamp(-160.0, 160.0);
    // Adding 1.5 * 2^52 leaves the nearest integer in the low bits.
    let shifted = clamped + 6_755_399_441_055_744.0;
    let f = clamped - (shifted - 6_755_399_441_055_744.0);
    // Taylor terms ln(2)^k / k!
    let tail = 1.525_273_380_405_984e-5 * f + 1.540_353_039_338_161e-4;
    let p = (((((tail * f + 1.333_355_814_642_844e-3) * f + 9.618_129_107_628_477e-3) * f + 5.550_410_866_482_158e-2)
        * f
        + 2.402_265_069_591_007e-1)
        * f
        + std::f64::consts::LN_2)
        * f
        + 1.0;
    let scale = f64::from_bits((shifted.to_bits() << 52).wrapping_add(1023 << 52));
    let value = (p * scale) as f32;
    if x.is_nan() { x } else { value }
}

/// Operations that a rounding mode other than to-nearest can be asked of.
pub(crate) const OP_ADD: u8 = 0;
pub(crate) const OP_SUB: u8 = 1;
pub(crate) const OP_MUL: u8 = 2;
pub(crate) const OP_FMA: u8 = 3;
pub(crate) const OP_DIV: u8 = 4;
pub(crate) const OP_RCP: u8 = 5;
pub(crate) const OP_SQRT: u8 = 6;

/// f32 arithmetic with a directed rounding: the mode in `target`, flushing and saturation as bits 0 and 1 of `extra`.
pub(crate) struct Directed<const OP: u8>;

impl<const OP: u8> Op for Directed<OP> {
    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, _: &mut Block, i: &Inst) -> Flow {
        let (a, b, c) = (f32::read(w, i.a), f32::read(w, i.b), f32::read(w, i.c));
        let (ftz, sat, mode) = (i.extra & 1 != 0, i.extra & 2 != 0, Mode::from_index(i.target));
        let mut d = [0f32; LANES];
        for lane in 0..LANES {
            let pick = |x: f32| f64::from(if ftz { flush(x) } else { x });
            let (a, b, c) = (pick(a[lane]), pick(b[lane]), pick(c[lane]));
            let odd = match OP {
                OP_ADD => rounding::sum_to_odd(a, b),
                OP_SUB => rounding::sum_to_odd(a, -b),
                OP_MUL => a * b,
                OP_FMA => rounding::sum_to_odd(a * b, c),
                OP_DIV => rounding::quotient_to_odd(a, b),
                OP_RCP => rounding::quotient_to_odd(1.0, a),
                _ => rounding::root_to_odd(a),
            };
            // The sign of an exact zero sum depends on the mode.
            let odd = if matches!(OP, OP_ADD | OP_SUB | OP_FMA) && odd == 0.0 {
                let x = if OP == OP_FMA { a * b } else { a };
                let y = if OP == OP_ADD {
                    b
                } else if OP == OP_SUB {
                    -b
                } else {
                    c
                };
                rounding::zero_sum(x, y, mode)
            } else {
                odd
            };
            let value = rounding::to_f32(odd, mode);
            d[lane] = match (ftz, sat) {
                (false, false) => output::<false, false>(value),
                (true, false) => output::<true, false>(value),
                (false, true) => output::<false, true>(value),
                (true, true) => output::<true, true>(value),
            };
        }
        f32::write(w, i.dst, d);
        Flow::Next
    }
}

/// f64 arithmetic with a directed rounding: the mode in `target`.
pub(crate) struct DirectedF64<const OP: u8>;

impl<const OP: u8> Op for DirectedF64<OP> {
    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, _: &mut Block, i: &Inst) -> Flow {
        let (a, b) = (f64::read(w, i.a), f64::read(w, i.b));
        let mode = Mode::from_index(i.target);
        let mut d = [0f64; LANES];
        for lane in 0..LANES {
            let (a, b) = (a[lane], b[lane]);
            d[lane] = match OP {
                OP_ADD => rounding::directed_sum(a, b, mode),
                OP_SUB => rounding::directed_sum(a, -b, mode),
                OP_MUL => rounding::directed_product(a, b, mode),
                OP_DIV => rounding::directed_quotient(a, b, mode),
                OP_RCP => rounding::directed_quotient(1.0, a, mode),
                _ => rounding::directed_root(a, mode),
            };
        }
        f64::write(w, i.dst, d);
        Flow::Next
    }
}

lanewise! {
    DAdd<>(a: f64, b: f64) -> f64 = a + b;
    DSub<>(a: f64, b: f64) -> f64 = a - b;
    DMul<>(a: f64, b: f64) -> f64 = a * b;
    DFma<>(a: f64, b: f64, c: f64) -> f64 = a.mul_add(b, c);
    DDiv<>(a: f64, b: f64) -> f64 = a / b;
    DRcp<>(a: f64) -> f64 = 1.0 / a;
    DRcpApprox<>(a: f64) -> f64 = upper_half(1.0 / a);
    DRsqrtApprox<>(a: f64) -> f64 = upper_half(1.0 / a.sqrt());
    DSqrt<>(a: f64) -> f64 = a.sqrt();
    DMin<>(a: f64, b: f64) -> f64 = lesser_f64(a, b);
    DMax<>(a: f64, b: f64) -> f64 = -lesser_f64(-a, -b);
    FAbs<>(a: u32) -> u32 = a & 0x7fff_ffff;
    FNeg<>(a: u32) -> u32 = a ^ 0x8000_0000;
    FAbsFtz<>(a: f32) -> f32 = flush(a).abs();
    FNegFtz<>(a: f32) -> f32 = -flush(a);
    DAbs<>(a: u64) -> u64 = a & 0x7fff_ffff_ffff_ffff;
    DNeg<>(a: u64) -> u64 = a ^ 0x8000_0000_0000_0000;
    FCopysign<>(a: u32, b: u32) -> u32 = b & 0x7fff_ffff | a & 0x8000_0000;
    DCopysign<>(a: u64, b: u64) -> u64 = b & 0x7fff_ffff_ffff_ffff | a & 0x8000_0000_0000_0000;
}

/// The `.approx.ftz.f64` forms deliver the upper 32 bits of the result only.
#[inline(always)]
fn upper_half(x: f64) -> f64 {
    let flushed = if x.abs() < f64::MIN_POSITIVE { 0.0f64.copysign(x) } else { x };
    f64::from_bits(flushed.to_bits() & 0xffff_ffff_0000_0000)
}

#[inline(always)]
fn lesser_f64(a: f64, b: f64) -> f64 {
    let equal = f64::from_bits(a.to_bits() | b.to_bits());
    let smaller = if a < b { a } else { b };
    let ordered = if a == b { equal } else { smaller };
    if b.is_nan() {
        a
    } else if a.is_nan() {
        b
    } else {
        ordered
    }
}
