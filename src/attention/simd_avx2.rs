//! The sixteen lanes as two AVX2 registers.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::simd::Lanes;

/// Lanes 0–7 and 8–15.
#[derive(Clone, Copy)]
pub(super) struct Avx2(__m256, __m256);

/// `bits` (eight of them) as a blend mask.
#[inline(always)]
unsafe fn blend_mask(bits: i32) -> __m256 {
    // SAFETY: AVX2 by the contract of `Lanes`; no memory is touched.
    unsafe {
        let bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
        let set = _mm256_and_si256(_mm256_set1_epi32(bits), bit);
        _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, bit))
    }
}

/// Eight bf16 as f32: they are the upper halves.
#[inline(always)]
unsafe fn widen_bf16(p: *const bf16) -> __m256 {
    // SAFETY: eight elements behind `p` and AVX2 by the contract of `Lanes`.
    unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast())))) }
}

#[inline(always)]
unsafe fn shift_to_exponent(x: __m256) -> __m256 {
    // SAFETY: AVX2 by the contract of `Lanes`; no memory is touched.
    unsafe {
        let power = _mm256_slli_epi32::<23>(_mm256_castps_si256(x));
        _mm256_castsi256_ps(_mm256_add_epi32(power, _mm256_set1_epi32(1f32.to_bits() as i32)))
    }
}

/// Reduces by pairs (i, i+8), (i, i+4), (i, i+2), (0, 1).
macro_rules! reduce {
    ($v:expr, $wide:ident, $narrow:ident, $scalar:ident) => {{
        let eight = $wide($v.0, $v.1);
        let four = $narrow(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
        let two = $narrow(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32($scalar(two, _mm_movehdup_ps(two)))
    }};
}

// Every block below runs on AVX2, FMA and F16C, which the caller vouches for by the contract of `Lanes`; pointers have
// sixteen elements behind them by the same contract.
impl Lanes for Avx2 {
    const TILED: bool = true;
    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        // SAFETY: a prefetch does not fault.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: the contract of `Lanes`.
        unsafe { Avx2(_mm256_set1_ps(x), _mm256_set1_ps(x)) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the contract of `Lanes`.
        unsafe { Avx2(_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const f16) -> Self {
        // SAFETY: the contract of `Lanes`.
        unsafe {
            let (low, high) = (_mm_loadu_si128(p.cast()), _mm_loadu_si128(p.add(8).cast()));
            Avx2(_mm256_cvtph_ps(low), _mm256_cvtph_ps(high))
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const bf16) -> Self {
        // SAFETY: the contract of `Lanes`.
        unsafe { Avx2(widen_bf16(p), widen_bf16(p.add(8))) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: the contract of `Lanes`.
        unsafe {
            _mm256_storeu_ps(p, self.0);
            _mm256_storeu_ps(p.add(8), self.1);
        }
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut f16) {
        // SAFETY: the contract of `Lanes`.
        unsafe {
            _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0));
            _mm_storeu_si128(p.add(8).cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.1));
        }
    }
    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        // SAFETY: the contract of `Lanes`.
        unsafe { Avx2(_mm256_sub_ps(self.0, b.0), _mm256_sub_ps(self.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        // SAFETY: the contract of `Lanes`.
        unsafe { Avx2(_mm256_add_ps(self.0, b.0), _mm256_add_ps(self.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        // SAFETY: the contract of `Lanes`.
        unsafe { Avx2(_mm256_mul_ps(self.0, b.0), _mm256_mul_ps(self.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        // SAFETY: the contract of `Lanes`.
        unsafe { Avx2(_mm256_fmadd_ps(self.0, b.0, c.0), _mm256_fmadd_ps(self.1, b.1, c.1)) }
    }
    #[inline(always)]
    unsafe fn max(self, b: Self) -> Self {
        // SAFETY: the contract of `Lanes`.
        unsafe { Avx2(_mm256_max_ps(self.0, b.0), _mm256_max_ps(self.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn keep(self, bits: u16, other: f32) -> Self {
        // SAFETY: the contract of `Lanes`.
        unsafe {
            let (bits, other) = (i32::from(bits), _mm256_set1_ps(other));
            Avx2(
                _mm256_blendv_ps(other, self.0, blend_mask(bits)),
                _mm256_blendv_ps(other, self.1, blend_mask(bits >> 8)),
            )
        }
    }
    #[inline(always)]
    unsafe fn zero_where_below(self, x: Self, limit: f32) -> Self {
        // SAFETY: the contract of `Lanes`.
        unsafe {
            let limit = _mm256_set1_ps(limit);
            let low = _mm256_cmp_ps::<_CMP_LT_OQ>(x.0, limit);
            let high = _mm256_cmp_ps::<_CMP_LT_OQ>(x.1, limit);
            Avx2(_mm256_andnot_ps(low, self.0), _mm256_andnot_ps(high, self.1))
        }
    }
    #[inline(always)]
    unsafe fn shift_to_exponent(self) -> Self {
        // SAFETY: the contract of `Lanes`.
        unsafe { Avx2(shift_to_exponent(self.0), shift_to_exponent(self.1)) }
    }
    #[inline(always)]
    unsafe fn reduce_max(self) -> f32 {
        // SAFETY: the contract of `Lanes`.
        unsafe { reduce!(self, _mm256_max_ps, _mm_max_ps, _mm_max_ss) }
    }
    #[inline(always)]
    unsafe fn reduce_add(self) -> f32 {
        // SAFETY: the contract of `Lanes`.
        unsafe { reduce!(self, _mm256_add_ps, _mm_add_ps, _mm_add_ss) }
    }
}
