//! int8 quantization of activations, with a scale for each token or finer ones.

use crate::Cpu;
use crate::element::Element;
use crate::error::{Error, Result, check_len, product};
use crate::int8::{code_of, inverse_of, scale_of};
use crate::simd::{Kernel, Simd};
use crate::threads::Pieces;

/// Values whose codes share one entry of the finest group sums: the smallest group size of any weight mode.
pub(crate) const SUM_GROUP: usize = 32;

/// The group sizes for which sums are kept: every one that a weight can have, so that no kernel adds sums up.
const SUM_LEVELS: usize = 3;

/// K is padded with zero codes to a multiple of this, the K extent of a 4-bit weight tile.
pub(crate) const PAD_K: usize = 64;

/// K values that share an activation scale where scales are fine.
pub const ACT_BLOCK: usize = 128;

/// How finely activations are scaled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum ActScales {
    /// One for each token: act_scale \[M\].
    #[default]
    Token,
    /// One for each token and each 128 of K, the last of which may have fewer: act_scale \[M, ⌈K/128⌉\]. Outliers then cost only
    /// their neighbours' precision, as after a SwiGLU.
    Fine,
}

impl ActScales {
    /// Scales of a token of K features.
    pub fn of_token(self, k: usize) -> usize {
        match self {
            ActScales::Token => 1,
            ActScales::Fine => k.div_ceil(ACT_BLOCK),
        }
    }
}

/// Activations quantized to int8: x\[m, k\] ≈ act_scale\[m\] · code\[m, k\], or act_scale\[m, k/128\] · code\[m, k\].
///
/// act_scale = max |x\[m, k\]| / 127 over the k that share it, code = x / act_scale rounded to nearest, ties to even, so
/// −127..=127. Where all are zeros, act_scale and codes are 0; where act_scale is below about 2⁻¹²⁸, so that its inverse is no f32,
/// codes are 0; where one is NaN or infinite, act_scale is NaN and codes are 0, so that the token's results are NaN and no other's.
/// The sums of the codes over each 32, 64 and 128 of K and over all of K are kept beside them, for weights with zero points or offsets.
///
/// Buffers grow to the largest [M, K] seen and are then reused.
#[derive(Debug, Clone, Default)]
pub struct Activations {
    m: usize,
    k: usize,
    /// int8 \[M, K rounded up to 64\].
    codes: Vec<i8>,
    scales: ActScales,
    /// f32 \[M, of_token(K)\].
    scale: Vec<f32>,
    /// By level: i32 \[M, K rounded up to 64, / (32 << level), rounded up\].
    sums: [Vec<i32>; SUM_LEVELS],
    /// i32 \[M\].
    totals: Vec<i32>,
    /// f32 \[M, K\]: inputs in another order.
    ordered: Vec<f32>,
}

impl Activations {
    /// Allocates for up to M tokens of K features.
    pub fn with_capacity(m: usize, k: usize) -> Self {
        let mut activations = Activations::default();
        activations.reserve(m, k);
        activations
    }

    /// Says how finely tokens are scaled from the next quantization on; nothing is held before it.
    pub fn set_scales(&mut self, scales: ActScales) {
        (self.m, self.scales) = (0, scales);
    }

    /// How finely tokens are scaled.
    pub fn scales(&self) -> ActScales {
        self.scales
    }

    /// Makes room for up to M tokens of K features with the scales that are set, so that quantizing them allocates nothing.
    pub fn reserve(&mut self, m: usize, k: usize) {
        let padded = k.next_multiple_of(PAD_K);
        let grow = |len: usize, need: usize| len.max(need);
        self.codes.resize(grow(self.codes.len(), m * padded), 0);
        self.scale.resize(grow(self.scale.len(), m * self.scales.of_token(k)), 0.0);
        for (level, sums) in self.sums.iter_mut().enumerate() {
            sums.resize(grow(sums.len(), m * groups_at(padded, level)), 0);
        }
        self.totals.resize(grow(self.totals.len(), m), 0);
    }

