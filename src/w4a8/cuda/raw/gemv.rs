//! Quantization and multiplication of few tokens in one launch: check, launch.

use super::{ALIGNMENT, Source, activation_code, check_weight, name_sections};
use crate::activation::Activation;
use crate::device::{Address, Buffer, Device, ElementKind, Enqueue, Queue, or_null, product};
use crate::error::{Error, Result};
use crate::w4a8::activation::PAD_K;
use crate::w4a8::cuda::mirror::{GemvParams, LinearParams};
use crate::w4a8::cuda::variant::{Architecture, GEMV_TOKENS, TILE_FEATURES, Variant, gemv_quantize, is_integer};
use crate::w4a8::{ActScales, Format, Sections};

/// Codes of all tokens that a block has room for.
const MAX_CODES: usize = 16_384;

/// A quantization of 1 to 4 tokens and their multiplication in one launch, without scratch: y = x' · wᵀ + bias + residual with x' =
/// quantized x or RMSNorm of x, the numbers of a [`super::Quantize`] and a [`super::Linear`]. Every block quantizes all tokens for
/// itself, which takes less time than a launch. Gated, y = act(g) ⊙ u, where g, u are the first and the second half of these outputs.
/// Every address is a multiple of 16.
#[derive(Debug, Clone, Copy)]
pub struct Gemv {
    /// Of the weight.
    pub format: Format,
    /// Tokens, 1 to 4; times K rounded up to 64 at most 16384.
    pub m: usize,
    /// Output features, at most 2³⁰; a multiple of 32 where they are gated.
    pub n: usize,
    /// Input features, a multiple of 32.
    pub k: usize,
    /// Version of the packed layout that the weight is in; kernels read [`crate::w4a8::LAYOUT_VERSION`] alone.
    pub layout: u32,
    /// The sections of [`Format::section_bytes`]; null for those that the format does not have.
    pub weight: Sections<Address>,
    /// What is quantized: all but [`Source::SwiGlu`].
    pub source: Source,
    /// \[M, K\].
    pub x: Address,
    /// Of x.
    pub x_element: ElementKind,
    /// How finely tokens are scaled.
    pub act_scales: ActScales,
    /// f32 \[N\].
    pub bias: Option<Address<f32>>,
    /// \[M, N\]; none where outputs are gated.
    pub residual: Option<Address>,
    /// act, where outputs are gated.
    pub gate: Option<Activation>,
    /// \[M, N\], gated \[M, N/2\].
    pub y: Address,
    /// Of y and residual.
    pub element: ElementKind,
}

impl Gemv {
    /// Whether the kernel takes the sizes and is the faster way: where the codes fit a block and, if blocks of K are combined in f32,
    /// [`Variant::choose`] gives a GEMV. A multiprocessor quantizes the tokens once for all of its rows of tiles, so of integers it is
    /// the faster way also where a GEMV of quantized tokens is not.
    pub fn is_for(
        architecture: Architecture,
        format: Format,
        act_scales: ActScales,
        m: usize,
        n: usize,
        k: usize,
    ) -> bool {
        let is_gemv = || Variant::choose(architecture, format, act_scales, m, n, k) == Variant::Gemv;
        (is_integer(format, act_scales) || is_gemv()) && (1..=GEMV_TOKENS).contains(&m) && codes(m, k) <= MAX_CODES
    }

    fn width(&self) -> usize {
        if self.gate.is_some() { self.n / 2 } else { self.n }
    }

    /// Rows of tiles that teams take by turns.
    pub(super) fn rows(&self) -> usize {
        self.width().div_ceil(TILE_FEATURES)
    }

    pub(super) fn params(&self) -> GemvParams {
        let Sections { codes, channel, group, offset } = self.weight.map(Address::get);
        let linear = LinearParams {
            codes,
            scale: channel,
            group_scale: group,
            offset,
            bias: or_null(self.bias),
            residual: or_null(self.residual),
            y: self.y.get(),
            m: self.m as u32,
            n: self.n as u32,
            k: self.k as u32,
            group_size: self.format.group_size().unwrap_or(self.k) as u32,
            offset_kind: self.format.offset() as u32,
            element: self.element as u32,
            shares: 1,
            fine: u32::from(self.act_scales == ActScales::Fine),
            ..LinearParams::default()
        };
        let (norm, eps) = match self.source {
            Source::RmsNorm { weight, eps } => (weight.get(), eps),
            Source::Plain | Source::SwiGlu { .. } => (0, 0.0),
        };
        GemvParams {
            linear,
            x: self.x.get(),
            norm,
            eps,
            x_element: self.x_element as u32,
            gated: u32::from(self.gate.is_some()),
            activation: self.gate.map_or(0, activation_code),
        }
    }
}

/// Codes of the tokens, as they lie.
fn codes(m: usize, k: usize) -> usize {
    product([m, k.checked_next_multiple_of(PAD_K).unwrap_or(usize::MAX)])
}

impl Enqueue for Gemv {
    fn check_sizes(&self, _: &Device) -> Result<()> {
        check_weight(self.format, self.n, self.k, self.layout)?;
        if self.m == 0 || self.m > GEMV_TOKENS || codes(self.m, self.k) > MAX_CODES {
            let expected = "1 to 4 tokens of at most 16384 features together";
            return Err(Error::Shape { what: "m", expected, got: self.m });
        }
        if matches!(self.source, Source::SwiGlu { .. }) {
            let (expected, got) = ("x as it is or its RMSNorm", "gate and up".into());
            return Err(Error::Unsupported { what: "source", expected, got });
        }
        if self.gate.is_none() {
            return Ok(());
        }
        if self.n % (2 * TILE_FEATURES) != 0 {
            return Err(Error::Shape { what: "n", expected: "a multiple of 32 where outputs are gated", got: self.n });
        }
        match self.residual {
            Some(_) => {
                let (expected, got) = ("no residual where outputs are gated", "one".into());
                Err(Error::Unsupported { what: "residual", expected, got })
            }
            None => Ok(()),
        }
    }

    fn name_buffers(&self, _: &Device, show: &mut dyn FnMut(Buffer)) {
        name_sections(self.format, self.n, self.k, &self.weight, show);
        let mut show = |buffer: Buffer| show(buffer.aligned(ALIGNMENT));
        let outputs = product([self.m, self.width()]);
        show(Buffer::read("x", self.x, product([self.m, self.k])).of_bytes(self.x_element.bytes()));
        if let Source::RmsNorm { weight, .. } = self.source {
            show(Buffer::read("norm", weight, self.k));
        }
        if let Some(bias) = self.bias {
            show(Buffer::read("bias", bias, self.n));
        }
        if let Some(residual) = self.residual {
            show(Buffer::read("residual", residual, outputs).of_bytes(self.element.bytes()));
        }
        show(Buffer::write("y", self.y, outputs).of_bytes(self.element.bytes()));
    }

    fn enqueue(&self, queue: &Queue<'_>) -> Result<()> {
        let blocks = self.rows().min(queue.device().multiprocessors().max(1) as usize);
        queue.launch(gemv_quantize(self.format), [blocks as u32, 1, 1], self.params())
    }
}
