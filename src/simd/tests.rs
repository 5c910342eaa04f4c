//! Every operation of every instruction set against the portable one, bit for bit, and the exponential against f64.

use super::*;

struct Exp2<'a>(&'a [f32; 16]);

impl Kernel for Exp2<'_> {
    type Output = [f32; 16];
    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> [f32; 16] {
        let mut out = [0f32; 16];
        // SAFETY: both arrays hold sixteen elements; the instruction set is `run`'s care.
        unsafe { S::store(out.as_mut_ptr(), exp2_to_one::<S>(S::load(self.0.as_ptr()))) };
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
        let y = run(Isa::detect(), Exp2(&x));
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
        let y = run(isa, Exp2(&std::array::from_fn(|i| x[i % 8])));
        for half in y.chunks(8) {
            assert_eq!(half[..7], expected, "{}", isa.name());
            assert!(half[7].is_nan(), "{}", isa.name());
        }
    }
}

/// What every float operation gives for three vectors and a mask, as bits.
struct EveryOperation<'a>(&'a [[f32; 16]; 3], u16);

impl Kernel for EveryOperation<'_> {
    type Output = Vec<u32>;
    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> Vec<u32> {
        let mut out = Vec::new();
        let mut lanes = [0f32; 16];
        let mut narrow = ([f16::ZERO; 16], [bf16::ZERO; 16]);
        // SAFETY: every pointer has sixteen elements behind it; the instruction set is `run`'s care.
        unsafe {
            let [a, b, c] = [S::load(self.0[0].as_ptr()), S::load(self.0[1].as_ptr()), S::load(self.0[2].as_ptr())];
            f16::store::<S>(narrow.0.as_mut_ptr(), a);
            bf16::store::<S>(narrow.1.as_mut_ptr(), a);
            let wide = [S::load_f16(narrow.0.as_ptr()), S::load_bf16(narrow.1.as_ptr())];
            let arithmetic = [S::add(a, b), S::sub(a, b), S::mul(a, b), S::div(a, b), S::fma(a, b, c)];
            let order = [S::min(a, b), S::max(a, b), S::abs(a), S::round(a), S::select(self.1, a, b)];
            let exponential = [exp2_to_one::<S>(a), S::exp2_whole(S::round(a))];
            for v in arithmetic.into_iter().chain(order).chain(exponential).chain(wide) {
                S::store(lanes.as_mut_ptr(), v);
                out.extend(lanes.map(f32::to_bits));
            }
            out.extend([S::sum(a).to_bits(), S::largest(a).to_bits()]);
            out.extend([u32::from(S::gt_mask(a, b)), u32::from(S::ge_mask(a, b))]);
        }
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
        let expected = run(Isa::Portable, EveryOperation(&inputs, mask));
        for isa in isas() {
            assert_eq!(run(isa, EveryOperation(&inputs, mask)), expected, "{}", isa.name());
        }
    }
}
