//! Per-token int8 quantization of activations.

use crate::Cpu;
use crate::element::Element;
use crate::error::{Error, Result, check_len};

/// Values whose codes share one entry of the group sums: the smallest group size of any weight mode.
pub(crate) const SUM_GROUP: usize = 32;

/// K is padded with zero codes to a multiple of this, the K extent of a 4-bit weight tile.
pub(crate) const PAD_K: usize = 64;

/// Activations quantized per token: x\[m, k\] ≈ act_scale\[m\] · code\[m, k\].
///
/// act_scale\[m\] = max_k |x\[m, k\]| / 127, code = x / act_scale rounded to nearest, ties to even, so −127..=127. A token of
/// zeros has act_scale 0 and codes 0. The sums of the codes over each 32 of K are kept beside them, for weights with
/// zero points or offsets.
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
    /// i32 \[M, K rounded up to 64, / 32\].
    sums: Vec<i32>,
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
        self.sums.resize(grow(self.sums.len(), m * padded / SUM_GROUP), 0);
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
        let codes = crate::threads::Disjoint::new(&mut self.codes[..m * padded]);
        let scale = crate::threads::Disjoint::new(&mut self.scale[..m]);
        let sums = crate::threads::Disjoint::new(&mut self.sums[..m * padded / SUM_GROUP]);
        let grain = (8192 / k).max(1);
        cpu.team().for_ranges(m, grain, |tokens| {
            for token in tokens {
                // SAFETY: each token's ranges are its own and each token is handed out once.
                let (codes, scale, sums) = unsafe {
                    let groups = padded / SUM_GROUP;
                    (
                        codes.slice(token * padded..(token + 1) * padded),
                        scale.slice(token..token + 1),
                        sums.slice(token * groups..(token + 1) * groups),
                    )
                };
                scale[0] = quantize_token(cpu.isa(), &x[token * k..(token + 1) * k], codes, sums);
            }
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

    /// Sums of the codes i32 \[M, padded K / 32\].
    pub fn sums(&self) -> &[i32] {
        &self.sums[..self.m * self.padded_k() / SUM_GROUP]
    }

    /// The codes of one token.
    pub(crate) fn token(&self, m: usize) -> &[i8] {
        &self.codes[m * self.padded_k()..(m + 1) * self.padded_k()]
    }
}

/// Quantizes one token and returns its scale, which is not finite if an activation is not.
fn quantize_token<E: Element>(isa: crate::Isa, x: &[E], codes: &mut [i8], sums: &mut [i32]) -> f32 {
    #[cfg(target_arch = "x86_64")]
    {
        use crate::Isa;
        match isa {
            // SAFETY: `Cpu` holds an instruction set only if this machine has it.
            Isa::Avx512Vnni => return unsafe { quantize_token_avx512(x, codes, sums) },
            // SAFETY: as above.
            Isa::Avx2 | Isa::AvxVnni => return unsafe { quantize_token_avx2(x, codes, sums) },
            Isa::Portable => {}
        }
    }
    let _ = isa;
    quantize_token_inline(x, codes, sums)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
fn quantize_token_avx512<E: Element>(x: &[E], codes: &mut [i8], sums: &mut [i32]) -> f32 {
    quantize_token_inline(x, codes, sums)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn quantize_token_avx2<E: Element>(x: &[E], codes: &mut [i8], sums: &mut [i32]) -> f32 {
    quantize_token_inline(x, codes, sums)
}

/// The definition, written in blocks that the compiler turns into vectors for each caller's instruction set.
#[inline(always)]
fn quantize_token_inline<E: Element>(x: &[E], codes: &mut [i8], sums: &mut [i32]) -> f32 {
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
