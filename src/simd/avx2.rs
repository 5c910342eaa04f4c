//! The vectors in AVX2 (with or without the 256-bit dot product of AVX-VNNI): two registers each.

use super::{ByteRows, Kernel, Simd};
use half::{bf16, f16};
use std::arch::x86_64::*;

/// Proves that the machine has AVX2, FMA, F16C and POPCNT, and AVX-VNNI if `VNNI`.
#[derive(Clone, Copy)]
pub(crate) struct Avx2<const VNNI: bool>(());

type F = [__m256; 2];
type I = [__m256i; 2];

impl<const VNNI: bool> Avx2<VNNI> {
    /// The token, if this machine has the instructions.
    pub(crate) fn detect() -> Option<Self> {
        let has = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
            && is_x86_feature_detected!("popcnt")
            && (!VNNI || is_x86_feature_detected!("avxvnni"));
        has.then_some(Avx2(()))
    }
}

/// Makes methods of the token from functions that are compiled for its instructions.
macro_rules! features {
    ($($(#[$meta:meta])* fn $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)? $body:block)*) => {$(
        $(#[$meta])*
        #[inline(always)]
        fn $name(self, $($arg: $ty),*) $(-> $ret)? {
            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn inner($($arg: $ty),*) $(-> $ret)? $body
            // SAFETY: the token proves that the machine has the features.
            unsafe { inner($($arg),*) }
        }
    )*};
}

/// Asks for a value's cache line.
#[inline(always)]
pub(super) fn prefetch_line<T>(at: &T) {
    #[allow(unused_unsafe)] // newer compilers call it safe
    // SAFETY: every x86-64 has the instruction, and it never faults.
    unsafe {
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(at).cast());
    }
}

/// Asks for a value's cache line in the second-level cache.
#[inline(always)]
pub(super) fn prefetch_far_line<T>(at: &T) {
    #[allow(unused_unsafe)] // newer compilers call it safe
    // SAFETY: as in `prefetch_line`.
    unsafe {
        _mm_prefetch::<_MM_HINT_T1>(std::ptr::from_ref(at).cast());
    }
}

#[target_feature(enable = "avx2,fma,f16c,popcnt")]
fn run_avx2<K: Kernel, S: Simd>(kernel: K, simd: S) -> K::Output {
    kernel.run(simd)
}

#[target_feature(enable = "avx2,fma,f16c,avxvnni,popcnt")]
fn run_vnni<K: Kernel, S: Simd>(kernel: K, simd: S) -> K::Output {
    kernel.run(simd)
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

/// The 32 bytes of sixteen 2-byte elements.
#[inline]
#[target_feature(enable = "avx2")]
fn halves_of<T: bytemuck::Pod>(v: &[T; 16]) -> [__m128i; 2] {
    let bytes: &[[u8; 16]; 2] = bytemuck::cast_ref(v);
    [load_bytes(&bytes[0]), load_bytes(&bytes[1])]
}

/// The first two segments, or as many as there are.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn two_segments(segments: &[[u8; 16]]) -> __m256i {
    // SAFETY: the caller's; two segments are 32 bytes.
    unsafe {
        match segments {
            [] => _mm256_setzero_si256(),
            [one] => _mm256_zextsi128_si256(load_bytes(one)),
            two => _mm256_loadu_si256(two.as_ptr().cast()),
        }
    }
}

/// The first eight lanes, or the first four if they are fewer, or none, widened.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn eight_u16(lanes: &[u16]) -> __m256i {
    // SAFETY: the caller's; four lanes are 8 bytes.
    unsafe {
        let bits = match (lanes.first_chunk::<8>(), lanes.first_chunk::<4>()) {
            (Some(eight), _) => load_bytes(bytemuck::cast_ref(eight)),
            (None, Some(four)) => _mm_loadl_epi64(four.as_ptr().cast()),
            (None, None) => _mm_setzero_si128(),
        };
        _mm256_cvtepu16_epi32(bits)
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_bytes(v: &[u8; 16]) -> __m128i {
    // SAFETY: `v` has 16 bytes.
    unsafe { _mm_loadu_si128(v.as_ptr().cast()) }
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

/// Products of neighbouring bytes, added to sums of 16 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn pairs(short: __m256i, codes: __m256i, activations: __m256i) -> __m256i {
    _mm256_add_epi16(short, _mm256_maddubs_epi16(codes, activations))
}

/// Adds neighbouring sums of 16 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn add_pairs(acc: __m256i, short: __m256i) -> __m256i {
    _mm256_add_epi32(acc, _mm256_madd_epi16(short, _mm256_set1_epi16(1)))
}

/// Adds the four 32-bit lanes of each part of four vectors as sums of 16 bits, and then those two by two.
#[inline]
#[target_feature(enable = "avx2")]
fn sum_quads_of_pairs([a, b, c, d]: [__m256i; 4]) -> __m256i {
    // four lanes of two products each fit int16, as `SHORT` says
    let pairs = |a, b| _mm256_add_epi16(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    let (ab, cd) = (pairs(a, b), pairs(c, d));
    let sums = _mm256_add_epi16(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
    _mm256_madd_epi16(sums, _mm256_set1_epi16(1))
}

/// Codes of 8 bits would saturate int16: their two halves do not.
#[inline]
#[target_feature(enable = "avx2")]
fn dot_halves(acc: __m256i, codes: __m256i, activations: __m256i) -> __m256i {
    let mask = _mm256_set1_epi8(15);
    let low = _mm256_maddubs_epi16(_mm256_and_si256(codes, mask), activations);
    let high = _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16::<4>(codes), mask), activations);
    let low = _mm256_madd_epi16(low, _mm256_set1_epi16(1));
    let high = _mm256_madd_epi16(high, _mm256_set1_epi16(16));
    _mm256_add_epi32(acc, _mm256_add_epi32(low, high))
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
    // 8 · 2 · 15 · 128 fits int16
    const SHORT: usize = if VNNI { 0 } else { 8 };

    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: the token proves that the machine has the features, AVX-VNNI among them with `VNNI`.
        unsafe { if VNNI { run_vnni(kernel, self) } else { run_avx2(kernel, self) } }
    }

    #[inline(always)]
    fn dot(self, acc: I, codes: I, activations: I) -> I {
        // SAFETY: as in `run`.
        unsafe {
            if VNNI {
                [dot_vnni(acc[0], codes[0], activations[0]), dot_vnni(acc[1], codes[1], activations[1])]
            } else {
                [dot_avx2(acc[0], codes[0], activations[0]), dot_avx2(acc[1], codes[1], activations[1])]
            }
        }
    }

    #[inline(always)]
    fn dot_short(self, short: I, codes: I, activations: I) -> I {
        if VNNI {
            return self.dot(short, codes, activations);
        }
        // SAFETY: as in `run`.
        unsafe { [pairs(short[0], codes[0], activations[0]), pairs(short[1], codes[1], activations[1])] }
    }

    #[inline(always)]
    fn add_short(self, acc: I, short: I) -> I {
        if VNNI {
            return self.add_i32(acc, short);
        }
        // SAFETY: as in `run`.
        unsafe { [add_pairs(acc[0], short[0]), add_pairs(acc[1], short[1])] }
    }

    #[inline(always)]
    fn sum_short_quads(self, rows: [I; 4]) -> I {
        if VNNI {
            return self.sum_quads(rows);
        }
        let [a, b, c, d] = rows;
        // SAFETY: as in `run`.
        unsafe { [sum_quads_of_pairs([a[0], b[0], c[0], d[0]]), sum_quads_of_pairs([a[1], b[1], c[1], d[1]])] }
    }

    #[inline(always)]
    fn dot_bytes(self, acc: I, codes: I, activations: I) -> I {
        // SAFETY: as in `run`.
        unsafe {
            if VNNI {
                [dot_vnni(acc[0], codes[0], activations[0]), dot_vnni(acc[1], codes[1], activations[1])]
            } else {
                [dot_halves(acc[0], codes[0], activations[0]), dot_halves(acc[1], codes[1], activations[1])]
            }
        }
    }

    features! {
    fn splat(v: f32) -> F { [_mm256_set1_ps(v); 2] }
    fn load(v: &[f32; 16]) -> F {
        let p = v.as_ptr();
        // SAFETY: `v` has 16 elements.
        unsafe { [_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))] }
    }
    fn load_f16(v: &[f16; 16]) -> F {
        let [a, b] = halves_of(v);
        [_mm256_cvtph_ps(a), _mm256_cvtph_ps(b)]
    }
    fn load_bf16(v: &[bf16; 16]) -> F {
        let [a, b] = halves_of(v);
        [bf16_to_f32(a), bf16_to_f32(b)]
    }
    fn load_i8(v: &[i8; 16]) -> F {
        let bytes = load_bytes(bytemuck::cast_ref(v));
        let high = _mm_srli_si128::<8>(bytes);
        [_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(high))]
    }
    fn store(out: &mut [f32; 16], v: F) {
        let p = out.as_mut_ptr();
        // SAFETY: `out` has 16 elements.
        unsafe {
            _mm256_storeu_ps(p, v[0]);
            _mm256_storeu_ps(p.add(8), v[1]);
        }
    }
    fn store_f16(out: &mut [f16; 16], v: F) {
        let p = out.as_mut_ptr();
        // SAFETY: `out` has 16 elements of 2 bytes.
        unsafe {
            _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v[0]));
            _mm_storeu_si128(p.add(8).cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v[1]));
        }
    }
    fn add(a: F, b: F) -> F { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
    fn sub(a: F, b: F) -> F { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] }
    fn fma(a: F, b: F, c: F) -> F {
        [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])]
    }
    fn mul(a: F, b: F) -> F { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    fn div(a: F, b: F) -> F { [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])] }
    fn min(a: F, b: F) -> F { [_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])] }
    fn max(a: F, b: F) -> F { [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])] }
    fn abs(a: F) -> F {
        let sign = _mm256_set1_ps(-0.0);
        [_mm256_andnot_ps(sign, a[0]), _mm256_andnot_ps(sign, a[1])]
    }
    fn round(a: F) -> F {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        [_mm256_round_ps::<NEAREST>(a[0]), _mm256_round_ps::<NEAREST>(a[1])]
    }
    fn exp2_whole(n: F) -> F {
        let half = |n| {
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent))
        };
        [half(n[0]), half(n[1])]
    }
    fn sum(a: F) -> f32 {
        let a = _mm256_add_ps(a[0], a[1]);
        let a = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
        let a = _mm_add_ps(a, _mm_movehl_ps(a, a));
        _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)))
    }
    fn largest(a: F) -> f32 {
        let a = _mm256_max_ps(a[0], a[1]);
        let a = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
        let a = _mm_max_ps(a, _mm_movehl_ps(a, a));
        _mm_cvtss_f32(_mm_max_ss(a, _mm_movehdup_ps(a)))
    }
    fn select(mask: u16, a: F, b: F) -> F {
        let mask = i32::from(mask);
        [_mm256_blendv_ps(b[0], a[0], lane_mask(mask)), _mm256_blendv_ps(b[1], a[1], lane_mask(mask >> 8))]
    }
    fn gt_mask(a: F, b: F) -> u16 {
        let half = |i: usize| _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(a[i], b[i])) as u16;
        half(0) | half(1) << 8
    }
    fn ge_mask(a: F, b: F) -> u16 {
        let half = |i: usize| _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(a[i], b[i])) as u16;
        half(0) | half(1) << 8
    }
    fn count_ge(count: I, a: F, b: F) -> I {
        // a true comparison is −1
        let half = |i: usize| _mm256_sub_epi32(count[i], _mm256_castps_si256(_mm256_cmp_ps::<_CMP_GE_OQ>(a[i], b[i])));
        [half(0), half(1)]
    }

    fn splat_i32(v: i32) -> I { [_mm256_set1_epi32(v); 2] }
    fn add_i32(a: I, b: I) -> I { [_mm256_add_epi32(a[0], b[0]), _mm256_add_epi32(a[1], b[1])] }
    fn sub_i32(a: I, b: I) -> I { [_mm256_sub_epi32(a[0], b[0]), _mm256_sub_epi32(a[1], b[1])] }
    fn mul_i32(a: I, b: I) -> I { [_mm256_mullo_epi32(a[0], b[0]), _mm256_mullo_epi32(a[1], b[1])] }
    fn to_f32(a: I) -> F { [_mm256_cvtepi32_ps(a[0]), _mm256_cvtepi32_ps(a[1])] }
    fn as_f32(a: I) -> F { [_mm256_castsi256_ps(a[0]), _mm256_castsi256_ps(a[1])] }
    fn low_f16(a: I) -> F {
        let low = _mm256_set1_epi32(0xFFFF);
        [halves_to_f32(_mm256_and_si256(a[0], low)), halves_to_f32(_mm256_and_si256(a[1], low))]
    }
    fn high_f16(a: I) -> F {
        [halves_to_f32(_mm256_srli_epi32::<16>(a[0])), halves_to_f32(_mm256_srli_epi32::<16>(a[1]))]
    }
    fn high_u16(a: I) -> I { [_mm256_srli_epi32::<16>(a[0]), _mm256_srli_epi32::<16>(a[1])] }
    fn load_u8(v: &[u8; 16]) -> I {
        let bytes = load_bytes(v);
        [_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(_mm_srli_si128::<8>(bytes))]
    }
    fn low_nibbles(a: I) -> I {
        let mask = _mm256_set1_epi8(15);
        [_mm256_and_si256(a[0], mask), _mm256_and_si256(a[1], mask)]
    }
    fn high_nibbles(a: I) -> I {
        let mask = _mm256_set1_epi8(15);
        let half = |v| _mm256_and_si256(_mm256_srli_epi16::<4>(v), mask);
        [half(a[0]), half(a[1])]
    }
    fn load_rows(rows: &ByteRows<'_, 16>, offset: usize) -> [I; 4] {
        let row = |i: usize| load_bytes(&rows.chunks::<1>(i, offset)[0]);
        let half = |first: usize| {
            let z = |a: usize| _mm256_set_m128i(row(first + 4 + a), row(first + a));
            transpose_quads([z(0), z(1), z(2), z(3)])
        };
        let (a, b) = (half(0), half(8));
        [[a[0], b[0]], [a[1], b[1]], [a[2], b[2]], [a[3], b[3]]]
    }
    fn sum_quads(rows: [I; 4]) -> I {
        let half = |i: usize| {
            let pairs = |a, b| _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
            let (a, b) = (pairs(rows[0][i], rows[1][i]), pairs(rows[2][i], rows[3][i]));
            _mm256_add_epi32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b))
        };
        [half(0), half(1)]
    }
    fn transpose_quarters(rows: [I; 4]) -> [I; 4] {
        let [r0, r1, r2, r3] = rows;
        let low = |i: usize| [_mm256_permute2x128_si256::<0x20>(r0[i], r1[i]), _mm256_permute2x128_si256::<0x20>(r2[i], r3[i])];
        let high = |i: usize| [_mm256_permute2x128_si256::<0x31>(r0[i], r1[i]), _mm256_permute2x128_si256::<0x31>(r2[i], r3[i])];
        [low(0), high(0), low(1), high(1)]
    }
    fn unzip_quarters(a: I, b: I) -> [I; 2] {
        let low = |a, b| _mm256_permute2x128_si256::<0x20>(a, b);
        let high = |a, b| _mm256_permute2x128_si256::<0x31>(a, b);
        [[low(a[0], a[1]), low(b[0], b[1])], [high(a[0], a[1]), high(b[0], b[1])]]
    }
    fn splat_i16(v: i16) -> I { [_mm256_set1_epi16(v); 2] }
    fn interleave_pair(a: I, b: I) -> [I; 2] {
        [
            [_mm256_unpacklo_epi8(a[0], b[0]), _mm256_unpacklo_epi8(a[1], b[1])],
            [_mm256_unpackhi_epi8(a[0], b[0]), _mm256_unpackhi_epi8(a[1], b[1])],
        ]
    }
    fn dot_pairs(sums: I, codes: I, activations: I) -> I {
        [pairs(sums[0], codes[0], activations[0]), pairs(sums[1], codes[1], activations[1])]
    }
    fn widen_u16(a: I) -> [I; 2] {
        let zero = _mm256_setzero_si256();
        [
            [_mm256_unpacklo_epi16(a[0], zero), _mm256_unpacklo_epi16(a[1], zero)],
            [_mm256_unpackhi_epi16(a[0], zero), _mm256_unpackhi_epi16(a[1], zero)],
        ]
    }
    fn interleave(rows: [I; 4]) -> [I; 4] {
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
    }

    // These two are for counts that callers know: always inlined, they become the loads alone.

    #[inline(always)]
    fn load_segments(self, segments: &[[u8; 16]]) -> I {
        // SAFETY: as in `run`.
        unsafe { [two_segments(segments), two_segments(segments.get(2..).unwrap_or(&[]))] }
    }

    #[inline(always)]
    fn load_u16(self, lanes: &[u16]) -> I {
        // SAFETY: as in `run`.
        unsafe { [eight_u16(lanes), eight_u16(lanes.get(8..).unwrap_or(&[]))] }
    }

    #[inline(always)]
    fn prefetch_line<T>(self, at: &T) {
        prefetch_line(at);
    }

    #[inline(always)]
    fn prefetch_far_line<T>(self, at: &T) {
        prefetch_far_line(at);
    }
}
