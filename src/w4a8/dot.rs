//! Codes times activations, and what becomes of the integers: written once over the instruction sets.

use super::activation::{ACT_BLOCK, ActScales};
use super::format::Bits;
use super::pack::TILE_N;
use super::runs::run_end;
use super::tile::{Tile, TileValues, Tokens};
use crate::simd::{Kernel, Simd};

/// Multiplies a panel with every token: `out\[token\]\[row\]` is the sum over K, before act_scale where a token has one.
pub(crate) struct Dot<'a> {
    /// Unsigned codes \[K/4\]\[16\]\[4\], K rounded up to 64.
    pub panel: &'a [u8],
    pub tile: &'a Tile<'a>,
    pub tokens: Tokens<'a>,
    pub out: &'a mut [[f32; TILE_N]],
}

impl Kernel for Dot<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        match (self.tile.format.bits, self.tile.inner_scales()) {
            (Bits::Four, None) => self.blocks::<S, false>(simd),
            _ => self.blocks::<S, true>(simd),
        }
    }
}

impl Dot<'_> {
    /// Takes as many tokens at a time as registers hold sums of. `BYTES` says that codes may be above 15.
    #[inline(always)]
    fn blocks<S: Simd, const BYTES: bool>(self, simd: S) {
        let wide = S::TILE > 1;
        let mut start = 0;
        while start < self.tokens.count {
            let out = &mut self.out[start..];
            let (tile, panel, rest) = (self.tile, self.panel, self.tokens.count - start);
            start += match rest {
                12.. if wide => block::<S, 12, BYTES>(simd, panel, tile, self.tokens.range(start, 12), out),
                8.. if wide => block::<S, 8, BYTES>(simd, panel, tile, self.tokens.range(start, 8), out),
                4.. => block::<S, 4, BYTES>(simd, panel, tile, self.tokens.range(start, 4), out),
                2.. if wide => block::<S, 2, BYTES>(simd, panel, tile, self.tokens.range(start, 2), out),
                _ => block::<S, 1, BYTES>(simd, panel, tile, self.tokens.range(start, 1), out),
            };
        }
    }
}

/// Multiplies M tokens, and returns M.
#[inline(always)]
fn block<S: Simd, const M: usize, const BYTES: bool>(
    simd: S,
    panel: &[u8],
    tile: &Tile<'_>,
    tokens: Tokens<'_>,
    out: &mut [[f32; TILE_N]],
) -> usize {
    let lines = panel.as_chunks().0;
    let mut codes: [&[[i8; 4]]; M] = [&[]; M];
    for m in 0..M {
        codes[m] = tokens.codes(m).as_chunks().0;
    }
    combine(simd, tile, tokens, Panel::<M, BYTES> { lines, codes }, out);
    M
}

/// Where the exact sums of M tokens and 16 rows come from.
///
/// A trait and not a closure: its method is `#[inline(always)]`, so that it is compiled for the instruction set of the kernel that
/// calls it in several places. A closure there stays a function of its own, of no instruction set, and calls every operation.
pub(crate) trait Integers<S: Simd, const M: usize> {
    /// Whether two groups of 32 that begin at a whole 64 cost less together.
    const PAIRS: bool = false;

    /// Σ u·a over the columns `start..start + len`, which follow one another from call to call.
    fn sum(&mut self, simd: S, start: usize, len: usize) -> [S::I; M];

    /// The sums over each half of the 64 columns from `start` on.
    #[inline(always)]
    fn sum_pair(&mut self, simd: S, start: usize) -> [[S::I; M]; 2] {
        [self.sum(simd, start, 32), self.sum(simd, start + 32, 32)]
    }
}

/// The codes of a panel and of M tokens, in words of four.
struct Panel<'a, const M: usize, const BYTES: bool> {
    lines: &'a [[u8; 4 * TILE_N]],
    codes: [&'a [[i8; 4]]; M],
}

/// Words of the smallest group: K is a multiple of it, and in 16 bits its products can be summed.
const WORDS: usize = 8;

