//! The vectors in AVX-512 with VNNI: one register each.

use super::{ByteRows, Kernel, Simd};
use half::{bf16, f16};
use std::arch::x86_64::*;

/// Proves that the machine has AVX-512 F, BW, DQ, VL and VNNI, besides AVX2, FMA, F16C and POPCNT.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
    /// The token, if this machine has the instructions.
    pub(crate) fn detect() -> Option<Self> {
        let has = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
            && is_x86_feature_detected!("popcnt")
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni");
        has.then_some(Avx512(()))
    }
}

/// Makes methods of the token from functions that are compiled for its instructions.
macro_rules! features {
    ($($(#[$meta:meta])* fn $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)? $body:block)*) => {$(
        $(#[$meta])*
        #[inline(always)]
        fn $name(self, $($arg: $ty),*) $(-> $ret)? {
            #[inline]
            #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
            fn inner($($arg: $ty),*) $(-> $ret)? $body
            // SAFETY: the token proves that the machine has the features.
            unsafe { inner($($arg),*) }
        }
    )*};
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,popcnt")]
fn run_avx512<K: Kernel>(kernel: K, simd: Avx512) -> K::Output {
    kernel.run(simd)
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

    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: the token proves that the machine has the features.
        unsafe { run_avx512(kernel, self) }
    }

    features! {
    fn splat(v: f32) -> __m512 { _mm512_set1_ps(v) }
    fn load(v: &[f32; 16]) -> __m512 {
        // SAFETY: `v` has 16 elements.
        unsafe { _mm512_loadu_ps(v.as_ptr()) }
    }
    fn load_f16(v: &[f16; 16]) -> __m512 {
        // SAFETY: `v` has 16 elements of 2 bytes.
        _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(v.as_ptr().cast()) })
    }
    fn load_bf16(v: &[bf16; 16]) -> __m512 {
        // SAFETY: `v` has 16 elements of 2 bytes.
        let bits = _mm512_cvtepu16_epi32(unsafe { _mm256_loadu_si256(v.as_ptr().cast()) });
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
    }
    fn load_i8(v: &[i8; 16]) -> __m512 {
        // SAFETY: 16 readable bytes.
        _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(unsafe { _mm_loadu_si128(v.as_ptr().cast()) }))
    }
    fn store(out: &mut [f32; 16], v: __m512) {
        // SAFETY: `out` has 16 elements.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), v) }
    }
    fn store_f16(out: &mut [f16; 16], v: __m512) {
        // SAFETY: `out` has 16 elements of 2 bytes.
        unsafe {
            _mm256_storeu_si256(out.as_mut_ptr().cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v))
        }
    }
    fn add(a: __m512, b: __m512) -> __m512 { _mm512_add_ps(a, b) }
    fn sub(a: __m512, b: __m512) -> __m512 { _mm512_sub_ps(a, b) }
    fn fma(a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fmadd_ps(a, b, c) }
    fn mul(a: __m512, b: __m512) -> __m512 { _mm512_mul_ps(a, b) }
    fn div(a: __m512, b: __m512) -> __m512 { _mm512_div_ps(a, b) }
    fn min(a: __m512, b: __m512) -> __m512 { _mm512_min_ps(a, b) }
    fn max(a: __m512, b: __m512) -> __m512 { _mm512_max_ps(a, b) }
    fn abs(a: __m512) -> __m512 { _mm512_abs_ps(a) }
    fn round(a: __m512) -> __m512 { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT }>(a) }
    fn exp2_whole(n: __m512) -> __m512 {
        let exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
        _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent))
    }
    fn sum(a: __m512) -> f32 {
        let a = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
        let a = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
        let a = _mm_add_ps(a, _mm_movehl_ps(a, a));
        _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)))
    }
    fn largest(a: __m512) -> f32 {
        let a = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
        let a = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
        let a = _mm_max_ps(a, _mm_movehl_ps(a, a));
        _mm_cvtss_f32(_mm_max_ss(a, _mm_movehdup_ps(a)))
    }
    fn select(mask: u16, a: __m512, b: __m512) -> __m512 { _mm512_mask_blend_ps(mask, b, a) }
    fn gt_mask(a: __m512, b: __m512) -> u16 { _mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b) }
    fn ge_mask(a: __m512, b: __m512) -> u16 { _mm512_cmp_ps_mask::<_CMP_GE_OQ>(a, b) }
    fn count_ge(count: __m512i, a: __m512, b: __m512) -> __m512i {
        let mask = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(a, b);
        _mm512_mask_add_epi32(count, mask, count, _mm512_set1_epi32(1))
    }

    fn splat_i32(v: i32) -> __m512i { _mm512_set1_epi32(v) }
    fn add_i32(a: __m512i, b: __m512i) -> __m512i { _mm512_add_epi32(a, b) }
    fn sub_i32(a: __m512i, b: __m512i) -> __m512i { _mm512_sub_epi32(a, b) }
    fn mul_i32(a: __m512i, b: __m512i) -> __m512i { _mm512_mullo_epi32(a, b) }
    fn to_f32(a: __m512i) -> __m512 { _mm512_cvtepi32_ps(a) }
    fn as_f32(a: __m512i) -> __m512 { _mm512_castsi512_ps(a) }
    fn low_f16(a: __m512i) -> __m512 { _mm512_cvtph_ps(_mm512_cvtepi32_epi16(a)) }
    fn high_f16(a: __m512i) -> __m512 { _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(a))) }
    fn high_u16(a: __m512i) -> __m512i { _mm512_srli_epi32::<16>(a) }
    fn dot(acc: __m512i, codes: __m512i, activations: __m512i) -> __m512i {
        _mm512_dpbusd_epi32(acc, codes, activations)
    }
    fn dot_bytes(acc: __m512i, codes: __m512i, activations: __m512i) -> __m512i {
        _mm512_dpbusd_epi32(acc, codes, activations)
    }
    fn load_u8(v: &[u8; 16]) -> __m512i {
        // SAFETY: 16 readable bytes.
        _mm512_cvtepu8_epi32(unsafe { _mm_loadu_si128(v.as_ptr().cast()) })
    }
    fn low_nibbles(a: __m512i) -> __m512i { _mm512_and_si512(a, _mm512_set1_epi8(15)) }
    fn high_nibbles(a: __m512i) -> __m512i {
        _mm512_and_si512(_mm512_srli_epi16::<4>(a), _mm512_set1_epi8(15))
    }
    fn load_rows(rows: &ByteRows<'_, 16>, offset: usize) -> [__m512i; 4] {
        let mut row = [_mm_setzero_si128(); 16];
        for (i, row) in row.iter_mut().enumerate() {
            // SAFETY: a chunk has 16 bytes.
            *row = unsafe { _mm_loadu_si128(rows.chunks::<1>(i, offset).as_ptr().cast()) };
        }
        // 128-bit lane q of z[a] is row 4q + a, so transposing 4×4 inside the lanes puts row i in lane i
        let mut z = [_mm512_setzero_si512(); 4];
        for (a, z) in z.iter_mut().enumerate() {
            *z = _mm512_castsi128_si512(row[a]);
            *z = _mm512_inserti32x4::<1>(*z, row[4 + a]);
            *z = _mm512_inserti32x4::<2>(*z, row[8 + a]);
            *z = _mm512_inserti32x4::<3>(*z, row[12 + a]);
        }
        transpose_quads(z)
    }
    fn sum_quads(rows: [__m512i; 4]) -> __m512i {
        let pairs = |a, b| _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let (a, b) = (pairs(rows[0], rows[1]), pairs(rows[2], rows[3]));
        _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b))
    }
    fn transpose_quarters(rows: [__m512i; 4]) -> [__m512i; 4] {
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
    fn unzip_quarters(a: __m512i, b: __m512i) -> [__m512i; 2] {
        [_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xDD>(a, b)]
    }
    fn load_segments(segments: &[[u8; 16]]) -> __m512i {
        let mask = ((1u32 << (4 * segments.len().min(4))) - 1) as u16;
        // SAFETY: the mask leaves out what lies past the segments, 4 lanes each.
        unsafe { _mm512_maskz_loadu_epi32(mask, segments.as_ptr().cast()) }
    }
    fn splat_i16(v: i16) -> __m512i { _mm512_set1_epi16(v) }
    fn interleave_pair(a: __m512i, b: __m512i) -> [__m512i; 2] {
        [_mm512_unpacklo_epi8(a, b), _mm512_unpackhi_epi8(a, b)]
    }
    fn dot_pairs(sums: __m512i, codes: __m512i, activations: __m512i) -> __m512i {
        _mm512_add_epi16(sums, _mm512_maddubs_epi16(codes, activations))
    }
    fn widen_u16(a: __m512i) -> [__m512i; 2] {
        let zero = _mm512_setzero_si512();
        [_mm512_unpacklo_epi16(a, zero), _mm512_unpackhi_epi16(a, zero)]
    }
    fn interleave(rows: [__m512i; 4]) -> [__m512i; 4] {
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
    fn list_lanes(mask: u16, first: u32, out: &mut [u32; 16]) -> usize {
        let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        let lanes = _mm512_add_epi32(lanes, _mm512_set1_epi32(first.cast_signed()));
        // SAFETY: `out` has 16 elements.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), _mm512_maskz_compress_epi32(mask, lanes)) };
        mask.count_ones() as usize
    }
    fn pack_lanes(mask: u16, lanes: &[i8; 16], out: &mut [i8; 16]) {
        // SAFETY: both have 16 bytes.
        unsafe {
            let lanes = _mm512_cvtepi8_epi32(_mm_loadu_si128(lanes.as_ptr().cast()));
            let packed = _mm512_cvtepi32_epi8(_mm512_maskz_compress_epi32(mask, lanes));
            _mm_storeu_si128(out.as_mut_ptr().cast(), packed);
        }
    }
    fn load_u16(lanes: &[u16]) -> __m512i {
        let mask = ((1u32 << lanes.len().min(16)) - 1) as u16;
        // SAFETY: the mask leaves out what lies past the lanes.
        _mm512_cvtepu16_epi32(unsafe { _mm256_maskz_loadu_epi16(mask, lanes.as_ptr().cast()) })
    }
    }

    #[inline(always)]
    fn prefetch_line<T>(self, at: &T) {
        super::avx2::prefetch_line(at);
    }

    #[inline(always)]
    fn prefetch_far_line<T>(self, at: &T) {
        super::avx2::prefetch_far_line(at);
    }
}
