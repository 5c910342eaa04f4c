//! Sums of rows of 4-bit codes, weighted by int8 activations.

use super::{CHUNK, Codes, ColumnMatrix, SEGMENT};
use crate::simd::{Gather, Kernel, Simd, load_first};
use crate::w4a8::Offset;
use std::ops::Range;

/// Tokens that one unit covers at most.
pub(crate) const TOKENS: usize = 32;

/// Chunks that one unit covers at most for a single token: 1 KiB of a row, and sums that stay in the first-level cache.
pub(crate) const CHUNKS: usize = 16;

/// Slots whose rows are added up together.
const QUAD: usize = 4;

/// Bytes of rows from a quad to the one that is asked into the second-level cache meanwhile.
const FAR_BYTES: usize = 8 << 10;

/// Vectors of 16 columns in a chunk.
const VECTORS: usize = 8;

/// Slots whose sums of codes less 8, times activations, 16 bits hold: 32 · 8 · 127 is below 2¹⁵.
const PIECE: usize = 32;

/// Quads of neurons that are unpacked together for several tokens.
const PANEL: usize = 8;

/// The slots of one block of neurons: a multiple of four, the last ones copies with activation 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Run {
    /// Block of `group_size` neurons.
    pub block: u32,
    /// First slot.
    pub start: u32,
    /// After the last slot.
    pub end: u32,
}

/// One token's sums of a chunk in f32.
#[derive(Clone, Copy)]
struct Floats<S: Simd> {
    /// Of the run of K at hand.
    chain: [S::F; VECTORS],
    /// Of those before it.
    total: [S::F; VECTORS],
}

impl<S: Simd> Floats<S> {
    #[inline(always)]
    fn none(simd: S) -> Self {
        Floats { chain: [simd.splat(0.0); VECTORS], total: [simd.splat(0.0); VECTORS] }
    }

    /// Adds the chain of a run to those before it.
    #[inline(always)]
    fn end_run(&mut self, simd: S) {
        for v in 0..VECTORS {
            self.total[v] = simd.add(self.total[v], self.chain[v]);
            self.chain[v] = simd.splat(0.0);
        }
    }
}

/// One token's sums of a unit's chunks.
struct Sums<S: Simd> {
    /// Those of the run at hand, where it takes several pieces, and what they are too large by.
    acc: [[S::I; VECTORS]; CHUNKS],
    shift: i32,
    floats: [Floats<S>; CHUNKS],
}

/// Asks for the rows of slots, four after four and each from its first column to its last, into the second-level cache: a step for each
/// chunk of four rows that is added up, and so far ahead that memory has answered by then.
struct Ahead<'a> {
    rows: &'a Gather<'a, [u8; 16]>,
    /// Segments of a chunk.
    segments: usize,
    /// The first of the four rows that are asked for, which are these; nothing is asked for from the slot `end` on.
    slot: usize,
    end: usize,
    four: [&'a [[u8; 16]]; QUAD],
    /// The segment that the next step asks for.
    at: usize,
}

impl<'a> Ahead<'a> {
    #[inline(always)]
    fn new(rows: &'a Gather<'a, [u8; 16]>, segments: usize, slots: Range<usize>) -> Self {
        let four = four_rows(rows, slots.start);
        Ahead { rows, segments, slot: slots.start, end: slots.end, four, at: 0 }
    }

    #[inline(always)]
    fn step<S: Simd>(&mut self, simd: S) {
        if self.slot >= self.end {
            return;
        }
        for row in self.four {
            simd.prefetch_far_line(&row[self.at]);
        }
        self.at += self.segments;
        let len = self.four[0].len();
        if self.at >= len {
            // rows of other than whole lines end inside of one
            if len % 4 != 0 {
                for row in self.four {
                    simd.prefetch_far_line(&row[len - 1]);
                }
            }
            (self.slot, self.at) = (self.slot + QUAD, 0);
            if self.slot < self.end {
                self.four = four_rows(self.rows, self.slot);
            }
        }
    }
}

