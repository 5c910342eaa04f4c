//! The quantization of tokens: check, select, launch.

use super::{ALIGNMENT, activation_code};
use crate::activation::Activation;
use crate::device::{Address, Buffer, Device, ElementKind, Enqueue, Kernel, Queue, product};
use crate::error::{Error, Result};
use crate::w4a8::activation::{ActScales, PAD_K, SUM_GROUP};
use crate::w4a8::cuda::mirror::{self, QuantizeParams};

/// What is quantized.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Source {
    /// x \[M, K\] as it is.
    Plain,
    /// x / √(mean(x²) + eps) ⊙ weight, x \[M, K\].
    RmsNorm {
        /// f32 \[K\].
        weight: Address<f32>,
        /// Added to the mean square.
        eps: f32,
    },
    /// act(gate) ⊙ up, x \[M, 2·K\] gate before up.
    SwiGlu {
        /// The gate's nonlinearity.
        activation: Activation,
    },
}

/// A quantization of tokens to int8, [`crate::w4a8::cuda::Activations`] by addresses. Where a value is not finite the scale is
/// NaN, and so are the token's results. Every address is a multiple of 16.
#[derive(Debug, Clone, Copy)]
pub struct Quantize {
    /// What is quantized.
    pub source: Source,
    /// Tokens, 1 to 2³¹ − 1.
    pub m: usize,
    /// Features of a token's codes, a multiple of 32.
    pub k: usize,
    /// \[M, K\] or \[M, 2·K\].
    pub x: Address,
    /// Of x.
    pub element: ElementKind,
    /// int8 \[M, K rounded up to 64\].
    pub codes: Address<i8>,
    /// How finely tokens are scaled.
    pub scales: ActScales,
    /// f32 \[M\] or, fine, \[⌈K/128⌉, M\].
    pub scale: Address<f32>,
    /// int32 \[groups, M\] for groups of 32, 64 and 128 of K rounded up to 64.
    pub sums: [Address<i32>; 3],
    /// int32 \[M\].
    pub totals: Address<i32>,
}

impl Quantize {
    fn kernel(&self) -> Kernel<QuantizeParams> {
        match (self.source, self.element) {
            (Source::Plain, ElementKind::F32) => mirror::QUANTIZE_F32,
            (Source::Plain, ElementKind::F16) => mirror::QUANTIZE_F16,
            (Source::Plain, ElementKind::Bf16) => mirror::QUANTIZE_BF16,
            (Source::RmsNorm { .. }, ElementKind::F32) => mirror::QUANTIZE_RMS_NORM_F32,
            (Source::RmsNorm { .. }, ElementKind::F16) => mirror::QUANTIZE_RMS_NORM_F16,
            (Source::RmsNorm { .. }, ElementKind::Bf16) => mirror::QUANTIZE_RMS_NORM_BF16,
            (Source::SwiGlu { .. }, ElementKind::F32) => mirror::QUANTIZE_SWIGLU_F32,
            (Source::SwiGlu { .. }, ElementKind::F16) => mirror::QUANTIZE_SWIGLU_F16,
            (Source::SwiGlu { .. }, ElementKind::Bf16) => mirror::QUANTIZE_SWIGLU_BF16,
        }
    }
}

impl Enqueue for Quantize {
    fn check_sizes(&self, _: &Device) -> Result<()> {
        crate::w4a8::weight::check_shape(1, self.k)?;
        match self.m == 0 || self.m > i32::MAX as usize {
            true => Err(Error::Shape { what: "m", expected: "1 to 2³¹ − 1 tokens", got: self.m }),
            false => Ok(()),
        }
    }

    fn name_buffers(&self, _: &Device, show: &mut dyn FnMut(Buffer)) {
        let mut show = |buffer: Buffer| show(buffer.aligned(ALIGNMENT));
        let padded = self.k.checked_next_multiple_of(PAD_K).unwrap_or(usize::MAX);
        let wide = if matches!(self.source, Source::SwiGlu { .. }) { 2 } else { 1 };
        show(Buffer::read("x", self.x, product([self.m, self.k, wide])).of_bytes(self.element.bytes()));
        if let Source::RmsNorm { weight, .. } = self.source {
            show(Buffer::read("weight", weight, self.k));
        }
        show(Buffer::write("codes", self.codes, product([self.m, padded])));
        show(Buffer::write("scale", self.scale, product([self.scales.of_token(self.k), self.m])));
        for (level, sums) in self.sums.into_iter().enumerate() {
            show(Buffer::write("sums", sums, product([padded.div_ceil(SUM_GROUP << level), self.m])));
        }
        show(Buffer::write("totals", self.totals, self.m));
    }

    fn enqueue(&self, queue: &Queue<'_>) -> Result<()> {
        let (weight, eps, activation) = match self.source {
            Source::Plain => (Address::NULL, 0.0, Activation::Silu),
            Source::RmsNorm { weight, eps } => (weight, eps, Activation::Silu),
            Source::SwiGlu { activation } => (Address::NULL, 0.0, activation),
        };
        let params = QuantizeParams {
            x: self.x.get(),
            weight: weight.get(),
            codes: self.codes.get(),
            scale: self.scale.get(),
            sums: self.sums.map(Address::get),
            totals: self.totals.get(),
            m: self.m as u32,
            k: self.k as u32,
            eps,
            activation: activation_code(activation),
            fine: u32::from(self.scales == ActScales::Fine),
            reserved: 0,
        };
        queue.launch(self.kernel(), [params.m, 1, 1], params)
    }
}
