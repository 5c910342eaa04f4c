//! 4-bit gate and up rows times int8 activations.

use super::RowMatrix;
use super::one_token::OneToken;
use crate::column_sums::{Codes, SEGMENT};
use crate::simd::{ByteRows, Kernel, Simd};
use crate::sparse_mlp::rows::BLOCK;
use crate::w4a8::Offset;
use std::ops::Range;

/// Tokens that one unit of the gate and up projections covers at most.
pub(crate) const ROW_TOKENS: usize = 64;

/// Steps of four segments whose sums wait until all 16 rows have theirs.
const STEPS: usize = 16;

/// Steps of four rows from the one that is multiplied to the one that is asked into the first-level cache: 2 KiB of codes.
const NEAR: usize = 8;

/// out\[t\]\[i\] = act_scale\[t\] · Σ_g (float(Σ_{k∈g} (code − zero) · a) · scale (+ Σ_{k∈g} a · offset)), groups in order, by runs of K as
/// in [`crate::w4a8`].
pub(crate) struct FourBitRows<'a> {
    pub matrix: &'a RowMatrix,
    /// 1 to 16 rows.
    pub rows: &'a [u32],
    /// Rows that will be asked for next, at most 16; they are prefetched.
    pub next: &'a [u32],
    /// Of the first of `out`'s tokens on.
    pub x: Codes<'a>,
    /// At most [`ROW_TOKENS`]; lanes past the rows hold copies of the last.
    pub out: &'a mut [[f32; BLOCK]],
}

impl Kernel for FourBitRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (tokens, d, x) = (self.out.len(), self.matrix.d, &self.x);
        assert!((1..=ROW_TOKENS).contains(&tokens) && x.scale.len() >= tokens);
        assert!(x.codes.len() >= (tokens - 1) * x.stride + d);
        assert!(x.sums.len() >= (tokens - 1) * x.sum_stride + d / SEGMENT);
        assert!((1..=BLOCK).contains(&self.rows.len()) && self.next.len() <= BLOCK);
        if tokens == 1 { self.out[0] = self.one(simd, &self.records(self.rows)) } else { self.many(simd) }
    }
}

