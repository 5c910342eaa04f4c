//! The exponential on sixteen lanes.

use super::Simd;

/// 2^x is flushed to zero below it; at it, 2^x is still a normal number.
const EXP2_MIN: f32 = -126.0;
/// 2^f = 1 + f·(c₀ + c₁f + … + c₅f⁵) on [−½, ½], relative error 1.6e-8 with these f32 coefficients.
const EXP2: [f32; 6] =
    [std::f32::consts::LN_2, 0.240_226_48, 0.055_503_324, 0.009_618_437, 0.001_339_887_5, 0.000_153_533_62];

/// 2^x for x ≤ 0, relative error below 2⁻²³; 0 for x < −126; NaN stays NaN.
///
/// # Safety
/// As [`Simd`].
#[inline(always)]
pub(crate) unsafe fn exp2_to_one<S: Simd>(x: S::F) -> S::F {
    // SAFETY: values only; the caller runs this on S's instruction set.
    unsafe {
        let n = S::round(x);
        let f = S::sub(x, n);
        let mut g = S::splat(EXP2[5]);
        for i in (0..5).rev() {
            g = S::fma(g, f, S::splat(EXP2[i]));
        }
        let power = S::fma(g, f, S::splat(1.0));
        let below = S::gt_mask(S::splat(EXP2_MIN), x);
        S::select(below, S::splat(0.0), S::mul(power, S::exp2_whole(n)))
    }
}
