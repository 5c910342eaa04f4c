//! The sixteen lanes in plain Rust: the definition of every operation.

use half::{bf16, f16};

use super::simd::Lanes;

#[derive(Clone, Copy)]
pub(super) struct Portable([f32; 16]);

impl Portable {
    #[inline(always)]
    fn zip(self, b: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Portable(std::array::from_fn(|i| f(self.0[i], b.0[i])))
    }

    #[inline(always)]
    fn reduce(mut self, f: impl Fn(f32, f32) -> f32) -> f32 {
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                self.0[i] = f(self.0[i], self.0[i + half]);
            }
        }
        self.0[0]
    }
}

#[inline(always)]
fn greater(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

impl Lanes for Portable {
    const TILED: bool = false;
    #[inline(always)]
    unsafe fn prefetch(_p: *const u8) {}
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Portable([x; 16])
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: sixteen elements, by the trait's contract.
        Portable(unsafe { p.cast::<[f32; 16]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const f16) -> Self {
        // SAFETY: sixteen elements, by the trait's contract.
        Portable(unsafe { p.cast::<[f16; 16]>().read_unaligned() }.map(f16::to_f32))
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const bf16) -> Self {
        // SAFETY: sixteen elements, by the trait's contract.
        Portable(unsafe { p.cast::<[bf16; 16]>().read_unaligned() }.map(bf16::to_f32))
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: sixteen elements, by the trait's contract.
        unsafe { p.cast::<[f32; 16]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut f16) {
        // SAFETY: sixteen elements, by the trait's contract.
        unsafe { p.cast::<[f16; 16]>().write_unaligned(self.0.map(f16::from_f32)) }
    }
    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        self.zip(b, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        self.zip(b, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        self.zip(b, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        Portable(std::array::from_fn(|i| self.0[i].mul_add(b.0[i], c.0[i])))
    }
    #[inline(always)]
    unsafe fn max(self, b: Self) -> Self {
        self.zip(b, greater)
    }
    #[inline(always)]
    unsafe fn keep(self, bits: u16, other: f32) -> Self {
        Portable(std::array::from_fn(|i| if bits >> i & 1 == 1 { self.0[i] } else { other }))
    }
    #[inline(always)]
    unsafe fn zero_where_below(self, x: Self, limit: f32) -> Self {
        self.zip(x, |value, x| if x < limit { 0.0 } else { value })
    }
    #[inline(always)]
    unsafe fn shift_to_exponent(self) -> Self {
        Portable(self.0.map(|x| f32::from_bits((x.to_bits() << 23).wrapping_add(1f32.to_bits()))))
    }
    #[inline(always)]
    unsafe fn reduce_max(self) -> f32 {
        self.reduce(greater)
    }
    #[inline(always)]
    unsafe fn reduce_add(self) -> f32 {
        self.reduce(|a, b| a + b)
    }
}
