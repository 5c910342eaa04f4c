//! Which kernel multiplies: a pure function of shape, mode and architecture.

use crate::device::Device;
use crate::error::{Error, Result};
use crate::w4a8::weight::{QQQ_GROUP, check_group, check_shape};
use crate::w4a8::{Bits, GroupOffset, PackedWeight, pack::PackedScales};

/// How a group's codes are moved besides its scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Offset {
    /// Symmetric.
    None = 0,
    /// f16, added after scaling.
    F16 = 1,
    /// 0..=15 in u8, subtracted from the codes.
    ZeroPoint = 2,
}

/// What a kernel has to know of a weight matrix besides its size: the mode with its parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// 4 bits, f32 channel scales.
    PerChannel,
    /// 8 bits, f32 channel scales.
    W8,
    /// 4 bits, u8 group scales over f32 channel scales.
    TwoLevel {
        /// 32, 64 or 128.
        group_size: usize,
    },
    /// QQQ's group form, f16 group scales over f32 channel scales.
    Qqq,
    /// f16 group scales, with an offset or without.
    PerGroup {
        /// Of a code.
        bits: Bits,
        /// 32, 64 or 128.
        group_size: usize,
        /// Zero points go with 4 bits only.
        offset: Offset,
    },
}

impl Format {
    /// The format of a packed weight.
    pub fn of(weight: &PackedWeight) -> Self {
        match (&weight.scales, weight.bits()) {
            (PackedScales::PerChannel { .. }, Bits::Four) => Format::PerChannel,
            (PackedScales::PerChannel { .. }, Bits::Eight) => Format::W8,
            (PackedScales::TwoLevel { group_size, .. }, _) => Format::TwoLevel { group_size: *group_size },
            (PackedScales::Qqq { .. }, _) => Format::Qqq,
            (PackedScales::PerGroup { group_size, offset, .. }, bits) => {
                let offset = match offset {
                    GroupOffset::Symmetric => Offset::None,
                    GroupOffset::F16(_) => Offset::F16,
                    GroupOffset::ZeroPoint(_) => Offset::ZeroPoint,
                };
                Format::PerGroup { bits, group_size: *group_size, offset }
            }
        }
    }

    /// Checks that a matrix of N × K can have this format.
    ///
    /// # Errors
    /// [`Error::Shape`] for a size that it does not take, [`Error::Unsupported`] for zero points with 8 bits.
    pub fn check(&self, n: usize, k: usize) -> Result<()> {
        check_shape(n, k)?;
        self.group_size().map_or(Ok(0), |group_size| check_group(k, group_size))?;
        match self {
            Format::PerGroup { bits: Bits::Eight, offset: Offset::ZeroPoint, .. } => Err(Error::Unsupported {
                what: "format",
                expected: "zero points with 4 bits only",
                got: "8 bits".into(),
            }),
            _ => Ok(()),
        }
    }

    /// K values that share a scale, `None` for a whole channel.
    pub fn group_size(&self) -> Option<usize> {
        match *self {
            Format::PerChannel | Format::W8 => None,
            Format::TwoLevel { group_size } | Format::PerGroup { group_size, .. } => Some(group_size),
            Format::Qqq => Some(QQQ_GROUP),
        }
    }

    /// Says whether sums stay integers until the epilogue, so that K can be split and every bit stays.
    pub fn stays_integer(&self) -> bool {
        !matches!(self, Format::PerGroup { .. })
    }

    /// The group whose activation sums the kernel reads: all of K for what is not combined group by group.
    pub(super) fn sum_group(&self) -> Option<usize> {
        if self.stays_integer() { None } else { self.group_size() }
    }

    fn bits(&self) -> Bits {
        match self {
            Format::W8 | Format::PerGroup { bits: Bits::Eight, .. } => Bits::Eight,
            _ => Bits::Four,
        }
    }

    /// Bytes of a group's scale for one row.
    fn scale_bytes(&self) -> u32 {
        match self {
            Format::PerChannel | Format::W8 => 0,
            Format::TwoLevel { .. } => 1,
            Format::Qqq | Format::PerGroup { .. } => 2,
        }
    }

    /// The symbols: GEMV, GEMM of 16 tokens, GEMM of 64.
    fn symbols(&self) -> [&'static str; 3] {
        match self {
            Format::PerChannel => ["w4a8_gemv_per_channel", "w4a8_gemm_per_channel_16", "w4a8_gemm_per_channel_64"],
            Format::W8 => ["w4a8_gemv_w8", "w4a8_gemm_w8_16", "w4a8_gemm_w8_64"],
            Format::TwoLevel { .. } => ["w4a8_gemv_two_level", "w4a8_gemm_two_level_16", "w4a8_gemm_two_level_64"],
            Format::Qqq => ["w4a8_gemv_qqq", "w4a8_gemm_qqq_16", "w4a8_gemm_qqq_64"],
            Format::PerGroup { bits: Bits::Four, .. } => {
                ["w4a8_gemv_per_group", "w4a8_gemm_per_group_16", "w4a8_gemm_per_group_64"]
            }
            Format::PerGroup { bits: Bits::Eight, .. } => {
                ["w4a8_gemv_per_group8", "w4a8_gemm_per_group8_16", "w4a8_gemm_per_group8_64"]
            }
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

    /// Words of workspace: the splits' values and the blocks' counters.
    pub fn workspace_words(&self, m: usize, n: usize) -> (usize, usize) {
        match *self {
            Variant::Gemm { tokens, splits } if splits > 1 => {
                let blocks = n.div_ceil(GEMM_ROWS) * m.div_ceil(tokens as usize);
                (splits as usize * blocks * GEMM_ROWS * tokens as usize, blocks)
            }
            _ => (0, 0),
        }
    }

    pub(super) fn symbol(&self, format: Format) -> &'static str {
        let [gemv, small, large] = format.symbols();
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
        let weights = rows * STAGE_K as u32 / if format.bits() == Bits::Four { 2 } else { 1 };
        let groups = STAGE_K as u32 / 32;
        let scales = rows * groups * format.scale_bytes();
        let grouped = if format.stays_integer() { 0 } else { scales + groups * tokens * 4 };
        let stages = STAGES * (weights + tokens * STAGE_K as u32 + scales + grouped);
        stages.max(tokens * (rows + 4) * 4)
    }
}
