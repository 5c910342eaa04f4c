//! Which kernel computes how many tokens: a function of the row format, the tokens and the shape alone.

use super::row_format::RowFormat;

/// Tokens that the kernels without matrix units take together; more go to the kernels of tiles.
pub(super) const FEW_TOKENS: usize = 8;

/// Threads of a block of the kernels for few tokens, and the neurons and columns that it computes.
const THREADS: u32 = 256;
const FEW_NEURONS: usize = 16;
const FEW_COLUMNS: usize = 256;

/// Stages of the kernels of tiles that are under way at a time.
const STAGES: usize = 4;

/// A kernel and how it is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Variant {
    pub module: &'static str,
    pub symbol: &'static str,
    /// Blocks along neurons (or columns), and along tokens.
    pub grid: [u32; 2],
    pub threads: u32,
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
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
pub(super) fn operand_symbol(format: RowFormat) -> &'static str {
    ["sparse_mlp_operand_f16", "sparse_mlp_operand_bf16", "sparse_mlp_operand_int8"][index_of(format)]
}

/// The kernel of gate and up.
pub(super) fn gate_up(format: RowFormat, tokens: usize, d_ff: usize) -> Variant {
    const FEW: [[&str; 2]; 3] = [
        ["sparse_mlp_gate_up_f16_1", "sparse_mlp_gate_up_f16_8"],
        ["sparse_mlp_gate_up_bf16_1", "sparse_mlp_gate_up_bf16_8"],
        ["sparse_mlp_gate_up_int4_1", "sparse_mlp_gate_up_int4_8"],
    ];
    const TILES: [[&str; 2]; 3] = [
        ["sparse_mlp_gate_up_tiles_f16_16", "sparse_mlp_gate_up_tiles_f16_64"],
        ["sparse_mlp_gate_up_tiles_bf16_16", "sparse_mlp_gate_up_tiles_bf16_64"],
        ["sparse_mlp_gate_up_tiles_int4_16", "sparse_mlp_gate_up_tiles_int4_64"],
    ];
    let (row, tile) = (index_of(format), token_tile(tokens));
    let grid = |neurons: usize| [d_ff.div_ceil(neurons) as u32, tokens.div_ceil(tile) as u32];
    if !is_tiled(tokens) {
        let symbol = FEW[row][usize::from(tile > 1)];
        return Variant {
            module: "sparse_mlp/gather",
            symbol,
            grid: grid(FEW_NEURONS),
            threads: THREADS,
            shared_bytes: 0,
        };
    }
    let warps = if tile == 16 { 2 } else { 4 };
    Variant {
        module: "sparse_mlp/gather_tiles",
        symbol: TILES[row][usize::from(tile == 64)],
        grid: grid(16 * warps),
        threads: 32 * warps as u32,
        shared_bytes: gate_up_shared_bytes(format, tile, warps) as u32,
    }
}

/// `Stage` in kernels/sparse_mlp/gather_tiles.cu.
fn gate_up_shared_bytes(format: RowFormat, tile: usize, warps: usize) -> usize {
    let four_bit = format == RowFormat::FourBit;
    let (parts, _) = operand_of(format);
    let spans = if four_bit || tile == 16 { 2 } else { 1 };
    let row_bytes = if four_bit { 64 } else { 64 * spans };
    let sums = if four_bit { 5 * 4 * tile } else { 0 };
    let scales = if four_bit { 4 * warps * 2 * 16 * 32 } else { 0 };
    STAGES * (warps * 2 * 16 * row_bytes + parts * tile / 8 * spans * 512 + sums) + scales
}