/// out\[t\]\[c\] = act_scale\[t\] · Σ_blocks (float(Σ_slots (code − zero) · a) · scale (+ Σ_slots a · offset)), blocks in order, by
/// runs of K as in [`crate::w4a8`]: one without a block adds nothing, as 0 would.
pub(crate) struct FourBitSums<'a> {
    pub matrix: &'a ColumnMatrix,
    /// The neuron of each slot.
    pub slots: &'a [u32],
    pub runs: &'a [Run],
    /// By slot, from the first of `out`'s tokens on; sums by run.
    pub h: Codes<'a>,
    pub tokens: usize,
    /// One chunk for several tokens, at most [`CHUNKS`] for one.
    pub chunks: Range<usize>,
    /// \[tokens\] or, for one token, \[chunks\]; at most [`TOKENS`].
    pub out: &'a mut [[f32; CHUNK]],
}

impl Kernel for FourBitSums<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let h = &self.h;
        let one = self.tokens == 1;
        assert!((1..=TOKENS).contains(&self.tokens) && h.scale.len() >= self.tokens);
        assert!(h.codes.len() >= (self.tokens - 1) * h.stride + self.slots.len());
        assert!(h.sums.len() >= (self.tokens - 1) * h.sum_stride + self.runs.len());
        assert!(self.out.len() == if one { self.chunks.len() } else { self.tokens });
        assert!(self.chunks.len() <= if one { CHUNKS } else { 1 });
        assert!(self.chunks.end <= self.matrix.columns.chunks());
        if one { self.one(simd) } else { self.many(simd) }
    }
}

