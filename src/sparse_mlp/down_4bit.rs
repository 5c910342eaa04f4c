//! Sums of 4-bit down rows, weighted by int8 activations.

use super::four_bit::DownMatrix;
use super::rows::CHUNK;
use super::rows_4bit::Codes;
use crate::simd::{Kernel, Simd};
use crate::w4a8::Offset;
use std::ops::Range;

/// Tokens that one unit of the down projection covers at most.
pub(crate) const DOWN_TOKENS: usize = 32;

/// Chunks that one unit covers at most for a single token.
pub(crate) const DOWN_CHUNKS: usize = 4;

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
    unsafe fn run<S: Simd>(self) {
        let h = &self.h;
        let d = self.matrix.columns.d;
        let one = self.tokens == 1;
        assert!((1..=DOWN_TOKENS).contains(&self.tokens) && h.scale.len() >= self.tokens);
        assert!(h.codes.len() >= (self.tokens - 1) * h.stride + self.slots.len());
        assert!(h.sums.len() >= (self.tokens - 1) * h.sum_stride + self.runs.len());
        // slots do not decrease and runs lie one after another, so the last says it for all
        assert!(self.slots.last().is_none_or(|&j| (j as usize + 1) * d / 2 <= self.matrix.codes().len()));
        assert!(self.runs.last().is_none_or(|run| run.end as usize <= self.slots.len()));
        assert!(self.out.len() == if one { self.chunks.len() } else { self.tokens });
        assert!(self.chunks.len() <= if one { DOWN_CHUNKS } else { 1 });
        assert!(self.chunks.end <= self.matrix.columns.chunks());
        // SAFETY: slots, runs and tokens are in bounds by the assertions; the set is the caller's.
        unsafe { if one { self.one::<S>() } else { self.many::<S>() } }
    }
}