impl<S: Simd, const M: usize, const BYTES: bool> Integers<S, M> for Panel<'_, M, BYTES> {
    #[inline(always)]
    fn sum(&mut self, simd: S, start: usize, len: usize) -> [S::I; M] {
        const { assert!(S::SHORT == 0 || S::SHORT >= WORDS) };
        let (first, end) = (start / (4 * WORDS), (start + len) / (4 * WORDS));
        let lines = &self.lines.as_chunks::<WORDS>().0[first..end];
        let mut codes: [&[[[i8; 4]; WORDS]]; M] = [&[]; M];
        for m in 0..M {
            // of one length, so that nothing is checked inside the loop
            codes[m] = &self.codes[m].as_chunks().0[first..][..lines.len()];
        }
        let zero = [simd.splat_i32(0); M];
        if BYTES || S::SHORT == 0 {
            let mut acc = zero;
            for i in 0..lines.len() {
                acc = Self::add(simd, acc, &lines[i], &codes, i);
            }
            return acc;
        }
        if let [line] = lines {
            return Self::widened(simd, zero, Self::add(simd, zero, line, &codes, 0));
        }
        let mut acc = zero;
        for i in 0..lines.len() {
            acc = Self::widened(simd, acc, Self::add(simd, zero, &lines[i], &codes, i));
        }
        acc
    }
}

impl<const M: usize, const BYTES: bool> Panel<'_, M, BYTES> {
    /// Adds the products with words `i` · 8 and the seven that follow.
    #[inline(always)]
    fn add<S: Simd>(
        simd: S,
        mut acc: [S::I; M],
        lines: &[[u8; 4 * TILE_N]; WORDS],
        codes: &[&[[[i8; 4]; WORDS]]; M],
        i: usize,
    ) -> [S::I; M] {
        for word in 0..WORDS {
            let w = simd.load_segments(lines[word].as_chunks().0);
            for m in 0..M {
                let a = simd.splat_i32(i32::from_le_bytes(codes[m][i][word].map(|code| code as u8)));
                acc[m] = if BYTES { simd.dot_bytes(acc[m], w, a) } else { simd.dot_short(acc[m], w, a) };
            }
        }
        acc
    }

    #[inline(always)]
    fn widened<S: Simd>(simd: S, mut acc: [S::I; M], short: [S::I; M]) -> [S::I; M] {
        for m in 0..M {
            acc[m] = simd.add_short(acc[m], short[m]);
        }
        acc
    }
}

/// Turns exact integers into f32, in the order that every instruction set keeps.
///
/// With one act_scale a token: y = channel · Σ_K, or Σ_g group\[g\] · Σ_g (+ offset\[g\] · Σ_g a), which the caller multiplies with it.
/// With one for each 128 of K, b: y = channel · Σ_b act_scale\[b\] · Σ_b, or the same over groups with act_scale · Σ_g in place of Σ_g.
/// Each sum in f32 is a chain in increasing order for each run of K, with one rounding for a product and its sum together; the chains are
/// added to 0 in order.
#[inline(always)]
pub(crate) fn combine<S: Simd, const M: usize, I: Integers<S, M>>(
    simd: S,
    tile: &Tile<'_>,
    tokens: Tokens<'_>,
    mut integers: I,
    out: &mut [[f32; TILE_N]],
) {
    let fine = tokens.scales == ActScales::Fine;
    out[..M].fill([0.0; TILE_N]);
    let mut sums = Sums::<S, M> { total: [simd.splat_i32(0); M], chain: [simd.splat(0.0); M] };
    let mut end = run_end(tokens.k, 0);
    match tile.sum_scales() {
        None => {
            let block = if fine { ACT_BLOCK } else { tokens.stride };
            for (b, start) in (0..tokens.stride).step_by(block).enumerate() {
                let ints = integers.sum(simd, start, block.min(tokens.stride - start));
                for m in 0..M {
                    let zero = simd.splat_i32(tokens.sum(m, b).wrapping_mul(tile.zero));
                    sums.total[m] = simd.sub_i32(ints[m], zero);
                }
                if fine {
                    sums.end_block(simd, tokens, b);
                    sums.pass(simd, tokens.k, start + block, &mut end, out);
                }
            }
        }
        Some((size, TileValues::U8(scale))) => {
            for (g, scale) in scale.iter().enumerate() {
                let ints = integers.sum(simd, g * size, size);
                let scale = simd.load_u8(scale);
                for m in 0..M {
                    let centred = simd.sub_i32(ints[m], simd.splat_i32(tile.zero * tokens.sum(m, g)));
                    sums.total[m] = simd.add_i32(sums.total[m], simd.mul_i32(centred, scale));
                }
                if fine && ((g + 1) * size % ACT_BLOCK == 0 || (g + 1) * size >= tokens.k) {
                    sums.end_block(simd, tokens, g * size / ACT_BLOCK);
                    sums.pass(simd, tokens.k, (g + 1) * size, &mut end, out);
                }
            }
        }
        Some((32, TileValues::F16(scale))) if I::PAIRS => {
            let (pairs, last) = scale.as_chunks();
            for (pair, [first, second]) in pairs.iter().enumerate() {
                let ints = integers.sum_pair(simd, 64 * pair);
                sums.add_group(simd, tile, tokens, 2 * pair, &ints[0], simd.load_f16(first), 32);
                sums.add_group(simd, tile, tokens, 2 * pair + 1, &ints[1], simd.load_f16(second), 32);
                // runs are whole pairs
                sums.pass(simd, tokens.k, 64 * (pair + 1), &mut end, out);
            }
            if let [scale] = last {
                let g = 2 * pairs.len();
                let ints = integers.sum(simd, 32 * g, 32);
                sums.add_group(simd, tile, tokens, g, &ints, simd.load_f16(scale), 32);
                sums.pass(simd, tokens.k, 32 * (g + 1), &mut end, out);
            }
        }
        Some((size, TileValues::F16(scale))) => {
            for (g, scale) in scale.iter().enumerate() {
                let ints = integers.sum(simd, g * size, size);
                sums.add_group(simd, tile, tokens, g, &ints, simd.load_f16(scale), size);
                sums.pass(simd, tokens.k, (g + 1) * size, &mut end, out);
            }
        }
    }
    if let Some(scale) = tile.channel {
        for m in 0..M {
            let sum = if fine { simd.load(&out[m]) } else { simd.to_f32(sums.total[m]) };
            let sum = simd.mul(sum, simd.load(scale));
            simd.store(&mut out[m], sum);
        }
    }
}

