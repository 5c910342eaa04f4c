//! The kernels in AVX-512 with VNNI. 16 rows are the 16 lanes of a vector.

use super::pack::{TILE_BYTES, TILE_N};
use super::tile::{TileCodes, TileScales, TileZero, Tokens};
use super::weight::{Bits, QQQ_GROUP};
use half::f16;
use std::arch::x86_64::*;
use std::ops::Range;

/// Bytes ahead of the current tile that are asked for: enough to cover memory latency at one core's bandwidth.
const PREFETCH_BYTES: usize = 4096;

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

/// Unpacks the tiles of 16 rows into a panel of unsigned codes \[K/4\]\[16\]\[4\].
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(crate) fn unpack(tiles: &[u8], codes: TileCodes<'_>, panel: &mut [u8]) {
    let tiles = tiles.as_chunks::<TILE_BYTES>().0;
    let tile_k = if matches!(codes, TileCodes::Eight) { 32 } else { 64 };
    assert!(panel.len() >= tiles.len() * tile_k * TILE_N);
    let mut tables = [_mm512_setzero_si512(); TILE_N];
    for (index, (tile, out)) in tiles.iter().zip(panel.chunks_exact_mut(tile_k * TILE_N)).enumerate() {
        // SAFETY: this function has the instruction set; `out` has a line for every four columns of the tile.
        unsafe {
            let (a, b) = (load_rows(tile, 0), load_rows(tile, 1));
            match codes {
                TileCodes::Eight => unpack_eight(a, b, out),
                TileCodes::Four => unpack_four(a, b, None, out),
                TileCodes::Qqq(scales) => {
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
        let table = super::tile::qqq_table(scale);
        // SAFETY: a table is 16 readable bytes.
        _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(table.as_ptr().cast()) })
    })
}

/// Multiplies a panel with every token: `out\[token\]\[row\]` is the sum over K before act_scale.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,f16c")]
pub(crate) fn dot(panel: &[u8], tokens: Tokens<'_>, scales: &TileScales<'_>, out: &mut [[f32; TILE_N]]) {
    let mut start = 0;
    while start < tokens.count {
        let rest = tokens.count - start;
        let out = &mut out[start..];
        start += match rest {
            12.. => dot_block::<12>(panel, tokens.range(start, 12), scales, out),
            8.. => dot_block::<8>(panel, tokens.range(start, 8), scales, out),
            4.. => dot_block::<4>(panel, tokens.range(start, 4), scales, out),
            2.. => dot_block::<2>(panel, tokens.range(start, 2), scales, out),
            _ => dot_block::<1>(panel, tokens.range(start, 1), scales, out),
        };
    }
}

