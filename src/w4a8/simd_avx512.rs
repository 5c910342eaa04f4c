//! The kernels in AVX-512 with VNNI. 16 rows are the 16 lanes of a vector.

use super::pack::{TILE_BYTES, TILE_N};
use super::tile::{TileCodes, TileScales, TileZero, Tokens};
use super::weight::{Bits, QQQ_GROUP};
use half::f16;
use std::arch::x86_64::*;

/// Bytes ahead of the current tile that are asked for: enough to cover memory latency at one core's bandwidth.
const PREFETCH_BYTES: usize = 4096;

/// Transposes four rows of four 32-bit columns inside each 128-bit part:
/// (row, part4, column4) → (column, part4, row4).
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose4(v: [__m512i; 4]) -> [__m512i; 4] {
    let (low01, high01) = (_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[0], v[1]));
    let (low23, high23) = (_mm512_unpacklo_epi32(v[2], v[3]), _mm512_unpackhi_epi32(v[2], v[3]));
    [
        _mm512_unpacklo_epi64(low01, low23),
        _mm512_unpackhi_epi64(low01, low23),
        _mm512_unpacklo_epi64(high01, high23),
        _mm512_unpackhi_epi64(high01, high23),
    ]
}

/// Transposes the 128-bit parts of four vectors.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose_parts([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    let (ab0, ab1) = (_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0xEE>(a, b));
    let (cd0, cd1) = (_mm512_shuffle_i32x4::<0x44>(c, d), _mm512_shuffle_i32x4::<0xEE>(c, d));
    [
        _mm512_shuffle_i32x4::<0x88>(ab0, cd0),
        _mm512_shuffle_i32x4::<0xDD>(ab0, cd0),
        _mm512_shuffle_i32x4::<0x88>(ab1, cd1),
        _mm512_shuffle_i32x4::<0xDD>(ab1, cd1),
    ]
}

/// Adds the four 128-bit parts of each of four vectors: part i of the result is the sum over vector i.
#[inline]
#[target_feature(enable = "avx512f")]
fn add_parts([a, b, c, d]: [__m512i; 4]) -> __m512i {
    let ab = _mm512_add_epi32(_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0xEE>(a, b));
    let cd = _mm512_add_epi32(_mm512_shuffle_i32x4::<0x44>(c, d), _mm512_shuffle_i32x4::<0xEE>(c, d));
    _mm512_add_epi32(_mm512_shuffle_i32x4::<0x88>(ab, cd), _mm512_shuffle_i32x4::<0xDD>(ab, cd))
}

/// Loads rows 4·`quad`..4·`quad` + 4 of each half of a tile: (row4, lane4 of the row, word4).
#[inline]
#[target_feature(enable = "avx512f")]
fn load_rows(tile: &[u8; TILE_BYTES], quad: usize) -> [__m512i; 4] {
    let lines = tile.as_chunks::<64>().0;
    // SAFETY: a line is 64 readable bytes.
    std::array::from_fn(|row| unsafe { _mm512_loadu_si512(lines[4 * quad + row].as_ptr().cast()) })
}

/// The unsigned codes of a 4-bit tile, before or after a table: words (low, high nibbles) of four rows each.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn nibbles(v: __m512i) -> (__m512i, __m512i) {
    let mask = _mm512_set1_epi8(15);
    (_mm512_and_si512(v, mask), _mm512_and_si512(_mm512_srli_epi16::<4>(v), mask))
}