impl FourBitSums<'_> {
    /// The codes of each slot in the unit's chunks.
    #[inline(always)]
    fn rows(&self) -> Gather<'_, [u8; 16]> {
        let columns = &self.matrix.columns;
        let (first, end) = (columns.start(self.chunks.start), columns.start(self.chunks.end).min(columns.d));
        let segments = &self.matrix.codes().as_chunks().0[first / SEGMENT..];
        Gather::new(segments, columns.d / SEGMENT, self.slots, (end - first) / SEGMENT)
    }

    /// The block after the run of K that the first block is in.
    #[inline(always)]
    fn first_end(&self) -> usize {
        self.runs.first().map_or(0, |run| self.matrix.run_end(run.block as usize))
    }

    /// Whether a block is past the run of K that ends at `end`, which is then that of its own.
    #[inline(always)]
    fn passes(&self, run: &Run, end: &mut usize) -> bool {
        let block = run.block as usize;
        let passes = block >= *end;
        if passes {
            *end = self.matrix.run_end(block);
        }
        passes
    }

    /// Unpacks N segments of four slots.
    #[inline(always)]
    fn quad<S: Simd, const N: usize>(simd: S, rows: &Gather<'_, [u8; 16]>, slot: usize) -> [S::I; VECTORS] {
        let mut quad = [simd.splat_i32(0); 4];
        for i in 0..4 {
            quad[i] = simd.load_segments(&rows.row(slot + i)[..N]);
        }
        let bytes = simd.interleave(quad);
        let mut codes = [simd.splat_i32(0); VECTORS];
        for v in 0..4 {
            codes[v] = simd.low_nibbles(bytes[v]);
            codes[4 + v] = simd.high_nibbles(bytes[v]);
        }
        codes
    }

    /// Adds one block's integers to the f32 sums of a chunk of `N` segments: `acc` is Σ code · a + `shift`, `sum` is Σ a.
    #[inline(always)]
    fn add_block<S: Simd, const N: usize>(
        &self,
        simd: S,
        (chunk, block): (usize, u32),
        (sum, shift): (i32, i32),
        acc: &[S::I; VECTORS],
        chain: &mut [S::F; VECTORS],
    ) {
        let m = self.matrix;
        let (d, start, len) = (m.columns.d, m.columns.start(chunk), VECTORS * 4 * N);
        if m.offset.is_none() {
            let scales = &m.channel_scale[start..][..len];
            for v in 0..VECTORS {
                let centred = simd.sub_i32(acc[v], simd.splat_i32(shift + 8 * sum));
                chain[v] = simd.fma(simd.to_f32(centred), load_first(simd, &scales[4 * N * v..][..4 * N]), chain[v]);
            }
            return;
        }
        let params = &m.group_params[block as usize * m.parts() * d..][..m.parts() * d];
        let scales = &params[start..][..len];
        let seconds = if m.parts() == 2 { &params[d + start..][..len] } else { scales };
        for v in 0..VECTORS {
            let scale = load_halves(simd, &scales[4 * N * v..][..4 * N]);
            let second = &seconds[4 * N * v..][..4 * N];
            chain[v] = match m.offset {
                Some(Offset::F16) => {
                    let codes = simd.to_f32(simd.sub_i32(acc[v], simd.splat_i32(shift)));
                    simd.fma(simd.splat(sum as f32), load_halves(simd, second), simd.fma(codes, scale, chain[v]))
                }
                Some(Offset::ZeroPoint) => {
                    let zero = simd.mul_i32(simd.load_u16(second), simd.splat_i32(sum));
                    let zero = simd.add_i32(zero, simd.splat_i32(shift));
                    simd.fma(simd.to_f32(simd.sub_i32(acc[v], zero)), scale, chain[v])
                }
                Some(Offset::None) | None => {
                    let zero = simd.splat_i32(shift + 8 * sum);
                    simd.fma(simd.to_f32(simd.sub_i32(acc[v], zero)), scale, chain[v])
                }
            };
        }
    }

    /// Scales a token's sums and writes them in the order of the columns.
    #[inline(always)]
    fn write<S: Simd>(simd: S, total: &[S::F; VECTORS], scale: f32, segments: usize, out: &mut [f32; CHUNK]) {
        let mut lanes = [0.0f32; 16];
        for (v, total) in total.iter().enumerate() {
            simd.store(&mut lanes, simd.mul(*total, simd.splat(scale)));
            for q in 0..segments {
                out[32 * q + 4 * v..][..4].copy_from_slice(&lanes[4 * q..4 * q + 4]);
            }
        }
    }

    /// Asks for a block's scales of a chunk's columns.
    #[inline(always)]
    fn prefetch_scales<S: Simd>(&self, simd: S, block: u32, chunk: usize) {
        let m = self.matrix;
        if m.offset.is_some() {
            for part in 0..m.parts() {
                let row = (block as usize * m.parts() + part) * m.columns.d;
                let (first, end) = (m.columns.start(chunk), m.columns.start(chunk + 1).min(m.columns.d));
                simd.prefetch(&m.group_params[row + first..row + end]);
            }
        }
    }

    /// Asks for a segment of four rows, which the second-level cache should have, in the first.
    #[inline(always)]
    fn prefetch_quad<S: Simd>(simd: S, rows: &[&[[u8; 16]]; QUAD], at: usize) {
        for row in rows {
            simd.prefetch_line(&row[at.min(row.len() - 1)]);
        }
    }

    /// Adds four rows, each times its activation, to sums of a chunk of N segments in 32 bits.
    #[inline(always)]
    fn add_quad<S: Simd, const N: usize>(
        simd: S,
        rows: &[&[[u8; 16]]; QUAD],
        at: usize,
        h: [i8; QUAD],
        acc: &mut [S::I; VECTORS],
    ) {
        let mut quad = [simd.splat_i32(0); QUAD];
        for i in 0..QUAD {
            quad[i] = simd.load_segments(&rows[i][at..at + N]);
        }
        let bytes = simd.interleave(quad);
        let h = simd.splat_i32(i32::from_le_bytes(h.map(i8::cast_unsigned)));
        for v in 0..VECTORS / 2 {
            acc[v] = simd.dot(acc[v], simd.low_nibbles(bytes[v]), h);
            acc[4 + v] = simd.dot(acc[4 + v], simd.high_nibbles(bytes[v]), h);
        }
    }

    /// As [`Self::add_quad`] in lanes of 16 bits, two rows at a time.
    #[inline(always)]
    fn add_pairs<S: Simd, const N: usize>(
        simd: S,
        rows: &[&[[u8; 16]]; QUAD],
        at: usize,
        [a, b, c, d]: [i8; QUAD],
        short: &mut [S::I; VECTORS / 2],
    ) {
        for (pair, h) in [[a, b], [c, d]].into_iter().enumerate() {
            let h = simd.splat_i16(i16::from_le_bytes([h[0] as u8, h[1] as u8]));
            let first = simd.load_segments(&rows[2 * pair][at..at + N]);
            let second = simd.load_segments(&rows[2 * pair + 1][at..at + N]);
            let codes = simd.interleave_pair(first, second);
            for v in 0..2 {
                short[v] = simd.dot_pairs(short[v], simd.low_nibbles(codes[v]), h);
                short[2 + v] = simd.dot_pairs(short[2 + v], simd.high_nibbles(codes[v]), h);
            }
        }
    }

    /// Sums of at most [`PIECE`] slots in the unit's chunk `i` of N segments, Σ code · a, and what they are too large by.
    ///
    /// Where four products are not one instruction, lanes of 16 bits add up two. Codes less 8 times activations fit there, codes alone do not: lanes
    /// begin at what makes the last sums right and not below zero, whatever wraps around on the way.
    #[inline(always)]
    fn slot_sums<S: Simd, const N: usize>(
        &self,
        simd: S,
        rows: &Gather<'_, [u8; 16]>,
        (slots, i): (Range<usize>, usize),
        ahead: &mut Ahead<'_>,
    ) -> ([S::I; VECTORS], i32) {
        let h = &self.h.codes[slots.clone()];
        let at = i * self.matrix.columns.segments;
        let mut acc = [simd.splat_i32(0); VECTORS];
        if S::SHORT == 0 {
            for (q, &h) in h.as_chunks().0.iter().enumerate() {
                let four = four_rows(rows, slots.start + QUAD * q);
                Self::prefetch_quad(simd, &four, at + N);
                Self::add_quad::<S, N>(simd, &four, at, h, &mut acc);
                ahead.step(simd);
            }
            return (acc, 0);
        }
        let shift = (1 << 15) - 8 * h.iter().map(|&h| i32::from(h)).sum::<i32>();
        let mut short = [simd.splat_i16(shift as i16); VECTORS / 2];
        for (q, &h) in h.as_chunks().0.iter().enumerate() {
            let four = four_rows(rows, slots.start + QUAD * q);
            Self::prefetch_quad(simd, &four, at + N);
            Self::add_pairs::<S, N>(simd, &four, at, h, &mut short);
            ahead.step(simd);
        }
        for v in 0..VECTORS / 2 {
            [acc[2 * v], acc[2 * v + 1]] = simd.widen_u16(short[v]);
        }
        (acc, shift)
    }

    /// Adds some slots of a run to its sums of a chunk of N segments, and where they are the last, the run to the f32 sums.
    #[inline(always)]
    fn add_piece<S: Simd, const N: usize>(
        &self,
        simd: S,
        rows: &Gather<'_, [u8; 16]>,
        (r, slots, chunk): (usize, Range<usize>, usize),
        ahead: &mut Ahead<'_>,
        sums: &mut Sums<S>,
    ) {
        let run = &self.runs[r];
        let (is_first, is_last) = (slots.start == run.start as usize, slots.end == run.end as usize);
        let i = chunk - self.chunks.start;
        let (mut acc, mut shift) = self.slot_sums::<S, N>(simd, rows, (slots, i), ahead);
        if !is_first {
            for v in 0..VECTORS {
                acc[v] = simd.add_i32(acc[v], sums.acc[i][v]);
            }
            shift += sums.shift;
        }
        if !is_last {
            sums.acc[i] = acc;
            if i + 1 == self.chunks.len() {
                sums.shift = shift;
            }
            return;
        }
        if let Some(next) = self.runs.get(r + 1) {
            self.prefetch_scales(simd, next.block, chunk);
        }
        self.add_block::<S, N>(simd, (chunk, run.block), (self.h.sums[r], shift), &acc, &mut sums.floats[i].chain);
    }

    /// Computes one token: some slots after others, and of each a chunk after the other, whose sums stay in registers.
    #[inline(always)]
    fn one<S: Simd>(self, simd: S) {
        let (columns, count) = (&self.matrix.columns, self.chunks.len());
        let rows = self.rows();
        let none = simd.splat_i32(0);
        let mut sums = Sums { acc: [[none; VECTORS]; CHUNKS], shift: 0, floats: [Floats::none(simd); CHUNKS] };
        let mut end = self.first_end();
        let slots = match self.runs {
            [first, .., last] => first.start as usize..last.end as usize,
            [only] => only.start as usize..only.end as usize,
            [] => 0..0,
        };
        if !slots.is_empty() {
            let mut ahead = Ahead::new(&rows, columns.segments, slots);
            // the chunks of a piece are added up one after the other, so that the first asks for all of its rows
            let lead = FAR_BYTES / (SEGMENT / 2 * columns.segments * count) + PIECE;
            for _ in 0..lead.div_ceil(QUAD) * count {
                ahead.step(simd);
            }
            for (r, run) in self.runs.iter().enumerate() {
                if self.passes(run, &mut end) {
                    sums.floats.iter_mut().take(count).for_each(|floats| floats.end_run(simd));
                }
                let (start, end) = (run.start as usize, run.end as usize);
                for start in (start..end).step_by(PIECE) {
                    let slots = start..end.min(start + PIECE);
                    for chunk in self.chunks.clone() {
                        let at = (r, slots.clone(), chunk);
                        match columns.segments_of(chunk) {
                            1 => self.add_piece::<S, 1>(simd, &rows, at, &mut ahead, &mut sums),
                            2 => self.add_piece::<S, 2>(simd, &rows, at, &mut ahead, &mut sums),
                            3 => self.add_piece::<S, 3>(simd, &rows, at, &mut ahead, &mut sums),
                            _ => self.add_piece::<S, 4>(simd, &rows, at, &mut ahead, &mut sums),
                        }
                    }
                }
            }
        }
        for ((chunk, floats), out) in self.chunks.zip(&mut sums.floats).zip(self.out) {
            floats.end_run(simd);
            Self::write(simd, &floats.total, self.h.scale[0], columns.segments_of(chunk), out);
        }
    }

    /// Computes several tokens in a chunk.
    #[inline(always)]
    fn many<S: Simd>(self, simd: S) {
        match self.matrix.columns.segments_of(self.chunks.start) {
            1 => self.many_of::<S, 1>(simd),
            2 => self.many_of::<S, 2>(simd),
            3 => self.many_of::<S, 3>(simd),
            _ => self.many_of::<S, 4>(simd),
        }
    }

    /// Unpacks up to 32 neurons at a time, in a chunk of `N` segments, and uses them for every token.
    #[inline(always)]
    fn many_of<S: Simd, const N: usize>(self, simd: S) {
        let chunk = self.chunks.start;
        let rows = self.rows();
        let zero = simd.splat_i32(0);
        let mut panel = [[zero; VECTORS]; PANEL];
        let mut floats = [Floats::none(simd); TOKENS];
        let mut acc = [[zero; VECTORS]; TOKENS];
        let mut end = self.first_end();
        for (r, run) in self.runs.iter().enumerate() {
            if self.passes(run, &mut end) {
                floats.iter_mut().take(self.out.len()).for_each(|floats| floats.end_run(simd));
            }
            for start in (run.start as usize..run.end as usize).step_by(4 * PANEL) {
                let end = (start + 4 * PANEL).min(run.end as usize);
                for slot in (start..end).step_by(4) {
                    panel[(slot - start) / 4] = Self::quad::<S, N>(simd, &rows, slot);
                }
                for (t, acc) in acc.iter_mut().enumerate().take(self.out.len()) {
                    let h: &[u8] = bytemuck::cast_slice(&self.h.codes[t * self.h.stride..][start..end]);
                    let mut sums = *acc;
                    for (codes, h) in panel.iter().zip(h.as_chunks().0) {
                        let h = simd.splat_i32(i32::from_le_bytes(*h));
                        for v in 0..VECTORS {
                            sums[v] = simd.dot(sums[v], codes[v], h);
                        }
                    }
                    *acc = sums;
                }
            }
            for (t, acc) in acc.iter_mut().enumerate().take(self.out.len()) {
                let sum = self.h.sums[t * self.h.sum_stride + r];
                self.add_block::<S, N>(simd, (chunk, run.block), (sum, 0), acc, &mut floats[t].chain);
                *acc = [zero; VECTORS];
            }
        }
        for (floats, (scale, out)) in floats.iter_mut().zip(self.h.scale.iter().zip(self.out)) {
            floats.end_run(simd);
            Self::write(simd, &floats.total, *scale, N, out);
        }
    }
}

/// The rows of four slots.
#[inline(always)]
fn four_rows<'a>(rows: &Gather<'a, [u8; 16]>, slot: usize) -> [&'a [[u8; 16]]; QUAD] {
    [rows.row(slot), rows.row(slot + 1), rows.row(slot + 2), rows.row(slot + 3)]
}

/// Widens the bits of up to sixteen f16, a multiple of 4 of them, the rest anything.
#[inline(always)]
fn load_halves<S: Simd>(simd: S, bits: &[u16]) -> S::F {
    match bits.first_chunk::<16>() {
        Some(all) => simd.load_f16(bytemuck::cast_ref(all)),
        None => simd.low_f16(simd.load_u16(bits)),
    }
}
