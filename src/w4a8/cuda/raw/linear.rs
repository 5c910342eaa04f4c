//! The multiplication: check, select, launch.

use super::{ALIGNMENT, MAX_GRID_Y, check_weight, name_sections};
use crate::device::{Address, Buffer, Device, ElementKind, Enqueue, Queue, or_null, product};
use crate::error::{Error, Result};
use crate::w4a8::activation::PAD_K;
use crate::w4a8::cuda::mirror::LinearParams;
use crate::w4a8::cuda::variant::{Variant, sum_group};
use crate::w4a8::{ActScales, Format, Sections};

/// A multiplication, [`crate::w4a8::cuda::linear`] by addresses: y = act_scale · (x · wᵀ) + bias + residual. Every address is a
/// multiple of 16.
#[derive(Debug, Clone, Copy)]
pub struct Linear {
    /// Of the weight.
    pub format: Format,
    /// Kernel to run, as from [`Variant::choose`].
    pub variant: Variant,
    /// Tokens, 1 to 1048560.
    pub m: usize,
    /// Output features, at most 2³⁰.
    pub n: usize,
    /// Input features, a multiple of 32.
    pub k: usize,
    /// Version of the packed layout that the weight is in; kernels read [`crate::w4a8::LAYOUT_VERSION`] alone.
    pub layout: u32,
    /// The sections of [`Format::section_bytes`]; null for those that the format does not have.
    pub weight: Sections<Address>,
    /// int8 \[M, K rounded up to 64\], zeros past K.
    pub x: Address<i8>,
    /// How finely x is scaled.
    pub act_scales: ActScales,
    /// f32 \[M\] or, fine, \[⌈K/128⌉, M\].
    pub act_scale: Address<f32>,
    /// Sums of x, int32: \[groups of K rounded up to 64, M\] where groups have f16 scales, as `act_scale` for
    /// [`Format::per_channel`], null for the others.
    pub sums: Address<i32>,
    /// f32 \[N\].
    pub bias: Option<Address<f32>>,
    /// \[M, N\].
    pub residual: Option<Address>,
    /// \[M, N\].
    pub y: Address,
    /// Of y and residual.
    pub element: ElementKind,
    /// [`Linear::workspace_bytes`]: zeros before the first call, and left so; null where there are none.
    pub partial: Address<u32>,
    /// [`Linear::counter_bytes`]: likewise. A launch cut short ends its context and both with it; whoever copies them to another context clears them.
    pub arrived: Address<u32>,
}

impl Linear {
    /// Bytes of what blocks add to, where they share a tile's K.
    pub fn workspace_bytes(&self) -> usize {
        self.workspace_words().0.saturating_mul(size_of::<u32>())
    }

    /// Bytes of counters, where blocks share a tile's K: how much of it has arrived.
    pub fn counter_bytes(&self) -> usize {
        self.workspace_words().1.saturating_mul(size_of::<u32>())
    }

    fn workspace_words(&self) -> (usize, usize) {
        self.variant.workspace_words(self.format, self.act_scales, self.m, self.n, self.k)
    }

    /// Numbers at `sums` that kernels read.
    fn sums(&self) -> usize {
        match sum_group(self.format, self.act_scales) {
            _ if self.format.stays_integer() && self.format != Format::per_channel() => 0,
            Some(group) => product([self.padded_k().div_ceil(group), self.m]),
            None => self.m,
        }
    }

    fn padded_k(&self) -> usize {
        self.k.checked_next_multiple_of(PAD_K).unwrap_or(usize::MAX)
    }

    fn params(&self) -> LinearParams {
        let Sections { codes, channel, group, offset } = self.weight.map(Address::get);
        LinearParams {
            codes,
            scale: channel,
            group_scale: group,
            offset,
            x: self.x.get(),
            act_scale: self.act_scale.get(),
            sums: self.sums.get(),
            bias: or_null(self.bias),
            residual: or_null(self.residual),
            y: self.y.get(),
            partial: self.partial.get(),
            arrived: self.arrived.get(),
            m: self.m as u32,
            n: self.n as u32,
            k: self.k as u32,
            group_size: self.format.group_size().unwrap_or(self.k) as u32,
            offset_kind: self.format.offset() as u32,
            element: self.element as u32,
            shares: self.variant.shares(self.format, self.act_scales, self.m, self.n, self.k) as u32,
            fine: u32::from(self.act_scales == ActScales::Fine),
        }
    }
}

impl Enqueue for Linear {
    fn check_sizes(&self, _: &Device) -> Result<()> {
        check_weight(self.format, self.n, self.k, self.layout)?;
        if self.m == 0 || self.m > MAX_GRID_Y * 16 {
            return Err(Error::Shape { what: "m", expected: "1 to 1048560 tokens", got: self.m });
        }
        self.variant.check(self.m)
    }

    fn name_buffers(&self, _: &Device, show: &mut dyn FnMut(Buffer)) {
        name_sections(self.format, self.n, self.k, &self.weight, show);
        let mut show = |buffer: Buffer| show(buffer.aligned(ALIGNMENT));
        let outputs = product([self.m, self.n]);
        let (partial, arrived) = self.workspace_words();
        show(Buffer::read("x", self.x, product([self.m, self.padded_k()])));
        show(Buffer::read("act_scale", self.act_scale, product([self.act_scales.of_token(self.k), self.m])));
        show(Buffer::read("sums", self.sums, self.sums()));
        if let Some(bias) = self.bias {
            show(Buffer::read("bias", bias, self.n));
        }
        if let Some(residual) = self.residual {
            show(Buffer::read("residual", residual, outputs).of_bytes(self.element.bytes()));
        }
        show(Buffer::write("y", self.y, outputs).of_bytes(self.element.bytes()));
        show(Buffer::write("workspace", self.partial, partial));
        show(Buffer::write("workspace", self.arrived, arrived));
    }

    fn enqueue(&self, queue: &Queue<'_>) -> Result<()> {
        let grid = match self.variant {
            Variant::Gemv => [self.n.div_ceil(16) as u32, 1, 1],
            Variant::Gemm { blocks, .. } => [blocks, 1, 1],
        };
        queue.launch(self.variant.kernel(self.format, self.act_scales), grid, self.params())
    }
}
