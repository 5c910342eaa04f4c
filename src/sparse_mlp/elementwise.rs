//! What happens between the projections: scores and int8 quantization.

use super::rows::BLOCK;
use crate::error::{Error, Result};
use crate::int8::{code_of, inverse_of, scale_of};
use crate::simd::{Kernel, Simd, load_first};

/// Writes the values as int8 codes and returns their scale max|x| / 127: code = x / scale to nearest, ties to even.
pub(crate) struct Quantize<'a> {
    pub x: &'a [f32],
    pub codes: &'a mut [i8],
    /// Not finite if a value is not.
    pub scale: &'a mut f32,
}

impl Kernel for Quantize<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let bits = self.x.iter().fold(0u32, |max, v| max.max(v.to_bits() & 0x7FFF_FFFF));
        let max = f32::from_bits(bits);
        *self.scale = if max.is_finite() { scale_of(max) } else { f32::NAN };
        let inverse = inverse_of(*self.scale);
        for (code, &v) in self.codes.iter_mut().zip(self.x) {
            *code = code_of(v, inverse) as i8;
        }
    }
}

/// How a mask is made from scores |values\[i\]| · scale\[i\].
#[derive(Debug, Clone, Copy)]
pub(crate) enum Keep {
    /// Scores above this.
    Above(f32),
    /// This many of the highest, the lower index first where equal.
    Top(usize),
}

/// Writes which values are kept as bits; bit i of word w is value 64w + i.
pub(crate) struct MaskScores<'a> {
    pub values: &'a [f32],
    /// As many as `values`.
    pub scale: Option<&'a [f32]>,
    pub keep: Keep,
    pub mask: &'a mut [u64],
}

impl Kernel for MaskScores<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let n = self.values.len();
        assert!(self.scale.is_none_or(|s| s.len() == n) && self.mask.len() == n.div_ceil(64));
        self.mask.fill(0);
        match self.keep {
            Keep::Above(threshold) => {
                for at in (0..n).step_by(16) {
                    let above = simd.gt_mask(self.scores(simd, at), simd.splat(threshold)) & lanes(n - at);
                    self.mask[at / 64] |= u64::from(above) << (at % 64);
                }
            }
            Keep::Top(k) => self.top(simd, k),
        }
    }
}

/// The bits of the lanes that hold values.
fn lanes(left: usize) -> u16 {
    if left >= 16 { u16::MAX } else { (1 << left) - 1 }
}

impl MaskScores<'_> {
    /// The scores of the values from `at` on.
    #[inline(always)]
    fn scores<S: Simd>(&self, simd: S, at: usize) -> S::F {
        let v = simd.abs(load_first(simd, &self.values[at..]));
        match self.scale {
            Some(scale) => simd.mul(v, load_first(simd, &scale[at..])),
            None => v,
        }
    }

    /// Counts the scores that are at least `limit`.
    #[inline(always)]
    fn count<S: Simd>(&self, simd: S, limit: f32) -> usize {
        let (whole, rest) = self.values.as_chunks();
        let limit = simd.splat(limit);
        let mut count = simd.splat_i32(0);
        match self.scale {
            Some(scale) => {
                for (values, scale) in whole.iter().zip(scale.as_chunks().0) {
                    count = simd.count_ge(count, simd.mul(simd.abs(simd.load(values)), simd.load(scale)), limit);
                }
            }
            None => {
                for values in whole {
                    count = simd.count_ge(count, simd.abs(simd.load(values)), limit);
                }
            }
        }
        // at most 2²⁴ neurons, so counts are exact in f32
        let mut total = simd.sum(simd.to_f32(count)) as usize;
        if !rest.is_empty() {
            let scores = self.scores(simd, self.values.len() - rest.len());
            total += (simd.ge_mask(scores, limit) & lanes(rest.len())).count_ones() as usize;
        }
        total
    }

    /// Finds the k-th highest score bit by bit (f32 ≥ 0 order like their bits), then takes what is above it and as many
    /// equal to it as are missing.
    #[inline(always)]
    fn top<S: Simd>(self, simd: S, k: usize) {
        let n = self.values.len();
        let mut bits = 0u32;
        for bit in (0..31).rev() {
            let candidate = bits | 1 << bit;
            let count = self.count(simd, f32::from_bits(candidate));
            if count >= k {
                bits = candidate;
            }
            if count == k {
                break;
            }
        }
        let limit = simd.splat(f32::from_bits(bits));
        let mut above = 0;
        for at in (0..n).step_by(16) {
            let mask = simd.gt_mask(self.scores(simd, at), limit) & lanes(n - at);
            above += mask.count_ones() as usize;
            self.mask[at / 64] |= u64::from(mask) << (at % 64);
        }
        let mut missing = k.saturating_sub(above);
        for at in (0..n).step_by(16) {
            if missing == 0 {
                break;
            }
            let mask = simd.ge_mask(self.scores(simd, at), limit) & lanes(n - at);
            let mut equal = mask & !((self.mask[at / 64] >> (at % 64)) as u16);
            while equal != 0 && missing > 0 {
                self.mask[at / 64] |= 1 << (at % 64 + equal.trailing_zeros() as usize);
                equal &= equal - 1;
                missing -= 1;
            }
        }
    }
}

/// hidden\[i\] ← 0 where the mask leaves out neuron kept\[i\].
pub(crate) struct ZeroUnselected<'a> {
    /// Increasing.
    pub kept: &'a [u32],
    /// Bit i of word w is neuron 64w + i.
    pub mask: &'a [u64],
    /// At least as many as `kept`, a multiple of 16.
    pub hidden: &'a mut [f32],
}

impl Kernel for ZeroUnselected<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let blocks: &mut [[f32; BLOCK]] = self.hidden.as_chunks_mut().0;
        for (kept, hidden) in self.kept.chunks(BLOCK).zip(blocks) {
            let bits = bits_of(self.mask, kept);
            simd.store(hidden, simd.select(bits, simd.load(hidden), simd.splat(0.0)));
        }
    }
}

/// The bits of up to 16 increasing neurons, those past them 1.
#[inline(always)]
fn bits_of(mask: &[u64], kept: &[u32]) -> u16 {
    let (first, last) = (kept[0] as usize, kept[kept.len() - 1] as usize);
    let (word, shift) = (first / 64, first % 64);
    if kept.len() == BLOCK && last - first == BLOCK - 1 {
        // neighbours: in one word, or at the end of one and the start of the next
        let next = mask.get(word + 1).copied().unwrap_or_default();
        return ((u128::from(next) << 64 | u128::from(mask[word])) >> shift) as u16;
    }
    let mut bits = u16::MAX;
    for (lane, &j) in kept.iter().enumerate() {
        let kept = mask[j as usize / 64] >> (j % 64) & 1;
        bits &= !(u16::from(kept == 0) << lane);
    }
    bits
}

/// Whether no value is NaN or infinite.
pub(crate) fn all_finite(values: &[f32]) -> bool {
    const INFINITY: u32 = 0x7F80_0000;
    !values.iter().fold(false, |bad, v| bad | (v.to_bits() & INFINITY == INFINITY))
}

/// Checks that every activation is finite.
pub(crate) fn check_finite(what: &'static str, values: &[f32]) -> Result<()> {
    if all_finite(values) {
        return Ok(());
    }
    let got = values.iter().copied().find(|v| !v.is_finite()).unwrap_or(f32::NAN);
    Err(Error::Value { what, expected: "finite activations", got })
}
