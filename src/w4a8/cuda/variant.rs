//! Which kernel multiplies: a pure function of shape, format and architecture.

use super::mirror::{GemvPairParams, GemvParams, LinearParams};
use crate::device::{Device, Kernel, product};
use crate::error::{Error, Result};
use crate::w4a8::runs::runs;
use crate::w4a8::{ACT_BLOCK, ActScales, Bits, Format, GroupScale};

/// The group whose activation sums a kernel reads: all of K for what is not combined part by part.
pub(super) fn sum_group(format: Format, act_scales: ActScales) -> Option<usize> {
    match act_scales {
        _ if !format.stays_integer() => format.group_size(),
        ActScales::Fine => Some(ACT_BLOCK),
        ActScales::Token => None,
    }
}

/// The kernel of a GEMV.
fn gemv(format: Format) -> Kernel<LinearParams> {
    use super::mirror::*;
    match (format.group_scale(), format.bits) {
        (None, Bits::Four) => GEMV_PER_CHANNEL,
        (None, Bits::Eight) => GEMV_W8,
        (Some(GroupScale::Integer), _) => GEMV_TWO_LEVEL,
        (Some(GroupScale::Qqq), _) => GEMV_QQQ,
        (Some(GroupScale::F16), Bits::Four) => GEMV_PER_GROUP,
        (Some(GroupScale::F16), Bits::Eight) => GEMV_PER_GROUP8,
    }
}

/// The kernel of a GEMV that quantizes its tokens.
pub(super) fn gemv_quantize(format: Format) -> Kernel<GemvParams> {
    use super::mirror::*;
    match (format.group_scale(), format.bits) {
        (None, Bits::Four) => GEMV_QUANTIZE_PER_CHANNEL,
        (None, Bits::Eight) => GEMV_QUANTIZE_W8,
        (Some(GroupScale::Integer), _) => GEMV_QUANTIZE_TWO_LEVEL,
        (Some(GroupScale::Qqq), _) => GEMV_QUANTIZE_QQQ,
        (Some(GroupScale::F16), Bits::Four) => GEMV_QUANTIZE_PER_GROUP,
        (Some(GroupScale::F16), Bits::Eight) => GEMV_QUANTIZE_PER_GROUP8,
    }
}

/// The kernel of two GEMVs that quantize their tokens, if weights of the kind have one.
pub(super) fn gemv_pair(format: Format) -> Option<Kernel<GemvPairParams>> {
    use super::mirror::*;
    match (format.group_scale(), format.bits) {
        (None, Bits::Four) => Some(GEMV_PAIR_PER_CHANNEL),
        (None, Bits::Eight) => Some(GEMV_PAIR_W8),
        (Some(GroupScale::Integer), _) => Some(GEMV_PAIR_TWO_LEVEL),
        (Some(GroupScale::Qqq), _) => Some(GEMV_PAIR_QQQ),
        (Some(GroupScale::F16), Bits::Four) => Some(GEMV_PAIR_PER_GROUP),
        // its registers would not hold two products
        (Some(GroupScale::F16), Bits::Eight) => None,
    }
}

