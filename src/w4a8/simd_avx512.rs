//! Unpacking, and the multiplication of few tokens, in AVX-512 with VNNI. 16 rows are the 16 lanes of a vector.

use super::pack::{TILE_BYTES, TILE_N};
use super::tile::{Tile, Tokens};
use super::tile_kernels::TileKernels;
use crate::simd::Avx512;
use std::arch::x86_64::*;

mod gemv;
mod unpack;

impl TileKernels for Avx512 {
    fn unpack(self, tile: &Tile<'_>, panel: &mut [u8]) {
        // SAFETY: the token proves that the machine has the instructions.
        unsafe { unpack::unpack(tile, panel) }
    }

    fn gemv(self, tile: &Tile<'_>, tokens: Tokens<'_>, out: &mut [[f32; TILE_N]]) -> bool {
        // SAFETY: as in `unpack`.
        unsafe { gemv::gemv(self, tile, tokens, out) };
        true
    }
}

// The functions marked `unsafe` below are for code compiled with AVX-512, into which they are inlined.

/// Transposes four rows of four 32-bit columns inside each 128-bit part:
/// (row, part4, column4) → (column, part4, row4).
#[inline(always)]
unsafe fn transpose4(v: [__m512i; 4]) -> [__m512i; 4] {
    // SAFETY: the caller has the instruction set.
    unsafe {
        let (low01, high01) = (_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[0], v[1]));
        let (low23, high23) = (_mm512_unpacklo_epi32(v[2], v[3]), _mm512_unpackhi_epi32(v[2], v[3]));
        [
            _mm512_unpacklo_epi64(low01, low23),
            _mm512_unpackhi_epi64(low01, low23),
            _mm512_unpacklo_epi64(high01, high23),
            _mm512_unpackhi_epi64(high01, high23),
        ]
    }
}

/// Transposes the 128-bit parts of four vectors.
#[inline(always)]
unsafe fn transpose_parts([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    // SAFETY: the caller has the instruction set.
    unsafe {
        let (ab0, ab1) = (_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0xEE>(a, b));
        let (cd0, cd1) = (_mm512_shuffle_i32x4::<0x44>(c, d), _mm512_shuffle_i32x4::<0xEE>(c, d));
        [
            _mm512_shuffle_i32x4::<0x88>(ab0, cd0),
            _mm512_shuffle_i32x4::<0xDD>(ab0, cd0),
            _mm512_shuffle_i32x4::<0x88>(ab1, cd1),
            _mm512_shuffle_i32x4::<0xDD>(ab1, cd1),
        ]
    }
}

/// Adds the four 128-bit parts of each of four vectors: part i of the result is the sum over vector i.
#[inline(always)]
unsafe fn add_parts([a, b, c, d]: [__m512i; 4]) -> __m512i {
    // SAFETY: the caller has the instruction set.
    unsafe {
        let ab = _mm512_add_epi32(_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0xEE>(a, b));
        let cd = _mm512_add_epi32(_mm512_shuffle_i32x4::<0x44>(c, d), _mm512_shuffle_i32x4::<0xEE>(c, d));
        _mm512_add_epi32(_mm512_shuffle_i32x4::<0x88>(ab, cd), _mm512_shuffle_i32x4::<0xDD>(ab, cd))
    }
}

/// Loads rows 4·`quad`..4·`quad` + 4 of each half of a tile: (row4, lane4 of the row, word4).
#[inline(always)]
unsafe fn load_rows(tile: &[u8; TILE_BYTES], quad: usize) -> [__m512i; 4] {
    // SAFETY: the caller has the instruction set; a tile has eight lines of 64 bytes.
    unsafe {
        let line = |row: usize| _mm512_loadu_si512(tile.as_ptr().add(64 * (4 * quad + row)).cast());
        [line(0), line(1), line(2), line(3)]
    }
}

/// The low and the high nibble of every byte.
#[inline(always)]
unsafe fn nibbles(v: __m512i) -> (__m512i, __m512i) {
    // SAFETY: the caller has the instruction set.
    unsafe {
        let mask = _mm512_set1_epi8(15);
        (_mm512_and_si512(v, mask), _mm512_and_si512(_mm512_srli_epi16::<4>(v), mask))
    }
}
