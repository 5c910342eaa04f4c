//! Unpacking, and the multiplication of few tokens, in AVX2. 16 rows are two vectors of 8 lanes.

use super::dot::{Integers, combine};
use super::format::{Bits, QQQ_GROUP};
use super::pack::{TILE_BYTES, TILE_N};
use super::tile::{Tile, Tokens};
use super::tile_kernels::TileKernels;
use crate::simd::{Avx2, Simd};
use half::f16;
use std::arch::x86_64::*;
use std::ops::Range;

impl<const VNNI: bool> TileKernels for Avx2<VNNI> {
    fn unpack(self, tile: &Tile<'_>, panel: &mut [u8]) {
        // SAFETY: the token proves that the machine has the instructions.
        unsafe { unpack(tile, panel) }
    }

    fn gemv(self, tile: &Tile<'_>, tokens: Tokens<'_>, out: &mut [[f32; TILE_N]]) -> bool {
        // four tokens share a panel, which costs less than to sum each token's lanes for every group
        let panel_pays = tokens.count > 3 && tile.sum_scales().is_some();
        if panel_pays {
            return false;
        }
        gemv(self, tile, tokens, out);
        true
    }
}

/// Transposes four rows of four 32-bit columns inside each 128-bit part.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose4(v: [__m256i; 4]) -> [__m256i; 4] {
    let (low01, high01) = (_mm256_unpacklo_epi32(v[0], v[1]), _mm256_unpackhi_epi32(v[0], v[1]));
    let (low23, high23) = (_mm256_unpacklo_epi32(v[2], v[3]), _mm256_unpackhi_epi32(v[2], v[3]));
    [
        _mm256_unpacklo_epi64(low01, low23),
        _mm256_unpackhi_epi64(low01, low23),
        _mm256_unpacklo_epi64(high01, high23),
        _mm256_unpackhi_epi64(high01, high23),
    ]
}

/// Half `side` (lanes 2·side, 2·side + 1 of a row) of rows 4·`quad`.. of a tile: (row4, lane2, word4).
#[inline]
#[target_feature(enable = "avx2")]
fn load_rows(tile: &[u8; TILE_BYTES], quad: usize, side: usize) -> [__m256i; 4] {
    let parts = tile.as_chunks::<32>().0;
    // SAFETY: a part is 32 readable bytes.
    std::array::from_fn(|row| unsafe { _mm256_loadu_si256(parts[2 * (4 * quad + row) + side].as_ptr().cast()) })
}

#[inline]
#[target_feature(enable = "avx2")]
fn nibbles(v: __m256i) -> (__m256i, __m256i) {
    let mask = _mm256_set1_epi8(15);
    (_mm256_and_si256(v, mask), _mm256_and_si256(_mm256_srli_epi16::<4>(v), mask))
}

/// Stores four rows of columns 4·`k4`.. and, from the upper parts, of 4·(`k4` + 1)...
#[inline]
#[target_feature(enable = "avx2")]
fn store_rows(panel: &mut [u8], k4: usize, quad: usize, v: __m256i) {
    let line = TILE_N * 4;
    let (low, high) = (_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
    for (k4, v) in [(k4, low), (k4 + 1, high)] {
        let out = &mut panel[k4 * line + 16 * quad..][..16];
        // SAFETY: 16 writable bytes.
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), v) };
    }
}