impl FourBitRows<'_> {
    /// The records of some rows, the last repeated.
    #[inline(always)]
    fn records(&self, list: &[u32]) -> ByteRows<'_, BLOCK> {
        let mut rows = [list[list.len() - 1]; BLOCK];
        rows[..list.len()].copy_from_slice(list);
        // scales are read 16 bytes at a time, up to 12 past the record; the matrix ends in slack for that
        ByteRows::new(self.matrix.records(), self.matrix.stride, rows, self.matrix.stride + 12)
    }

    /// Asks for what four of the next rows have where a step of the rows at hand is: 64 bytes of codes, into the second-level cache, and,
    /// every fourth step, a line of scales. Lines that come in even shares are on their way while codes are multiplied; in bursts they
    /// would wait for one another, and the work for them.
    #[inline(always)]
    fn prefetch_quad<S: Simd>(&self, simd: S, next: &ByteRows<'_, BLOCK>, row: usize, step: usize) {
        let m = self.matrix;
        let scales = (m.d / 2 + 16 * step).min(m.stride - 4);
        for r in row..row + 4 {
            simd.prefetch_far_line(next.chunks::<1>(r, 64 * step));
            if step % 4 == 0 {
                simd.prefetch_line(next.chunks::<1>(r, scales));
            }
        }
    }

    /// Asks for four of the rows at hand where a step of `steps` is, or where the next four are if it is past them.
    #[inline(always)]
    fn prefetch_near<S: Simd>(simd: S, rows: &ByteRows<'_, BLOCK>, (four, i): (usize, usize), steps: Range<usize>) {
        let (four, i) = if i < steps.len() { (four, i) } else { (four + 1, i - steps.len()) };
        if four < BLOCK / 4 && i < steps.len() {
            for row in 4 * four..4 * four + 4 {
                simd.prefetch_line(rows.chunks::<1>(row, 64 * (steps.start + i)));
            }
        }
    }

    /// Computes one token: the form of the scales (of [`crate::column_sums::FORMS`]) is settled here, so that no group asks
    /// for it.
    #[inline(always)]
    fn one<S: Simd>(&self, simd: S, rows: &ByteRows<'_, BLOCK>) -> [f32; BLOCK] {
        match self.matrix.offset {
            None => self.one_of::<S, 0>(simd, rows),
            Some(Offset::None) => self.one_of::<S, 1>(simd, rows),
            Some(Offset::F16) => self.one_of::<S, 2>(simd, rows),
            Some(Offset::ZeroPoint) => self.one_of::<S, 3>(simd, rows),
        }
    }

    /// Computes one token, [`STEPS`] times four segments at a time: dot products of four rows after four, so that memory is
    /// read row by row, then the sums across lanes for 16 rows together.
    #[inline(always)]
    fn one_of<S: Simd, const FORM: usize>(&self, simd: S, rows: &ByteRows<'_, BLOCK>) -> [f32; BLOCK] {
        let segments = self.matrix.d / SEGMENT;
        let steps = segments.div_ceil(4);
        let mut state = OneToken::<S, FORM>::new(simd, self, rows);
        let next = if self.next.is_empty() { *rows } else { self.records(self.next) };
        let mut x = [[simd.splat_i32(0); 2]; STEPS];
        // lane 4q + p of vector f: segment q of row 4f + p
        let mut sums = [[simd.splat_i32(0); 4]; STEPS];
        for start in (0..steps).step_by(STEPS) {
            let count = STEPS.min(steps - start);
            for (i, x) in x.iter_mut().enumerate().take(count) {
                *x = self.x_halves(simd, 4 * (start + i), segments);
            }
            for four in 0..4 {
                for (i, (sums, x)) in sums.iter_mut().zip(&x).enumerate().take(count) {
                    self.prefetch_quad(simd, &next, 4 * four, start + i);
                    Self::prefetch_near(simd, rows, (four, i + NEAR), start..start + count);
                    let (row, byte) = (4 * four, 64 * (start + i));
                    sums[four] = match segments - 4 * (start + i) {
                        1 => Self::quad::<S, 1>(simd, rows, row, byte, *x),
                        2 => Self::quad::<S, 2>(simd, rows, row, byte, *x),
                        3 => Self::quad::<S, 3>(simd, rows, row, byte, *x),
                        _ => Self::quad::<S, 4>(simd, rows, row, byte, *x),
                    };
                }
            }
            for (i, &sums) in sums.iter().enumerate().take(count) {
                let first = 4 * (start + i);
                state.add(&simd.transpose_quarters(sums)[..4.min(segments - first)], first);
            }
        }
        let mut out = [0.0; BLOCK];
        simd.store(&mut out, simd.mul(state.total(), simd.splat(self.x.scale[0])));
        out
    }

    /// The first and the second 16 activations of each of up to four segments from `first` on.
    #[inline(always)]
    fn x_halves<S: Simd>(&self, simd: S, first: usize, segments: usize) -> [S::I; 2] {
        let end = segments.min(first + 4);
        let codes: &[u8] = bytemuck::cast_slice(&self.x.codes[first * SEGMENT..end * SEGMENT]);
        let chunks = codes.as_chunks().0;
        let (a, b) = chunks.split_at(chunks.len().min(4));
        simd.unzip_quarters(simd.load_segments(a), simd.load_segments(b))
    }

    /// Multiplies N segments, from a byte of the rows on, of four rows.
    #[inline(always)]
    fn quad<S: Simd, const N: usize>(
        simd: S,
        rows: &ByteRows<'_, BLOCK>,
        row: usize,
        byte: usize,
        [low, high]: [S::I; 2],
    ) -> S::I {
        let mut dots = [simd.splat_i32(0); 4];
        for r in 0..4 {
            let codes = simd.load_segments(rows.chunks::<N>(row + r, byte));
            let dot = simd.dot_short(dots[r], simd.low_nibbles(codes), low);
            dots[r] = simd.dot_short(dot, simd.high_nibbles(codes), high);
        }
        simd.sum_short_quads(dots)
    }

    /// Computes several tokens: codes of 16 rows are turned so that a lane is a row, once for all tokens.
    #[inline(always)]
    fn many<S: Simd>(self, simd: S) {
        let rows = self.records(self.rows);
        let tokens = self.out.len();
        let (m, x) = (self.matrix, &self.x);
        let per_group = m.group_size / SEGMENT;
        let zero = simd.splat_i32(0);
        let (mut total, mut chain) = ([simd.splat(0.0); ROW_TOKENS], [simd.splat(0.0); ROW_TOKENS]);
        let mut end = m.run_end(0);
        let (mut acc, mut sum) = ([zero; ROW_TOKENS], [0i32; ROW_TOKENS]);
        let mut params = [zero; 4];
        let (mut left, mut group) = (per_group, 0);
        for segment in 0..m.d / SEGMENT {
            if segment == end {
                for t in 0..tokens {
                    (total[t], chain[t]) = (simd.add(total[t], chain[t]), simd.splat(0.0));
                }
                end = m.run_end(segment);
            }
            let w = simd.load_rows(&rows, segment * 16);
            let (mut low, mut high) = ([zero; 4], [zero; 4]);
            for i in 0..4 {
                low[i] = simd.low_nibbles(w[i]);
                high[i] = simd.high_nibbles(w[i]);
            }
            for t in 0..tokens {
                let a: &[u8] = bytemuck::cast_slice(&x.codes[t * x.stride + segment * SEGMENT..][..SEGMENT]);
                let a = a.as_chunks().0;
                let (mut one, mut two) = (acc[t], zero);
                for i in 0..4 {
                    one = simd.dot(one, low[i], simd.splat_i32(i32::from_le_bytes(a[i])));
                    two = simd.dot(two, high[i], simd.splat_i32(i32::from_le_bytes(a[4 + i])));
                }
                acc[t] = simd.add_i32(one, two);
                sum[t] += x.sums[t * x.sum_stride + segment];
            }
            left -= 1;
            if left > 0 {
                continue;
            }
            let paired = m.offset == Some(Offset::None);
            let dword = if paired { group / 2 } else { group };
            if dword % 4 == 0 && (!paired || group % 2 == 0) {
                params = simd.load_rows(&rows, m.d / 2 + 4 * dword);
            }
            for t in 0..tokens {
                chain[t] = add_group(simd, m.offset, group, params[dword % 4], acc[t], sum[t], chain[t]);
                (acc[t], sum[t]) = (zero, 0);
            }
            (left, group) = (per_group, group + 1);
        }
        for (t, out) in self.out.iter_mut().enumerate() {
            simd.store(out, simd.mul(simd.add(total[t], chain[t]), simd.splat(x.scale[t])));
        }
    }
}