/// The sums of M tokens that are not complete.
struct Sums<S: Simd, const M: usize> {
    /// Integers that have not been scaled yet.
    total: [S::I; M],
    /// Of the run at hand.
    chain: [S::F; M],
}

impl<S: Simd, const M: usize> Sums<S, M> {
    /// Adds the chain of the run that ends at `end` to those before it, if the columns so far are all of it.
    #[inline(always)]
    fn pass(&mut self, simd: S, k: usize, columns: usize, end: &mut usize, out: &mut [[f32; TILE_N]]) {
        if columns < *end {
            return;
        }
        *end = run_end(k, *end);
        for m in 0..M {
            let sum = simd.add(simd.load(&out[m]), self.chain[m]);
            simd.store(&mut out[m], sum);
            self.chain[m] = simd.splat(0.0);
        }
    }

    /// Adds the integers of block `b` of 128, scaled, and clears them.
    #[inline(always)]
    fn end_block(&mut self, simd: S, tokens: Tokens<'_>, b: usize) {
        for m in 0..M {
            let act_scale = simd.splat(tokens.act_scale(m, b));
            self.chain[m] = simd.fma(simd.to_f32(self.total[m]), act_scale, self.chain[m]);
            self.total[m] = simd.splat_i32(0);
        }
    }

    /// Adds group `g` of `size`, which has a scale of its own.
    #[inline(always)]
    fn add_group(
        &mut self,
        simd: S,
        tile: &Tile<'_>,
        tokens: Tokens<'_>,
        g: usize,
        ints: &[S::I; M],
        scale: S::F,
        size: usize,
    ) {
        // what is asked once for a group is not asked for each token
        let mut values = [simd.splat(0.0); M];
        match tile.offset {
            Some(TileValues::U8(points)) => {
                let points = simd.load_u8(&points[g]);
                for m in 0..M {
                    let zero = simd.mul_i32(points, simd.splat_i32(tokens.sum(m, g)));
                    values[m] = simd.to_f32(simd.sub_i32(ints[m], zero));
                }
            }
            _ if tile.zero == 0 => {
                for m in 0..M {
                    values[m] = simd.to_f32(ints[m]);
                }
            }
            _ => {
                for m in 0..M {
                    let zero = simd.splat_i32(tile.zero * tokens.sum(m, g));
                    values[m] = simd.to_f32(simd.sub_i32(ints[m], zero));
                }
            }
        }
        if tokens.scales == ActScales::Fine {
            for m in 0..M {
                values[m] = simd.mul(values[m], simd.splat(tokens.act_scale(m, g * size / ACT_BLOCK)));
            }
        }
        for m in 0..M {
            self.chain[m] = simd.fma(values[m], scale, self.chain[m]);
        }
        if let Some(TileValues::F16(offset)) = tile.offset {
            let offset = simd.load_f16(&offset[g]);
            for m in 0..M {
                let mut sum = simd.to_f32(simd.splat_i32(tokens.sum(m, g)));
                if tokens.scales == ActScales::Fine {
                    sum = simd.mul(sum, simd.splat(tokens.act_scale(m, g * size / ACT_BLOCK)));
                }
                self.chain[m] = simd.fma(sum, offset, self.chain[m]);
            }
        }
    }
}
