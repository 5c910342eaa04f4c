//! Which kernel multiplies: a pure function of shape, format and architecture.

use crate::device::{Device, product};
use crate::error::{Error, Result};
use crate::w4a8::{Bits, Format, GroupScale};

/// The group whose activation sums a kernel reads: all of K for what is not combined group by group.
pub(super) fn sum_group(format: Format) -> Option<usize> {
    if format.stays_integer() { None } else { format.group_size() }
}

/// The symbols of a format: GEMV, GEMM of 16 tokens, GEMM of 64.
fn symbols(format: Format) -> [&'static str; 3] {
    match (format.group_scale(), format.bits) {
        (None, Bits::Four) => ["w4a8_gemv_per_channel", "w4a8_gemm_per_channel_16", "w4a8_gemm_per_channel_64"],
        (None, Bits::Eight) => ["w4a8_gemv_w8", "w4a8_gemm_w8_16", "w4a8_gemm_w8_64"],
        (Some(GroupScale::Integer), _) => ["w4a8_gemv_two_level", "w4a8_gemm_two_level_16", "w4a8_gemm_two_level_64"],
        (Some(GroupScale::Qqq), _) => ["w4a8_gemv_qqq", "w4a8_gemm_qqq_16", "w4a8_gemm_qqq_64"],
        (Some(GroupScale::F16), Bits::Four) => {
            ["w4a8_gemv_per_group", "w4a8_gemm_per_group_16", "w4a8_gemm_per_group_64"]
        }
        (Some(GroupScale::F16), Bits::Eight) => {
            ["w4a8_gemv_per_group8", "w4a8_gemm_per_group8_16", "w4a8_gemm_per_group8_64"]
        }
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

const STAGES: u32 = 4;

/// Blocks that a multiprocessor should have before K need not be split.
const BLOCKS_EACH: usize = 2;

impl Variant {
    /// Chooses for y\[M, N\] = x\[M, K\] · wᵀ: GEMV up to 4 tokens, then tiles of 16 or 64 tokens, so that up to 64 every
    /// weight is read once; K is split until there are two blocks for each multiprocessor, in modes whose bits do not change.
    pub fn choose(architecture: Architecture, format: Format, m: usize, n: usize, k: usize) -> Self {
        if m <= GEMV_TOKENS {
            return Variant::Gemv;
        }
        let tokens = if m <= 16 { 16 } else { 64 };
        let blocks = n.div_ceil(GEMM_ROWS) * m.div_ceil(tokens);
        let wanted = BLOCKS_EACH * architecture.multiprocessors as usize / blocks;
        let most = k.div_ceil(STAGE_K) / MIN_STAGES;
        let splits = if format.stays_integer() { wanted.min(most).max(1) } else { 1 };
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

    pub(super) fn symbol(&self, format: Format) -> &'static str {
        let [gemv, small, large] = symbols(format);
        match self {
            Variant::Gemv => gemv,
            Variant::Gemm { tokens: 16, .. } => small,
            Variant::Gemm { .. } => large,
        }
    }

    /// Dynamic shared memory of a block, as `Stage` in kernels/w4a8/gemm.cu lays it out.
    pub(super) fn shared_bytes(&self, format: Format) -> u32 {
        let Variant::Gemm { tokens, .. } = *self else { return 0 };
        let rows = GEMM_ROWS as u32;
        let weights = rows * STAGE_K as u32 / if format.bits == Bits::Four { 2 } else { 1 };
        let groups = STAGE_K as u32 / 32;
        let scales = rows * groups * format.entry_bytes()[1] as u32;
        let grouped = if format.stays_integer() { 0 } else { scales + groups * tokens * 4 };
        let stages = STAGES * (weights + tokens * STAGE_K as u32 + scales + grouped);
        stages.max(tokens * (rows + 4) * 4)
    }
}
