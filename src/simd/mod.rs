//! Sixteen-lane vectors that the CPU kernels of the sparse MLP, of attention and of dense products are written in once.
//!
//! A kernel is a [`Kernel`] whose `run` is generic over [`Simd`]; [`Available::run`] has it compiled for each instruction
//! set. Every operation rounds the same way in every implementation and sums lanes in the same order, so results are
//! equal bit for bit.
//!
//! Kernels call operations in loops, not in closures (`array::map`, `from_fn`): one that the compiler does not put into its caller is code of
//! no instruction set. `cargo xtask inlined` finds them.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod element;
mod exponential;
mod portable;
mod rows;
#[cfg(test)]
mod tests;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;
use half::{bf16, f16};
pub(crate) use portable::Portable;

use crate::Isa;
pub(crate) use element::{SimdElement, load_first};
pub(crate) use exponential::exp2_to_one;
pub(crate) use rows::{ByteRows, Gather};

/// Sixteen f32 lanes and sixteen i32 lanes (or 16 × 4 bytes) of one instruction set.
///
/// A value is a token: it exists only where the machine has the instructions, so its methods are safe.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// 16 f32.
    type F: Copy;
    /// 16 i32, or 64 bytes.
    type I: Copy;
    /// Vectors side by side in a register tile of f32 sums: tokens, or columns beside six rows.
    const TILE: usize;
    /// Sums of [`Simd::dot_short`] that 16 bits hold; 0 where [`Simd::dot`] is as cheap.
    const SHORT: usize = 0;
    /// Whether several rows at once pay: registers hold their sums.
    const TILED: bool;

    /// Runs a kernel, compiled for this instruction set.
    fn run<K: Kernel>(self, kernel: K) -> K::Output;

    fn splat(self, v: f32) -> Self::F;
    fn load(self, v: &[f32; 16]) -> Self::F;
    fn load_f16(self, v: &[f16; 16]) -> Self::F;
    fn load_bf16(self, v: &[bf16; 16]) -> Self::F;
    fn load_i8(self, v: &[i8; 16]) -> Self::F;
    fn store(self, out: &mut [f32; 16], v: Self::F);
    /// Rounds to nearest, ties to even.
    fn store_f16(self, out: &mut [f16; 16], v: Self::F);
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    /// a · b + c, rounded once.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `b` where it is smaller or either is NaN.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// `b` where it is larger or either is NaN.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    fn abs(self, a: Self::F) -> Self::F;
    /// To the nearest integer, ties to even.
    fn round(self, a: Self::F) -> Self::F;
    /// 2ⁿ for whole n in −126..=127; anything for others.
    fn exp2_whole(self, n: Self::F) -> Self::F;
    /// Lane i plus lane i + 8, then i + 4, i + 2, i + 1.
    fn sum(self, a: Self::F) -> f32;
    /// The largest lane: `max(lane i, lane i + 8)`, then i + 4, i + 2, i + 1.
    fn largest(self, a: Self::F) -> f32;
    /// Lane i: a\[i\] where bit i is set, else b\[i\].
    fn select(self, mask: u16, a: Self::F, b: Self::F) -> Self::F;
    /// Bit i: a\[i\] > b\[i\].
    fn gt_mask(self, a: Self::F, b: Self::F) -> u16;
    /// Bit i: a\[i\] ≥ b\[i\].
    fn ge_mask(self, a: Self::F, b: Self::F) -> u16;
    /// Lane i: count + 1 where a\[i\] ≥ b\[i\].
    fn count_ge(self, count: Self::I, a: Self::F, b: Self::F) -> Self::I;

    fn splat_i32(self, v: i32) -> Self::I;
    fn add_i32(self, a: Self::I, b: Self::I) -> Self::I;
    fn sub_i32(self, a: Self::I, b: Self::I) -> Self::I;
    fn mul_i32(self, a: Self::I, b: Self::I) -> Self::I;
    fn to_f32(self, a: Self::I) -> Self::F;
    /// The same bits.
    fn as_f32(self, a: Self::I) -> Self::F;
    /// The f16 in the low half of each lane.
    fn low_f16(self, a: Self::I) -> Self::F;
    /// The f16 in the high half of each lane.
    fn high_f16(self, a: Self::I) -> Self::F;
    /// The u16 in the high half of each lane.
    fn high_u16(self, a: Self::I) -> Self::I;
    /// Lane i: acc + Σ of four byte products, codes in 0..=15, activations in −127..=127.
    fn dot(self, acc: Self::I, codes: Self::I, activations: Self::I) -> Self::I;
    /// As [`Simd::dot`] into sums of 16 bits, at most [`Simd::SHORT`] of them before [`Simd::add_short`].
    #[inline(always)]
    fn dot_short(self, short: Self::I, codes: Self::I, activations: Self::I) -> Self::I {
        self.dot(short, codes, activations)
    }
    /// acc + the sums of [`Simd::dot_short`].
    #[inline(always)]
    fn add_short(self, acc: Self::I, short: Self::I) -> Self::I {
        self.add_i32(acc, short)
    }
    /// As [`Simd::dot`] for codes in 0..=255.
    fn dot_bytes(self, acc: Self::I, codes: Self::I, activations: Self::I) -> Self::I;
    /// Widens 16 u8.
    fn load_u8(self, v: &[u8; 16]) -> Self::I;
    /// The low four bits of each byte.
    fn low_nibbles(self, a: Self::I) -> Self::I;
    /// The high four bits of each byte, moved down.
    fn high_nibbles(self, a: Self::I) -> Self::I;
    /// Reads 16 bytes at `offset` of 16 rows; lane i of result j is the 4 bytes j of row i.
    fn load_rows(self, rows: &ByteRows<'_, 16>, offset: usize) -> [Self::I; 4];
    /// Takes four vectors; lane 4q + p of the result is the sum of the four lanes 4q.. of vector p.
    fn sum_quads(self, rows: [Self::I; 4]) -> Self::I;
    /// As [`Simd::sum_quads`], of vectors that each hold at most two of [`Simd::dot_short`].
    #[inline(always)]
    fn sum_short_quads(self, rows: [Self::I; 4]) -> Self::I {
        self.sum_quads(rows)
    }
    /// Transposes 16-byte quarters: quarter p of result q is quarter q of vector p.
    fn transpose_quarters(self, rows: [Self::I; 4]) -> [Self::I; 4];
    /// The even and the odd 16-byte quarters of two vectors, in order.
    fn unzip_quarters(self, a: Self::I, b: Self::I) -> [Self::I; 2];
    /// Reads up to four segments, the rest zero.
    fn load_segments(self, segments: &[[u8; 16]]) -> Self::I;
    /// Takes 4 rows of four 16-byte segments; lane 4q + p of result v holds byte 4v + p of segment q of the four rows.
    fn interleave(self, rows: [Self::I; 4]) -> [Self::I; 4];
    /// Thirty-two lanes of 16 bits.
    fn splat_i16(self, v: i16) -> Self::I;
    /// Takes the bytes of two vectors in turn: of each 16-byte quarter the first eight of both, and the last eight.
    fn interleave_pair(self, a: Self::I, b: Self::I) -> [Self::I; 2];
    /// Lane i of 16 bits: sums + Σ of two byte products, modulo 2¹⁶; codes and activations as in [`Simd::dot`].
    fn dot_pairs(self, sums: Self::I, codes: Self::I, activations: Self::I) -> Self::I;
    /// Widens lanes of 16 bits, unsigned: of each 16-byte quarter the first four, and the last four.
    fn widen_u16(self, a: Self::I) -> [Self::I; 2];
    /// Widens up to sixteen u16, a multiple of 4 of them, the rest zero.
    fn load_u16(self, lanes: &[u16]) -> Self::I;
    /// Writes `first` + lane for each lane whose bit is set, in order, and says how many those are; what `out` holds after them is
    /// anything.
    #[inline(always)]
    fn list_lanes(self, mask: u16, first: u32, out: &mut [u32; 16]) -> usize {
        // without a branch: which bits are set nobody can guess
        let mut next = 0;
        for lane in 0..16 {
            out[next % 16] = first + lane;
            next += (mask >> lane & 1) as usize;
        }
        next
    }
    /// Writes the lanes whose bits are set to the front of `out`, whose other elements are anything.
    #[inline(always)]
    fn pack_lanes(self, mask: u16, lanes: &[i8; 16], out: &mut [i8; 16]) {
        let mut next = 0;
        for (lane, &value) in lanes.iter().enumerate() {
            out[next % 16] = value;
            next += (mask >> lane & 1) as usize;
        }
    }
    /// Asks for a value's cache line.
    fn prefetch_line<T>(self, at: &T);

    /// Asks for a value's cache line in the second-level cache, which has room for more of them on their way than the first.
    fn prefetch_far_line<T>(self, at: &T);

    /// Asks for the cache lines of a slice, in steps of a line from its start.
    #[inline(always)]
    fn prefetch<T>(self, slice: &[T]) {
        slice.chunks(elements_of_line::<T>()).for_each(|line| self.prefetch_line(&line[0]));
    }

    /// Asks for the cache lines of a slice in the second-level cache, as [`Simd::prefetch`] does in the first.
    #[inline(always)]
    fn prefetch_far<T>(self, slice: &[T]) {
        slice.chunks(elements_of_line::<T>()).for_each(|line| self.prefetch_far_line(&line[0]));
    }
}