/// The kernels of GEMMs with tiles of [`GEMM_TOKENS`].
#[rustfmt::skip]
fn gemms(format: Format, act_scales: ActScales) -> [Kernel<LinearParams>; 3] {
    use super::mirror::*;
    use ActScales::{Fine, Token};
    use Bits::{Eight, Four};
    use GroupScale::{F16, Integer, Qqq};
    match (format.group_scale(), format.bits, format.group_size(), act_scales) {
        (None, Four, _, Token) => [GEMM_PER_CHANNEL_16, GEMM_PER_CHANNEL_64, GEMM_PER_CHANNEL_128],
        (None, Four, _, Fine) => [GEMM_FINE_PER_CHANNEL_16, GEMM_FINE_PER_CHANNEL_64, GEMM_FINE_PER_CHANNEL_128],
        (None, Eight, _, Token) => [GEMM_W8_16, GEMM_W8_64, GEMM_W8_128],
        (None, Eight, _, Fine) => [GEMM_FINE_W8_16, GEMM_FINE_W8_64, GEMM_FINE_W8_128],
        (Some(Integer), _, _, Token) => [GEMM_TWO_LEVEL_16, GEMM_TWO_LEVEL_64, GEMM_TWO_LEVEL_128],
        (Some(Integer), _, _, Fine) => [GEMM_FINE_TWO_LEVEL_16, GEMM_FINE_TWO_LEVEL_64, GEMM_FINE_TWO_LEVEL_128],
        (Some(Qqq), _, _, Token) => [GEMM_QQQ_16, GEMM_QQQ_64, GEMM_QQQ_128],
        (Some(Qqq), _, _, Fine) => [GEMM_FINE_QQQ_16, GEMM_FINE_QQQ_64, GEMM_FINE_QQQ_128],
        (Some(F16), Four, Some(32), Token) => [GEMM_PER_GROUP_G32_16, GEMM_PER_GROUP_G32_64, GEMM_PER_GROUP_G32_128],
        (Some(F16), Four, Some(32), Fine) => [GEMM_FINE_PER_GROUP_G32_16, GEMM_FINE_PER_GROUP_G32_64, GEMM_FINE_PER_GROUP_G32_128],
        (Some(F16), Eight, Some(32), Token) => [GEMM_PER_GROUP8_G32_16, GEMM_PER_GROUP8_G32_64, GEMM_PER_GROUP8_G32_128],
        (Some(F16), Eight, Some(32), Fine) => [GEMM_FINE_PER_GROUP8_G32_16, GEMM_FINE_PER_GROUP8_G32_64, GEMM_FINE_PER_GROUP8_G32_128],
        (Some(F16), Four, Some(64), Token) => [GEMM_PER_GROUP_G64_16, GEMM_PER_GROUP_G64_64, GEMM_PER_GROUP_G64_128],
        (Some(F16), Four, Some(64), Fine) => [GEMM_FINE_PER_GROUP_G64_16, GEMM_FINE_PER_GROUP_G64_64, GEMM_FINE_PER_GROUP_G64_128],
        (Some(F16), Eight, Some(64), Token) => [GEMM_PER_GROUP8_G64_16, GEMM_PER_GROUP8_G64_64, GEMM_PER_GROUP8_G64_128],
        (Some(F16), Eight, Some(64), Fine) => [GEMM_FINE_PER_GROUP8_G64_16, GEMM_FINE_PER_GROUP8_G64_64, GEMM_FINE_PER_GROUP8_G64_128],
        (Some(F16), Four, _, Token) => [GEMM_PER_GROUP_G128_16, GEMM_PER_GROUP_G128_64, GEMM_PER_GROUP_G128_128],
        (Some(F16), Four, _, Fine) => [GEMM_FINE_PER_GROUP_G128_16, GEMM_FINE_PER_GROUP_G128_64, GEMM_FINE_PER_GROUP_G128_128],
        (Some(F16), Eight, _, Token) => [GEMM_PER_GROUP8_G128_16, GEMM_PER_GROUP8_G128_64, GEMM_PER_GROUP8_G128_128],
        (Some(F16), Eight, _, Fine) => [GEMM_FINE_PER_GROUP8_G128_16, GEMM_FINE_PER_GROUP8_G128_64, GEMM_FINE_PER_GROUP8_G128_128],
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
    /// Tiles of 64 to 256 features by `tokens`.
    Gemm {
        /// 16, 64 or 128.
        tokens: u32,
        /// Blocks, which take tiles by turns. Tiles that are left after one for each block are cut along K where it pays, so that all
        /// blocks have a share: anywhere where sums are integers to the end, else between runs.
        blocks: u32,
    },
}

/// Tokens that a GEMV takes.
pub(super) const GEMV_TOKENS: usize = 4;

/// Tokens up to which a GEMV of integers is chosen. Each of its rows of tiles reads all tokens from the second-level cache, m / bits of the
/// weights' bytes: more than machines of HBM3 and later have to spare, whose second-level cache is not two and a half times as fast as
/// their memory. The group scales of an integer mode are trips of their own, which a memory as fast does not wait for.
fn gemv_tokens(architecture: Architecture, format: Format) -> usize {
    match (architecture.capability.0, format.group_scale(), format.bits) {
        (..9 | 12.., ..) => GEMV_TOKENS,
        (_, None, Bits::Eight) => 3,
        (_, None, Bits::Four) => 1,
        _ => 0,
    }
}

/// Output features of a row of tiles of a GEMV.
pub(super) const TILE_FEATURES: usize = 16;

/// Tokens of a GEMM's tile.
const GEMM_TOKENS: [usize; 3] = [16, 64, 128];

/// Words of the largest tile.
const TILE_WORDS: usize = 256 * 128;

/// Runs of a K at most.
const MOST_RUNS: usize = 8;

/// Stages that are enough to fill the pipeline, so that a share is not all ramp.
const MIN_STAGES: usize = 4;

/// K that a block multiplies for each token of its tile in the time in which it adds shares of two tiles: 2 · 256 words at some 13 bytes
/// a cycle, half of a multiprocessor's part of the second-level cache, against 1624 cycles for 128 × 128 tokens.
const CUT_COST: usize = 12;

/// Whether a product's sums are integers to the end, and may be added in any order.
pub(super) fn is_integer(format: Format, act_scales: ActScales) -> bool {
    format.stays_integer() && act_scales == ActScales::Token
}

/// Features of a tile: fewer where a run's sums in f32 are kept beside those of the runs before it.
fn tile_features(format: Format, act_scales: ActScales, tokens: usize) -> usize {
    match tokens {
        _ if is_integer(format, act_scales) => 256,
        ..=16 => 64,
        17..=64 => 256,
        _ => 128,
    }
}

/// Parts that a tile's K may be cut into: stages of integers, runs of f32.
fn pieces(format: Format, act_scales: ActScales, k: usize) -> usize {
    match is_integer(format, act_scales) {
        true => k.div_ceil(stage_k(format)),
        false => runs(k).count(),
    }
}

/// K of a stage of an integer mode: the bytes of a stage are the same in 4 and in 8 bits.
fn stage_k(format: Format) -> usize {
    if format.bits == Bits::Four { 128 } else { 64 }
}

/// Tiles along N and M.
fn tiles(format: Format, act_scales: ActScales, tokens: usize, m: usize, n: usize) -> [usize; 2] {
    [n.div_ceil(tile_features(format, act_scales, tokens)), m.div_ceil(tokens)]
}

/// How tiles go to blocks.
struct Cut {
    /// Tiles that are left after one for each block, where they are cut; else 0.
    tiles: usize,
    /// Blocks that share them, at least 1.
    shares: usize,
}

impl Variant {
    /// Chooses for y\[M, N\] = x\[M, K\] · wᵀ: GEMV up to 4 tokens, on capabilities from 9.0 below 12.0 up to 1 (in 8 bits 3, of integer groups
    /// none), then tiles of 16, 64 or 128 tokens, so that up to 64 every weight is read once, on exactly as many blocks as multiprocessors (of
    /// the smallest tile in f32 on twice as many). Where blocks of K are combined in f32, a GEMV takes longer for them than for weights, and is
    /// chosen only if there are few tiles.
    pub fn choose(
        architecture: Architecture,
        format: Format,
        act_scales: ActScales,
        m: usize,
        n: usize,
        k: usize,
    ) -> Self {
        let multiprocessors = architecture.multiprocessors.max(1) as usize;
        let integer = is_integer(format, act_scales);
        let tiles = |tokens: usize| product(tiles(format, act_scales, tokens, m, n));
        let few = if integer { gemv_tokens(architecture, format) } else { GEMV_TOKENS };
        if m <= few && (integer || tiles(16) < multiprocessors / 2) {
            return Variant::Gemv;
        }
        let tokens = match m {
            ..=16 => 16,
            17..=64 => 64,
            // the two tiles in f32 are of one size
            _ if !integer && tiles(64) < tiles(128) => 64,
            _ => 128,
        };
        let least = if integer { MIN_STAGES } else { 1 };
        let most = tiles(tokens).max(product([tiles(tokens), pieces(format, act_scales, k)]) / least);
        let resident = if integer || tokens > 16 { multiprocessors } else { 2 * multiprocessors };
        Variant::Gemm { tokens: tokens as u32, blocks: resident.min(most) as u32 }
    }

    /// Checks that the kernel takes this shape.
    ///
    /// # Errors
    /// [`Error::Shape`] for more tokens than it takes, for tiles that there are not, and without blocks.
    pub fn check(&self, m: usize) -> Result<()> {
        match *self {
            Variant::Gemv if m > GEMV_TOKENS => {
                Err(Error::Shape { what: "m", expected: "at most 4 tokens for a GEMV", got: m })
            }
            Variant::Gemm { tokens, .. } if !GEMM_TOKENS.contains(&(tokens as usize)) => {
                Err(Error::Shape { what: "tokens", expected: "16, 64 or 128", got: tokens as usize })
            }
            Variant::Gemm { blocks, .. } if blocks == 0 || blocks > i32::MAX as u32 => {
                Err(Error::Shape { what: "blocks", expected: "1 to 2³¹ − 1", got: blocks as usize })
            }
            _ => Ok(()),
        }
    }

    /// Tiles along N and M, of which those of one row follow each other.
    pub fn tiles(&self, format: Format, act_scales: ActScales, m: usize, n: usize) -> [usize; 2] {
        match *self {
            Variant::Gemv => [n.div_ceil(16), 1],
            Variant::Gemm { tokens, .. } => tiles(format, act_scales, tokens.max(1) as usize, m, n),
        }
    }

    fn cut(&self, format: Format, act_scales: ActScales, m: usize, n: usize, k: usize) -> Cut {
        let whole = Cut { tiles: 0, shares: 1 };
        let Variant::Gemm { tokens, blocks } = *self else { return whole };
        let (tokens, blocks) = (tokens.max(1) as usize, blocks.max(1) as usize);
        let tiles = product(tiles(format, act_scales, tokens, m, n)) % blocks;
        if tiles == 0 {
            return whole;
        }
        let pieces = pieces(format, act_scales, k);
        let shares = blocks.min(product([tiles, pieces]));
        // what the busiest block saves of K must be more than what its additions take
        let saved = pieces - product([tiles, pieces]).div_ceil(shares);
        let pays = product([k, saved]) > product([CUT_COST, tokens, pieces]);
        // the chains of runs have room each, which is not to be more than a workspace has
        let fits = is_integer(format, act_scales) || 4 * tiles <= 3 * blocks;
        if pays && fits { Cut { tiles, shares } } else { Cut { tiles: 0, shares: tiles } }
    }

    /// Blocks that share what is left after tiles by turns.
    pub(super) fn shares(&self, format: Format, act_scales: ActScales, m: usize, n: usize, k: usize) -> usize {
        self.cut(format, act_scales, m, n, k).shares
    }

    /// Words that are enough for every variant that [`Variant::choose`] gives.
    pub(super) fn most_workspace_words(architecture: Architecture) -> (usize, usize) {
        let blocks = architecture.multiprocessors as usize;
        // of integers a tile for each block at most; of f32 three quarters of as many of half the size, with room for each run
        (product([blocks, MOST_RUNS / 2, TILE_WORDS]) / 4 * 3, 2 * blocks)
    }

    /// Words of workspace: where the shares of a tile's K are added, and counters of those that were; `usize::MAX` if there are more
    /// than a number can say.
    pub fn workspace_words(
        &self,
        format: Format,
        act_scales: ActScales,
        m: usize,
        n: usize,
        k: usize,
    ) -> (usize, usize) {
        let Variant::Gemm { tokens, .. } = *self else { return (0, 0) };
        let Cut { tiles, .. } = self.cut(format, act_scales, m, n, k);
        let of_tile = tile_features(format, act_scales, tokens as usize) * tokens as usize;
        let rooms = if is_integer(format, act_scales) { 1 } else { runs(k).count() };
        (product([tiles, rooms, of_tile]), tiles)
    }

    pub(super) fn kernel(&self, format: Format, act_scales: ActScales) -> Kernel<LinearParams> {
        let Variant::Gemm { tokens, .. } = *self else { return gemv(format) };
        let [few, some, many] = gemms(format, act_scales);
        match tokens {
            16 => few,
            64 => some,
            _ => many,
        }
    }
}
