//! Every operation of every instruction set against the portable one, bit for bit, and the exponential against f64.

use super::*;

struct Exp2<'a>(&'a [f32; 16]);

impl Kernel for Exp2<'_> {
    type Output = [f32; 16];
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> [f32; 16] {
        let mut out = [0f32; 16];
        simd.store(&mut out, exp2_to_one(simd, simd.load(self.0)));
        out
    }
}

fn available() -> impl Iterator<Item = Available> {
    Isa::ALL.into_iter().filter_map(Available::of)
}

#[test]
fn exp2_matches_f64_within_its_rounding_bound() {
    // Final sum half an ulp (2⁻²⁴ at 1, relative), the polynomial's own rounding 0.7 · 2⁻²⁴, truncation 1.6e-8.
    let bound = 2f64.powi(-23);
    for step in 0..400_000u32 {
        let base = -126.0 * step as f32 / 400_000.0;
        let x: [f32; 16] = std::array::from_fn(|i| (base - i as f32 * 1.3e-5).max(-126.0));
        let y = Available::best().run(Exp2(&x));
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
    for simd in available() {
        let y = simd.run(Exp2(&std::array::from_fn(|i| x[i % 8])));
        for half in y.chunks(8) {
            assert_eq!(half[..7], expected, "{}", simd.isa().name());
            assert!(half[7].is_nan(), "{}", simd.isa().name());
        }
    }
}

/// What every float operation gives for three vectors and a mask, as bits.
struct EveryOperation<'a>(&'a [[f32; 16]; 3], u16);

impl Kernel for EveryOperation<'_> {
    type Output = Vec<u32>;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Vec<u32> {
        let mut out = Vec::new();
        let mut lanes = [0f32; 16];
        let mut narrow = ([f16::ZERO; 16], [bf16::ZERO; 16]);
        let [a, b, c] = self.0.each_ref().map(|v| s.load(v));
        f16::store(s, &mut narrow.0, a);
        bf16::store(s, &mut narrow.1, a);
        let wide = [s.load_f16(&narrow.0), s.load_bf16(&narrow.1)];
        let arithmetic = [s.add(a, b), s.sub(a, b), s.mul(a, b), s.div(a, b), s.fma(a, b, c)];
        let order = [s.min(a, b), s.max(a, b), s.abs(a), s.round(a), s.select(self.1, a, b)];
        let exponential = [exp2_to_one(s, a), s.exp2_whole(s.round(a))];
        for v in arithmetic.into_iter().chain(order).chain(exponential).chain(wide) {
            s.store(&mut lanes, v);
            out.extend(lanes.map(f32::to_bits));
        }
        out.extend([s.sum(a).to_bits(), s.largest(a).to_bits()]);
        out.extend([u32::from(s.gt_mask(a, b)), u32::from(s.ge_mask(a, b))]);
        out
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
        // −121 … 0: where every operation is defined
        let inputs: [[f32; 16]; 3] =
            std::array::from_fn(|_| std::array::from_fn(|_| -next().abs() * next().abs().min(1.9) - 1e-3));
        let mask = (round.wrapping_mul(40_503) >> 3) as u16;
        let expected = Portable.run(EveryOperation(&inputs, mask));
        for simd in available() {
            assert_eq!(simd.run(EveryOperation(&inputs, mask)), expected, "{}", simd.isa().name());
        }
    }
}
