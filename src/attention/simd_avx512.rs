//! The sixteen lanes as one AVX-512 register.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::simd::Lanes;

#[derive(Clone, Copy)]
pub(super) struct Avx512(__m512);

/// Reduces by pairs (i, i+8), (i, i+4), (i, i+2), (0, 1).
macro_rules! reduce {
    ($v:expr, $wide:ident, $narrow:ident, $scalar:ident) => {{
        let eight = $wide(_mm512_castps512_ps256($v), _mm512_extractf32x8_ps::<1>($v));
        let four = $narrow(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
        let two = $narrow(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32($scalar(two, _mm_movehdup_ps(two)))
    }};
}

// Every block below runs on AVX-512 F, BW, DQ and VL, which the caller vouches for by the contract of `Lanes`; pointers
// have sixteen elements behind them by the same contract.
impl Lanes for Avx512 {
    const TILED: bool = true;
    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        // SAFETY: a prefetch does not fault.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: the contract of `Lanes`.
        unsafe { Avx512(_mm512_set1_ps(x)) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the contract of `Lanes`.
        unsafe { Avx512(_mm512_loadu_ps(p)) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const f16) -> Self {
        // SAFETY: the contract of `Lanes`.
        unsafe { Avx512(_mm512_cvtph_ps(_mm256_loadu_si256(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const bf16) -> Self {
        // SAFETY: the contract of `Lanes`.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
            Avx512(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide)))
        }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: the contract of `Lanes`.
        unsafe { _mm512_storeu_ps(p, self.0) }
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut f16) {
        // SAFETY: the contract of `Lanes`.
        unsafe { _mm256_storeu_si256(p.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0)) }
    }
    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        // SAFETY: the contract of `Lanes`.
        unsafe { Avx512(_mm512_sub_ps(self.0, b.0)) }
    }
    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        // SAFETY: the contract of `Lanes`.
        unsafe { Avx512(_mm512_add_ps(self.0, b.0)) }
    }
    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        // SAFETY: the contract of `Lanes`.
        unsafe { Avx512(_mm512_mul_ps(self.0, b.0)) }
    }
    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        // SAFETY: the contract of `Lanes`.
        unsafe { Avx512(_mm512_fmadd_ps(self.0, b.0, c.0)) }
    }
    #[inline(always)]
    unsafe fn max(self, b: Self) -> Self {
        // SAFETY: the contract of `Lanes`.
        unsafe { Avx512(_mm512_max_ps(self.0, b.0)) }
    }
    #[inline(always)]
    unsafe fn keep(self, bits: u16, other: f32) -> Self {
        // SAFETY: the contract of `Lanes`.
        unsafe { Avx512(_mm512_mask_mov_ps(_mm512_set1_ps(other), bits, self.0)) }
    }
    #[inline(always)]
    unsafe fn zero_where_below(self, x: Self, limit: f32) -> Self {
        // SAFETY: the contract of `Lanes`.
        unsafe {
            let below = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(x.0, _mm512_set1_ps(limit));
            Avx512(_mm512_maskz_mov_ps(!below, self.0))
        }
    }
    #[inline(always)]
    unsafe fn shift_to_exponent(self) -> Self {
        // SAFETY: the contract of `Lanes`.
        unsafe {
            let power = _mm512_slli_epi32::<23>(_mm512_castps_si512(self.0));
            Avx512(_mm512_castsi512_ps(_mm512_add_epi32(power, _mm512_set1_epi32(1f32.to_bits() as i32))))
        }
    }
    #[inline(always)]
    unsafe fn reduce_max(self) -> f32 {
        // SAFETY: the contract of `Lanes`.
        unsafe { reduce!(self.0, _mm256_max_ps, _mm_max_ps, _mm_max_ss) }
    }
    #[inline(always)]
    unsafe fn reduce_add(self) -> f32 {
        // SAFETY: the contract of `Lanes`.
        unsafe { reduce!(self.0, _mm256_add_ps, _mm_add_ps, _mm_add_ss) }
    }
}
