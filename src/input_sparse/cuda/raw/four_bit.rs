//! Weights in 4 bits.

use super::{TOKENS, check_call};
use crate::device::{Address, Buffer, Device, Enqueue, Queue, or_null, product};
use crate::error::{Error, Result};
use crate::input_sparse::cuda::mirror::{self, FourBitParams};
use crate::w4a8::{Group, GroupScale, Offset, check_shape, runs};

/// Columns of a block: kernels/input_sparse/four_bit.cu.
const COLUMNS: usize = 128;

/// Columns that share 16 bytes of a row.
const SEGMENT: usize = 32;

/// Inputs that a warp looks at together where channels have the scales.
const LOOK: usize = 128;

/// What addresses are multiples of.
const ALIGNMENT: u64 = 16;

/// y\[m, n\] = act_scale\[m\] · Σ over groups of K of scale · (Σ (code − zero) · a) (+ offset · Σ a), + bias + residual, a being the int8 codes of
/// x\[m\], 0 for those with |x\[m, k\]| at most `threshold`: the bits of [`crate::input_sparse::linear`]. Up to 8 tokens read each row of
/// codes that any of them keeps once, more by eights.
#[derive(Debug, Clone, Copy)]
pub struct FourBit {
    /// \[k, d/2\], d = n rounded up to 32: an input's codes, 16 bytes for each 32 outputs; byte i holds output i low and i + 16 high.
    pub rows: Address,
    /// Where groups have scales u16 \[k/group_size, parts, d\]: f16 scales, then f16 offsets or zero points if there are any; else f32
    /// \[d\].
    pub scales: Address,
    /// The groups of K, of f16 scales; none where channels have the scales.
    pub group: Option<Group>,
    /// f32 \[m, k\].
    pub x: Address<f32>,
    /// Finite, at least 0.
    pub threshold: f32,
    /// f32 \[n\].
    pub bias: Option<Address<f32>>,
    /// f32 \[m, n\].
    pub residual: Option<Address<f32>>,
    /// f32 \[m, n\].
    pub y: Address<f32>,
    /// Tokens, 0 to 524280.
    pub m: usize,
    /// Output features.
    pub n: usize,
    /// Input features: a multiple of 32 up to 65536, and of the group size.
    pub k: usize,
    /// [`FourBit::workspace_bytes`] of scratch; null where that is 0.
    pub workspace: Address<u32>,
    /// [`FourBit::counter_bytes`]: zeros before the first call, and left so; null where that is 0. A launch cut short ends its context and them.
    pub counters: Address<u32>,
}

impl FourBit {
    /// Words of a workspace and its counters that every call of up to so many tokens, outputs and inputs can work in.
    #[cfg(feature = "cudarc-0_19")]
    pub(in crate::input_sparse::cuda) fn most_words(m: usize, n: usize, k: usize) -> (usize, usize) {
        let sums = product([runs(k.max(1)).count(), m.min(TOKENS), n]);
        (m.saturating_add(TOKENS).saturating_add(sums), n.div_ceil(COLUMNS))
    }

    /// Bytes of `workspace`: the scales of several tokens, and the sums of each run of K of up to 8 tokens.
    pub fn workspace_bytes(&self) -> usize {
        self.scale_words().saturating_add(self.partial_words()).saturating_mul(size_of::<u32>())
    }

    /// Bytes of `counters`, where blocks share K.
    pub fn counter_bytes(&self) -> usize {
        self.counter_words() * size_of::<u32>()
    }

    /// Blocks that share K: of few tokens one for each run.
    fn shares(&self) -> usize {
        if (1..=TOKENS).contains(&self.m) { runs(self.k).count() } else { 1 }
    }

    /// Words of the scales of several tokens, whole 16 bytes of them; one token's is not kept.
    fn scale_words(&self) -> usize {
        if self.m > 1 { self.m.next_multiple_of(4) } else { 0 }
    }

