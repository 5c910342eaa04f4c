//! The vectors in plain Rust: what each operation means.

use super::{ByteRows, Kernel, Simd};
use half::{bf16, f16};
use std::array::from_fn;

/// Plain Rust arrays.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

type F = [f32; 16];
type I = [i32; 16];

const NIBBLES: i32 = 0x0F0F_0F0F;

impl Simd for Portable {
    type F = F;
    type I = I;
    const TILE: usize = 1;
    const TILED: bool = false;

    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }
    #[inline(always)]
    fn splat(self, v: f32) -> F {
        [v; 16]
    }
    #[inline(always)]
    fn load(self, v: &[f32; 16]) -> F {
        *v
    }
    #[inline(always)]
    fn load_f16(self, v: &[f16; 16]) -> F {
        v.map(f16::to_f32)
    }
    #[inline(always)]
    fn load_bf16(self, v: &[bf16; 16]) -> F {
        v.map(bf16::to_f32)
    }
    #[inline(always)]
    fn load_i8(self, v: &[i8; 16]) -> F {
        v.map(f32::from)
    }
    #[inline(always)]
    fn store(self, out: &mut [f32; 16], v: F) {
        *out = v;
    }
    #[inline(always)]
    fn store_f16(self, out: &mut [f16; 16], v: F) {
        *out = v.map(f16::from_f32);
    }
    #[inline(always)]
    fn add(self, a: F, b: F) -> F {
        from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: F, b: F) -> F {
        from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn fma(self, a: F, b: F, c: F) -> F {
        from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    fn mul(self, a: F, b: F) -> F {
        from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn div(self, a: F, b: F) -> F {
        from_fn(|i| a[i] / b[i])
    }
    #[inline(always)]
    fn min(self, a: F, b: F) -> F {
        from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn max(self, a: F, b: F) -> F {
        from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn abs(self, a: F) -> F {
        a.map(f32::abs)
    }
    #[inline(always)]
    fn round(self, a: F) -> F {
        a.map(f32::round_ties_even)
    }
    #[inline(always)]
    fn exp2_whole(self, n: F) -> F {
        n.map(|n| f32::from_bits(((n as i32).wrapping_add(127) << 23) as u32))
    }
    #[inline(always)]
    fn sum(self, a: F) -> f32 {
        let a: [f32; 8] = from_fn(|i| a[i] + a[i + 8]);
        let a: [f32; 4] = from_fn(|i| a[i] + a[i + 4]);
        (a[0] + a[2]) + (a[1] + a[3])
    }
    #[inline(always)]
    fn largest(self, mut a: F) -> f32 {
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                a[i] = if a[i] > a[i + half] { a[i] } else { a[i + half] };
            }
        }
        a[0]
    }
    #[inline(always)]
    fn select(self, mask: u16, a: F, b: F) -> F {
        from_fn(|i| if mask >> i & 1 == 1 { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn gt_mask(self, a: F, b: F) -> u16 {
        (0..16).fold(0, |mask, i| mask | u16::from(a[i] > b[i]) << i)
    }
    #[inline(always)]
    fn ge_mask(self, a: F, b: F) -> u16 {
        (0..16).fold(0, |mask, i| mask | u16::from(a[i] >= b[i]) << i)
    }
    #[inline(always)]
    fn count_ge(self, count: I, a: F, b: F) -> I {
        from_fn(|i| count[i] + i32::from(a[i] >= b[i]))
    }

    #[inline(always)]
    fn splat_i32(self, v: i32) -> I {
        [v; 16]
    }
    #[inline(always)]
    fn add_i32(self, a: I, b: I) -> I {
        from_fn(|i| a[i].wrapping_add(b[i]))
    }
    #[inline(always)]
    fn sub_i32(self, a: I, b: I) -> I {
        from_fn(|i| a[i].wrapping_sub(b[i]))
    }
    #[inline(always)]
    fn mul_i32(self, a: I, b: I) -> I {
        from_fn(|i| a[i].wrapping_mul(b[i]))
    }
    #[inline(always)]
    fn to_f32(self, a: I) -> F {
        a.map(|v| v as f32)
    }
    #[inline(always)]
    fn as_f32(self, a: I) -> F {
        a.map(|v| f32::from_bits(v as u32))
    }
    #[inline(always)]
    fn low_f16(self, a: I) -> F {
        a.map(|v| f16::from_bits(v as u16).to_f32())
    }
    #[inline(always)]
    fn high_f16(self, a: I) -> F {
        a.map(|v| f16::from_bits((v >> 16) as u16).to_f32())
    }
    #[inline(always)]
    fn high_u16(self, a: I) -> I {
        a.map(|v| (v as u32 >> 16) as i32)
    }
    #[inline(always)]
    fn dot(self, acc: I, codes: I, activations: I) -> I {
        from_fn(|i| {
            let (c, a) = (codes[i].to_le_bytes(), activations[i].to_le_bytes());
            let product = |j: usize| i32::from(c[j]) * i32::from(a[j] as i8);
            acc[i].wrapping_add(product(0) + product(1) + product(2) + product(3))
        })
    }
    #[inline(always)]
    fn dot_bytes(self, acc: I, codes: I, activations: I) -> I {
        self.dot(acc, codes, activations)
    }
    #[inline(always)]
    fn load_u8(self, v: &[u8; 16]) -> I {
        v.map(i32::from)
    }
    #[inline(always)]
    fn low_nibbles(self, a: I) -> I {
        a.map(|v| v & NIBBLES)
    }
    #[inline(always)]
    fn high_nibbles(self, a: I) -> I {
        a.map(|v| v >> 4 & NIBBLES)
    }
    #[inline(always)]
    fn load_rows(self, rows: &ByteRows<'_, 16>, offset: usize) -> [I; 4] {
        let dwords = |i: usize| rows.chunks::<1>(i, offset)[0].as_chunks().0;
        from_fn(|j| from_fn(|i| i32::from_le_bytes(dwords(i)[j])))
    }
    #[inline(always)]
    fn sum_quads(self, rows: [I; 4]) -> I {
        from_fn(|i| rows[i % 4][i / 4 * 4..][..4].iter().sum())
    }
    #[inline(always)]
    fn transpose_quarters(self, rows: [I; 4]) -> [I; 4] {
        from_fn(|q| from_fn(|i| rows[i / 4][4 * q + i % 4]))
    }
    #[inline(always)]
    fn unzip_quarters(self, a: I, b: I) -> [I; 2] {
        let all = |i: usize| if i < 16 { a[i] } else { b[i - 16] };
        from_fn(|odd| from_fn(|i| all(i / 4 * 8 + 4 * odd + i % 4)))
    }
    #[inline(always)]
    fn load_segments(self, segments: &[[u8; 16]]) -> I {
        let byte = |i: usize, j: usize| segments.get(i / 4).map_or(0, |segment| segment[i % 4 * 4 + j]);
        from_fn(|i| i32::from_le_bytes(from_fn(|j| byte(i, j))))
    }
    #[inline(always)]
    fn interleave(self, rows: [I; 4]) -> [I; 4] {
        let byte = |row: usize, segment: usize, at: usize| rows[row][segment * 4 + at / 4].to_le_bytes()[at % 4];
        from_fn(|v| from_fn(|lane| i32::from_le_bytes(from_fn(|row| byte(row, lane / 4, 4 * v + lane % 4)))))
    }
    #[inline(always)]
    fn splat_i16(self, v: i16) -> I {
        let lane = i32::from(v as u16);
        [lane << 16 | lane; 16]
    }
    #[inline(always)]
    fn interleave_pair(self, a: I, b: I) -> [I; 2] {
        let byte = |v: I, at: usize| v[at / 4].to_le_bytes()[at % 4];
        let pair = |at: usize| [byte(a, at), byte(b, at), byte(a, at + 1), byte(b, at + 1)];
        from_fn(|high| from_fn(|lane| i32::from_le_bytes(pair(lane / 4 * 16 + 8 * high + lane % 4 * 2))))
    }
    #[inline(always)]
    fn dot_pairs(self, sums: I, codes: I, activations: I) -> I {
        from_fn(|i| {
            let (c, a) = (codes[i].to_le_bytes(), activations[i].to_le_bytes());
            let product = |j: usize| i16::from(c[j]) * i16::from(a[j] as i8);
            let sum = |lane: i32, j: usize| (lane as i16).wrapping_add(product(j) + product(j + 1)) as u16;
            i32::from(sum(sums[i], 0)) | i32::from(sum(sums[i] >> 16, 2)) << 16
        })
    }
    #[inline(always)]
    fn widen_u16(self, a: I) -> [I; 2] {
        let half = |at: usize| i32::from((a[at / 2] >> (at % 2 * 16)) as u16);
        from_fn(|last| from_fn(|i| half(i / 4 * 8 + 4 * last + i % 4)))
    }
    #[inline(always)]
    fn load_u16(self, lanes: &[u16]) -> I {
        from_fn(|i| lanes.get(i).map_or(0, |&lane| i32::from(lane)))
    }
    #[inline(always)]
    fn prefetch_line<T>(self, _: &T) {}
    #[inline(always)]
    fn prefetch_far_line<T>(self, _: &T) {}
}
