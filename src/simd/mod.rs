//! Sixteen-lane vectors that the CPU kernels of the sparse MLP, of attention and of dense products are written in once.
//!
//! A kernel is a [`Kernel`] whose `run` is generic over [`Simd`]; [`run`] compiles it for each instruction set. Every
//! operation rounds the same way in every implementation and sums lanes in the same order, so results are equal bit
//! for bit.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod element;
mod exponential;
mod portable;
#[cfg(test)]
mod tests;

#[cfg(target_arch = "x86_64")]
use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
use avx512::Avx512;
use half::{bf16, f16};
use portable::Portable;

use crate::Isa;
pub(crate) use element::{SimdElement, load_first};
pub(crate) use exponential::exp2_to_one;

/// Sixteen f32 lanes and sixteen i32 lanes (or 16 × 4 bytes) of one instruction set.
///
/// # Safety
/// Every function needs the implementation's instruction set; those with pointers need them valid for what they read
/// or write (16 elements unless they say otherwise), with no alignment.
pub(crate) trait Simd: Copy + 'static {
    /// 16 f32.
    type F: Copy;
    /// 16 i32, or 64 bytes.
    type I: Copy;
    /// Vectors side by side in a register tile of f32 sums: tokens, or columns beside six rows.
    const TILE: usize;
    /// Whether several rows at once pay: registers hold their sums.
    const TILED: bool;

    unsafe fn splat(v: f32) -> Self::F;
    unsafe fn load(p: *const f32) -> Self::F;
    unsafe fn load_f16(p: *const f16) -> Self::F;
    unsafe fn load_bf16(p: *const bf16) -> Self::F;
    unsafe fn store(p: *mut f32, v: Self::F);
    /// Rounds to nearest, ties to even.
    unsafe fn store_f16(p: *mut f16, v: Self::F);
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    /// a · b + c, rounded once.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F;
    /// `b` where it is smaller or either is NaN.
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F;
    /// `b` where it is larger or either is NaN.
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn abs(a: Self::F) -> Self::F;
    /// To the nearest integer, ties to even.
    unsafe fn round(a: Self::F) -> Self::F;
    /// 2ⁿ for whole n in −126..=127; anything for others.
    unsafe fn exp2_whole(n: Self::F) -> Self::F;
    /// Lane i plus lane i + 8, then i + 4, i + 2, i + 1.
    unsafe fn sum(a: Self::F) -> f32;
    /// The largest lane: `max(lane i, lane i + 8)`, then i + 4, i + 2, i + 1.
    unsafe fn largest(a: Self::F) -> f32;
    /// Lane i: a\[i\] where bit i is set, else b\[i\].
    unsafe fn select(mask: u16, a: Self::F, b: Self::F) -> Self::F;
    /// Bit i: a\[i\] > b\[i\].
    unsafe fn gt_mask(a: Self::F, b: Self::F) -> u16;
    /// Bit i: a\[i\] ≥ b\[i\].
    unsafe fn ge_mask(a: Self::F, b: Self::F) -> u16;
    /// Lane i: count + 1 where a\[i\] ≥ b\[i\].
    unsafe fn count_ge(count: Self::I, a: Self::F, b: Self::F) -> Self::I;

    unsafe fn splat_i32(v: i32) -> Self::I;
    unsafe fn add_i32(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn sub_i32(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn mul_i32(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn to_f32(a: Self::I) -> Self::F;
    /// The same bits.
    unsafe fn as_f32(a: Self::I) -> Self::F;
    /// The f16 in the low half of each lane.
    unsafe fn low_f16(a: Self::I) -> Self::F;
    /// The f16 in the high half of each lane.
    unsafe fn high_f16(a: Self::I) -> Self::F;
    /// The u16 in the high half of each lane.
    unsafe fn high_u16(a: Self::I) -> Self::I;
    /// Lane i: acc + Σ of four byte products, codes in 0..=15, activations in −127..=127.
    unsafe fn dot(acc: Self::I, codes: Self::I, activations: Self::I) -> Self::I;
    /// The low four bits of each byte.
    unsafe fn low_nibbles(a: Self::I) -> Self::I;
    /// The high four bits of each byte, moved down.
    unsafe fn high_nibbles(a: Self::I) -> Self::I;
    /// Reads 16 bytes at `offset` of 16 rows; lane i of result j is the 4 bytes j of row i.
    unsafe fn load_rows(rows: &[*const u8; 16], offset: usize) -> [Self::I; 4];
    /// Takes four vectors; lane 4q + p of the result is the sum of the four lanes 4q.. of vector p.
    unsafe fn sum_quads(rows: [Self::I; 4]) -> Self::I;
    /// Transposes 16-byte quarters: quarter p of result q is quarter q of vector p.
    unsafe fn transpose_quarters(rows: [Self::I; 4]) -> [Self::I; 4];
    /// The even and the odd 16-byte quarters of two vectors, in order.
    unsafe fn unzip_quarters(a: Self::I, b: Self::I) -> [Self::I; 2];
    /// Reads `segments` ≤ 4 times 16 bytes, the rest zero.
    unsafe fn load_segments(p: *const u8, segments: usize) -> Self::I;
    /// Takes 4 rows of four 16-byte segments; lane 4q + p of result v holds byte 4v + p of segment q of the four rows.
    unsafe fn interleave(rows: [Self::I; 4]) -> [Self::I; 4];
    /// Widens `lanes` ≤ 16 u16, the rest zero; `lanes` a multiple of 4.
    unsafe fn load_u16(p: *const u16, lanes: usize) -> Self::I;
    /// Asks for a cache line; never faults.
    unsafe fn prefetch(p: *const u8);
}

/// Work that runs on any instruction set.
pub(crate) trait Kernel {
    /// What it gives.
    type Output;
    /// Does the work; implementations are `#[inline(always)]`, so that it is compiled for each instruction set.
    ///
    /// # Safety
    /// The machine has the instruction set of `S`.
    unsafe fn run<S: Simd>(self) -> Self::Output;
}

/// Runs a kernel on an instruction set that this machine has (as the one of a [`crate::Cpu`] always is).
pub(crate) fn run<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    match isa {
        // SAFETY: plain Rust.
        Isa::Portable => unsafe { kernel.run::<Portable>() },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `Cpu::new` and `Isa::detect` give out only instruction sets that the machine has.
        Isa::Avx2 => unsafe { run_avx2(kernel) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::AvxVnni => unsafe { run_avx_vnni(kernel) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx512Vnni => unsafe { run_avx512(kernel) },
        #[cfg(not(target_arch = "x86_64"))]
        // SAFETY: plain Rust.
        _ => unsafe { kernel.run::<Portable>() },
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,popcnt")]
unsafe fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: the features are this function's own.
    unsafe { kernel.run::<Avx2<false>>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avxvnni,popcnt")]
unsafe fn run_avx_vnni<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: the features are this function's own.
    unsafe { kernel.run::<Avx2<true>>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,popcnt")]
unsafe fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: the features are this function's own.
    unsafe { kernel.run::<Avx512>() }
}
