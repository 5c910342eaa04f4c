//! The kernels in plain Rust.

use super::format::QQQ_GROUP;
use super::pack::{TILE_BYTES, TILE_N, tile_k};
use super::tile::{Tile, TileValues, Tokens, qqq_table};
use super::tile_kernels::TileKernels;
use crate::simd::Portable;

impl TileKernels for Portable {
    fn unpack(self, tile: &Tile<'_>, panel: &mut [u8]) {
        unpack(tile, panel);
    }

    fn dot(self, panel: &[u8], tokens: Tokens<'_>, tile: &Tile<'_>, out: &mut [[f32; TILE_N]]) {
        dot(panel, tokens, tile, out);
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

/// Multiplies a panel with every token: `out\[token\]\[row\]` is the sum over K before act_scale.
fn dot(panel: &[u8], tokens: Tokens<'_>, tile: &Tile<'_>, out: &mut [[f32; TILE_N]]) {
    for (token, out) in out.iter_mut().enumerate().take(tokens.count) {
        let x = tokens.codes(token);
        let ints = |start: usize, len: usize| {
            let mut ints = [0i32; TILE_N];
            for (k4, a) in x.as_chunks::<4>().0[start / 4..(start + len) / 4].iter().enumerate() {
                let rows = &panel[(start / 4 + k4) * TILE_N * 4..][..TILE_N * 4];
                for (sum, u) in ints.iter_mut().zip(rows.as_chunks::<4>().0) {
                    *sum += u.iter().zip(a).map(|(&u, &a)| i32::from(u) * i32::from(a)).sum::<i32>();
                }
            }
            ints
        };
        *out = combine(tokens, token, tile, ints);
    }
}

/// Turns the exact integer sums of one token into f32, in the order that every instruction set keeps.
fn combine(
    tokens: Tokens<'_>,
    token: usize,
    tile: &Tile<'_>,
    ints: impl Fn(usize, usize) -> [i32; TILE_N],
) -> [f32; TILE_N] {
    let mut acc = [0.0f32; TILE_N];
    let mut total = [0i32; TILE_N];
    match tile.sum_scales() {
        None => {
            let sum = tokens.sum(token, 0).wrapping_mul(tile.zero);
            total = ints(0, tokens.stride).map(|ints| ints.wrapping_sub(sum));
        }
        Some((size, TileValues::F16(scale))) => {
            for (g, scale) in scale.iter().enumerate() {
                let ints = ints(g * size, size);
                let sum = tokens.sum(token, g);
                for row in 0..TILE_N {
                    let point = match tile.offset {
                        Some(TileValues::U8(points)) => i32::from(points[g][row]),
                        _ => tile.zero,
                    };
                    acc[row] = ((ints[row] - point * sum) as f32).mul_add(scale[row].to_f32(), acc[row]);
                    if let Some(TileValues::F16(offset)) = tile.offset {
                        acc[row] = (sum as f32).mul_add(offset[g][row].to_f32(), acc[row]);
                    }
                }
            }
        }
        Some((size, TileValues::U8(scale))) => {
            for (g, scale) in scale.iter().enumerate() {
                let ints = ints(g * size, size);
                let sum = tile.zero * tokens.sum(token, g);
                (0..TILE_N).for_each(|row| total[row] += (ints[row] - sum) * i32::from(scale[row]));
            }
        }
    }
    if let Some(scale) = tile.channel {
        (0..TILE_N).for_each(|row| acc[row] = total[row] as f32 * scale[row]);
    }
    acc
}