    fn partial_words(&self) -> usize {
        if self.shares() > 1 { product([self.shares(), self.m, self.n]) } else { 0 }
    }

    fn counter_words(&self) -> usize {
        if self.shares() > 1 { self.n.div_ceil(COLUMNS) } else { 0 }
    }

    /// Columns of a row, and bytes of the scales.
    fn sizes(&self) -> (usize, usize) {
        let d = self.n.next_multiple_of(SEGMENT);
        let scales = match self.group {
            None => product([d, size_of::<f32>()]),
            Some(group) => {
                let parts = if group.offset == Offset::None { 1 } else { 2 };
                product([self.k / group.size.max(1), parts, d, size_of::<u16>()])
            }
        };
        (d, scales)
    }
}

impl Enqueue for FourBit {
    fn check_sizes(&self, _: &Device) -> Result<()> {
        check_call((self.m, self.n, self.k), self.threshold)?;
        check_shape(self.n, self.k)?;
        let Some(group) = self.group else { return Ok(()) };
        if group.scale != GroupScale::F16 {
            let (expected, got) = ("f16 scales of groups", group.scale.name().into());
            return Err(Error::Unsupported { what: "group", expected, got });
        }
        if ![32, 64, 128].contains(&group.size) || self.k % group.size != 0 {
            let expected = "32, 64 or 128, which divides K";
            return Err(Error::Shape { what: "group_size", expected, got: group.size });
        }
        Ok(())
    }

    fn name_buffers(&self, _: &Device, show: &mut dyn FnMut(Buffer)) {
        if self.m == 0 {
            return;
        }
        let ((d, scales), outputs) = (self.sizes(), product([self.m, self.n]));
        show(Buffer::read("rows", self.rows, product([self.k, d / 2])).of_bytes(1).aligned(ALIGNMENT));
        show(Buffer::read("scales", self.scales, scales).of_bytes(1).aligned(ALIGNMENT));
        show(Buffer::read("x", self.x, product([self.m, self.k])).aligned(ALIGNMENT));
        if let Some(bias) = self.bias {
            show(Buffer::read("bias", bias, self.n));
        }
        if let Some(residual) = self.residual {
            show(Buffer::read("residual", residual, outputs));
        }
        show(Buffer::write("y", self.y, outputs));
        show(Buffer::write("workspace", self.workspace, self.workspace_bytes() / size_of::<u32>()).aligned(ALIGNMENT));
        show(Buffer::write("counters", self.counters, self.counter_words()));
    }

    fn enqueue(&self, queue: &Queue<'_>) -> Result<()> {
        if self.m == 0 {
            return Ok(());
        }
        let params = FourBitParams {
            rows: self.rows.get(),
            scales: self.scales.get(),
            x: self.x.get(),
            bias: or_null(self.bias),
            residual: or_null(self.residual),
            y: self.y.get(),
            act_scale: self.workspace.get(),
            partial: self.workspace.offset(self.scale_words()).get(),
            arrived: self.counters.get(),
            m: self.m as u32,
            n: self.n as u32,
            k: self.k as u32,
            d: self.sizes().0 as u32,
            group_size: self.group.map_or(LOOK, |group| group.size) as u32,
            group_scale: self.group.map_or(0, |group| group.scale as u32),
            offset: self.group.map_or(0, |group| group.offset as u32),
            shares: self.shares() as u32,
            threshold: self.threshold,
            reserved: 0,
        };
        let (tiles, shares) = (self.n.div_ceil(COLUMNS) as u32, params.shares);
        if self.m == 1 {
            return queue.launch(mirror::FOUR_BIT_1, [tiles, shares, 1], params);
        }
        queue.launch(mirror::FOUR_BIT_SCALES, [params.m, 1, 1], params)?;
        queue.launch(mirror::FOUR_BIT_8, [tiles, shares, self.m.div_ceil(TOKENS) as u32], params)
    }
}