/// Bytes of a cache line.
const LINE_BYTES: usize = 64;

/// Elements in a cache line, at least one.
const fn elements_of_line<T>() -> usize {
    let bytes = if size_of::<T>() == 0 { 1 } else { size_of::<T>() };
    if bytes < LINE_BYTES { LINE_BYTES / bytes } else { 1 }
}

/// Work that runs on any instruction set.
pub(crate) trait Kernel {
    /// What it gives.
    type Output;
    /// Does the work; implementations are `#[inline(always)]`, so that it is compiled for each instruction set.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// The token of an [`Isa`] that this machine has.
#[derive(Clone, Copy)]
pub(crate) enum Available {
    Portable(Portable),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2<false>),
    #[cfg(target_arch = "x86_64")]
    AvxVnni(Avx2<true>),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
}

impl Available {
    /// The token, if this machine has the instructions.
    pub(crate) fn of(isa: Isa) -> Option<Available> {
        match isa {
            Isa::Portable => Some(Available::Portable(Portable)),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Avx2::detect().map(Available::Avx2),
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => Avx2::detect().map(Available::AvxVnni),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => Avx512::detect().map(Available::Avx512),
            #[cfg(not(target_arch = "x86_64"))]
            _ => None,
        }
    }

    /// The best of this machine.
    pub(crate) fn best() -> Available {
        Isa::ALL.into_iter().rev().find_map(Available::of).unwrap_or(Available::Portable(Portable))
    }

    /// Which it is.
    pub(crate) fn isa(self) -> Isa {
        match self {
            Available::Portable(_) => Isa::Portable,
            #[cfg(target_arch = "x86_64")]
            Available::Avx2(_) => Isa::Avx2,
            #[cfg(target_arch = "x86_64")]
            Available::AvxVnni(_) => Isa::AvxVnni,
            #[cfg(target_arch = "x86_64")]
            Available::Avx512(_) => Isa::Avx512Vnni,
        }
    }

    /// Runs a kernel on it.
    #[inline]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            Available::Portable(simd) => simd.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Available::Avx2(simd) => simd.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Available::AvxVnni(simd) => simd.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Available::Avx512(simd) => simd.run(kernel),
        }
    }
}

impl std::fmt::Debug for Available {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.isa().fmt(f)
    }
}
