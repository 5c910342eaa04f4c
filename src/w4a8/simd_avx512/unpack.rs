//! Codes from tiles to a panel that many tokens use.

use super::{load_rows, nibbles, transpose_parts, transpose4};
use crate::w4a8::format::{Bits, QQQ_GROUP};
use crate::w4a8::pack::{TILE_BYTES, TILE_N, tile_k};
use crate::w4a8::tile::{Tile, qqq_table};
use half::f16;
use std::arch::x86_64::*;

/// Unpacks the tiles of 16 rows into a panel of unsigned codes \[K/4\]\[16\]\[4\].
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(crate) fn unpack(tile: &Tile<'_>, panel: &mut [u8]) {
    let tiles = tile.codes.as_chunks::<TILE_BYTES>().0;
    let (tile_k, inner) = (tile_k(tile.format.bits), tile.inner_scales());
    assert!(panel.len() >= tiles.len() * tile_k * TILE_N);
    let mut tables = [_mm512_setzero_si512(); TILE_N];
    for (index, (codes, out)) in tiles.iter().zip(panel.chunks_exact_mut(tile_k * TILE_N)).enumerate() {
        // SAFETY: this function has the instruction set; `out` has a line for every four columns of the tile.
        unsafe {
            let (a, b) = (load_rows(codes, 0), load_rows(codes, 1));
            match (tile.format.bits, inner) {
                (Bits::Eight, _) => unpack_eight(a, b, out),
                (Bits::Four, None) => unpack_four(a, b, None, out),
                (Bits::Four, Some(scales)) => {
                    if index % (QQQ_GROUP / 64) == 0 {
                        let none = [_mm512_set1_epi8(-128); TILE_N];
                        tables = scales.get(index * 64 / QQQ_GROUP).map_or(none, |scales| qqq_tables(scales));
                    }
                    unpack_four(a, b, Some(&tables), out);
                }
            }
        }
    }
}

/// Word j holds rows + 8·(j mod 2) and columns 16·⌊j/2⌋ + 4·lane.
#[inline(always)]
unsafe fn unpack_eight(a: [__m512i; 4], b: [__m512i; 4], out: &mut [u8]) {
    // SAFETY: the caller's: the instruction set and eight lines.
    unsafe {
        let (a, b) = (transpose4(a), transpose4(b));
        let sign = _mm512_set1_epi8(-128);
        for half in 0..2 {
            let parts = transpose_parts([a[2 * half], b[2 * half], a[2 * half + 1], b[2 * half + 1]]);
            for lane in 0..4 {
                let line = out.as_mut_ptr().add(64 * (4 * half + lane));
                _mm512_storeu_si512(line.cast(), _mm512_xor_si512(parts[lane], sign));
            }
        }
    }
}

/// Words 0, 2 are columns 0..32, words 1, 3 columns 32..64.
#[inline(always)]
unsafe fn unpack_four(a: [__m512i; 4], b: [__m512i; 4], tables: Option<&[__m512i; TILE_N]>, out: &mut [u8]) {
    // SAFETY: the caller's: the instruction set and sixteen lines.
    unsafe {
        let mut rows = [[_mm512_setzero_si512(); 4]; 4]; // rows 0-3, 4-7, 8-11, 12-15
        for row in 0..4 {
            (rows[0][row], rows[2][row]) = nibbles(a[row]);
            (rows[1][row], rows[3][row]) = nibbles(b[row]);
        }
        if let Some(tables) = tables {
            for row in 0..TILE_N {
                rows[row / 4][row % 4] = _mm512_shuffle_epi8(tables[row], rows[row / 4][row % 4]);
            }
        }
        let (r0, r1) = (transpose4(rows[0]), transpose4(rows[1]));
        let (r2, r3) = (transpose4(rows[2]), transpose4(rows[3]));
        for (step, word) in [0, 2, 1, 3].into_iter().enumerate() {
            let parts = transpose_parts([r0[word], r1[word], r2[word], r3[word]]);
            for lane in 0..4 {
                _mm512_storeu_si512(out.as_mut_ptr().add(64 * (4 * step + lane)).cast(), parts[lane]);
            }
        }
    }
}

/// QQQ's tables of the 16 rows of one group: unsigned int8 weight by nibble, repeated in each 128-bit part.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn qqq_tables(scales: &[f16; TILE_N]) -> [__m512i; TILE_N] {
    scales.map(|scale| {
        let table = qqq_table(scale);
        // SAFETY: a table is 16 readable bytes.
        _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(table.as_ptr().cast()) })
    })
}
