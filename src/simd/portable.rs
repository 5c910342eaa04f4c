//! The vectors in plain Rust: what each operation means.

use super::Simd;
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
    unsafe fn splat(v: f32) -> F {
        [v; 16]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> F {
        // SAFETY: the caller gives 16 elements.
        unsafe { p.cast::<F>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const f16) -> F {
        // SAFETY: the caller gives 16 elements.
        unsafe { p.cast::<[f16; 16]>().read_unaligned() }.map(f16::to_f32)
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const bf16) -> F {
        // SAFETY: the caller gives 16 elements.
        unsafe { p.cast::<[bf16; 16]>().read_unaligned() }.map(bf16::to_f32)
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: F) {
        // SAFETY: the caller gives room for 16 elements.
        unsafe { p.cast::<F>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut f16, v: F) {
        // SAFETY: the caller gives room for 16 elements.
        unsafe { p.cast::<[f16; 16]>().write_unaligned(v.map(f16::from_f32)) }
    }
    #[inline(always)]
    unsafe fn add(a: F, b: F) -> F {
        from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: F, b: F) -> F {
        from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn fma(a: F, b: F, c: F) -> F {
        from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    unsafe fn mul(a: F, b: F) -> F {
        from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn div(a: F, b: F) -> F {
        from_fn(|i| a[i] / b[i])
    }
    #[inline(always)]
    unsafe fn min(a: F, b: F) -> F {
        from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn max(a: F, b: F) -> F {
        from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn abs(a: F) -> F {
        a.map(f32::abs)
    }
    #[inline(always)]
    unsafe fn round(a: F) -> F {
        a.map(f32::round_ties_even)
    }
    #[inline(always)]
    unsafe fn exp2_whole(n: F) -> F {
        n.map(|n| f32::from_bits(((n as i32).wrapping_add(127) << 23) as u32))
    }
    #[inline(always)]
    unsafe fn sum(a: F) -> f32 {
        let a: [f32; 8] = from_fn(|i| a[i] + a[i + 8]);
        let a: [f32; 4] = from_fn(|i| a[i] + a[i + 4]);
        (a[0] + a[2]) + (a[1] + a[3])
    }
    #[inline(always)]
    unsafe fn largest(mut a: F) -> f32 {
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                a[i] = if a[i] > a[i + half] { a[i] } else { a[i + half] };
            }
        }
        a[0]
    }
    #[inline(always)]
    unsafe fn select(mask: u16, a: F, b: F) -> F {
        from_fn(|i| if mask >> i & 1 == 1 { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn gt_mask(a: F, b: F) -> u16 {
        (0..16).fold(0, |mask, i| mask | u16::from(a[i] > b[i]) << i)
    }
    #[inline(always)]
    unsafe fn ge_mask(a: F, b: F) -> u16 {
        (0..16).fold(0, |mask, i| mask | u16::from(a[i] >= b[i]) << i)
    }
    #[inline(always)]
    unsafe fn count_ge(count: I, a: F, b: F) -> I {
        from_fn(|i| count[i] + i32::from(a[i] >= b[i]))
    }

    #[inline(always)]
    unsafe fn splat_i32(v: i32) -> I {
        [v; 16]
    }
    #[inline(always)]
    unsafe fn add_i32(a: I, b: I) -> I {
        from_fn(|i| a[i].wrapping_add(b[i]))
    }
    #[inline(always)]
    unsafe fn sub_i32(a: I, b: I) -> I {
        from_fn(|i| a[i].wrapping_sub(b[i]))
    }
    #[inline(always)]
    unsafe fn mul_i32(a: I, b: I) -> I {
        from_fn(|i| a[i].wrapping_mul(b[i]))
    }
    #[inline(always)]
    unsafe fn to_f32(a: I) -> F {
        a.map(|v| v as f32)
    }
    #[inline(always)]
    unsafe fn as_f32(a: I) -> F {
        a.map(|v| f32::from_bits(v as u32))
    }
    #[inline(always)]
    unsafe fn low_f16(a: I) -> F {
        a.map(|v| f16::from_bits(v as u16).to_f32())
    }
    #[inline(always)]
    unsafe fn high_f16(a: I) -> F {
        a.map(|v| f16::from_bits((v >> 16) as u16).to_f32())
    }
    #[inline(always)]
    unsafe fn high_u16(a: I) -> I {
        a.map(|v| (v as u32 >> 16) as i32)
    }
    #[inline(always)]
    unsafe fn dot(acc: I, codes: I, activations: I) -> I {
        from_fn(|i| {
            let (c, a) = (codes[i].to_le_bytes(), activations[i].to_le_bytes());
            let product = |j: usize| i32::from(c[j]) * i32::from(a[j] as i8);
            acc[i].wrapping_add(product(0) + product(1) + product(2) + product(3))
        })
    }
    #[inline(always)]
    unsafe fn low_nibbles(a: I) -> I {
        a.map(|v| v & NIBBLES)
    }
    #[inline(always)]
    unsafe fn high_nibbles(a: I) -> I {
        a.map(|v| v >> 4 & NIBBLES)
    }
    #[inline(always)]
    unsafe fn load_rows(rows: &[*const u8; 16], offset: usize) -> [I; 4] {
        // SAFETY: the caller gives 16 bytes at `offset` of every row.
        let rows = rows.map(|row| unsafe { row.add(offset).cast::<[[u8; 4]; 4]>().read_unaligned() });
        from_fn(|j| from_fn(|i| i32::from_le_bytes(rows[i][j])))
    }
    #[inline(always)]
    unsafe fn sum_quads(rows: [I; 4]) -> I {
        from_fn(|i| rows[i % 4][i / 4 * 4..][..4].iter().sum())
    }
    #[inline(always)]
    unsafe fn transpose_quarters(rows: [I; 4]) -> [I; 4] {
        from_fn(|q| from_fn(|i| rows[i / 4][4 * q + i % 4]))
    }
    #[inline(always)]
    unsafe fn unzip_quarters(a: I, b: I) -> [I; 2] {
        let all = |i: usize| if i < 16 { a[i] } else { b[i - 16] };
        from_fn(|odd| from_fn(|i| all(i / 4 * 8 + 4 * odd + i % 4)))
    }
    #[inline(always)]
    unsafe fn load_segments(p: *const u8, segments: usize) -> I {
        let mut bytes = [[0u8; 4]; 16];
        // SAFETY: the caller gives that many segments of 16 bytes, at most 4.
        unsafe { std::ptr::copy_nonoverlapping(p, bytes.as_mut_ptr().cast(), segments * 16) };
        bytes.map(i32::from_le_bytes)
    }
    #[inline(always)]
    unsafe fn interleave(rows: [I; 4]) -> [I; 4] {
        let byte = |row: usize, segment: usize, at: usize| rows[row][segment * 4 + at / 4].to_le_bytes()[at % 4];
        from_fn(|v| from_fn(|lane| i32::from_le_bytes(from_fn(|row| byte(row, lane / 4, 4 * v + lane % 4)))))
    }
    #[inline(always)]
    unsafe fn load_u16(p: *const u16, lanes: usize) -> I {
        // SAFETY: the caller gives that many lanes.
        from_fn(|i| if i < lanes { i32::from(unsafe { p.add(i).read_unaligned() }) } else { 0 })
    }
    #[inline(always)]
    unsafe fn prefetch(_: *const u8) {}
}
