//! Sixteen f32 lanes over several instruction sets, and the exponential on them.
//!
//! The algorithms are written once over [`Lanes`]. Every operation is defined per lane (`mul_add` rounds once, `max`
//! is `a > b ? a : b`), and the two reductions across lanes have a fixed tree, so all instruction sets agree bit for
//! bit.

use half::{bf16, f16};

use crate::element::Element;

/// Sixteen f32 values in order.
///
/// # Safety
/// Every function needs the instruction set of its implementor; the pointers given to `load*` and `store*` are valid for
/// sixteen elements, with no alignment asked for.
pub(super) trait Lanes: Copy {
    /// Whether several rows at once pay: registers hold their sums.
    const TILED: bool;
    /// Asks for the cache line at `p`, which may be any address.
    unsafe fn prefetch(p: *const u8);
    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(p: *const f32) -> Self;
    unsafe fn load_f16(p: *const f16) -> Self;
    unsafe fn load_bf16(p: *const bf16) -> Self;
    unsafe fn store(self, p: *mut f32);
    /// Rounds to nearest, ties to even.
    unsafe fn store_f16(self, p: *mut f16);
    unsafe fn sub(self, b: Self) -> Self;
    unsafe fn add(self, b: Self) -> Self;
    unsafe fn mul(self, b: Self) -> Self;
    /// `self · b + c`, rounded once.
    unsafe fn mul_add(self, b: Self, c: Self) -> Self;
    /// `self > b ? self : b`.
    unsafe fn max(self, b: Self) -> Self;
    /// Lanes whose bit is set keep their value, the others become `other`.
    unsafe fn keep(self, bits: u16, other: f32) -> Self;
    /// `x < limit ? 0 : self`.
    unsafe fn zero_where_below(self, x: Self, limit: f32) -> Self;
    /// `f32::from_bits((bits(self) << 23) + bits(1.0))`.
    unsafe fn shift_to_exponent(self) -> Self;
    /// Maximum over the lanes: (i, i+8), (i, i+4), (i, i+2), (0, 1).
    unsafe fn reduce_max(self) -> f32;
    /// Sum over the lanes, paired as in `reduce_max`.
    unsafe fn reduce_add(self) -> f32;
}

/// Adding it to |x| ≤ 2²¹ rounds x to an integer, which then stands in the low bits.
const ROUND: f32 = 12_582_912.0; // 1.5 · 2²³
/// 2^x is flushed to zero below it; at it, 2^x is still a normal number.
const EXP2_MIN: f32 = -126.0;
/// 2^f = 1 + f·(c₀ + c₁f + … + c₅f⁵) on [−½, ½], relative error 1.6e-8 with these f32 coefficients.
const EXP2: [f32; 6] =
    [std::f32::consts::LN_2, 0.240_226_48, 0.055_503_324, 0.009_618_437, 0.001_339_887_5, 0.000_153_533_62];

/// 2^x for x ≤ 0, relative error below 2⁻²³; 0 for x < −126; NaN stays NaN.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
pub(super) unsafe fn exp2<V: Lanes>(x: V) -> V {
    // SAFETY: the caller runs this on V's instruction set; no memory is touched.
    unsafe {
        let rounded = x.add(V::splat(ROUND));
        let f = x.sub(rounded.sub(V::splat(ROUND)));
        let mut g = V::splat(EXP2[5]);
        for i in (0..5).rev() {
            g = g.mul_add(f, V::splat(EXP2[i]));
        }
        let power = g.mul_add(f, V::splat(1.0));
        power.mul(rounded.shift_to_exponent()).zero_where_below(x, EXP2_MIN)
    }
}

/// An element type of the KV cache.
///
/// # Safety
/// `load16` and `store16` as [`Lanes::load`] and [`Lanes::store`].
pub(super) trait KvElement: Element {
    /// Whether `load16` has to convert.
    const CONVERTS: bool;
    unsafe fn load16<V: Lanes>(p: *const Self) -> V;
    unsafe fn store16<V: Lanes>(v: V, p: *mut Self);
}

impl KvElement for f32 {
    const CONVERTS: bool = false;
    #[inline(always)]
    unsafe fn load16<V: Lanes>(p: *const Self) -> V {
        // SAFETY: the caller's.
        unsafe { V::load(p) }
    }
    #[inline(always)]
    unsafe fn store16<V: Lanes>(v: V, p: *mut Self) {
        // SAFETY: the caller's.
        unsafe { v.store(p) }
    }
}

impl KvElement for f16 {
    const CONVERTS: bool = true;
    #[inline(always)]
    unsafe fn load16<V: Lanes>(p: *const Self) -> V {
        // SAFETY: the caller's.
        unsafe { V::load_f16(p) }
    }
    #[inline(always)]
    unsafe fn store16<V: Lanes>(v: V, p: *mut Self) {
        // SAFETY: the caller's.
        unsafe { v.store_f16(p) }
    }
}

