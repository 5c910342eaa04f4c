//! Which kernel multiplies: a pure function of shape, format and architecture.

use super::mirror::LinearParams;
use crate::device::{Device, Kernel, product};
use crate::error::{Error, Result};
use crate::w4a8::{ACT_BLOCK, ActScales, Bits, Format, GroupScale};

/// The group whose activation sums a kernel reads: all of K for what is not combined part by part.
pub(super) fn sum_group(format: Format, act_scales: ActScales) -> Option<usize> {
    match act_scales {
        _ if !format.stays_integer() => format.group_size(),
        ActScales::Fine => Some(ACT_BLOCK),
        ActScales::Token => None,
    }
}

/// The kernels of a format: GEMV, GEMM of 16 tokens, GEMM of 64.
fn kernels(format: Format) -> [Kernel<LinearParams>; 3] {
    use super::mirror::*;
    match (format.group_scale(), format.bits) {
        (None, Bits::Four) => [GEMV_PER_CHANNEL, GEMM_PER_CHANNEL_16, GEMM_PER_CHANNEL_64],
        (None, Bits::Eight) => [GEMV_W8, GEMM_W8_16, GEMM_W8_64],
        (Some(GroupScale::Integer), _) => [GEMV_TWO_LEVEL, GEMM_TWO_LEVEL_16, GEMM_TWO_LEVEL_64],
        (Some(GroupScale::Qqq), _) => [GEMV_QQQ, GEMM_QQQ_16, GEMM_QQQ_64],
        (Some(GroupScale::F16), Bits::Four) => [GEMV_PER_GROUP, GEMM_PER_GROUP_16, GEMM_PER_GROUP_64],
        (Some(GroupScale::F16), Bits::Eight) => [GEMV_PER_GROUP8, GEMM_PER_GROUP8_16, GEMM_PER_GROUP8_64],
    }
}

/// What the choice of a kernel depends on besides shape and mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Architecture {
    /// Major, minor.
    pub capability: (u32, u32),
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
}

impl Architecture {
    /// That of a device.
    pub fn of(device: &Device) -> Self {
        Architecture { capability: device.capability(), multiprocessors: device.multiprocessors() }
    }
}

/// A kernel and its tiling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Variant {
    /// Weights straight to registers, for at most 4 tokens.
    Gemv,
    /// Tiles of 64 features by `tokens`.
    Gemm {
        /// 16 or 64.
        tokens: u32,
        /// Parts of K, each a block of its own.
        splits: u32,
    },
}

/// Tokens that a GEMV takes.
pub(super) const GEMV_TOKENS: usize = 4;

/// Features of a GEMM block.
pub(super) const GEMM_ROWS: usize = 64;

/// K of a stage, of which every split has at least [`MIN_STAGES`].
const STAGE_K: usize = 128;

/// Enough stages to fill the pipeline, so that a split is not all ramp.
const MIN_STAGES: usize = 4;

/// Blocks that a multiprocessor should have before K need not be split.
const BLOCKS_EACH: usize = 2;

impl Variant {
    /// Chooses for y\[M, N\] = x\[M, K\] · wᵀ: GEMV up to 4 tokens, then tiles of 16 or 64 tokens, so that up to 64 every
    /// weight is read once; K is split until there are two blocks for each multiprocessor, where bits do not change by it.
    pub fn choose(
        architecture: Architecture,
        format: Format,
        act_scales: ActScales,
        m: usize,
        n: usize,
        k: usize,
    ) -> Self {
        if m <= GEMV_TOKENS {
            return Variant::Gemv;
        }
        let tokens = if m <= 16 { 16 } else { 64 };
        let blocks = n.div_ceil(GEMM_ROWS) * m.div_ceil(tokens);
        let wanted = BLOCKS_EACH * architecture.multiprocessors as usize / blocks;
        let most = k.div_ceil(STAGE_K) / MIN_STAGES;
        let integers = format.stays_integer() && act_scales == ActScales::Token;
        let splits = if integers { wanted.min(most).max(1) } else { 1 };
        Variant::Gemm { tokens: tokens as u32, splits: splits as u32 }
    }

    /// Checks that the kernel takes this shape.
    ///
    /// # Errors
    /// [`Error::Shape`] for more tokens or splits than it takes.
    pub fn check(&self, m: usize, k: usize) -> Result<()> {
        match *self {
            Variant::Gemv if m > GEMV_TOKENS => {
                Err(Error::Shape { what: "m", expected: "at most 4 tokens for a GEMV", got: m })
            }
            Variant::Gemm { tokens, .. } if tokens != 16 && tokens != 64 => {
                Err(Error::Shape { what: "tokens", expected: "16 or 64", got: tokens as usize })
            }
            Variant::Gemm { splits, .. } if splits == 0 || splits as usize > k.div_ceil(STAGE_K) => {
                Err(Error::Shape { what: "splits", expected: "1 to ⌈K/128⌉", got: splits as usize })
            }
            _ => Ok(()),
        }
    }

    /// Words of workspace: the splits' values and the blocks' counters; `usize::MAX` if there are more than a number can say.
    pub fn workspace_words(&self, m: usize, n: usize) -> (usize, usize) {
        match *self {
            Variant::Gemm { tokens, splits } if splits > 1 => {
                let blocks = product([n.div_ceil(GEMM_ROWS), m.div_ceil(tokens.max(1) as usize)]);
                (product([splits as usize, blocks, GEMM_ROWS, tokens as usize]), blocks)
            }
            _ => (0, 0),
        }
    }

    pub(super) fn kernel(&self, format: Format) -> Kernel<LinearParams> {
        let [gemv, small, large] = kernels(format);
        match self {
            Variant::Gemv => gemv,
            Variant::Gemm { tokens: 16, .. } => small,
            Variant::Gemm { .. } => large,
        }
    }
}
