//! Sums of 4-bit down rows, weighted by int8 activations.

use super::four_bit::{DownMatrix, SEGMENT};
use super::rows::CHUNK;
use super::rows_4bit::Codes;
use crate::simd::{Gather, Kernel, Simd, load_first};
use crate::w4a8::Offset;
use std::ops::Range;

/// Tokens that one unit of the down projection covers at most.
pub(crate) const DOWN_TOKENS: usize = 32;

/// Chunks that one unit covers at most for a single token.
pub(crate) const DOWN_CHUNKS: usize = 8;

/// Slots between a quad and the one whose rows it prefetches.
const AHEAD: usize = 24;

/// Vectors of 16 columns in a chunk.
const VECTORS: usize = 8;

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

/// out\[t\]\[c\] = act_scale\[t\] · Σ_blocks (float(Σ_slots (code − zero) · a) · scale (+ Σ_slots a · offset)), blocks in order.
pub(crate) struct FourBitDown<'a> {
    pub matrix: &'a DownMatrix,
    /// The neuron of each slot.
    pub slots: &'a [u32],
    pub runs: &'a [Run],
    /// By slot, from the first of `out`'s tokens on; sums by run.
    pub h: Codes<'a>,
    pub tokens: usize,
    /// One chunk for several tokens, at most [`DOWN_CHUNKS`] for one.
    pub chunks: Range<usize>,
    /// \[tokens\] or, for one token, \[chunks\]; at most [`DOWN_TOKENS`].
    pub out: &'a mut [[f32; CHUNK]],
}

impl Kernel for FourBitDown<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let h = &self.h;
        let one = self.tokens == 1;
        assert!((1..=DOWN_TOKENS).contains(&self.tokens) && h.scale.len() >= self.tokens);
        assert!(h.codes.len() >= (self.tokens - 1) * h.stride + self.slots.len());
        assert!(h.sums.len() >= (self.tokens - 1) * h.sum_stride + self.runs.len());
        assert!(self.out.len() == if one { self.chunks.len() } else { self.tokens });
        assert!(self.chunks.len() <= if one { DOWN_CHUNKS } else { 1 });
        assert!(self.chunks.end <= self.matrix.columns.chunks());
        if one { self.one(simd) } else { self.many(simd) }
    }
}

