//! The vectors in AVX-512 with VNNI: one register each.

use super::Simd;
use half::{bf16, f16};
use std::arch::x86_64::*;

/// AVX-512 F, BW, DQ, VL and VNNI.
#[derive(Clone, Copy)]
pub(crate) struct Avx512;

macro_rules! features {
    ($($(#[$meta:meta])* unsafe fn $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)? $body:block)*) => {
        $($(#[$meta])* #[inline]
        #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
        unsafe fn $name($($arg: $ty),*) $(-> $ret)? $body)*
    };
}

#[inline]
#[target_feature(enable = "avx512f")]
fn transpose_quads(rows: [__m512i; 4]) -> [__m512i; 4] {
    let [r0, r1, r2, r3] = rows;
    let (t0, t1) = (_mm512_unpacklo_epi32(r0, r1), _mm512_unpackhi_epi32(r0, r1));
    let (t2, t3) = (_mm512_unpacklo_epi32(r2, r3), _mm512_unpackhi_epi32(r2, r3));
    [
        _mm512_unpacklo_epi64(t0, t2),
        _mm512_unpackhi_epi64(t0, t2),
        _mm512_unpacklo_epi64(t1, t3),
        _mm512_unpackhi_epi64(t1, t3),
    ]
}

impl Simd for Avx512 {
    type F = __m512;
    type I = __m512i;
    const TILE: usize = 4;
    const TILED: bool = true;

    features! {
    unsafe fn splat(v: f32) -> __m512 { _mm512_set1_ps(v) }
    unsafe fn load(p: *const f32) -> __m512 {
        // SAFETY: the caller gives 16 elements.
        unsafe { _mm512_loadu_ps(p) }
    }
    unsafe fn load_f16(p: *const f16) -> __m512 {
        // SAFETY: the caller gives 16 elements.
        _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(p.cast()) })
    }
    unsafe fn load_bf16(p: *const bf16) -> __m512 {
        // SAFETY: the caller gives 16 elements.
        let bits = _mm512_cvtepu16_epi32(unsafe { _mm256_loadu_si256(p.cast()) });
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
    }
    unsafe fn store(p: *mut f32, v: __m512) {
        // SAFETY: the caller gives room for 16 elements.
        unsafe { _mm512_storeu_ps(p, v) }
    }
    unsafe fn store_f16(p: *mut f16, v: __m512) {
        // SAFETY: the caller gives room for 16 elements.
        unsafe { _mm256_storeu_si256(p.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v)) }
    }
    unsafe fn add(a: __m512, b: __m512) -> __m512 { _mm512_add_ps(a, b) }
    unsafe fn sub(a: __m512, b: __m512) -> __m512 { _mm512_sub_ps(a, b) }
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fmadd_ps(a, b, c) }
    unsafe fn mul(a: __m512, b: __m512) -> __m512 { _mm512_mul_ps(a, b) }
    unsafe fn div(a: __m512, b: __m512) -> __m512 { _mm512_div_ps(a, b) }
    unsafe fn min(a: __m512, b: __m512) -> __m512 { _mm512_min_ps(a, b) }
    unsafe fn max(a: __m512, b: __m512) -> __m512 { _mm512_max_ps(a, b) }
    unsafe fn abs(a: __m512) -> __m512 { _mm512_abs_ps(a) }
    unsafe fn round(a: __m512) -> __m512 { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT }>(a) }
    unsafe fn exp2_whole(n: __m512) -> __m512 {
        let exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
        _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent))
    }
    unsafe fn sum(a: __m512) -> f32 {
        let a = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
        let a = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
        let a = _mm_add_ps(a, _mm_movehl_ps(a, a));
        _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)))
    }
    unsafe fn largest(a: __m512) -> f32 {
        let a = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
        let a = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
        let a = _mm_max_ps(a, _mm_movehl_ps(a, a));
        _mm_cvtss_f32(_mm_max_ss(a, _mm_movehdup_ps(a)))
    }
    unsafe fn select(mask: u16, a: __m512, b: __m512) -> __m512 { _mm512_mask_blend_ps(mask, b, a) }
    unsafe fn gt_mask(a: __m512, b: __m512) -> u16 { _mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b) }
    unsafe fn ge_mask(a: __m512, b: __m512) -> u16 { _mm512_cmp_ps_mask::<_CMP_GE_OQ>(a, b) }
    unsafe fn count_ge(count: __m512i, a: __m512, b: __m512) -> __m512i {
        let mask = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(a, b);
        _mm512_mask_add_epi32(count, mask, count, _mm512_set1_epi32(1))
    }

    unsafe fn splat_i32(v: i32) -> __m512i { _mm512_set1_epi32(v) }
    unsafe fn add_i32(a: __m512i, b: __m512i) -> __m512i { _mm512_add_epi32(a, b) }
    unsafe fn sub_i32(a: __m512i, b: __m512i) -> __m512i { _mm512_sub_epi32(a, b) }
    unsafe fn mul_i32(a: __m512i, b: __m512i) -> __m512i { _mm512_mullo_epi32(a, b) }
    unsafe fn to_f32(a: __m512i) -> __m512 { _mm512_cvtepi32_ps(a) }
    unsafe fn as_f32(a: __m512i) -> __m512 { _mm512_castsi512_ps(a) }
    unsafe fn low_f16(a: __m512i) -> __m512 { _mm512_cvtph_ps(_mm512_cvtepi32_epi16(a)) }
    unsafe fn high_f16(a: __m512i) -> __m512 { _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(a))) }
    unsafe fn high_u16(a: __m512i) -> __m512i { _mm512_srli_epi32::<16>(a) }
    unsafe fn dot(acc: __m512i, codes: __m512i, activations: __m512i) -> __m512i {
        _mm512_dpbusd_epi32(acc, codes, activations)
    }
    unsafe fn low_nibbles(a: __m512i) -> __m512i { _mm512_and_si512(a, _mm512_set1_epi8(15)) }
    unsafe fn high_nibbles(a: __m512i) -> __m512i {
        _mm512_and_si512(_mm512_srli_epi16::<4>(a), _mm512_set1_epi8(15))
    }
    unsafe fn load_rows(rows: &[*const u8; 16], offset: usize) -> [__m512i; 4] {
        // SAFETY: the caller gives 16 bytes at `offset` of every row.
        let row = |i: usize| unsafe { _mm_loadu_si128(rows[i].add(offset).cast()) };
        // 128-bit lane q of z[a] is row 4q + a, so transposing 4×4 inside the lanes puts row i in lane i
        let z = |a: usize| {
            let z = _mm512_castsi128_si512(row(a));
            let z = _mm512_inserti32x4::<1>(z, row(4 + a));
            let z = _mm512_inserti32x4::<2>(z, row(8 + a));
            _mm512_inserti32x4::<3>(z, row(12 + a))
        };
        transpose_quads([z(0), z(1), z(2), z(3)])
    }
    unsafe fn sum_quads(rows: [__m512i; 4]) -> __m512i {
        let pairs = |a, b| _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let (a, b) = (pairs(rows[0], rows[1]), pairs(rows[2], rows[3]));
        _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b))
    }
    unsafe fn transpose_quarters(rows: [__m512i; 4]) -> [__m512i; 4] {
        let [r0, r1, r2, r3] = rows;
        let (a, b) = (_mm512_shuffle_i32x4::<0x44>(r0, r1), _mm512_shuffle_i32x4::<0xEE>(r0, r1));
        let (c, d) = (_mm512_shuffle_i32x4::<0x44>(r2, r3), _mm512_shuffle_i32x4::<0xEE>(r2, r3));
        [
            _mm512_shuffle_i32x4::<0x88>(a, c),
            _mm512_shuffle_i32x4::<0xDD>(a, c),
            _mm512_shuffle_i32x4::<0x88>(b, d),
            _mm512_shuffle_i32x4::<0xDD>(b, d),
        ]
    }
    unsafe fn unzip_quarters(a: __m512i, b: __m512i) -> [__m512i; 2] {
        [_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xDD>(a, b)]
    }
    unsafe fn load_segments(p: *const u8, segments: usize) -> __m512i {
        // SAFETY: the mask leaves out what lies past the caller's segments.
        unsafe { _mm512_maskz_loadu_epi32(((1u32 << (4 * segments)) - 1) as u16, p.cast()) }
    }
    unsafe fn interleave(rows: [__m512i; 4]) -> [__m512i; 4] {
        let [r0, r1, r2, r3] = rows;
        let (a, b) = (_mm512_unpacklo_epi8(r0, r1), _mm512_unpacklo_epi8(r2, r3));
        let (c, d) = (_mm512_unpackhi_epi8(r0, r1), _mm512_unpackhi_epi8(r2, r3));
        [
            _mm512_unpacklo_epi16(a, b),
            _mm512_unpackhi_epi16(a, b),
            _mm512_unpacklo_epi16(c, d),
            _mm512_unpackhi_epi16(c, d),
        ]
    }
    unsafe fn load_u16(p: *const u16, lanes: usize) -> __m512i {
        // SAFETY: the mask leaves out what lies past the caller's lanes.
        _mm512_cvtepu16_epi32(unsafe { _mm256_maskz_loadu_epi16(((1u32 << lanes) - 1) as u16, p.cast()) })
    }
    unsafe fn prefetch(p: *const u8) {
        _mm_prefetch::<_MM_HINT_T0>(p.cast())
    }
    }
}