/// Σ u·a over columns `start..start + len` for M tokens.
///
/// # Safety
/// For code compiled with AVX-512 VNNI; the panel and the tokens must hold those columns.
#[inline(always)]
unsafe fn ints<const M: usize>(panel: &[u8], tokens: &Tokens<'_>, start: usize, len: usize) -> [__m512i; M] {
    debug_assert!(panel.len() >= (start + len) * TILE_N && tokens.codes.len() >= M * tokens.stride);
    // SAFETY: the caller's.
    unsafe {
        let mut acc = [_mm512_setzero_si512(); M];
        let panel = panel.as_ptr().add(start * TILE_N);
        let x = tokens.codes.as_ptr().add(start);
        for k4 in 0..len / 4 {
            let w = _mm512_loadu_si512(panel.add(64 * k4).cast());
            for m in 0..M {
                let a = x.add(m * tokens.stride + 4 * k4).cast::<i32>().read_unaligned();
                acc[m] = _mm512_dpbusd_epi32(acc[m], w, _mm512_set1_epi32(a));
            }
        }
        acc
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,f16c")]
fn dot_block<const M: usize>(
    panel: &[u8],
    tokens: Tokens<'_>,
    scales: &TileScales<'_>,
    out: &mut [[f32; TILE_N]],
) -> usize {
    assert!(panel.len() >= tokens.stride * TILE_N && out.len() >= M);
    assert!(tokens.codes.len() >= M * tokens.stride && tokens.sums.len() >= M * tokens.groups);
    // SAFETY: this function has the instruction set; the lengths are asserted, and groups end within K ≤ stride.
    unsafe {
        let mut sums = Combine::<M>::new(tokens);
        match *scales {
            TileScales::PerChannel { scale, zero } => {
                sums.channel(ints::<M>(panel, &tokens, 0, tokens.stride), scale, zero);
            }
            TileScales::PerGroup { group_size, scale, zero } => {
                for (g, scale) in scale.iter().enumerate() {
                    let ints = ints::<M>(panel, &tokens, g * group_size, group_size);
                    sums.group(ints, g, scale, zero);
                }
            }
            TileScales::TwoLevel { group_size, group_scale, scale } => {
                for (g, group_scale) in group_scale.iter().enumerate() {
                    let ints = ints::<M>(panel, &tokens, g * group_size, group_size);
                    sums.integer(ints, g, group_scale);
                }
                sums.integers_to_channel(scale);
            }
        }
        sums.store(out);
    }
    M
}

/// The sums of M tokens over the groups so far. Its functions are for code compiled with AVX-512.
struct Combine<'a, const M: usize> {
    tokens: Tokens<'a>,
    acc: [__m512; M],
    total: [__m512i; M],
}

impl<'a, const M: usize> Combine<'a, M> {
    #[inline(always)]
    unsafe fn new(tokens: Tokens<'a>) -> Self {
        // SAFETY: the caller has the instruction set.
        unsafe { Combine { tokens, acc: [_mm512_setzero_ps(); M], total: [_mm512_setzero_si512(); M] } }
    }

    /// Σ codes of token m in group g, in every lane.
    #[inline(always)]
    unsafe fn sum(&self, m: usize, g: usize) -> __m512i {
        // SAFETY: the caller has the instruction set and m < M, g < groups, as many as the sums.
        unsafe { _mm512_set1_epi32(*self.tokens.sums.as_ptr().add(m * self.tokens.groups + g)) }
    }

    /// ints − zero · Σ codes.
    #[inline(always)]
    unsafe fn subtract(&self, ints: __m512i, zero: i32, m: usize, g: usize) -> __m512i {
        // SAFETY: the caller's. Zeros are 0 or powers of two.
        unsafe {
            match zero {
                0 => ints,
                8 => _mm512_sub_epi32(ints, _mm512_slli_epi32::<3>(self.sum(m, g))),
                _ => _mm512_sub_epi32(ints, _mm512_slli_epi32::<7>(self.sum(m, g))),
            }
        }
    }

    #[inline(always)]
    unsafe fn channel(&mut self, ints: [__m512i; M], scale: &[f32; TILE_N], zero: i32) {
        // SAFETY: the caller's.
        unsafe {
            for m in 0..M {
                self.total[m] = self.subtract(ints[m], zero, m, 0);
            }
            self.integers_to_channel(scale);
        }
    }

    #[inline(always)]
    unsafe fn group(&mut self, ints: [__m512i; M], g: usize, scale: &[f16; TILE_N], zero: TileZero<'_>) {
        // SAFETY: the caller's.
        unsafe {
            let scale = widen(scale);
            match zero {
                TileZero::Fixed(zero) => {
                    for m in 0..M {
                        let ints = _mm512_cvtepi32_ps(self.subtract(ints[m], zero, m, g));
                        self.acc[m] = _mm512_fmadd_ps(ints, scale, self.acc[m]);
                    }
                }
                TileZero::ZeroPoint(points) => {
                    let points = widen_u8(&points[g]);
                    for m in 0..M {
                        let ints = _mm512_sub_epi32(ints[m], _mm512_mullo_epi32(points, self.sum(m, g)));
                        self.acc[m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(ints), scale, self.acc[m]);
                    }
                }
                TileZero::Offset(offset, zero) => {
                    let offset = widen(&offset[g]);
                    for m in 0..M {
                        let ints = _mm512_cvtepi32_ps(self.subtract(ints[m], zero, m, g));
                        let acc = _mm512_fmadd_ps(ints, scale, self.acc[m]);
                        self.acc[m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(self.sum(m, g)), offset, acc);
                    }
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn integer(&mut self, ints: [__m512i; M], g: usize, group_scale: &[u8; TILE_N]) {
        // SAFETY: the caller's.
        unsafe {
            let scale = widen_u8(group_scale);
            for m in 0..M {
                let ints = self.subtract(ints[m], 8, m, g);
                self.total[m] = _mm512_add_epi32(self.total[m], _mm512_mullo_epi32(ints, scale));
            }
        }
    }

    #[inline(always)]
    unsafe fn integers_to_channel(&mut self, scale: &[f32; TILE_N]) {
        // SAFETY: the caller has the instruction set; 16 readable f32.
        unsafe {
            let scale = _mm512_loadu_ps(scale.as_ptr());
            for m in 0..M {
                self.acc[m] = _mm512_mul_ps(_mm512_cvtepi32_ps(self.total[m]), scale);
            }
        }
    }

    #[inline(always)]
    unsafe fn store(self, out: &mut [[f32; TILE_N]]) {
        for m in 0..M {
            // SAFETY: the caller has the instruction set; 16 writable f32.
            unsafe { _mm512_storeu_ps(out[m].as_mut_ptr(), self.acc[m]) };
        }
    }
}

#[inline(always)]
unsafe fn widen(scale: &[f16; TILE_N]) -> __m512 {
    // SAFETY: the caller has AVX-512; 16 f16 are 32 readable bytes.
    unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(scale.as_ptr().cast())) }
}

#[inline(always)]
unsafe fn widen_u8(values: &[u8; TILE_N]) -> __m512i {
    // SAFETY: the caller has AVX-512; 16 readable bytes.
    unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(values.as_ptr().cast())) }
}

/// Multiplies straight from the tiles, without a panel, for up to four tokens.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,f16c")]
pub(crate) fn gemv(tiles: &[u8], bits: Bits, tokens: Tokens<'_>, scales: &TileScales<'_>, out: &mut [[f32; TILE_N]]) {
    match (bits, tokens.count) {
        (Bits::Four, 1) => gemv_tokens::<1, false>(tiles, tokens, scales, out),
        (Bits::Four, 2) => gemv_tokens::<2, false>(tiles, tokens, scales, out),
        (Bits::Four, 3) => gemv_tokens::<3, false>(tiles, tokens, scales, out),
        (Bits::Four, _) => gemv_tokens::<4, false>(tiles, tokens, scales, out),
        (Bits::Eight, 1) => gemv_tokens::<1, true>(tiles, tokens, scales, out),
        (Bits::Eight, 2) => gemv_tokens::<2, true>(tiles, tokens, scales, out),
        (Bits::Eight, 3) => gemv_tokens::<3, true>(tiles, tokens, scales, out),
        (Bits::Eight, _) => gemv_tokens::<4, true>(tiles, tokens, scales, out),
    }
}

/// Partial sums of 16 rows for one token: rows 0–3, 4–7, 8–11, 12–15, each with four parts still to be added.
type Parts = [__m512i; 4];

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,f16c")]
fn gemv_tokens<const M: usize, const EIGHT: bool>(
    tiles: &[u8],
    tokens: Tokens<'_>,
    scales: &TileScales<'_>,
    out: &mut [[f32; TILE_N]],
) {
    let tiles = tiles.as_chunks().0;
    let tile_k = if EIGHT { 32 } else { 64 };
    assert!(tiles.len() * tile_k >= tokens.stride && out.len() >= M);
    assert!(tokens.codes.len() >= M * tokens.stride && tokens.sums.len() >= M * tokens.groups);
    let steps = Steps { tiles, tokens };
    // SAFETY: this function has the instruction set; the lengths are asserted, and groups end within K ≤ stride.
    unsafe {
        let mut sums = Combine::<M>::new(tokens);
        match *scales {
            TileScales::PerChannel { scale, zero } => {
                let acc = steps.sum::<M, EIGHT>(0..tokens.stride / 64);
                sums.channel(acc, scale, zero);
            }
            TileScales::PerGroup { group_size: 32, scale, zero } => {
                for (k64, pair) in scale.chunks(2).enumerate() {
                    let halves = steps.sum_halves::<M, EIGHT>(k64);
                    for (half, scale) in pair.iter().enumerate() {
                        sums.group(halves[half], 2 * k64 + half, scale, zero);
                    }
                }
            }
            TileScales::PerGroup { group_size, scale, zero } => {
                let step = group_size / 64;
                for (g, scale) in scale.iter().enumerate() {
                    let acc = steps.sum::<M, EIGHT>(g * step..(g + 1) * step);
                    sums.group(acc, g, scale, zero);
                }
            }
            TileScales::TwoLevel { group_size: 32, group_scale, scale } => {
                for (k64, pair) in group_scale.chunks(2).enumerate() {
                    let halves = steps.sum_halves::<M, EIGHT>(k64);
                    for (half, group_scale) in pair.iter().enumerate() {
                        sums.integer(halves[half], 2 * k64 + half, group_scale);
                    }
                }
                sums.integers_to_channel(scale);
            }
            TileScales::TwoLevel { group_size, group_scale, scale } => {
                let step = group_size / 64;
                for (g, group_scale) in group_scale.iter().enumerate() {
                    let acc = steps.sum::<M, EIGHT>(g * step..(g + 1) * step);
                    sums.integer(acc, g, group_scale);
                }
                sums.integers_to_channel(scale);
            }
        }
        sums.store(out);
    }
}

/// The tiles of 16 rows and the tokens. Its functions are for code compiled with AVX-512 VNNI, and for columns that both
/// the tiles and the tokens have.
struct Steps<'a> {
    tiles: &'a [[u8; TILE_BYTES]],
    tokens: Tokens<'a>,
}

