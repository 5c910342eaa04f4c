//! Few tokens times 4-bit codes, straight from the tiles: the bytes of a row are met by activations in the tiles' order of columns, so
//! that no code moves from its lane before it is summed.

use super::dot::{Integers, combine};
use super::pack::{TILE_BYTES, TILE_N};
use super::tile::{Tile, Tokens};
use crate::simd::{Kernel, Simd};
use std::ops::Range;

/// Tiles ahead of the current one that are asked for: enough to cover memory latency at one core's bandwidth.
const PREFETCH_TILES: usize = 8;

/// Tiles of a row whose sums stay in registers.
const TILES: usize = 8;

/// Columns of a tile.
const COLUMNS: usize = 64;

/// Multiplies 16 rows of 4-bit codes with M tokens: `out\[token\]\[row\]` is the sum over K, before act_scale where a token has one.
pub(crate) struct Gemv<'a, const M: usize> {
    pub tile: &'a Tile<'a>,
    /// M of them.
    pub tokens: Tokens<'a>,
    pub out: &'a mut [[f32; TILE_N]],
}

impl<const M: usize> Kernel for Gemv<'_, M> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Gemv { tile, tokens, out } = self;
        let tiles = tile.codes.as_chunks().0;
        let x = std::array::from_fn(|m| tokens.codes(m).as_chunks().0);
        let straight = Straight::<S, M> { tiles, ahead: tile.ahead.as_chunks().0, x, second: None };
        combine::<S, M>(simd, tile, tokens, straight, out);
    }
}

/// Sums straight from the tiles.
struct Straight<'a, S: Simd, const M: usize> {
    tiles: &'a [[u8; TILE_BYTES]],
    /// These and what follows them in memory.
    ahead: &'a [[u8; TILE_BYTES]],
    x: [&'a [[i8; COLUMNS]]; M],
    /// Groups of 32 come in pairs, as a tile holds them: the second of a pair whose first was asked for.
    second: Option<[S::I; M]>,
}

impl<S: Simd, const M: usize> Integers<S, M> for Straight<'_, S, M> {
    #[inline(always)]
    fn sum(&mut self, simd: S, start: usize, len: usize) -> [S::I; M] {
        match (len, self.second.take()) {
            (32, Some(second)) => second,
            (32, None) => {
                let index = start / COLUMNS;
                let rows = self.tiles::<1>(simd, index);
                let mut halves = [[simd.splat_i32(0); M]; 2];
                for m in 0..M {
                    let [first, second] = simd.sum_pairs(across_lanes(simd, &rows, m));
                    (halves[0][m], halves[1][m]) = (first, second);
                }
                self.second = Some(halves[1]);
                halves[0]
            }
            // of a number of tiles that is known, so that sums stay in registers
            (64, _) => totals(simd, &self.tiles::<1>(simd, start / COLUMNS)),
            (128, _) => totals(simd, &self.tiles::<2>(simd, start / COLUMNS)),
            _ => totals(simd, &self.rows(simd, start / COLUMNS..(start + len) / COLUMNS)),
        }
    }
}

impl<S: Simd, const M: usize> Straight<'_, S, M> {
    /// Sums of 16 rows over some tiles.
    #[inline(always)]
    fn rows(&self, simd: S, tiles: Range<usize>) -> [[S::I; M]; TILE_N] {
        let mut sums = [[simd.splat_i32(0); M]; TILE_N];
        let whole = tiles.start + tiles.len() / TILES * TILES;
        for first in (tiles.start..whole).step_by(TILES) {
            add(simd, &mut sums, &self.tiles::<TILES>(simd, first));
        }
        for first in whole..tiles.end {
            add(simd, &mut sums, &self.tiles::<1>(simd, first));
        }
        sums
    }

    /// Sums of 16 rows over `T` tiles: lane 4p + j of a row is what word j of lane p of its tiles adds up to.
    #[inline(always)]
    fn tiles<const T: usize>(&self, simd: S, first: usize) -> [[S::I; M]; TILE_N] {
        let mut x = [[simd.splat_i32(0); M]; T];
        for (i, x) in x.iter_mut().enumerate() {
            for m in 0..M {
                let codes: &[u8; COLUMNS] = bytemuck::cast_ref(&self.x[m][first + i]);
                x[m] = simd.tile_words(simd.load_segments(codes.as_chunks().0));
            }
            if let Some(ahead) = self.ahead.get(first + i + PREFETCH_TILES) {
                simd.prefetch(ahead);
            }
        }
        let tiles = &self.tiles[first..first + T];
        let mut sums = [[simd.splat_i32(0); M]; TILE_N];
        for row in 0..TILE_N / 2 {
            let (mut low, mut high) = (sums[row], sums[row + TILE_N / 2]);
            for (tile, x) in tiles.iter().zip(&x) {
                let codes = simd.load_segments(tile.as_chunks::<64>().0[row].as_chunks().0);
                let (codes_low, codes_high) = (simd.low_nibbles(codes), simd.high_nibbles(codes));
                for m in 0..M {
                    low[m] = simd.dot(low[m], codes_low, x[m]);
                    high[m] = simd.dot(high[m], codes_high, x[m]);
                }
            }
            (sums[row], sums[row + TILE_N / 2]) = (low, high);
        }
        sums
    }
}

/// Adds sums of 16 rows to those so far.
#[inline(always)]
fn add<S: Simd, const M: usize>(simd: S, sums: &mut [[S::I; M]; TILE_N], more: &[[S::I; M]; TILE_N]) {
    for row in 0..TILE_N {
        for m in 0..M {
            sums[row][m] = simd.add_i32(sums[row][m], more[row][m]);
        }
    }
}

/// Adds up each row: lane i of a token's vector is row i.
#[inline(always)]
fn totals<S: Simd, const M: usize>(simd: S, rows: &[[S::I; M]; TILE_N]) -> [S::I; M] {
    let mut sums = [simd.splat_i32(0); M];
    for m in 0..M {
        sums[m] = simd.sum_quads(across_lanes(simd, rows, m));
    }
    sums
}

/// Adds token m's lanes p of each row: lane 4q + j of vector i is word j of row 4q + i.
#[inline(always)]
fn across_lanes<S: Simd, const M: usize>(simd: S, rows: &[[S::I; M]; TILE_N], m: usize) -> [S::I; 4] {
    let mut words = [simd.splat_i32(0); 4];
    for (i, words) in words.iter_mut().enumerate() {
        let [a, b, c, d] = simd.transpose_quarters([rows[i][m], rows[4 + i][m], rows[8 + i][m], rows[12 + i][m]]);
        *words = simd.add_i32(simd.add_i32(a, b), simd.add_i32(c, d));
    }
    words
}