impl KvElement for bf16 {
    const CONVERTS: bool = true;
    #[inline(always)]
    unsafe fn load16<V: Lanes>(p: *const Self) -> V {
        // SAFETY: the caller's.
        unsafe { V::load_bf16(p) }
    }
    #[inline(always)]
    unsafe fn store16<V: Lanes>(v: V, p: *mut Self) {
        let mut lanes = [0f32; 16];
        // SAFETY: `lanes` and, by the caller, `p` hold sixteen elements.
        unsafe {
            v.store(lanes.as_mut_ptr());
            for (i, &x) in lanes.iter().enumerate() {
                p.add(i).write(bf16::from_f32(x));
            }
        }
    }
}

/// A computation over [`Lanes`], run by `dispatch::run` on the instruction set that a [`crate::Cpu`] names.
pub(super) trait Op {
    type Output;
    /// `W` is how many `Lanes` wide the inner tiles are: what the register file holds beside six rows of accumulators.
    ///
    /// # Safety
    /// The caller runs this on V's instruction set.
    unsafe fn run<V: Lanes, const W: usize>(self) -> Self::Output;
}

#[cfg(test)]
mod tests {
    use super::super::dispatch;
    use super::*;
    use crate::Isa;

    struct Exp2<'a>(&'a [f32; 16]);

    impl Op for Exp2<'_> {
        type Output = [f32; 16];
        unsafe fn run<V: Lanes, const W: usize>(self) -> [f32; 16] {
            let mut out = [0f32; 16];
            // SAFETY: both arrays hold sixteen elements; the instruction set is `dispatch::run`'s care.
            unsafe { exp2(V::load(self.0.as_ptr())).store(out.as_mut_ptr()) };
            out
        }
    }

    fn isas() -> impl Iterator<Item = Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.is_available())
    }

    #[test]
    fn exp2_matches_f64_within_its_rounding_bound() {
        // Final sum half an ulp (2⁻²⁴ at 1, relative), the polynomial's own rounding 0.7 · 2⁻²⁴, truncation 1.6e-8.
        let bound = 2f64.powi(-23);
        for step in 0..400_000u32 {
            let base = -126.0 * step as f32 / 400_000.0;
            let x: [f32; 16] = std::array::from_fn(|i| (base - i as f32 * 1.3e-5).max(-126.0));
            let y = dispatch::run(Isa::detect(), Exp2(&x));
            for (x, y) in x.iter().zip(y) {
                let exact = f64::from(*x).exp2();
                let error = (f64::from(y) - exact).abs() / exact;
                assert!(error <= bound, "exp2({x}) = {y}, relative error {error:e}");
            }
        }
    }

    #[test]
    fn exp2_matches_the_definition_at_its_special_values() {
        let below = f32::from_bits(126f32.to_bits() + 1);
        let x = [0.0, -0.0, -1.0, -126.0, -below, -1e30, f32::NEG_INFINITY, f32::NAN];
        let expected = [1.0, 1.0, 0.5, f32::MIN_POSITIVE, 0.0, 0.0, 0.0];
        for isa in isas() {
            let y = dispatch::run(isa, Exp2(&std::array::from_fn(|i| x[i % 8])));
            for half in y.chunks(8) {
                assert_eq!(half[..7], expected, "{}", isa.name());
                assert!(half[7].is_nan(), "{}", isa.name());
            }
        }
    }

    struct EveryOperation<'a>(&'a [[f32; 16]; 3], u16);

    impl Op for EveryOperation<'_> {
        type Output = Vec<u32>;
        unsafe fn run<V: Lanes, const W: usize>(self) -> Vec<u32> {
            let mut out = vec![0f32; 9 * 16 + 2];
            let mut narrow = ([f16::ZERO; 16], [bf16::ZERO; 16]);
            // SAFETY: every pointer has sixteen elements behind it; the instruction set is `dispatch::run`'s care.
            unsafe {
                let [a, b, c] = std::array::from_fn(|i| V::load(self.0[i].as_ptr()));
                a.store_f16(narrow.0.as_mut_ptr());
                bf16::store16(a, narrow.1.as_mut_ptr());
                let wide = [V::load_f16(narrow.0.as_ptr()), V::load_bf16(narrow.1.as_ptr())];
                let results = [a.add(b), a.sub(b), a.mul(b), a.mul_add(b, c), a.max(b), a.keep(self.1, 7.0), exp2(a)];
                for (i, v) in results.into_iter().chain(wide).enumerate() {
                    v.store(out.as_mut_ptr().add(16 * i));
                }
                out[144] = a.reduce_add();
                out[145] = a.reduce_max();
            }
            out.into_iter().map(f32::to_bits).collect()
        }
    }

    #[test]
    fn every_operation_matches_portable_bit_for_bit() {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 18) as f32 - 64.0
        };
        for round in 0..2000u32 {
            let inputs: [[f32; 16]; 3] = std::array::from_fn(|_| std::array::from_fn(|_| -next().abs() * next().abs()));
            let mask = (round.wrapping_mul(40_503) >> 3) as u16;
            let expected = dispatch::run(Isa::Portable, EveryOperation(&inputs, mask));
            for isa in isas() {
                assert_eq!(dispatch::run(isa, EveryOperation(&inputs, mask)), expected, "{}", isa.name());
            }
        }
    }
}