impl FourBitDown<'_> {
    /// The codes of each slot in the unit's chunks.
    #[inline(always)]
    fn rows(&self) -> Gather<'_, [u8; 16]> {
        let columns = &self.matrix.columns;
        let (first, end) = (columns.start(self.chunks.start), columns.start(self.chunks.end).min(columns.d));
        let segments = &self.matrix.codes().as_chunks().0[first / SEGMENT..];
        Gather::new(segments, columns.d / SEGMENT, self.slots, (end - first) / SEGMENT)
    }

    /// Unpacks the segments `at..at + N` of four slots.
    #[inline(always)]
    fn quad<S: Simd, const N: usize>(simd: S, rows: &Gather<'_, [u8; 16]>, slot: usize, at: usize) -> [S::I; VECTORS] {
        let mut quad = [simd.splat_i32(0); 4];
        for i in 0..4 {
            quad[i] = simd.load_segments(&rows.row(slot + i)[at..at + N]);
        }
        let bytes = simd.interleave(quad);
        let mut codes = [simd.splat_i32(0); VECTORS];
        for v in 0..4 {
            codes[v] = simd.low_nibbles(bytes[v]);
            codes[4 + v] = simd.high_nibbles(bytes[v]);
        }
        codes
    }

    /// Adds one block's integer sums to the f32 sums.
    #[inline(always)]
    fn add_block<S: Simd>(
        &self,
        simd: S,
        chunk: usize,
        run: &Run,
        sum: i32,
        acc: &[S::I; VECTORS],
        total: &mut [S::F; VECTORS],
    ) {
        let m = self.matrix;
        let (d, lanes) = (m.columns.d, 4 * m.columns.segments_of(chunk));
        let start = m.columns.start(chunk);
        for v in 0..VECTORS {
            let at = start + v * lanes;
            if m.offset.is_none() {
                let scale = load_first(simd, &m.channel_scale[at..][..lanes]);
                let centred = simd.sub_i32(acc[v], simd.splat_i32(8 * sum));
                total[v] = simd.fma(simd.to_f32(centred), scale, total[v]);
                continue;
            }
            let params = &m.group_params[run.block as usize * m.parts() * d..][..m.parts() * d];
            let scale = load_halves(simd, &params[at..][..lanes]);
            total[v] = match m.offset {
                Some(Offset::F16) => {
                    let offset = load_halves(simd, &params[d + at..][..lanes]);
                    simd.fma(simd.splat(sum as f32), offset, simd.fma(simd.to_f32(acc[v]), scale, total[v]))
                }
                Some(Offset::ZeroPoint) => {
                    let zero = simd.mul_i32(simd.load_u16(&params[d + at..][..lanes]), simd.splat_i32(sum));
                    simd.fma(simd.to_f32(simd.sub_i32(acc[v], zero)), scale, total[v])
                }
                Some(Offset::None) | None => {
                    simd.fma(simd.to_f32(simd.sub_i32(acc[v], simd.splat_i32(8 * sum))), scale, total[v])
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

    /// Asks for a block's scales of the unit's columns.
    #[inline(always)]
    fn prefetch_scales<S: Simd>(&self, simd: S, run: &Run) {
        let m = self.matrix;
        let (first, end) = (m.columns.start(self.chunks.start), m.columns.start(self.chunks.end).min(m.columns.d));
        if m.offset.is_some() {
            for part in 0..m.parts() {
                let row = (run.block as usize * m.parts() + part) * m.columns.d;
                simd.prefetch(&m.group_params[row + first..row + end]);
            }
        }
    }

    /// Asks for the rows that chunk number `index` of a run is to ask for: each its share of those [`AHEAD`] of the run's.
    #[inline(always)]
    fn prefetch_rows<S: Simd>(&self, simd: S, rows: &Gather<'_, [u8; 16]>, run: &Run, index: usize) {
        let (slots, chunks) = ((run.end - run.start) as usize, self.chunks.len());
        let first = run.start as usize + AHEAD;
        for slot in first + index * slots / chunks..first + (index + 1) * slots / chunks {
            let ahead = rows.row(slot.min(self.slots.len() - 1));
            simd.prefetch(ahead);
            if let Some(last) = ahead.last() {
                simd.prefetch_line(last);
            }
        }
    }

    /// Sums a run's codes of a chunk of `N` segments, weighted by one token's activations.
    #[inline(always)]
    fn sum_run<S: Simd, const N: usize>(
        &self,
        simd: S,
        rows: &Gather<'_, [u8; 16]>,
        chunk: usize,
        run: &Run,
    ) -> [S::I; VECTORS] {
        let at = (chunk - self.chunks.start) * self.matrix.columns.segments;
        let h: &[u8] = bytemuck::cast_slice(&self.h.codes[run.start as usize..run.end as usize]);
        let quads = h.as_chunks::<4>().0;
        // where products are summed in 16 bits first, so many of them fit
        let short_run = if S::SHORT == 0 { quads.len() } else { S::SHORT };
        let mut acc = [simd.splat_i32(0); VECTORS];
        let mut slot = run.start as usize;
        for quads in quads.chunks(short_run) {
            let mut short = [simd.splat_i32(0); VECTORS];
            for h in quads {
                let codes = Self::quad::<S, N>(simd, rows, slot, at);
                let h = simd.splat_i32(i32::from_le_bytes(*h));
                for v in 0..VECTORS {
                    short[v] = simd.dot_short(short[v], codes[v], h);
                }
                slot += 4;
            }
            for v in 0..VECTORS {
                acc[v] = simd.add_short(acc[v], short[v]);
            }
        }
        acc
    }

    /// Computes one token: block by block, the unit's chunks of a row one after another.
    #[inline(always)]
    fn one<S: Simd>(self, simd: S) {
        let columns = &self.matrix.columns;
        let rows = self.rows();
        let mut total = [[simd.splat(0.0); VECTORS]; DOWN_CHUNKS];
        for (r, run) in self.runs.iter().enumerate() {
            if let Some(next) = self.runs.get(r + 1) {
                self.prefetch_scales(simd, next);
            }
            for (i, (chunk, total)) in self.chunks.clone().zip(&mut total).enumerate() {
                self.prefetch_rows(simd, &rows, run, i);
                let acc = match columns.segments_of(chunk) {
                    1 => self.sum_run::<S, 1>(simd, &rows, chunk, run),
                    2 => self.sum_run::<S, 2>(simd, &rows, chunk, run),
                    3 => self.sum_run::<S, 3>(simd, &rows, chunk, run),
                    _ => self.sum_run::<S, 4>(simd, &rows, chunk, run),
                };
                self.add_block(simd, chunk, run, self.h.sums[r], &acc, total);
            }
        }
        for ((chunk, total), out) in self.chunks.zip(&total).zip(self.out) {
            Self::write(simd, total, self.h.scale[0], columns.segments_of(chunk), out);
        }
    }

    /// Unpacks up to 32 neurons at a time and uses them for every token.
    #[inline(always)]
    fn many<S: Simd>(self, simd: S) {
        let chunk = self.chunks.start;
        let segments = self.matrix.columns.segments_of(chunk);
        let rows = self.rows();
        let zero = simd.splat_i32(0);
        let mut panel = [[zero; VECTORS]; PANEL];
        let mut total = [[simd.splat(0.0); VECTORS]; DOWN_TOKENS];
        let mut acc = [[zero; VECTORS]; DOWN_TOKENS];
        for (r, run) in self.runs.iter().enumerate() {
            for start in (run.start as usize..run.end as usize).step_by(4 * PANEL) {
                let end = (start + 4 * PANEL).min(run.end as usize);
                for slot in (start..end).step_by(4) {
                    panel[(slot - start) / 4] = match segments {
                        1 => Self::quad::<S, 1>(simd, &rows, slot, 0),
                        2 => Self::quad::<S, 2>(simd, &rows, slot, 0),
                        3 => Self::quad::<S, 3>(simd, &rows, slot, 0),
                        _ => Self::quad::<S, 4>(simd, &rows, slot, 0),
                    };
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
                self.add_block(simd, chunk, run, sum, acc, &mut total[t]);
                *acc = [zero; VECTORS];
            }
        }
        for (total, (scale, out)) in total.iter().zip(self.h.scale.iter().zip(self.out)) {
            Self::write(simd, total, *scale, segments, out);
        }
    }
}

/// Widens the bits of up to sixteen f16, a multiple of 4 of them, the rest anything.
#[inline(always)]
fn load_halves<S: Simd>(simd: S, bits: &[u16]) -> S::F {
    match bits.first_chunk::<16>() {
        Some(all) => simd.load_f16(bytemuck::cast_ref(all)),
        None => simd.low_f16(simd.load_u16(bits)),
    }
}
