//! Which kernel computes how many tokens: a function of the row format, the tokens and the shape alone.

use super::mirror::{self, DownParams, GateUpParams, OperandParams, WholeParams};
use super::row_format::RowFormat;
use crate::device::Kernel;

/// Tokens that the kernels without matrix units take together; more go to the kernels of tiles.
pub(super) const FEW_TOKENS: usize = 8;

/// A kernel and how it is started.
#[derive(Debug, Clone, Copy)]
pub(super) struct Variant<P> {
    pub kernel: Kernel<P>,
    /// Blocks along neurons (or columns), and along tokens.
    pub grid: [u32; 2],
}

/// Whether a call of so many tokens takes the kernels of tiles.
pub(super) fn is_tiled(tokens: usize) -> bool {
    tokens > FEW_TOKENS
}

/// Tokens of a block: 1 or 8 without matrix units, 16 or 64 with them.
fn token_tile(tokens: usize) -> usize {
    match tokens {
        0..=1 => 1,
        2..=FEW_TOKENS => FEW_TOKENS,
        9..=16 => 16,
        _ => 64,
    }
}

fn index_of(format: RowFormat) -> usize {
    match format {
        RowFormat::F16 => 0,
        RowFormat::Bf16 => 1,
        RowFormat::FourBit => 2,
    }
}

/// Parts of an activation, and the values of k that a tile of the operand spans: `OperandOf` in kernels/sparse_mlp/operand.cuh.
pub(super) fn operand_of(format: RowFormat) -> (usize, usize) {
    [(2, 32), (3, 32), (1, 64)][index_of(format)]
}

/// The kernel that brings activations into the form of [`operand_of`].
pub(super) fn operand(format: RowFormat) -> Kernel<OperandParams> {
    [mirror::OPERAND_F16, mirror::OPERAND_BF16, mirror::OPERAND_INT8][index_of(format)]
}

/// The kernel of gate and up. For few tokens a block on each multiprocessor takes neurons by turns, as far as there are any.
pub(super) fn gate_up(format: RowFormat, tokens: usize, d_ff: usize, multiprocessors: usize) -> Variant<GateUpParams> {
    const FEW: [[Kernel<GateUpParams>; 2]; 3] = [
        [mirror::GATE_UP_F16_1, mirror::GATE_UP_F16_8],
        [mirror::GATE_UP_BF16_1, mirror::GATE_UP_BF16_8],
        [mirror::GATE_UP_INT4_1, mirror::GATE_UP_INT4_8],
    ];
    const TILES: [[Kernel<GateUpParams>; 2]; 3] = [
        [mirror::GATE_UP_TILES_F16_16, mirror::GATE_UP_TILES_F16_64],
        [mirror::GATE_UP_TILES_BF16_16, mirror::GATE_UP_TILES_BF16_64],
        [mirror::GATE_UP_TILES_INT4_16, mirror::GATE_UP_TILES_INT4_64],
    ];
    let (row, tile) = (index_of(format), token_tile(tokens));
    let grid = |neurons: usize| [d_ff.div_ceil(neurons) as u32, tokens.div_ceil(tile) as u32];
    if !is_tiled(tokens) {
        let [blocks, token_blocks] = grid(tile.min(2));
        let grid = [blocks.min(multiprocessors as u32), token_blocks];
        return Variant { kernel: FEW[row][usize::from(tile > 1)], grid };
    }
    let kernel = TILES[row][usize::from(tile == 64)];
    // 16 for each warp
    Variant { kernel, grid: grid(kernel.threads as usize / 2) }
}

/// The kernel of down, to be started for each part of the list.
pub(super) fn down(format: RowFormat, tokens: usize, d_model: usize) -> Variant<DownParams> {
    const FEW: [[Kernel<DownParams>; 2]; 3] = [
        [mirror::DOWN_F16_1, mirror::DOWN_F16_8],
        [mirror::DOWN_BF16_1, mirror::DOWN_BF16_8],
        [mirror::DOWN_INT4_1, mirror::DOWN_INT4_8],
    ];
    const TILES: [[Kernel<DownParams>; 2]; 3] = [
        [mirror::DOWN_TILES_F16_16, mirror::DOWN_TILES_F16_64],
        [mirror::DOWN_TILES_BF16_16, mirror::DOWN_TILES_BF16_64],
        [mirror::DOWN_TILES_INT4_16, mirror::DOWN_TILES_INT4_64],
    ];
    let (row, tile) = (index_of(format), token_tile(tokens));
    let grid = [d_model.div_ceil(down_columns(format, tokens)) as u32, tokens.div_ceil(tile) as u32];
    let kernel = match is_tiled(tokens) {
        true => TILES[row][usize::from(tile == 64)],
        false => FEW[row][usize::from(tile > 1)],
    };
    Variant { kernel, grid }
}

