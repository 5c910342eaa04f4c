//! Per-token int8 quantization of activations.

use crate::Cpu;
use crate::element::Element;
use crate::error::{Error, Result, check_len};
use crate::simd::{Kernel, Simd};
use crate::threads::Pieces;

/// Values whose codes share one entry of the finest group sums: the smallest group size of any weight mode.
pub(crate) const SUM_GROUP: usize = 32;

/// The group sizes for which sums are kept: every one that a weight can have, so that no kernel adds sums up.
const SUM_LEVELS: usize = 3;

/// K is padded with zero codes to a multiple of this, the K extent of a 4-bit weight tile.
pub(crate) const PAD_K: usize = 64;

/// Activations quantized per token: x\[m, k\] ≈ act_scale\[m\] · code\[m, k\].
///
/// act_scale\[m\] = max_k |x\[m, k\]| / 127, code = x / act_scale rounded to nearest, ties to even, so −127..=127. A token of
/// zeros has act_scale 0 and codes 0. The sums of the codes over each 32, 64 and 128 of K and over all of K are kept
/// beside them, for weights with zero points or offsets.
///
/// Buffers grow to the largest [M, K] seen and are then reused.
#[derive(Debug, Clone, Default)]
pub struct Activations {
    m: usize,
    k: usize,
    /// int8 \[M, K rounded up to 64\].
    codes: Vec<i8>,
    /// f32 \[M\].
    scale: Vec<f32>,
    /// By level: i32 \[M, K rounded up to 64, / (32 << level), rounded up\].
    sums: [Vec<i32>; SUM_LEVELS],
    /// i32 \[M\].
    totals: Vec<i32>,
}

impl Activations {
    /// Allocates for up to M tokens of K features.
    pub fn with_capacity(m: usize, k: usize) -> Self {
        let mut activations = Activations::default();
        activations.reserve(m, k);
        activations
    }

    fn reserve(&mut self, m: usize, k: usize) {
        let padded = k.next_multiple_of(PAD_K);
        let grow = |len: usize, need: usize| len.max(need);
        self.codes.resize(grow(self.codes.len(), m * padded), 0);
        self.scale.resize(grow(self.scale.len(), m), 0.0);
        for (level, sums) in self.sums.iter_mut().enumerate() {
            sums.resize(grow(sums.len(), m * groups_at(padded, level)), 0);
        }
        self.totals.resize(grow(self.totals.len(), m), 0);
    }

    /// Quantizes x \[M, K\] row-major, replacing what was held.
    ///
    /// # Errors
    /// [`Error::Shape`] unless M ≥ 1 and K is a multiple of 32, [`Error::Length`] unless `x` has M · K elements,
    /// [`Error::Value`] if an activation is NaN or infinite.
    pub fn quantize<E: Element>(&mut self, cpu: &Cpu, x: &[E], m: usize, k: usize) -> Result<()> {
        if m == 0 {
            return Err(Error::Shape { what: "m", expected: "at least 1", got: m });
        }
        super::weight::check_shape(1, k)?;
        check_len("x", m * k, x.len())?;
        self.reserve(m, k);
        (self.m, self.k) = (m, k);
        let padded = self.padded_k();
        let mut level = 0;
        let sums = self.sums.each_mut().map(|sums| {
            let groups = groups_at(padded, level);
            level += 1;
            Pieces::new(&mut sums[..m * groups], groups)
        });
        let codes = Pieces::new(&mut self.codes[..m * padded], padded);
        let (scale, totals) = (Pieces::new(&mut self.scale[..m], 1), Pieces::new(&mut self.totals[..m], 1));
        let grain = (8192 / k).max(1);
        cpu.team().for_parts((codes, scale, totals, sums), grain, |token, (codes, scale, total, [s32, s64, s128])| {
            let x = &x[token * k..(token + 1) * k];
            scale[0] = cpu.simd().run(QuantizeToken { x, codes, sums: &mut *s32 });
            add_pairs(s32, s64);
            add_pairs(s64, s128);
            total[0] = s128.iter().sum();
        });
        match self.scale[..m].iter().find(|s| !s.is_finite()) {
            Some(&got) => Err(Error::Value { what: "x", expected: "finite activations", got }),
            None => Ok(()),
        }
    }