    /// Bytes that it has room for.
    pub(crate) fn bytes(&self) -> usize {
        let sums: usize = self.sums.iter().map(Vec::len).sum();
        self.codes.len() + 4 * (self.scale.len() + sums + self.totals.len() + self.ordered.capacity())
    }

    /// Quantizes x \[M, K\] row-major, replacing what was held.
    ///
    /// # Errors
    /// [`Error::Shape`] unless M ≥ 1 and K is a multiple of 32, [`Error::Length`] unless `x` has M · K elements.
    pub fn quantize<E: Element>(&mut self, cpu: &Cpu, x: &[E], m: usize, k: usize) -> Result<()> {
        self.resize("x", m, k, x.len())?;
        let (padded, scales) = (self.padded_k(), self.scales.of_token(k));
        let mut level = 0;
        let sums = self.sums.each_mut().map(|sums| {
            let groups = groups_at(padded, level);
            level += 1;
            Pieces::new(&mut sums[..m * groups], groups)
        });
        let codes = Pieces::new(&mut self.codes[..m * padded], padded);
        let scale = Pieces::new(&mut self.scale[..m * scales], scales);
        let totals = Pieces::new(&mut self.totals[..m], 1);
        let grain = (8192 / k).max(1);
        let block = if self.scales == ActScales::Token { padded } else { ACT_BLOCK };
        cpu.team().for_parts((codes, scale, totals, sums), grain, |token, (codes, scale, total, [s32, s64, s128])| {
            let x = &x[token * k..(token + 1) * k];
            let parts = x.chunks(block).zip(codes.chunks_mut(block)).zip(s32.chunks_mut(block / SUM_GROUP));
            for (scale, ((x, codes), sums)) in scale.iter_mut().zip(parts) {
                *scale = cpu.simd().run(QuantizeBlock { x, codes, sums });
            }
            add_sums(s32, s64, s128, &mut total[0]);
        });
        Ok(())
    }

    /// Quantizes x \[M, K\] with feature `order[j]` of each token in place j, for weights whose columns are in that order.
    ///
    /// # Errors
    /// As [`Activations::quantize`]; [`Error::Length`] unless `order` has K entries, [`Error::Index`] for one that is K or more.
    pub fn quantize_in_order<E: Element>(
        &mut self,
        cpu: &Cpu,
        x: &[E],
        order: &[u32],
        m: usize,
        k: usize,
    ) -> Result<()> {
        check_len("order", k, order.len())?;
        check_len("x", product("m", &[m, k])?, x.len())?;
        if let Some(&got) = order.iter().find(|&&feature| feature as usize >= k) {
            return Err(Error::Index { what: "order", limit: k, got: got as usize });
        }
        let mut ordered = std::mem::take(&mut self.ordered);
        ordered.clear();
        for token in x.chunks_exact(k.max(1)) {
            ordered.extend(order.iter().map(|&feature| token[feature as usize].to_f32()));
        }
        let quantized = self.quantize(cpu, &ordered, m, k);
        self.ordered = ordered;
        quantized
    }

    /// Checks that every activation was finite, for callers who would rather refuse a call than give NaN for a token.
    ///
    /// # Errors
    /// [`Error::Value`] if one was NaN or infinite.
    pub fn check_finite(&self) -> Result<()> {
        match self.scale().iter().find(|scale| !scale.is_finite()) {
            Some(&got) => Err(Error::Value { what: "x", expected: "finite activations", got }),
            None => Ok(()),
        }
    }