/// The kernel of gate, up and down of one token in one launch.
pub(super) fn whole(format: RowFormat) -> Kernel<WholeParams> {
    [mirror::WHOLE_F16_1, mirror::WHOLE_BF16_1, mirror::WHOLE_INT4_1][index_of(format)]
}

/// Columns of y that a block of down computes.
fn down_columns(format: RowFormat, tokens: usize) -> usize {
    let wide = if format == RowFormat::FourBit { 2 } else { 1 };
    match (token_tile(tokens), format) {
        (16, _) => 64 * wide,
        (64, _) => 128 * wide,
        (1, RowFormat::FourBit) => 512,
        _ => 256,
    }
}

/// Parts of the list for down, of at least as many neurons as a block's warps take together. Few tokens: as many blocks as are on the
/// device at a time where there is one token, whose parts those of several have too. Many: enough to fill it twice.
pub(super) fn down_splits(
    format: RowFormat,
    d_model: usize,
    d_ff: usize,
    tokens: usize,
    multiprocessors: usize,
) -> usize {
    let (splits, least) = match is_tiled(tokens) {
        false => (2 * multiprocessors / d_model.div_ceil(down_columns(format, 1)), 32),
        true => {
            let blocks = d_model.div_ceil(down_columns(format, tokens)) * tokens.div_ceil(token_tile(tokens));
            ((2 * multiprocessors).div_ceil(blocks), 256)
        }
    };
    splits.min(d_ff.div_ceil(least)).clamp(1, 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMATS: [RowFormat; 3] = [RowFormat::F16, RowFormat::Bf16, RowFormat::FourBit];

    #[test]
    fn splits_fill_the_device_and_leave_no_part_too_small() {
        let splits = |d_model, d_ff, tokens| down_splits(RowFormat::F16, d_model, d_ff, tokens, 132);
        assert_eq!(splits(4096, 14336, 1), 16);
        assert_eq!(splits(4096, 14336, 8), 16);
        assert_eq!(down_splits(RowFormat::FourBit, 4096, 14336, 1, 132), 33);
        assert_eq!(splits(576, 1536, 1), 48);
        assert_eq!(splits(64, 96, 1), 3);
        // 64 tiles of 128 columns
        assert_eq!(splits(8192, 28672, 64), 5);
        assert_eq!(splits(576, 1536, 64), 6);
        assert_eq!(splits(8192, 28672, 512), 1);
    }

    #[test]
    fn kernels_change_with_the_tokens_and_cover_the_shape() {
        for format in FORMATS {
            for (tokens, gate_blocks, token_blocks) in
                [(1, 132, 1), (2, 132, 1), (8, 132, 1), (9, 32, 1), (16, 32, 1), (17, 16, 1), (64, 16, 1), (65, 16, 2)]
            {
                let (gate, down) = (gate_up(format, tokens, 1000, 132), down(format, tokens, 1000));
                assert_eq!(gate.grid, [gate_blocks, token_blocks], "{tokens} tokens");
                assert_eq!(down.grid[0], 1000_u32.div_ceil(down_columns(format, tokens) as u32));
                assert_eq!(
                    is_tiled(tokens),
                    gate.kernel.module.ends_with("tiles") && down.kernel.module.ends_with("tiles")
                );
            }
        }
    }

    #[test]
    fn few_neurons_start_no_block_without_any() {
        let blocks = |tokens, d_ff| gate_up(RowFormat::F16, tokens, d_ff, 132).grid[0];
        assert_eq!([blocks(1, 1), blocks(1, 100), blocks(8, 1), blocks(8, 101), blocks(8, 500)], [1, 100, 1, 51, 132]);
    }

    /// The devices of compute capability 8.6, 8.9 and 12.0 give a block 99 KiB.
    #[test]
    fn shared_memory_fits_every_supported_device() {
        for format in FORMATS {
            for tokens in [9, 64] {
                let bytes = [
                    gate_up(format, tokens, 64, 132).kernel.shared_bytes,
                    down(format, tokens, 64).kernel.shared_bytes,
                ];
                assert!(bytes.iter().all(|&bytes| bytes <= 99 * 1024), "{format:?}, {tokens} tokens: {bytes:?}");
            }
        }
    }
}