impl FourBitDown<'_> {
    /// Unpacks four slots' codes of this chunk.
    ///
    /// # Safety
    /// As `run`, after its assertions; `slot + 4` ≤ slots.
    #[inline(always)]
    unsafe fn quad<S: Simd>(&self, chunk: usize, slot: usize) -> [S::I; VECTORS] {
        let columns = &self.matrix.columns;
        let segments = columns.segments_of(chunk);
        // SAFETY: the assertions of `run` keep the four rows inside the codes.
        unsafe {
            let base = self.matrix.codes().as_ptr().add(columns.start(chunk) / 2);
            let mut rows = [S::splat_i32(0); 4];
            for i in 0..4 {
                let row = *self.slots.get_unchecked(slot + i) as usize;
                rows[i] = S::load_segments(base.add(row * (columns.d / 2)), segments);
            }
            let bytes = S::interleave(rows);
            let mut codes = [S::splat_i32(0); VECTORS];
            for v in 0..4 {
                codes[v] = S::low_nibbles(bytes[v]);
                codes[4 + v] = S::high_nibbles(bytes[v]);
            }
            codes
        }
    }

    /// Adds one block's integer sums to the f32 sums.
    ///
    /// # Safety
    /// As `run`, after its assertions.
    #[inline(always)]
    unsafe fn add_block<S: Simd>(
        &self,
        chunk: usize,
        run: &Run,
        sum: i32,
        acc: &[S::I; VECTORS],
        total: &mut [S::F; VECTORS],
    ) {
        let m = self.matrix;
        let (d, lanes) = (m.columns.d, 4 * m.columns.segments_of(chunk));
        let start = m.columns.start(chunk);
        // SAFETY: a row of scales has d entries, the chunk's are the 8 · lanes from `start` on.
        unsafe {
            for v in 0..VECTORS {
                let at = start + v * lanes;
                if m.offset.is_none() {
                    let scale = crate::simd::load_first::<S, f32>(m.channel_scale[at..].as_ptr(), lanes);
                    let centred = S::sub_i32(acc[v], S::splat_i32(8 * sum));
                    total[v] = S::fma(S::to_f32(centred), scale, total[v]);
                    continue;
                }
                let params = m.group_params[run.block as usize * m.parts() * d..][..m.parts() * d].as_ptr().add(at);
                let scale = S::low_f16(S::load_u16(params, lanes));
                total[v] = match m.offset {
                    Some(Offset::F16) => {
                        let offset = S::low_f16(S::load_u16(params.add(d), lanes));
                        S::fma(S::splat(sum as f32), offset, S::fma(S::to_f32(acc[v]), scale, total[v]))
                    }
                    Some(Offset::ZeroPoint) => {
                        let zero = S::mul_i32(S::load_u16(params.add(d), lanes), S::splat_i32(sum));
                        S::fma(S::to_f32(S::sub_i32(acc[v], zero)), scale, total[v])
                    }
                    Some(Offset::None) | None => {
                        S::fma(S::to_f32(S::sub_i32(acc[v], S::splat_i32(8 * sum))), scale, total[v])
                    }
                };
            }
        }
    }

    /// Scales a token's sums and writes them in the order of the columns.
    ///
    /// # Safety
    /// As `run`.
    #[inline(always)]
    unsafe fn write<S: Simd>(total: &[S::F; VECTORS], scale: f32, segments: usize, out: &mut [f32; CHUNK]) {
        let mut lanes = [0.0f32; 16];
        for (v, total) in total.iter().enumerate() {
            // SAFETY: `lanes` has 16 elements.
            unsafe { S::store(lanes.as_mut_ptr(), S::mul(*total, S::splat(scale))) };
            for q in 0..segments {
                out[32 * q + 4 * v..][..4].copy_from_slice(&lanes[4 * q..4 * q + 4]);
            }
        }
    }

    /// Asks for a block's scales of the unit's columns.
    ///
    /// # Safety
    /// As [`Simd`].
    #[inline(always)]
    unsafe fn prefetch_scales<S: Simd>(&self, run: &Run) {
        let m = self.matrix;
        let (first, end) = (m.columns.start(self.chunks.start), m.columns.start(self.chunks.end).min(m.columns.d));
        if m.offset.is_some() {
            for part in 0..m.parts() {
                let row = (run.block as usize * m.parts() + part) * m.columns.d + first;
                for at in (0..end - first).step_by(32) {
                    // SAFETY: prefetches never fault; the set is the caller's.
                    unsafe { S::prefetch(m.group_params.as_ptr().wrapping_add(row + at).cast()) };
                }
            }
        }
    }

    /// Computes one token: block by block, the unit's chunks of a row one after another.
    ///
    /// # Safety
    /// As `run`, after its assertions.
    #[inline(always)]
    unsafe fn one<S: Simd>(self) {
        let columns = &self.matrix.columns;
        // SAFETY: a run's slots are in bounds by the assertions of `run`; prefetches never fault.
        unsafe {
            let first = columns.start(self.chunks.start) / 2;
            let bytes = columns.start(self.chunks.end).min(columns.d) / 2 - first;
            let base = self.matrix.codes().as_ptr().add(first);
            let mut total = [[S::splat(0.0); VECTORS]; DOWN_CHUNKS];
            for (r, run) in self.runs.iter().enumerate() {
                if let Some(next) = self.runs.get(r + 1) {
                    self.prefetch_scales::<S>(next);
                }
                let mut fetched = run.start as usize;
                for (i, (chunk, total)) in self.chunks.clone().zip(&mut total).enumerate() {
                    let mut acc = [S::splat_i32(0); VECTORS];
                    for slot in (run.start as usize..run.end as usize).step_by(4) {
                        // the run's share of rows ahead, spread evenly over its chunks
                        let done = i * (run.end - run.start) as usize + slot + 4 - run.start as usize;
                        let upto = run.start as usize + done / self.chunks.len();
                        while fetched < upto {
                            let ahead = *self.slots.get_unchecked((fetched + AHEAD).min(self.slots.len() - 1)) as usize;
                            let row = base.add(ahead * (columns.d / 2));
                            for line in 0..bytes.div_ceil(64) {
                                S::prefetch(row.add(64 * line));
                            }
                            S::prefetch(row.add(bytes - 1));
                            fetched += 1;
                        }
                        let codes = self.quad::<S>(chunk, slot);
                        let h = S::splat_i32(self.h.codes.as_ptr().add(slot).cast::<i32>().read_unaligned());
                        for v in 0..VECTORS {
                            acc[v] = S::dot(acc[v], codes[v], h);
                        }
                    }
                    self.add_block::<S>(chunk, run, self.h.sums[r], &acc, total);
                }
            }
            for ((chunk, total), out) in self.chunks.zip(&total).zip(self.out) {
                Self::write::<S>(total, self.h.scale[0], columns.segments_of(chunk), out);
            }
        }
    }

    /// Unpacks up to 32 neurons at a time and uses them for every token.
    ///
    /// # Safety
    /// As `run`, after its assertions.
    #[inline(always)]
    unsafe fn many<S: Simd>(self) {
        let chunk = self.chunks.start;
        // SAFETY: a run's slots are in bounds by the assertions of `run`.
        unsafe {
            let zero = S::splat_i32(0);
            let mut panel = [[zero; VECTORS]; PANEL];
            let mut total = [[S::splat(0.0); VECTORS]; DOWN_TOKENS];
            let mut acc = [[zero; VECTORS]; DOWN_TOKENS];
            for (r, run) in self.runs.iter().enumerate() {
                for start in (run.start as usize..run.end as usize).step_by(4 * PANEL) {
                    let end = (start + 4 * PANEL).min(run.end as usize);
                    for slot in (start..end).step_by(4) {
                        panel[(slot - start) / 4] = self.quad::<S>(chunk, slot);
                    }
                    for (t, acc) in acc.iter_mut().enumerate().take(self.out.len()) {
                        let h = self.h.codes.as_ptr().add(t * self.h.stride + start).cast::<i32>();
                        let mut sums = *acc;
                        for (q, codes) in panel.iter().enumerate().take((end - start) / 4) {
                            let h = S::splat_i32(h.add(q).read_unaligned());
                            for v in 0..VECTORS {
                                sums[v] = S::dot(sums[v], codes[v], h);
                            }
                        }
                        *acc = sums;
                    }
                }
                for (t, acc) in acc.iter_mut().enumerate().take(self.out.len()) {
                    let sum = self.h.sums[t * self.h.sum_stride + r];
                    self.add_block::<S>(chunk, run, sum, acc, &mut total[t]);
                    *acc = [zero; VECTORS];
                }
            }
            let segments = self.matrix.columns.segments_of(chunk);
            for (t, out) in self.out.iter_mut().enumerate() {
                Self::write::<S>(&total[t], self.h.scale[t], segments, out);
            }
        }
    }
}