    /// Tokens M.
    pub fn m(&self) -> usize {
        self.m
    }

    /// Features K.
    pub fn k(&self) -> usize {
        self.k
    }

    /// K rounded up to 64: the stride of [`Activations::codes`].
    pub fn padded_k(&self) -> usize {
        self.k.next_multiple_of(PAD_K)
    }

    /// Codes int8 \[M, padded K\]; those past K are 0.
    pub fn codes(&self) -> &[i8] {
        &self.codes[..self.m * self.padded_k()]
    }

    /// Scales f32 \[M\].
    pub fn scale(&self) -> &[f32] {
        &self.scale[..self.m]
    }

    /// Sums of the codes over each 32 of K, i32 \[M, padded K / 32\].
    pub fn sums(&self) -> &[i32] {
        self.group_sums(Some(SUM_GROUP)).0
    }

    /// Sums over each group, or over K, and the number of them for a token.
    pub(crate) fn group_sums(&self, group_size: Option<usize>) -> (&[i32], usize) {
        let Some(group_size) = group_size else { return (&self.totals[..self.m], 1) };
        let level = (group_size / SUM_GROUP).ilog2() as usize;
        let groups = groups_at(self.padded_k(), level);
        (&self.sums[level][..self.m * groups], groups)
    }

    /// The codes of one token.
    pub(crate) fn token(&self, m: usize) -> &[i8] {
        &self.codes[m * self.padded_k()..(m + 1) * self.padded_k()]
    }
}

/// Groups of 32 << level in a padded row.
fn groups_at(padded_k: usize, level: usize) -> usize {
    padded_k.div_ceil(SUM_GROUP << level)
}

fn add_pairs(fine: &[i32], coarse: &mut [i32]) {
    coarse.iter_mut().zip(fine.chunks(2)).for_each(|(sum, pair)| *sum = pair.iter().sum());
}

/// Quantizes one token and gives its scale, which is not finite if an activation is not: the definition, written in
/// blocks that the compiler turns into vectors of each instruction set.
struct QuantizeToken<'a, E> {
    x: &'a [E],
    codes: &'a mut [i8],
    /// Over each [`SUM_GROUP`] codes.
    sums: &'a mut [i32],
}

impl<E: Element> Kernel for QuantizeToken<'_, E> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> f32 {
        let QuantizeToken { x, codes, sums } = self;
        let mut lanes = [0.0f32; SUM_GROUP];
        let mut invalid = false;
        for block in x.chunks_exact(SUM_GROUP) {
            for (lane, &v) in lanes.iter_mut().zip(block) {
                let v = v.to_f32().abs();
                invalid |= !(v < f32::INFINITY);
                *lane = if v > *lane { v } else { *lane };
            }
        }
        let max = lanes.iter().fold(0.0f32, |max, &v| max.max(v));
        if invalid {
            codes.fill(0);
            sums.fill(0);
            return f32::NAN;
        }
        let scale = max / 127.0;
        // a scale below the normal range loses the bits that keep |x|/scale ≤ 127, hence the clamp
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        let inverse = if inverse.is_finite() { inverse } else { 0.0 };
        let (head, padding) = codes.split_at_mut(x.len());
        padding.fill(0);
        sums[x.len() / SUM_GROUP..].fill(0);
        for ((block, codes), sum) in x.chunks_exact(SUM_GROUP).zip(head.chunks_exact_mut(SUM_GROUP)).zip(sums) {
            let mut total = 0i32;
            for (code, &v) in codes.iter_mut().zip(block) {
                let scaled = (v.to_f32() * inverse).clamp(-127.0, 127.0);
                // adding 1.5·2²³ leaves the integer nearest to `scaled`, ties to even, in the low mantissa bits
                let rounded = (scaled + 12_582_912.0).to_bits() as i32 - 0x4B40_0000;
                *code = rounded as i8;
                total += rounded;
            }
            *sum = total;
        }
        scale
    }
}