/// Unpacks the tiles of 16 rows into a panel of unsigned codes \[K/4\]\[16\]\[4\].
#[target_feature(enable = "avx2")]
fn unpack(tile: &Tile<'_>, panel: &mut [u8]) {
    let inner = tile.inner_scales();
    let mut tables = [_mm256_setzero_si256(); TILE_N];
    for (index, codes) in tile.codes.as_chunks::<TILE_BYTES>().0.iter().enumerate() {
        if let Some(scales) = inner
            && index % (QQQ_GROUP / 64) == 0
        {
            tables =
                scales.get(index * 64 / QQQ_GROUP).map_or([_mm256_set1_epi8(-128); TILE_N], |scale| qqq_tables(scale));
        }
        for (quad, side) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let rows = load_rows(codes, quad, side);
            if tile.format.bits == Bits::Eight {
                unpack_eight(rows, 8 * index + 2 * side, quad, panel);
                continue;
            }
            let mut low = rows.map(|v| nibbles(v).0);
            let mut high = rows.map(|v| nibbles(v).1);
            if inner.is_some() {
                for row in 0..4 {
                    low[row] = _mm256_shuffle_epi8(tables[4 * quad + row], low[row]);
                    high[row] = _mm256_shuffle_epi8(tables[8 + 4 * quad + row], high[row]);
                }
            }
            let (low, high) = (transpose4(low), transpose4(high));
            for word in 0..4 {
                let k4 = 16 * index + 8 * (word % 2) + 4 * (word / 2) + 2 * side;
                store_rows(panel, k4, quad, low[word]);
                store_rows(panel, k4, quad + 2, high[word]);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn unpack_eight(rows: [__m256i; 4], k4: usize, quad: usize, panel: &mut [u8]) {
    let sign = _mm256_set1_epi8(-128);
    for (word, v) in transpose4(rows).into_iter().enumerate() {
        store_rows(panel, k4 + 4 * (word / 2), quad + 2 * (word % 2), _mm256_xor_si256(v, sign));
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn qqq_tables(scales: &[f16; TILE_N]) -> [__m256i; TILE_N] {
    scales.map(|scale| {
        let table = super::tile::qqq_table(scale);
        // SAFETY: a table is 16 readable bytes.
        _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(table.as_ptr().cast()) })
    })
}

// Few tokens, straight from the tiles: the bytes of a row are met by activations in the tiles' order of columns, so that no code moves
// from its lane before it is multiplied, and rows are folded together as soon as their lanes allow.

/// Tiles ahead of the current one that are asked for: enough to cover memory latency at one core's bandwidth.
const PREFETCH_TILES: usize = 8;

/// Multiplies at most four tokens.
fn gemv<const VNNI: bool>(simd: Avx2<VNNI>, tile: &Tile<'_>, tokens: Tokens<'_>, out: &mut [[f32; TILE_N]]) {
    // SAFETY: the token proves that the machine has the instructions.
    unsafe {
        match (tile.format.bits, tokens.count) {
            (Bits::Four, 1) => multiply::<VNNI, 1, 64>(simd, tile, tokens, out),
            (Bits::Four, 2) => multiply::<VNNI, 2, 64>(simd, tile, tokens, out),
            (Bits::Four, 3) => multiply::<VNNI, 3, 64>(simd, tile, tokens, out),
            (Bits::Four, _) => multiply::<VNNI, 4, 64>(simd, tile, tokens, out),
            (Bits::Eight, 1) => multiply::<VNNI, 1, 32>(simd, tile, tokens, out),
            (Bits::Eight, 2) => multiply::<VNNI, 2, 32>(simd, tile, tokens, out),
            (Bits::Eight, 3) => multiply::<VNNI, 3, 32>(simd, tile, tokens, out),
            (Bits::Eight, _) => multiply::<VNNI, 4, 32>(simd, tile, tokens, out),
        }
    }
}

/// Multiplies M tokens; a tile has `COLUMNS`: 64 of 4-bit codes or 32 of 8-bit codes, which count here with their sign.
#[target_feature(enable = "avx2,fma,f16c")]
fn multiply<const VNNI: bool, const M: usize, const COLUMNS: usize>(
    simd: Avx2<VNNI>,
    tile: &Tile<'_>,
    tokens: Tokens<'_>,
    out: &mut [[f32; TILE_N]],
) {
    let mut x: [&[[i8; COLUMNS]]; M] = [&[]; M];
    for m in 0..M {
        x[m] = tokens.codes(m).as_chunks().0;
    }
    let straight = Straight { tiles: tile.codes.as_chunks().0, ahead: tile.ahead.as_chunks().0, x };
    let tile = if COLUMNS == 32 { &Tile { zero: 0, ..*tile } } else { tile };
    combine(simd, tile, tokens, straight, out);
}

/// Sums straight from the tiles.
struct Straight<'a, const M: usize, const COLUMNS: usize> {
    tiles: &'a [[u8; TILE_BYTES]],
    /// These and what follows them in memory.
    ahead: &'a [[u8; TILE_BYTES]],
    x: [&'a [[i8; COLUMNS]]; M],
}

impl<const VNNI: bool, const M: usize, const COLUMNS: usize> Integers<Avx2<VNNI>, M> for Straight<'_, M, COLUMNS> {
    const PAIRS: bool = COLUMNS == 64;

    #[inline(always)]
    fn sum(&mut self, simd: Avx2<VNNI>, start: usize, len: usize) -> [[__m256i; 2]; M] {
        let words = self.words(simd, start / COLUMNS..(start + len).div_ceil(COLUMNS));
        // SAFETY: the token proves that the machine has AVX2.
        unsafe {
            if COLUMNS == 32 {
                return eight_rows(&words);
            }
            let [first, second] = halves(&words);
            match len {
                32 if start % 64 == 0 => first,
                32 => second,
                _ => added(first, second),
            }
        }
    }

    #[inline(always)]
    fn sum_pair(&mut self, simd: Avx2<VNNI>, start: usize) -> [[[__m256i; 2]; M]; 2] {
        let words = self.words(simd, start / COLUMNS..start / COLUMNS + 1);
        // SAFETY: as above.
        unsafe { halves(&words) }
    }
}

impl<const M: usize, const COLUMNS: usize> Straight<'_, M, COLUMNS> {
    /// The sums over a range of tiles.
    #[inline(always)]
    fn words<const VNNI: bool>(&self, simd: Avx2<VNNI>, tiles: Range<usize>) -> [Words; M] {
        let mut words: [Words; M] = [[[simd.splat_i32(0)[0]; 2]; 2]; M];
        for index in tiles {
            if let Some(ahead) = self.ahead.get(index + PREFETCH_TILES) {
                simd.prefetch(ahead);
            }
            // SAFETY: the token proves that the machine has AVX2.
            unsafe { self.add(index, &mut words) }
        }
        words
    }
}

// The functions marked `unsafe` below are for code compiled with AVX2, into which they are inlined; they have no closures, which
// would be code of no instruction set.

/// Sums of 16 rows in lanes, for the pairs of rows that begin at r = 0 and 2. 4-bit codes: of rows 0–7, then of 8–15, each vector those
/// of r, r + 1, r + 4 and r + 5 over the first and the second 32 columns. 8-bit codes: rows r, r + 8, r + 1, r + 9 and the same from
/// r + 4 on; the others are not used.
type Words = [[__m256i; 2]; 2];

impl<const M: usize, const COLUMNS: usize> Straight<'_, M, COLUMNS> {
    /// Adds a tile's sums for each token.
    #[inline(always)]
    unsafe fn add(&self, index: usize, words: &mut [Words; M]) {
        // SAFETY: the caller's: code compiled with AVX2; what is read is of fixed length.
        unsafe {
            let tile = &self.tiles[index];
            let mut x = [[_mm256_setzero_si256(); 4]; M];
            for m in 0..M {
                let columns: &[u8] = bytemuck::cast_slice(&self.x[m][index]);
                x[m] = if COLUMNS == 32 { spread(columns) } else { in_tile_order(columns) };
            }
            for pair in 0..2 {
                if COLUMNS == 32 {
                    add_eight(tile, &x, pair, words);
                } else {
                    add_four(tile, &x, pair, words);
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn load(bytes: &[u8; 32]) -> __m256i {
    // SAFETY: the caller's: code compiled with AVX2; what is read is of fixed length.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

/// The lower parts of two vectors.
#[inline(always)]
unsafe fn lower(a: __m256i, b: __m256i) -> __m256i {
    // SAFETY: the caller's: code compiled with AVX2; what is read is of fixed length.
    unsafe { _mm256_permute2x128_si256::<0x20>(a, b) }
}

/// The upper parts of two vectors.
#[inline(always)]
unsafe fn upper(a: __m256i, b: __m256i) -> __m256i {
    // SAFETY: the caller's: code compiled with AVX2; what is read is of fixed length.
    unsafe { _mm256_permute2x128_si256::<0x31>(a, b) }
}

/// A token's words of four columns where lanes of a tile have theirs: word j of lane p is 8 · (j mod 2) + 4 · ⌊j / 2⌋ + p.
#[inline(always)]
unsafe fn in_tile_order(columns: &[u8]) -> [__m256i; 4] {
    // SAFETY: the caller's: code compiled with AVX2; what is read is of fixed length.
    unsafe {
        let a = load(columns[..32].try_into().expect("32 of 64"));
        let b = load(columns[32..].try_into().expect("32 of 64"));
        let (even, odd) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
        let zero = _mm256_setzero_si256();
        [_mm256_permute4x64_epi64::<0b11_01_10_00>(even), _mm256_permute4x64_epi64::<0b11_01_10_00>(odd), zero, zero]
    }
}

/// A token's columns 4p.. for both rows of a tile's lane p, then 16 + 4p.., in 16 bits, for each p.
#[inline(always)]
unsafe fn spread(columns: &[u8]) -> [__m256i; 4] {
    // SAFETY: the caller's: code compiled with AVX2; what is read is of fixed length.
    unsafe {
        let columns = load(columns.try_into().expect("32 columns"));
        let first = _mm256_cvtepi8_epi16(_mm256_castsi256_si128(columns));
        let second = _mm256_cvtepi8_epi16(_mm256_extracti128_si256::<1>(columns));
        [
            _mm256_blend_epi32::<0xF0>(
                _mm256_permute4x64_epi64::<0x00>(first),
                _mm256_permute4x64_epi64::<0x00>(second),
            ),
            _mm256_blend_epi32::<0xF0>(
                _mm256_permute4x64_epi64::<0x55>(first),
                _mm256_permute4x64_epi64::<0x55>(second),
            ),
            _mm256_blend_epi32::<0xF0>(
                _mm256_permute4x64_epi64::<0xAA>(first),
                _mm256_permute4x64_epi64::<0xAA>(second),
            ),
            _mm256_blend_epi32::<0xF0>(
                _mm256_permute4x64_epi64::<0xFF>(first),
                _mm256_permute4x64_epi64::<0xFF>(second),
            ),
        ]
    }
}

/// Adds what a tile of 4-bit codes has of the rows of a pair.
///
/// Sums stay in 16 bits up to those over half of a row's columns: 32 · 15 · 128 spread over two lanes is below 2¹⁵.
#[inline(always)]
unsafe fn add_four<const M: usize>(
    tile: &[u8; TILE_BYTES],
    x: &[[__m256i; 4]; M],
    pair: usize,
    words: &mut [Words; M],
) {
    // SAFETY: the caller's: code compiled with AVX2; what is read is of fixed length.
    unsafe {
        let (lines, mask) = (tile.as_chunks::<64>().0, _mm256_set1_epi8(15));
        // of rows r and r + 4, r = 2 · pair and the next, by nibble
        let mut rows = [[[_mm256_setzero_si256(); 2]; 2]; M];
        for i in 0..2 {
            let mut sums = [[[_mm256_setzero_si256(); 2]; 2]; M];
            for far in 0..2 {
                let line = lines[2 * pair + i + 4 * far].as_chunks::<32>().0;
                for (side, codes) in line.iter().enumerate() {
                    let codes = load(codes);
                    let low = _mm256_and_si256(codes, mask);
                    let high = _mm256_and_si256(_mm256_srli_epi16::<4>(codes), mask);
                    for m in 0..M {
                        let low = _mm256_maddubs_epi16(low, x[m][side]);
                        let high = _mm256_maddubs_epi16(high, x[m][side]);
                        sums[m][far] =
                            [_mm256_add_epi16(sums[m][far][0], low), _mm256_add_epi16(sums[m][far][1], high)];
                    }
                }
            }
            for m in 0..M {
                let [near, far] = sums[m];
                for nibble in 0..2 {
                    rows[m][i][nibble] =
                        _mm256_add_epi16(lower(near[nibble], far[nibble]), upper(near[nibble], far[nibble]));
                }
            }
        }
        for m in 0..M {
            let [a, b] = rows[m];
            for nibble in 0..2 {
                let (a, b) = (a[nibble], b[nibble]);
                let halves = _mm256_add_epi16(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
                let halves = _mm256_madd_epi16(halves, _mm256_set1_epi16(1));
                words[m][nibble][pair] = _mm256_add_epi32(words[m][nibble][pair], halves);
            }
        }
    }
}

/// Adds what a tile of 8-bit codes has of the rows of a pair.
#[inline(always)]
unsafe fn add_eight<const M: usize>(
    tile: &[u8; TILE_BYTES],
    x: &[[__m256i; 4]; M],
    pair: usize,
    words: &mut [Words; M],
) {
    // SAFETY: the caller's: code compiled with AVX2; what is read is of fixed length.
    unsafe {
        let lines = tile.as_chunks::<64>().0;
        let mut parts = [[_mm256_setzero_si256(); 2]; M];
        for far in 0..2 {
            let mut rows = [[_mm256_setzero_si256(); 2]; M];
            for i in 0..2 {
                for (p, lane) in lines[2 * pair + i + 4 * far].as_chunks::<16>().0.iter().enumerate() {
                    let codes = _mm256_cvtepi8_epi16(_mm_loadu_si128(lane.as_ptr().cast()));
                    for m in 0..M {
                        rows[m][i] = _mm256_add_epi32(rows[m][i], _mm256_madd_epi16(codes, x[m][p]));
                    }
                }
            }
            for m in 0..M {
                parts[m][far] = _mm256_hadd_epi32(rows[m][0], rows[m][1]);
            }
        }
        for m in 0..M {
            let [near, far] = parts[m];
            let sums = _mm256_add_epi32(lower(near, far), upper(near, far));
            words[m][0][pair] = _mm256_add_epi32(words[m][0][pair], sums);
        }
    }
}

/// Every other lane of two vectors, from lane `ODD` on, part by part.
#[inline(always)]
unsafe fn every_other<const ODD: bool>([a, b]: [__m256i; 2]) -> __m256i {
    // SAFETY: the caller's: code compiled with AVX2; what is read is of fixed length.
    unsafe {
        let (a, b) = (_mm256_castsi256_ps(a), _mm256_castsi256_ps(b));
        _mm256_castps_si256(if ODD { _mm256_shuffle_ps::<0xDD>(a, b) } else { _mm256_shuffle_ps::<0x88>(a, b) })
    }
}

/// Sums of rows of 4-bit codes over the first and over the second half of tiles.
#[inline(always)]
unsafe fn halves<const M: usize>(words: &[Words; M]) -> [[[__m256i; 2]; M]; 2] {
    // SAFETY: the caller's: code compiled with AVX2; what is read is of fixed length.
    unsafe {
        let mut halves = [[[_mm256_setzero_si256(); 2]; M]; 2];
        for m in 0..M {
            for nibble in 0..2 {
                halves[0][m][nibble] = every_other::<false>(words[m][nibble]);
                halves[1][m][nibble] = every_other::<true>(words[m][nibble]);
            }
        }
        halves
    }
}

#[inline(always)]
unsafe fn added<const M: usize>(mut first: [[__m256i; 2]; M], second: [[__m256i; 2]; M]) -> [[__m256i; 2]; M] {
    // SAFETY: the caller's: code compiled with AVX2; what is read is of fixed length.
    unsafe {
        for m in 0..M {
            for v in 0..2 {
                first[m][v] = _mm256_add_epi32(first[m][v], second[m][v]);
            }
        }
        first
    }
}

/// Sums of rows of 8-bit codes.
#[inline(always)]
unsafe fn eight_rows<const M: usize>(words: &[Words; M]) -> [[__m256i; 2]; M] {
    // SAFETY: the caller's: code compiled with AVX2; what is read is of fixed length.
    unsafe {
        let mut rows = [[_mm256_setzero_si256(); 2]; M];
        for m in 0..M {
            rows[m] = [every_other::<false>(words[m][0]), every_other::<true>(words[m][0])];
        }
        rows
    }
}
