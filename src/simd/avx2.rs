//! The vectors in AVX2 (with or without the 256-bit dot product of AVX-VNNI): two registers each.

use super::Simd;
use half::{bf16, f16};
use std::arch::x86_64::*;

/// AVX2, FMA and F16C, and AVX-VNNI if `VNNI`.
#[derive(Clone, Copy)]
pub(crate) struct Avx2<const VNNI: bool>;

type F = [__m256; 2];
type I = [__m256i; 2];

macro_rules! features {
    ($($(#[$meta:meta])* unsafe fn $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)? $body:block)*) => {
        $($(#[$meta])* #[inline] #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn $name($($arg: $ty),*) $(-> $ret)? $body)*
    };
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn halves_to_f32(low: __m256i) -> __m256 {
    let packed = _mm256_permute4x64_epi64::<0b1000>(_mm256_packus_epi32(low, low));
    _mm256_cvtph_ps(_mm256_castsi256_si128(packed))
}

#[inline]
#[target_feature(enable = "avx2")]
fn bf16_to_f32(v: __m128i) -> __m256 {
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(v)))
}

/// All bits of lane i where bit i of the low eight is set.
#[inline]
#[target_feature(enable = "avx2")]
fn lane_mask(bits: i32) -> __m256 {
    let bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(bits), bit), bit))
}

#[inline]
#[target_feature(enable = "avx2,avxvnni")]
fn dot_vnni(acc: __m256i, codes: __m256i, activations: __m256i) -> __m256i {
    _mm256_dpbusd_avx_epi32(acc, codes, activations)
}

#[inline]
#[target_feature(enable = "avx2")]
fn dot_avx2(acc: __m256i, codes: __m256i, activations: __m256i) -> __m256i {
    // 2 · 15 · 127 fits int16, so the saturating sum of pairs is exact
    let pairs = _mm256_maddubs_epi16(codes, activations);
    _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
}

#[inline]
#[target_feature(enable = "avx2")]
fn transpose_quads(rows: [__m256i; 4]) -> [__m256i; 4] {
    let [r0, r1, r2, r3] = rows;
    let (t0, t1) = (_mm256_unpacklo_epi32(r0, r1), _mm256_unpackhi_epi32(r0, r1));
    let (t2, t3) = (_mm256_unpacklo_epi32(r2, r3), _mm256_unpackhi_epi32(r2, r3));
    [
        _mm256_unpacklo_epi64(t0, t2),
        _mm256_unpackhi_epi64(t0, t2),
        _mm256_unpacklo_epi64(t1, t3),
        _mm256_unpackhi_epi64(t1, t3),
    ]
}

impl<const VNNI: bool> Simd for Avx2<VNNI> {
    type F = F;
    type I = I;
    const TILE: usize = 1;
    const TILED: bool = true;

