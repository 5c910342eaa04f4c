//! The kernels in plain Rust.

use super::pack::{TILE_BYTES, TILE_N};
use super::tile::{TileCodes, TileScales, TileZero, Tokens, qqq_table};
use super::weight::QQQ_GROUP;

/// Unpacks the tiles of 16 rows into a panel of unsigned codes \[K/4\]\[16\]\[4\].
pub(crate) fn unpack(tiles: &[u8], codes: TileCodes<'_>, panel: &mut [u8]) {
    let tables: Vec<[[u8; 16]; TILE_N]>;
    let table = match codes {
        TileCodes::Qqq(scale) => {
            tables = scale.iter().map(|scale| scale.map(qqq_table)).collect();
            Some(&tables)
        }
        _ => None,
    };
    let tile_k = if matches!(codes, TileCodes::Eight) { 32 } else { 64 };
    for (index, (tile, panel)) in
        tiles.chunks_exact(TILE_BYTES).zip(panel.chunks_exact_mut(tile_k * TILE_N)).enumerate()
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
                    let map = |row: usize, code: u8| match table {
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
pub(crate) fn dot(panel: &[u8], tokens: Tokens<'_>, scales: &TileScales<'_>, out: &mut [[f32; TILE_N]]) {
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
        *out = combine(tokens, token, scales, ints);
    }
}

/// Turns the exact integer sums of one token into f32, in the order that every instruction set keeps.
fn combine(
    tokens: Tokens<'_>,
    token: usize,
    scales: &TileScales<'_>,
    ints: impl Fn(usize, usize) -> [i32; TILE_N],
) -> [f32; TILE_N] {
    let mut acc = [0.0f32; TILE_N];
    match *scales {
        TileScales::PerChannel { scale, zero } => {
            let sum = tokens.sum(token, 0).wrapping_mul(zero);
            let ints = ints(0, tokens.stride);
            (0..TILE_N).for_each(|row| acc[row] = ints[row].wrapping_sub(sum) as f32 * scale[row]);
        }
        TileScales::PerGroup { group_size, scale, zero } => {
            for (g, scale) in scale.iter().enumerate() {
                let ints = ints(g * group_size, group_size);
                let sum = tokens.sum(token, g);
                for row in 0..TILE_N {
                    let point = match zero {
                        TileZero::Fixed(zero) | TileZero::Offset(_, zero) => zero,
                        TileZero::ZeroPoint(points) => i32::from(points[g][row]),
                    };
                    acc[row] = ((ints[row] - point * sum) as f32).mul_add(scale[row].to_f32(), acc[row]);
                    if let TileZero::Offset(offset, _) = zero {
                        acc[row] = (sum as f32).mul_add(offset[g][row].to_f32(), acc[row]);
                    }
                }
            }
        }
        TileScales::TwoLevel { group_size, group_scale, scale } => {
            let mut total = [0i32; TILE_N];
            for (g, group_scale) in group_scale.iter().enumerate() {
                let ints = ints(g * group_size, group_size);
                let sum = tokens.sum(token, g);
                (0..TILE_N).for_each(|row| total[row] += (ints[row] - 8 * sum) * i32::from(group_scale[row]));
            }
            (0..TILE_N).for_each(|row| acc[row] = total[row] as f32 * scale[row]);
        }
    }
    acc
}