/// Adds one group's integer sums to the f32 sums of 16 rows.
#[inline(always)]
pub(super) fn add_group<S: Simd>(
    simd: S,
    offset: Option<Offset>,
    group: usize,
    param: S::I,
    acc: S::I,
    sum: i32,
    chain: S::F,
) -> S::F {
    match offset {
        None => {
            let centred = simd.sub_i32(acc, simd.splat_i32(8 * sum));
            simd.fma(simd.to_f32(centred), simd.as_f32(param), chain)
        }
        Some(Offset::None) => {
            let scale = if group % 2 == 0 { simd.low_f16(param) } else { simd.high_f16(param) };
            simd.fma(simd.to_f32(simd.sub_i32(acc, simd.splat_i32(8 * sum))), scale, chain)
        }
        Some(Offset::F16) => {
            let chain = simd.fma(simd.to_f32(acc), simd.low_f16(param), chain);
            simd.fma(simd.to_f32(simd.splat_i32(sum)), simd.high_f16(param), chain)
        }
        Some(Offset::ZeroPoint) => {
            let zero = simd.mul_i32(simd.high_u16(param), simd.splat_i32(sum));
            simd.fma(simd.to_f32(simd.sub_i32(acc, zero)), simd.low_f16(param), chain)
        }
    }
}
