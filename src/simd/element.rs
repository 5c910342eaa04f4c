//! Element types of weight rows and of the KV cache, sixteen at a time.

use half::{bf16, f16};

use super::Simd;
use crate::element::Element;

/// An element of a 16-bit or f32 row.
pub(crate) trait SimdElement: Element {
    /// Whether `load` has to convert.
    const CONVERTS: bool;
    /// Reads 16 elements as f32.
    fn load<S: Simd>(simd: S, v: &[Self; 16]) -> S::F;
    /// Writes 16 elements, rounded to nearest, ties to even.
    fn store<S: Simd>(simd: S, out: &mut [Self; 16], v: S::F);
}

impl SimdElement for f32 {
    const CONVERTS: bool = false;
    #[inline(always)]
    fn load<S: Simd>(simd: S, v: &[Self; 16]) -> S::F {
        simd.load(v)
    }
    #[inline(always)]
    fn store<S: Simd>(simd: S, out: &mut [Self; 16], v: S::F) {
        simd.store(out, v);
    }
}

impl SimdElement for f16 {
    const CONVERTS: bool = true;
    #[inline(always)]
    fn load<S: Simd>(simd: S, v: &[Self; 16]) -> S::F {
        simd.load_f16(v)
    }
    #[inline(always)]
    fn store<S: Simd>(simd: S, out: &mut [Self; 16], v: S::F) {
        simd.store_f16(out, v);
    }
}

impl SimdElement for bf16 {
    const CONVERTS: bool = true;
    #[inline(always)]
    fn load<S: Simd>(simd: S, v: &[Self; 16]) -> S::F {
        simd.load_bf16(v)
    }
    #[inline(always)]
    fn store<S: Simd>(simd: S, out: &mut [Self; 16], v: S::F) {
        let mut lanes = [0f32; 16];
        simd.store(&mut lanes, v);
        *out = lanes.map(bf16::from_f32);
    }
}

/// Reads the first sixteen elements, or all if they are fewer, the other lanes zero.
#[inline(always)]
pub(crate) fn load_first<S: Simd, T: SimdElement>(simd: S, v: &[T]) -> S::F {
    match v.first_chunk::<16>() {
        Some(v) => T::load(simd, v),
        None => {
            let mut copy = [T::zeroed(); 16];
            copy[..v.len()].copy_from_slice(v);
            T::load(simd, &copy)
        }
    }
}
