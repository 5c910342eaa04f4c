//! The exponential on sixteen lanes.

use super::Simd;

/// 2^x is flushed to zero below it; at it, 2^x is still a normal number.
const EXP2_MIN: f32 = -126.0;
/// 2^f = 1 + f·(c₀ + c₁f + … + c₅f⁵) on [−½, ½], relative error 1.6e-8 with these f32 coefficients.
const EXP2: [f32; 6] =
    [std::f32::consts::LN_2, 0.240_226_48, 0.055_503_324, 0.009_618_437, 0.001_339_887_5, 0.000_153_533_62];

/// 2^x for x ≤ 0, relative error below 2⁻²³; 0 for x < −126; NaN stays NaN.
#[inline(always)]
pub(crate) fn exp2_to_one<S: Simd>(simd: S, x: S::F) -> S::F {
    let n = simd.round(x);
    let f = simd.sub(x, n);
    let mut g = simd.splat(EXP2[5]);
    for i in (0..5).rev() {
        g = simd.fma(g, f, simd.splat(EXP2[i]));
    }
    let power = simd.fma(g, f, simd.splat(1.0));
    let below = simd.gt_mask(simd.splat(EXP2_MIN), x);
    simd.select(below, simd.splat(0.0), simd.mul(power, simd.exp2_whole(n)))
}
