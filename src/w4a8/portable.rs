//! Unpacking in plain Rust.

use super::format::QQQ_GROUP;
use super::pack::{TILE_BYTES, TILE_N, tile_k};
use super::tile::{Tile, qqq_table};
use super::tile_kernels::TileKernels;
use crate::simd::Portable;

impl TileKernels for Portable {
    fn unpack(self, tile: &Tile<'_>, panel: &mut [u8]) {
        unpack(tile, panel);
    }
}

/// Unpacks the tiles of 16 rows into a panel of unsigned codes \[K/4\]\[16\]\[4\].
fn unpack(tile: &Tile<'_>, panel: &mut [u8]) {
    let tables: Option<Vec<[[u8; 16]; TILE_N]>> =
        tile.inner_scales().map(|scales| scales.iter().map(|scales| scales.map(qqq_table)).collect());
    let tile_k = tile_k(tile.format.bits);
    for (index, (tile, panel)) in
        tile.codes.chunks_exact(TILE_BYTES).zip(panel.chunks_exact_mut(tile_k * TILE_N)).enumerate()
    {
        for lane in 0..32 {
            for j in 0..4 {
                let word = &tile[16 * lane + 4 * j..][..4];
                let (row, column) = (lane / 4, lane % 4);
                if tile_k == 32 {
                    let at = ((4 * (j / 2) + column) * TILE_N + row + 8 * (j % 2)) * 4;
                    panel[at..at + 4].iter_mut().zip(word).for_each(|(out, &byte)| *out = byte ^ 0x80);
                    continue;
                }
                let at = ((8 * (j % 2) + 4 * (j / 2) + column) * TILE_N + row) * 4;
                for (b, &byte) in word.iter().enumerate() {
                    let (low, high) = (byte & 15, byte >> 4);
                    let map = |row: usize, code: u8| match &tables {
                        Some(tables) => {
                            tables.get(index * 64 / QQQ_GROUP).map_or(128, |rows| rows[row][usize::from(code)])
                        }
                        None => code,
                    };
                    panel[at + b] = map(row, low);
                    panel[at + 8 * 4 + b] = map(row + 8, high);
                }
            }
        }
    }
}