/// Unpacks the tiles of 16 rows into a panel of unsigned codes \[K/4\]\[16\]\[4\].
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(crate) fn unpack(tiles: &[u8], codes: TileCodes<'_>, panel: &mut [u8]) {
    let tiles = tiles.as_chunks::<TILE_BYTES>().0;
    let mut panel = panel.as_chunks_mut::<64>().0.iter_mut();
    let mut store = |v: __m512i| {
        let line = panel.next().expect("the panel has a line for every four columns");
        // SAFETY: a line is 64 writable bytes.
        unsafe { _mm512_storeu_si512(line.as_mut_ptr().cast(), v) };
    };
    let mut tables = [_mm512_setzero_si512(); TILE_N];
    for (index, tile) in tiles.iter().enumerate() {
        let (a, b) = (load_rows(tile, 0), load_rows(tile, 1));
        if matches!(codes, TileCodes::Eight) {
            // word j: rows + 8·(j mod 2), columns 16·⌊j/2⌋ + 4·lane
            let (a, b) = (transpose4(a), transpose4(b));
            let sign = _mm512_set1_epi8(-128);
            for half in 0..2 {
                let parts = transpose_parts([a[2 * half], b[2 * half], a[2 * half + 1], b[2 * half + 1]]);
                parts.into_iter().for_each(|part| store(_mm512_xor_si512(part, sign)));
            }
            continue;
        }
        if let TileCodes::Qqq(scales) = codes
            && index % (QQQ_GROUP / 64) == 0
        {
            tables =
                scales.get(index * 64 / QQQ_GROUP).map_or([_mm512_set1_epi8(-128); TILE_N], |scale| qqq_tables(scale));
        }
        let mut halves = [[_mm512_setzero_si512(); 4]; 4]; // rows 0-3, 4-7, 8-11, 12-15; by row
        for row in 0..4 {
            (halves[0][row], halves[2][row]) = nibbles(a[row]);
            (halves[1][row], halves[3][row]) = nibbles(b[row]);
        }
        if matches!(codes, TileCodes::Qqq(_)) {
            for (half, quad) in halves.iter_mut().zip(tables.as_chunks::<4>().0) {
                for (codes, table) in half.iter_mut().zip(quad) {
                    *codes = _mm512_shuffle_epi8(*table, *codes);
                }
            }
        }
        let [r0, r1, r2, r3] = halves.map(|half| transpose4(half));
        // words 0, 2 are columns 0..32, words 1, 3 columns 32..64
        for word in [0, 2, 1, 3] {
            transpose_parts([r0[word], r1[word], r2[word], r3[word]]).into_iter().for_each(&mut store);
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
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn ints<const M: usize>(panel: &[u8], tokens: &Tokens<'_>, start: usize, len: usize) -> [__m512i; M] {
    let mut acc = [_mm512_setzero_si512(); M];
    let lines = &panel.as_chunks::<64>().0[start / 4..(start + len) / 4];
    let x: [&[[u8; 4]]; M] = std::array::from_fn(|m| {
        let codes = &tokens.codes[m * tokens.stride + start..][..len];
        bytemuck::cast_slice::<i8, u8>(codes).as_chunks::<4>().0
    });
    for (k4, line) in lines.iter().enumerate() {
        // SAFETY: a line is 64 readable bytes.
        let w = unsafe { _mm512_loadu_si512(line.as_ptr().cast()) };
        for (acc, x) in acc.iter_mut().zip(x) {
            // SAFETY: every x has len/4 elements, as `lines` has.
            let a = i32::from_le_bytes(unsafe { *x.get_unchecked(k4) });
            *acc = _mm512_dpbusd_epi32(*acc, w, _mm512_set1_epi32(a));
        }
    }
    acc
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,f16c")]
fn dot_block<const M: usize>(
    panel: &[u8],
    tokens: Tokens<'_>,
    scales: &TileScales<'_>,
    out: &mut [[f32; TILE_N]],
) -> usize {
    let mut sums = Combine::<M>::new(tokens);
    match *scales {
        TileScales::PerChannel { scale, zero } => {
            sums.channel(ints::<M>(panel, &tokens, 0, tokens.stride), scale, zero);
        }
        TileScales::PerGroup { group_size, scale, zero } => {
            for (g, scale) in scale.iter().enumerate() {
                let ints = ints::<M>(panel, &tokens, g * group_size, group_size);
                sums.group(ints, group_size, g, scale, zero);
            }
        }
        TileScales::TwoLevel { group_size, group_scale, scale } => {
            for (g, group_scale) in group_scale.iter().enumerate() {
                let ints = ints::<M>(panel, &tokens, g * group_size, group_size);
                sums.integer(ints, group_size, g, group_scale);
            }
            sums.integers_to_channel(scale);
        }
    }
    sums.store(out);
    M
}

/// The sums of M tokens over the groups so far.
struct Combine<'a, const M: usize> {
    tokens: Tokens<'a>,
    acc: [__m512; M],
    total: [__m512i; M],
}

impl<'a, const M: usize> Combine<'a, M> {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn new(tokens: Tokens<'a>) -> Self {
        Combine { tokens, acc: [_mm512_setzero_ps(); M], total: [_mm512_setzero_si512(); M] }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn channel(&mut self, ints: [__m512i; M], scale: &[f32; TILE_N], zero: i32) {
        for m in 0..M {
            let sum = self.tokens.sum(m, None, 0).wrapping_mul(zero);
            self.total[m] = _mm512_sub_epi32(ints[m], _mm512_set1_epi32(sum));
        }
        self.integers_to_channel(scale);
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512vl,f16c")]
    fn group(&mut self, ints: [__m512i; M], group_size: usize, g: usize, scale: &[f16; TILE_N], zero: TileZero<'_>) {
        let scale = widen(scale);
        for m in 0..M {
            let sum = self.tokens.sum(m, Some(group_size), g);
            let subtract = match zero {
                TileZero::Fixed(zero) | TileZero::Offset(_, zero) => _mm512_set1_epi32(zero * sum),
                TileZero::ZeroPoint(points) => _mm512_mullo_epi32(widen_u8(&points[g]), _mm512_set1_epi32(sum)),
            };
            let ints = _mm512_cvtepi32_ps(_mm512_sub_epi32(ints[m], subtract));
            self.acc[m] = _mm512_fmadd_ps(ints, scale, self.acc[m]);
            if let TileZero::Offset(offset, _) = zero {
                self.acc[m] = _mm512_fmadd_ps(_mm512_set1_ps(sum as f32), widen(&offset[g]), self.acc[m]);
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512vl")]
    fn integer(&mut self, ints: [__m512i; M], group_size: usize, g: usize, group_scale: &[u8; TILE_N]) {
        let scale = widen_u8(group_scale);
        for m in 0..M {
            let sum = self.tokens.sum(m, Some(group_size), g);
            let ints = _mm512_sub_epi32(ints[m], _mm512_set1_epi32(8 * sum));
            self.total[m] = _mm512_add_epi32(self.total[m], _mm512_mullo_epi32(ints, scale));
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn integers_to_channel(&mut self, scale: &[f32; TILE_N]) {
        // SAFETY: 16 readable f32.
        let scale = unsafe { _mm512_loadu_ps(scale.as_ptr()) };
        for m in 0..M {
            self.acc[m] = _mm512_mul_ps(_mm512_cvtepi32_ps(self.total[m]), scale);
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn store(self, out: &mut [[f32; TILE_N]]) {
        for (out, acc) in out[..M].iter_mut().zip(self.acc) {
            // SAFETY: 16 writable f32.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), acc) };
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,f16c")]
fn widen(scale: &[f16; TILE_N]) -> __m512 {
    // SAFETY: 16 f16 are 32 readable bytes.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(scale.as_ptr().cast()) })
}

#[inline]
#[target_feature(enable = "avx512f")]
fn widen_u8(values: &[u8; TILE_N]) -> __m512i {
    // SAFETY: 16 readable bytes.
    _mm512_cvtepu8_epi32(unsafe { _mm_loadu_si128(values.as_ptr().cast()) })
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
    let mut sums = Combine::<M>::new(tokens);
    let steps = Steps { tiles: tiles.as_chunks().0, tokens };
    let zero = [[_mm512_setzero_si512(); 4]; M];
    match *scales {
        TileScales::PerChannel { scale, zero: point } => {
            let mut acc = zero;
            (0..tokens.stride / 64).for_each(|k64| steps.add64::<M, EIGHT>(k64, &mut acc));
            sums.channel(acc.map(|parts| add_parts(parts)), scale, point);
        }
        TileScales::PerGroup { group_size: 32, scale, zero: point } => {
            for (k64, pair) in scale.chunks(2).enumerate() {
                let mut acc = [zero; 2];
                steps.add32::<M, EIGHT>(k64, &mut acc);
                for (half, scale) in pair.iter().enumerate() {
                    sums.group(acc[half].map(|parts| add_parts(parts)), 32, 2 * k64 + half, scale, point);
                }
            }
        }
        TileScales::PerGroup { group_size, scale, zero: point } => {
            for (g, scale) in scale.iter().enumerate() {
                let mut acc = zero;
                for k64 in g * group_size / 64..(g + 1) * group_size / 64 {
                    steps.add64::<M, EIGHT>(k64, &mut acc);
                }
                sums.group(acc.map(|parts| add_parts(parts)), group_size, g, scale, point);
            }
        }
        TileScales::TwoLevel { group_size: 32, group_scale, scale } => {
            for (k64, pair) in group_scale.chunks(2).enumerate() {
                let mut acc = [zero; 2];
                steps.add32::<M, EIGHT>(k64, &mut acc);
                for (half, group_scale) in pair.iter().enumerate() {
                    sums.integer(acc[half].map(|parts| add_parts(parts)), 32, 2 * k64 + half, group_scale);
                }
            }
            sums.integers_to_channel(scale);
        }
        TileScales::TwoLevel { group_size, group_scale, scale } => {
            for (g, group_scale) in group_scale.iter().enumerate() {
                let mut acc = zero;
                for k64 in g * group_size / 64..(g + 1) * group_size / 64 {
                    steps.add64::<M, EIGHT>(k64, &mut acc);
                }
                sums.integer(acc.map(|parts| add_parts(parts)), group_size, g, group_scale);
            }
            sums.integers_to_channel(scale);
        }
    }
    sums.store(out);
}

struct Steps<'a> {
    tiles: &'a [[u8; TILE_BYTES]],
    tokens: Tokens<'a>,
}

impl Steps<'_> {
    /// Adds columns 64·`k64`.. into one set of sums.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    fn add64<const M: usize, const EIGHT: bool>(&self, k64: usize, acc: &mut [Parts; M]) {
        if EIGHT {
            (0..2).for_each(|half| self.add_tile8(2 * k64 + half, acc));
        } else {
            self.add_tile4::<M>(k64, |_, m, rows, w, x| acc[m][rows] = _mm512_dpbusd_epi32(acc[m][rows], w, x));
        }
    }

    /// Adds columns 64·`k64`.. into two sets of sums, one for each 32 columns.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    fn add32<const M: usize, const EIGHT: bool>(&self, k64: usize, acc: &mut [[Parts; M]; 2]) {
        if EIGHT {
            (0..2).for_each(|half| self.add_tile8(2 * k64 + half, &mut acc[half]));
        } else {
            self.add_tile4::<M>(k64, |half, m, rows, w, x| {
                acc[half][m][rows] = _mm512_dpbusd_epi32(acc[half][m][rows], w, x);
            });
        }
    }

    /// Token m's four words of columns `column`.. + 16, word t in all of part t.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn words(&self, m: usize, column: usize) -> __m512i {
        let x = &self.tokens.codes[m * self.tokens.stride + column..][..16];
        let spread = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
        // SAFETY: 16 readable bytes.
        let x = unsafe { _mm_loadu_si128(x.as_ptr().cast()) };
        _mm512_permutexvar_epi32(spread, _mm512_castsi128_si512(x))
    }

    /// Calls `add(32-column half, token, rows of four, codes, activations)` for each part of a 4-bit tile.
    #[inline(always)]
    fn add_tile4<const M: usize>(&self, index: usize, mut add: impl FnMut(usize, usize, usize, __m512i, __m512i)) {
        let tile = &self.tiles[index];
        // SAFETY: the callers have AVX-512; prefetching any address is harmless.
        unsafe {
            for line in 0..8 {
                let ahead = tile.as_ptr().wrapping_add(PREFETCH_BYTES + 64 * line);
                _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
            }
            let (a, b) = (transpose4(load_rows(tile, 0)), transpose4(load_rows(tile, 1)));
            for word in 0..4 {
                let (half, column) = (word % 2, 32 * (word % 2) + 16 * (word / 2));
                let ((a_low, a_high), (b_low, b_high)) = (nibbles(a[word]), nibbles(b[word]));
                for m in 0..M {
                    let x = self.words(m, 64 * index + column);
                    add(half, m, 0, a_low, x);
                    add(half, m, 1, b_low, x);
                    add(half, m, 2, a_high, x);
                    add(half, m, 3, b_high, x);
                }
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    fn add_tile8<const M: usize>(&self, index: usize, acc: &mut [Parts; M]) {
        let tile = &self.tiles[index];
        for line in 0..8 {
            let ahead = tile.as_ptr().wrapping_add(PREFETCH_BYTES + 64 * line);
            _mm_prefetch::<_MM_HINT_T0>(ahead.cast()); // any address is harmless
        }
        let (a, b) = (transpose4(load_rows(tile, 0)), transpose4(load_rows(tile, 1)));
        let sign = _mm512_set1_epi8(-128);
        for word in 0..4 {
            let (high, column) = (word % 2, 16 * (word / 2));
            let (a, b) = (_mm512_xor_si512(a[word], sign), _mm512_xor_si512(b[word], sign));
            for m in 0..M {
                let x = self.words(m, 32 * index + column);
                acc[m][2 * high] = _mm512_dpbusd_epi32(acc[m][2 * high], a, x);
                acc[m][2 * high + 1] = _mm512_dpbusd_epi32(acc[m][2 * high + 1], b, x);
            }
        }
    }
}