    features! {
    unsafe fn splat(v: f32) -> F { [_mm256_set1_ps(v); 2] }
    unsafe fn load(p: *const f32) -> F {
        // SAFETY: the caller gives 16 elements.
        unsafe { [_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))] }
    }
    unsafe fn load_f16(p: *const f16) -> F {
        // SAFETY: the caller gives 16 elements.
        let (a, b) = unsafe { (_mm_loadu_si128(p.cast()), _mm_loadu_si128(p.add(8).cast())) };
        [_mm256_cvtph_ps(a), _mm256_cvtph_ps(b)]
    }
    unsafe fn load_bf16(p: *const bf16) -> F {
        // SAFETY: the caller gives 16 elements.
        let (a, b) = unsafe { (_mm_loadu_si128(p.cast()), _mm_loadu_si128(p.add(8).cast())) };
        [bf16_to_f32(a), bf16_to_f32(b)]
    }
    unsafe fn store(p: *mut f32, v: F) {
        // SAFETY: the caller gives room for 16 elements.
        unsafe {
            _mm256_storeu_ps(p, v[0]);
            _mm256_storeu_ps(p.add(8), v[1]);
        }
    }
    unsafe fn store_f16(p: *mut f16, v: F) {
        // SAFETY: the caller gives room for 16 elements.
        unsafe {
            _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v[0]));
            _mm_storeu_si128(p.add(8).cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v[1]));
        }
    }
    unsafe fn add(a: F, b: F) -> F { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
    unsafe fn sub(a: F, b: F) -> F { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] }
    unsafe fn fma(a: F, b: F, c: F) -> F {
        [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])]
    }
    unsafe fn mul(a: F, b: F) -> F { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    unsafe fn div(a: F, b: F) -> F { [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])] }
    unsafe fn min(a: F, b: F) -> F { [_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])] }
    unsafe fn max(a: F, b: F) -> F { [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])] }
    unsafe fn abs(a: F) -> F {
        let sign = _mm256_set1_ps(-0.0);
        [_mm256_andnot_ps(sign, a[0]), _mm256_andnot_ps(sign, a[1])]
    }
    unsafe fn round(a: F) -> F {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        [_mm256_round_ps::<NEAREST>(a[0]), _mm256_round_ps::<NEAREST>(a[1])]
    }
    unsafe fn exp2_whole(n: F) -> F {
        let half = |n| {
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent))
        };
        [half(n[0]), half(n[1])]
    }
    unsafe fn sum(a: F) -> f32 {
        let a = _mm256_add_ps(a[0], a[1]);
        let a = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
        let a = _mm_add_ps(a, _mm_movehl_ps(a, a));
        _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)))
    }
    unsafe fn largest(a: F) -> f32 {
        let a = _mm256_max_ps(a[0], a[1]);
        let a = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
        let a = _mm_max_ps(a, _mm_movehl_ps(a, a));
        _mm_cvtss_f32(_mm_max_ss(a, _mm_movehdup_ps(a)))
    }
    unsafe fn select(mask: u16, a: F, b: F) -> F {
        let mask = i32::from(mask);
        [_mm256_blendv_ps(b[0], a[0], lane_mask(mask)), _mm256_blendv_ps(b[1], a[1], lane_mask(mask >> 8))]
    }
    unsafe fn gt_mask(a: F, b: F) -> u16 {
        let half = |i: usize| _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(a[i], b[i])) as u16;
        half(0) | half(1) << 8
    }
    unsafe fn ge_mask(a: F, b: F) -> u16 {
        let half = |i: usize| _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(a[i], b[i])) as u16;
        half(0) | half(1) << 8
    }
    unsafe fn count_ge(count: I, a: F, b: F) -> I {
        // a true comparison is −1
        let half = |i: usize| _mm256_sub_epi32(count[i], _mm256_castps_si256(_mm256_cmp_ps::<_CMP_GE_OQ>(a[i], b[i])));
        [half(0), half(1)]
    }

    unsafe fn splat_i32(v: i32) -> I { [_mm256_set1_epi32(v); 2] }
    unsafe fn add_i32(a: I, b: I) -> I { [_mm256_add_epi32(a[0], b[0]), _mm256_add_epi32(a[1], b[1])] }
    unsafe fn sub_i32(a: I, b: I) -> I { [_mm256_sub_epi32(a[0], b[0]), _mm256_sub_epi32(a[1], b[1])] }
    unsafe fn mul_i32(a: I, b: I) -> I { [_mm256_mullo_epi32(a[0], b[0]), _mm256_mullo_epi32(a[1], b[1])] }
    unsafe fn to_f32(a: I) -> F { [_mm256_cvtepi32_ps(a[0]), _mm256_cvtepi32_ps(a[1])] }
    unsafe fn as_f32(a: I) -> F { [_mm256_castsi256_ps(a[0]), _mm256_castsi256_ps(a[1])] }
    unsafe fn low_f16(a: I) -> F {
        let low = _mm256_set1_epi32(0xFFFF);
        [halves_to_f32(_mm256_and_si256(a[0], low)), halves_to_f32(_mm256_and_si256(a[1], low))]
    }
    unsafe fn high_f16(a: I) -> F {
        [halves_to_f32(_mm256_srli_epi32::<16>(a[0])), halves_to_f32(_mm256_srli_epi32::<16>(a[1]))]
    }
    unsafe fn high_u16(a: I) -> I { [_mm256_srli_epi32::<16>(a[0]), _mm256_srli_epi32::<16>(a[1])] }
    unsafe fn dot(acc: I, codes: I, activations: I) -> I {
        let half = |i: usize| {
            if VNNI {
                // SAFETY: with `VNNI` the caller's machine has AVX-VNNI.
                unsafe { dot_vnni(acc[i], codes[i], activations[i]) }
            } else {
                dot_avx2(acc[i], codes[i], activations[i])
            }
        };
        [half(0), half(1)]
    }
    unsafe fn low_nibbles(a: I) -> I {
        let mask = _mm256_set1_epi8(15);
        [_mm256_and_si256(a[0], mask), _mm256_and_si256(a[1], mask)]
    }
    unsafe fn high_nibbles(a: I) -> I {
        let mask = _mm256_set1_epi8(15);
        let half = |v| _mm256_and_si256(_mm256_srli_epi16::<4>(v), mask);
        [half(a[0]), half(a[1])]
    }
    unsafe fn load_rows(rows: &[*const u8; 16], offset: usize) -> [I; 4] {
        // SAFETY: the caller gives 16 bytes at `offset` of every row.
        let row = |i: usize| unsafe { _mm_loadu_si128(rows[i].add(offset).cast()) };
        let half = |first: usize| {
            let z = |a: usize| _mm256_set_m128i(row(first + 4 + a), row(first + a));
            transpose_quads([z(0), z(1), z(2), z(3)])
        };
        let (a, b) = (half(0), half(8));
        [[a[0], b[0]], [a[1], b[1]], [a[2], b[2]], [a[3], b[3]]]
    }
    unsafe fn sum_quads(rows: [I; 4]) -> I {
        let half = |i: usize| {
            let pairs = |a, b| _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
            let (a, b) = (pairs(rows[0][i], rows[1][i]), pairs(rows[2][i], rows[3][i]));
            _mm256_add_epi32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b))
        };
        [half(0), half(1)]
    }
    unsafe fn transpose_quarters(rows: [I; 4]) -> [I; 4] {
        let [r0, r1, r2, r3] = rows;
        let low = |i: usize| [_mm256_permute2x128_si256::<0x20>(r0[i], r1[i]), _mm256_permute2x128_si256::<0x20>(r2[i], r3[i])];
        let high = |i: usize| [_mm256_permute2x128_si256::<0x31>(r0[i], r1[i]), _mm256_permute2x128_si256::<0x31>(r2[i], r3[i])];
        [low(0), high(0), low(1), high(1)]
    }
    unsafe fn unzip_quarters(a: I, b: I) -> [I; 2] {
        let low = |a, b| _mm256_permute2x128_si256::<0x20>(a, b);
        let high = |a, b| _mm256_permute2x128_si256::<0x31>(a, b);
        [[low(a[0], a[1]), low(b[0], b[1])], [high(a[0], a[1]), high(b[0], b[1])]]
    }
    unsafe fn load_segments(p: *const u8, segments: usize) -> I {
        let half = |first: usize| {
            // SAFETY: only the caller's segments are read.
            unsafe {
                match segments.saturating_sub(first) {
                    0 => _mm256_setzero_si256(),
                    1 => _mm256_zextsi128_si256(_mm_loadu_si128(p.add(first * 16).cast())),
                    _ => _mm256_loadu_si256(p.add(first * 16).cast()),
                }
            }
        };
        [half(0), half(2)]
    }
    unsafe fn interleave(rows: [I; 4]) -> [I; 4] {
        let half = |i: usize| {
            let [r0, r1, r2, r3] = [rows[0][i], rows[1][i], rows[2][i], rows[3][i]];
            let (a, b) = (_mm256_unpacklo_epi8(r0, r1), _mm256_unpacklo_epi8(r2, r3));
            let (c, d) = (_mm256_unpackhi_epi8(r0, r1), _mm256_unpackhi_epi8(r2, r3));
            [
                _mm256_unpacklo_epi16(a, b),
                _mm256_unpackhi_epi16(a, b),
                _mm256_unpacklo_epi16(c, d),
                _mm256_unpackhi_epi16(c, d),
            ]
        };
        let (a, b) = (half(0), half(1));
        [[a[0], b[0]], [a[1], b[1]], [a[2], b[2]], [a[3], b[3]]]
    }
    unsafe fn load_u16(p: *const u16, lanes: usize) -> I {
        let half = |first: usize| {
            // SAFETY: only the caller's lanes are read, four at a time.
            let bits = unsafe {
                match lanes.saturating_sub(first) {
                    0 => _mm_setzero_si128(),
                    4 => _mm_loadl_epi64(p.add(first).cast()),
                    _ => _mm_loadu_si128(p.add(first).cast()),
                }
            };
            _mm256_cvtepu16_epi32(bits)
        };
        [half(0), half(8)]
    }
    unsafe fn prefetch(p: *const u8) {
        _mm_prefetch::<_MM_HINT_T0>(p.cast())
    }
    }
}