/// The kernel of down, to be started for each part of the list.
pub(super) fn down(format: RowFormat, tokens: usize, d_model: usize) -> Variant {
    const FEW: [[&str; 2]; 3] = [
        ["sparse_mlp_down_f16_1", "sparse_mlp_down_f16_8"],
        ["sparse_mlp_down_bf16_1", "sparse_mlp_down_bf16_8"],
        ["sparse_mlp_down_int4_1", "sparse_mlp_down_int4_8"],
    ];
    const TILES: [[&str; 2]; 3] = [
        ["sparse_mlp_down_tiles_f16_16", "sparse_mlp_down_tiles_f16_64"],
        ["sparse_mlp_down_tiles_bf16_16", "sparse_mlp_down_tiles_bf16_64"],
        ["sparse_mlp_down_tiles_int4_16", "sparse_mlp_down_tiles_int4_64"],
    ];
    let (row, tile) = (index_of(format), token_tile(tokens));
    let columns = down_columns(format, tokens);
    let grid = [d_model.div_ceil(columns) as u32, tokens.div_ceil(tile) as u32];
    if !is_tiled(tokens) {
        let symbol = FEW[row][usize::from(tile > 1)];
        return Variant { module: "sparse_mlp/down", symbol, grid, threads: THREADS, shared_bytes: 0 };
    }
    // `Tile` in kernels/sparse_mlp/down_tiles.cu
    let (parts, span) = operand_of(format);
    let row_bytes = if format == RowFormat::FourBit { columns / 2 } else { columns * 2 };
    let stage = span * row_bytes + parts * tile / 8 * 512;
    Variant {
        module: "sparse_mlp/down_tiles",
        symbol: TILES[row][usize::from(tile == 64)],
        grid,
        threads: columns as u32,
        shared_bytes: (STAGES * stage + 8 * span * 4) as u32,
    }
}

/// Columns of y that a block of down computes.
fn down_columns(format: RowFormat, tokens: usize) -> usize {
    let wide = if format == RowFormat::FourBit { 2 } else { 1 };
    match token_tile(tokens) {
        16 => 64 * wide,
        64 => 128 * wide,
        _ => FEW_COLUMNS,
    }
}

/// Parts of the list for down: enough blocks to fill the device twice, and at least `least` neurons a part.
pub(super) fn down_splits(
    format: RowFormat,
    d_model: usize,
    d_ff: usize,
    tokens: usize,
    multiprocessors: usize,
) -> usize {
    let least = if is_tiled(tokens) { 256 } else { 32 };
    let blocks = d_model.div_ceil(down_columns(format, tokens)) * tokens.div_ceil(token_tile(tokens));
    (2 * multiprocessors).div_ceil(blocks).min(d_ff.div_ceil(least)).clamp(1, 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMATS: [RowFormat; 3] = [RowFormat::F16, RowFormat::Bf16, RowFormat::FourBit];

    #[test]
    fn splits_fill_the_device_and_leave_no_part_too_small() {
        let splits = |d_model, d_ff, tokens| down_splits(RowFormat::F16, d_model, d_ff, tokens, 132);
        assert_eq!(splits(4096, 14336, 1), 17);
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
                [(1, 63, 1), (2, 63, 1), (8, 63, 1), (9, 32, 1), (16, 32, 1), (17, 16, 1), (64, 16, 1), (65, 16, 2)]
            {
                let (gate, down) = (gate_up(format, tokens, 1000), down(format, tokens, 1000));
                assert_eq!(gate.grid, [gate_blocks, token_blocks], "{tokens} tokens");
                assert_eq!(down.grid[0], 1000_u32.div_ceil(down_columns(format, tokens) as u32));
                assert_eq!(is_tiled(tokens), gate.module.ends_with("tiles") && down.module.ends_with("tiles"));
            }
        }
    }

    /// The devices of compute capability 8.6, 8.9 and 12.0 give a block 99 KiB.
    #[test]
    fn shared_memory_fits_every_supported_device() {
        for format in FORMATS {
            for tokens in [9, 64] {
                let bytes = [gate_up(format, tokens, 64).shared_bytes, down(format, tokens, 64).shared_bytes];
                assert!(bytes.iter().all(|&bytes| bytes <= 99 * 1024), "{format:?}, {tokens} tokens: {bytes:?}");
            }
        }
    }
}
