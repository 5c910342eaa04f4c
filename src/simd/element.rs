//! Element types of weight rows and of the KV cache, sixteen at a time.

use half::{bf16, f16};

use super::Simd;
use crate::element::Element;

/// An element of a 16-bit or f32 row.
///
/// # Safety
/// As [`Simd`]: the instruction set, and 16 elements at `p`.
pub(crate) trait SimdElement: Element {
    /// Whether `load` has to convert.
    const CONVERTS: bool;
    /// Reads 16 elements as f32.
    unsafe fn load<S: Simd>(p: *const Self) -> S::F;
    /// Writes 16 elements, rounded to nearest, ties to even.
    unsafe fn store<S: Simd>(p: *mut Self, v: S::F);
}

impl SimdElement for f32 {
    const CONVERTS: bool = false;
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const Self) -> S::F {
        // SAFETY: the caller's.
        unsafe { S::load(p) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(p: *mut Self, v: S::F) {
        // SAFETY: the caller's.
        unsafe { S::store(p, v) }
    }
}

impl SimdElement for f16 {
    const CONVERTS: bool = true;
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const Self) -> S::F {
        // SAFETY: the caller's.
        unsafe { S::load_f16(p) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(p: *mut Self, v: S::F) {
        // SAFETY: the caller's.
        unsafe { S::store_f16(p, v) }
    }
}

impl SimdElement for bf16 {
    const CONVERTS: bool = true;
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const Self) -> S::F {
        // SAFETY: the caller's.
        unsafe { S::load_bf16(p) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(p: *mut Self, v: S::F) {
        let mut lanes = [0f32; 16];
        // SAFETY: `lanes` and, by the caller, `p` hold sixteen elements.
        unsafe {
            S::store(lanes.as_mut_ptr(), v);
            for (i, &x) in lanes.iter().enumerate() {
                p.add(i).write(bf16::from_f32(x));
            }
        }
    }
}

/// Reads the first `count` ≤ 16 elements, the rest zero.
///
/// # Safety
/// As [`Simd`]: the instruction set, and `count` elements at `p`.
#[inline(always)]
pub(crate) unsafe fn load_first<S: Simd, T: SimdElement>(p: *const T, count: usize) -> S::F {
    // SAFETY: either 16 elements are there, or `count` are and the copy has 16.
    unsafe {
        if count >= 16 {
            return T::load::<S>(p);
        }
        let mut copy = [T::zeroed(); 16];
        std::ptr::copy_nonoverlapping(p, copy.as_mut_ptr(), count);
        T::load::<S>(copy.as_ptr())
    }
}
