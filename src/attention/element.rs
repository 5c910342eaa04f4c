//! What a cache stores, sixteen elements at a time.

use bytemuck::Pod;

use super::BLOCK;
use crate::simd::{Simd, SimdElement};

/// An element of the cache: a float, or a code that its row's scale multiplies.
pub(super) trait KvElement: Pod + Send + Sync {
    /// Elements behind a block that hold its scales, f32: those of K by position, then those of V. None for floats.
    const SCALE_ELEMS: usize;
    /// Whether `load` has to convert.
    const CONVERTS: bool;
    /// Reads 16 elements as f32.
    fn load<S: Simd>(simd: S, v: &[Self; 16]) -> S::F;
    /// Writes 16 elements times `inverse`, rounded to nearest, ties to even; floats take no scale.
    fn store<S: Simd>(simd: S, out: &mut [Self; 16], v: S::F, inverse: f32);
    /// Its value, or its code's.
    fn to_f32(self) -> f32;
}

impl<E: SimdElement> KvElement for E {
    const SCALE_ELEMS: usize = 0;
    const CONVERTS: bool = E::CONVERTS;
    #[inline(always)]
    fn load<S: Simd>(simd: S, v: &[Self; 16]) -> S::F {
        E::load(simd, v)
    }
    #[inline(always)]
    fn store<S: Simd>(simd: S, out: &mut [Self; 16], v: S::F, _inverse: f32) {
        E::store(simd, out, v);
    }
    fn to_f32(self) -> f32 {
        crate::element::Element::to_f32(self)
    }
}

impl KvElement for i8 {
    const SCALE_ELEMS: usize = 2 * BLOCK * size_of::<f32>();
    const CONVERTS: bool = true;
    #[inline(always)]
    fn load<S: Simd>(simd: S, v: &[Self; 16]) -> S::F {
        simd.load_i8(v)
    }
    #[inline(always)]
    fn store<S: Simd>(simd: S, out: &mut [Self; 16], v: S::F, inverse: f32) {
        let code = simd.mul(v, simd.splat(inverse));
        let code = simd.min(simd.max(code, simd.splat(-LARGEST_CODE)), simd.splat(LARGEST_CODE));
        let mut lanes = [0f32; 16];
        simd.store(&mut lanes, simd.round(code));
        for (out, lane) in out.iter_mut().zip(lanes) {
            *out = lane as i8;
        }
    }
    fn to_f32(self) -> f32 {
        f32::from(self)
    }
}

/// The code of a row's largest magnitude.
const LARGEST_CODE: f32 = 127.0;

/// A row's scale, max|x| / 127, and what its elements are multiplied with to give codes: 0 where all are 0, as the scale then is. A
/// row that is not finite has a scale of NaN, so that no score of it is finite either.
#[inline(always)]
pub(super) fn scale_of(row: &[f32]) -> (f32, f32) {
    let mut largest = 0;
    for x in row {
        largest = largest.max(x.to_bits() & (u32::MAX >> 1));
    }
    let scale = match f32::from_bits(largest) {
        largest if largest.is_finite() => largest / LARGEST_CODE,
        _ => f32::NAN,
    };
    (scale, if scale > 0.0 { 1.0 / scale } else { 0.0 })
}