impl Steps<'_> {
    /// Sums over a range of 64 columns each.
    #[inline(always)]
    unsafe fn sum<const M: usize, const EIGHT: bool>(&self, k64: Range<usize>) -> [__m512i; M] {
        // SAFETY: the caller's.
        unsafe {
            let mut acc = [[_mm512_setzero_si512(); 4]; M];
            for k64 in k64 {
                if EIGHT {
                    self.add_tile8(2 * k64, &mut acc);
                    self.add_tile8(2 * k64 + 1, &mut acc);
                } else {
                    self.add_words4::<M, 0>(k64, &mut acc);
                }
            }
            add_all_parts(acc)
        }
    }

    /// Sums over each 32 of the 64 columns of `k64`.
    #[inline(always)]
    unsafe fn sum_halves<const M: usize, const EIGHT: bool>(&self, k64: usize) -> [[__m512i; M]; 2] {
        // SAFETY: the caller's.
        unsafe {
            let mut low = [[_mm512_setzero_si512(); 4]; M];
            let mut high = low;
            if EIGHT {
                self.add_tile8(2 * k64, &mut low);
                self.add_tile8(2 * k64 + 1, &mut high);
            } else {
                self.add_words4::<M, 1>(k64, &mut low);
                self.add_words4::<M, 2>(k64, &mut high);
            }
            [add_all_parts(low), add_all_parts(high)]
        }
    }

    /// Token m's four words of columns `column`.. + 16, word t in all of part t.
    #[inline(always)]
    unsafe fn words(&self, m: usize, column: usize) -> __m512i {
        // SAFETY: the caller's: 16 readable bytes.
        unsafe {
            let x = _mm_loadu_si128(self.tokens.codes.as_ptr().add(m * self.tokens.stride + column).cast());
            let spread = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
            _mm512_permutexvar_epi32(spread, _mm512_castsi128_si512(x))
        }
    }

    /// Adds a 4-bit tile: all its columns (`HALVES` 0), the first 32 (1) or the last 32 (2).
    #[inline(always)]
    unsafe fn add_words4<const M: usize, const HALVES: usize>(&self, index: usize, acc: &mut [Parts; M]) {
        // SAFETY: the caller's.
        unsafe {
            let tile = self.tiles.get_unchecked(index);
            if HALVES != 2 {
                prefetch(tile);
            }
            let (a, b) = (transpose4(load_rows(tile, 0)), transpose4(load_rows(tile, 1)));
            for word in 0..4 {
                if HALVES != 0 && word % 2 != HALVES - 1 {
                    continue;
                }
                let column = 64 * index + 32 * (word % 2) + 16 * (word / 2);
                let ((a_low, a_high), (b_low, b_high)) = (nibbles(a[word]), nibbles(b[word]));
                for m in 0..M {
                    let x = self.words(m, column);
                    acc[m][0] = _mm512_dpbusd_epi32(acc[m][0], a_low, x);
                    acc[m][1] = _mm512_dpbusd_epi32(acc[m][1], b_low, x);
                    acc[m][2] = _mm512_dpbusd_epi32(acc[m][2], a_high, x);
                    acc[m][3] = _mm512_dpbusd_epi32(acc[m][3], b_high, x);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn add_tile8<const M: usize>(&self, index: usize, acc: &mut [Parts; M]) {
        // SAFETY: the caller's.
        unsafe {
            let tile = self.tiles.get_unchecked(index);
            prefetch(tile);
            let (a, b) = (transpose4(load_rows(tile, 0)), transpose4(load_rows(tile, 1)));
            let sign = _mm512_set1_epi8(-128);
            for word in 0..4 {
                let (high, column) = (word % 2, 32 * index + 16 * (word / 2));
                let (a, b) = (_mm512_xor_si512(a[word], sign), _mm512_xor_si512(b[word], sign));
                for m in 0..M {
                    let x = self.words(m, column);
                    acc[m][2 * high] = _mm512_dpbusd_epi32(acc[m][2 * high], a, x);
                    acc[m][2 * high + 1] = _mm512_dpbusd_epi32(acc[m][2 * high + 1], b, x);
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn add_all_parts<const M: usize>(acc: [Parts; M]) -> [__m512i; M] {
    // SAFETY: the caller has the instruction set.
    unsafe {
        let mut sums = [_mm512_setzero_si512(); M];
        for m in 0..M {
            sums[m] = add_parts(acc[m]);
        }
        sums
    }
}

/// Asks for the tile that will be needed [`PREFETCH_BYTES`] from here; past the end it asks for nothing of use.
#[inline(always)]
fn prefetch(tile: &[u8; TILE_BYTES]) {
    for line in 0..TILE_BYTES / 64 {
        let ahead = tile.as_ptr().wrapping_add(PREFETCH_BYTES + 64 * line);
        // SAFETY: a prefetch has no effect on memory and accepts any address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(ahead.cast()) };
    }
}