    /// Takes codes and scales that an engine has already: codes int8 \[M, K\] row-major, scale f32 \[M\] or, for fine ones,
    /// \[M, ⌈K/128⌉\]. The sums are made here.
    ///
    /// # Errors
    /// [`Error::Shape`] unless M ≥ 1 and K is a multiple of 32, [`Error::Length`] for arrays of another size.
    ///
    /// # Example
    /// ```
    /// use moray::w4a8::{ActScales, Activations};
    ///
    /// let mut x = Activations::default();
    /// x.set_codes(ActScales::Token, &[3; 64], &[0.5], 1, 64)?;
    /// assert_eq!(x.sums(), [96, 96]);
    /// # Ok::<(), moray::Error>(())
    /// ```
    pub fn set_codes(&mut self, scales: ActScales, codes: &[i8], scale: &[f32], m: usize, k: usize) -> Result<()> {
        check_len("scale", product("m", &[m, scales.of_token(k)])?, scale.len())?;
        let before = std::mem::replace(&mut self.scales, scales);
        if let Err(error) = self.resize("codes", m, k, codes.len()) {
            self.scales = before;
            return Err(error);
        }
        let padded = self.padded_k();
        self.scale[..scale.len()].copy_from_slice(scale);
        for (token, from) in codes.chunks_exact(k).enumerate() {
            let to = &mut self.codes[token * padded..(token + 1) * padded];
            to[..k].copy_from_slice(from);
            to[k..].fill(0);
            let [s32, s64, s128] = &mut self.sums;
            let level = |level: usize| token * groups_at(padded, level)..(token + 1) * groups_at(padded, level);
            let (s32, s64, s128) = (&mut s32[level(0)], &mut s64[level(1)], &mut s128[level(2)]);
            let sum = |codes: &[i8]| codes.iter().map(|&code| i32::from(code)).sum();
            s32.iter_mut().zip(to.chunks_exact(SUM_GROUP)).for_each(|(out, codes)| *out = sum(codes));
            add_sums(s32, s64, s128, &mut self.totals[token]);
        }
        Ok(())
    }

    /// Makes room for M tokens of K features, of which an array has `got`.
    fn resize(&mut self, what: &'static str, m: usize, k: usize, got: usize) -> Result<()> {
        if m == 0 {
            return Err(Error::Shape { what: "m", expected: "at least 1", got: m });
        }
        super::weight::check_shape(1, k)?;
        check_len(what, product("m", &[m, k])?, got)?;
        self.reserve(m, k);
        (self.m, self.k) = (m, k);
        Ok(())
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

    /// Scales f32 \[M\] or, fine, \[M, ⌈K/128⌉\]; NaN where an activation was not finite.
    pub fn scale(&self) -> &[f32] {
        &self.scale[..self.m * self.scales.of_token(self.k)]
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

/// The sums of each 64, of each 128 and of all, from those of each 32.
fn add_sums(s32: &[i32], s64: &mut [i32], s128: &mut [i32], total: &mut i32) {
    add_pairs(s32, s64);
    add_pairs(s64, s128);
    *total = s128.iter().sum();
}

/// Quantizes what shares a scale and gives it, NaN if an activation is not finite: the definition, written in
/// blocks that the compiler turns into vectors of each instruction set.
struct QuantizeBlock<'a, E> {
    x: &'a [E],
    codes: &'a mut [i8],
    /// Over each [`SUM_GROUP`] codes.
    sums: &'a mut [i32],
}

impl<E: Element> Kernel for QuantizeBlock<'_, E> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> f32 {
        let QuantizeBlock { x, codes, sums } = self;
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
        let scale = scale_of(max);
        let inverse = inverse_of(scale);
        let (head, padding) = codes.split_at_mut(x.len());
        padding.fill(0);
        sums[x.len() / SUM_GROUP..].fill(0);
        for ((block, codes), sum) in x.chunks_exact(SUM_GROUP).zip(head.chunks_exact_mut(SUM_GROUP)).zip(sums) {
            let mut total = 0i32;
            for (code, &v) in codes.iter_mut().zip(block) {
                let rounded = code_of(v.to_f32(), inverse);
                *code = rounded as i8;
                total += rounded;
            }
            *sum = total;
        }
        scale
    }
}
