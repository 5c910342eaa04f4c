//! 4-bit gate and up rows times int8 activations.

mod one_token;

use self::one_token::{Ahead, OneToken};
use super::four_bit::{RowMatrix, SEGMENT};
use super::rows::BLOCK;
use crate::simd::{Kernel, Simd};
use crate::w4a8::Offset;

/// Tokens that one unit of the gate and up projections covers at most.
pub(crate) const ROW_TOKENS: usize = 64;

/// int8 activations of consecutive tokens.
#[derive(Clone, Copy)]
pub(crate) struct Codes<'a> {
    /// \[tokens, stride\].
    pub codes: &'a [i8],
    pub stride: usize,
    /// Sums over each 32 codes (gate, up) or each run (down), \[tokens, sum_stride\].
    pub sums: &'a [i32],
    pub sum_stride: usize,
    /// \[tokens\].
    pub scale: &'a [f32],
}

/// out\[t\]\[i\] = act_scale\[t\] · Σ_g (float(Σ_{k∈g} (code − zero) · a) · scale (+ Σ_{k∈g} a · offset)), groups in order.
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
    unsafe fn run<S: Simd>(self) {
        let (tokens, d, x) = (self.out.len(), self.matrix.d, &self.x);
        assert!((1..=ROW_TOKENS).contains(&tokens) && x.scale.len() >= tokens);
        assert!(x.codes.len() >= (tokens - 1) * x.stride + d);
        assert!(x.sums.len() >= (tokens - 1) * x.sum_stride + d / SEGMENT);
        assert!((1..=BLOCK).contains(&self.rows.len()) && self.next.len() <= BLOCK);
        let rows = self.starts();
        // SAFETY: tokens are in bounds by the assertions, rows by the one in `starts`; the set is the caller's.
        unsafe { if tokens == 1 { self.one::<S>(&rows) } else { self.many::<S>(&rows) } }
    }
}

impl FourBitRows<'_> {
    /// Where rows begin, the last repeated.
    #[inline(always)]
    fn starts(&self) -> [*const u8; BLOCK] {
        let (stride, records) = (self.matrix.stride, self.matrix.records());
        let highest = self.rows.iter().fold(0, |highest, &row| row.max(highest)) as usize;
        // scales are read 64 bytes at a time, up to 60 past the record; the matrix ends in slack for that
        assert!((highest + 1) * stride + 64 <= records.len());
        let mut rows = [self.rows[self.rows.len() - 1]; BLOCK];
        rows[..self.rows.len()].copy_from_slice(self.rows);
        let mut starts = [records.as_ptr(); BLOCK];
        for (start, row) in starts.iter_mut().zip(rows) {
            *start = start.wrapping_add(row as usize * stride);
        }
        starts
    }

    /// Computes one token: the form of the scales (of [`super::four_bit::FORMS`]) is settled here, so that no group asks for it.
    ///
    /// # Safety
    /// As `run`, after its assertions.
    #[inline(always)]
    unsafe fn one<S: Simd>(self, rows: &[*const u8; BLOCK]) {
        // SAFETY: the caller's.
        unsafe {
            match self.matrix.offset {
                None => self.one_of::<S, 0>(rows),
                Some(Offset::None) => self.one_of::<S, 1>(rows),
                Some(Offset::F16) => self.one_of::<S, 2>(rows),
                Some(Offset::ZeroPoint) => self.one_of::<S, 3>(rows),
            }
        }
    }

    /// Computes one token: dot products row by row, 4 segments at a time, then sums across lanes for 16 rows together.
    ///
    /// # Safety
    /// As `run`, after its assertions.
    #[inline(always)]
    unsafe fn one_of<S: Simd, const FORM: usize>(self, rows: &[*const u8; BLOCK]) {
        let segments = self.matrix.d / SEGMENT;
        // SAFETY: `starts` checked the rows; a row has d/2 bytes of codes, then its scales, then 64 readable bytes;
        // a token has d codes and d/32 sums.
        unsafe {
            let mut state = OneToken::<S, FORM>::new(&self, rows);
            let mut ahead = Ahead::new(self.next, 4 * segments.div_ceil(4));
            for first in (0..segments / 4 * 4).step_by(4) {
                let sums = self.dots::<S, 4>(rows, first, &mut ahead);
                state.add(&sums, first);
            }
            let first = segments / 4 * 4;
            match segments % 4 {
                1 => state.add(&self.dots::<S, 1>(rows, first, &mut ahead)[..1], first),
                2 => state.add(&self.dots::<S, 2>(rows, first, &mut ahead)[..2], first),
                3 => state.add(&self.dots::<S, 3>(rows, first, &mut ahead)[..3], first),
                _ => {}
            }
            S::store(self.out[0].as_mut_ptr(), S::mul(state.total, S::splat(self.x.scale[0])));
        }
    }

    /// Multiplies N segments from `first` on; lane i of result q is the dot product of segment q of row i.
    ///
    /// # Safety
    /// As `run`, after its assertions; `first + N` ≤ segments.
    #[inline(always)]
    unsafe fn dots<S: Simd, const N: usize>(
        &self,
        rows: &[*const u8; BLOCK],
        first: usize,
        ahead: &mut Ahead<'_>,
    ) -> [S::I; 4] {
        // SAFETY: the caller's; prefetches never fault.
        unsafe {
            let a = self.x.codes.as_ptr().add(first * SEGMENT).cast::<u8>();
            let halves = if N < 2 { 2 } else { 4 };
            let halves = S::unzip_quarters(S::load_segments(a, halves), S::load_segments(a.add(64), 2 * N - halves));
            let mut quads = [S::splat_i32(0); 4];
            for (i, quad) in quads.iter_mut().enumerate() {
                ahead.step::<S>(self.matrix);
                *quad = Self::quad::<S, N>(&rows[4 * i..], 16 * first, halves);
            }
            S::transpose_quarters(quads)
        }
    }

    /// Multiplies N segments, from a byte of the rows on, of four rows.
    ///
    /// # Safety
    /// As `dots`.
    #[inline(always)]
    unsafe fn quad<S: Simd, const N: usize>(rows: &[*const u8], byte: usize, [low, high]: [S::I; 2]) -> S::I {
        // SAFETY: the caller's.
        unsafe {
            let mut dots = [S::splat_i32(0); 4];
            for r in 0..4 {
                let codes = S::load_segments(rows[r].add(byte), N);
                let dot = S::dot(dots[r], S::low_nibbles(codes), low);
                dots[r] = S::dot(dot, S::high_nibbles(codes), high);
            }
            S::sum_quads(dots)
        }
    }

    /// Computes several tokens: codes of 16 rows are turned so that a lane is a row, once for all tokens.
    ///
    /// # Safety
    /// As `run`, after its assertions.
    #[inline(always)]
    unsafe fn many<S: Simd>(self, rows: &[*const u8; BLOCK]) {
        let tokens = self.out.len();
        let (m, x) = (self.matrix, &self.x);
        let per_group = m.group_size / SEGMENT;
        // SAFETY: as in `one`.
        unsafe {
            let zero = S::splat_i32(0);
            let mut total = [S::splat(0.0); ROW_TOKENS];
            let (mut acc, mut sum) = ([zero; ROW_TOKENS], [0i32; ROW_TOKENS]);
            let mut params = [zero; 4];
            let (mut left, mut group) = (per_group, 0);
            for segment in 0..m.d / SEGMENT {
                let w = S::load_rows(rows, segment * 16);
                let (mut low, mut high) = ([zero; 4], [zero; 4]);
                for i in 0..4 {
                    low[i] = S::low_nibbles(w[i]);
                    high[i] = S::high_nibbles(w[i]);
                }
                for t in 0..tokens {
                    let a = x.codes.as_ptr().add(t * x.stride + segment * SEGMENT).cast::<i32>();
                    let (mut one, mut two) = (acc[t], zero);
                    for i in 0..4 {
                        one = S::dot(one, low[i], S::splat_i32(a.add(i).read_unaligned()));
                        two = S::dot(two, high[i], S::splat_i32(a.add(4 + i).read_unaligned()));
                    }
                    acc[t] = S::add_i32(one, two);
                    sum[t] += *x.sums.get_unchecked(t * x.sum_stride + segment);
                }
                left -= 1;
                if left > 0 {
                    continue;
                }
                let paired = m.offset == Some(Offset::None);
                let dword = if paired { group / 2 } else { group };
                if dword % 4 == 0 && (!paired || group % 2 == 0) {
                    params = S::load_rows(rows, m.d / 2 + 4 * dword);
                }
                for t in 0..tokens {
                    total[t] = add_group::<S>(m.offset, group, params[dword % 4], acc[t], sum[t], total[t]);
                    (acc[t], sum[t]) = (zero, 0);
                }
                (left, group) = (per_group, group + 1);
            }
            for t in 0..tokens {
                S::store(self.out[t].as_mut_ptr(), S::mul(total[t], S::splat(x.scale[t])));
            }
        }
    }
}

/// Adds one group's integer sums to the f32 sums of 16 rows.
///
/// # Safety
/// As [`Simd`].
#[inline(always)]
unsafe fn add_group<S: Simd>(
    offset: Option<Offset>,
    group: usize,
    param: S::I,
    acc: S::I,
    sum: i32,
    total: S::F,
) -> S::F {
    // SAFETY: values only.
    unsafe {
        match offset {
            None => S::fma(S::to_f32(S::sub_i32(acc, S::splat_i32(8 * sum))), S::as_f32(param), total),
            Some(Offset::None) => {
                let scale = if group % 2 == 0 { S::low_f16(param) } else { S::high_f16(param) };
                S::fma(S::to_f32(S::sub_i32(acc, S::splat_i32(8 * sum))), scale, total)
            }
            Some(Offset::F16) => {
                let total = S::fma(S::to_f32(acc), S::low_f16(param), total);
                S::fma(S::to_f32(S::splat_i32(sum)), S::high_f16(param), total)
            }
            Some(Offset::ZeroPoint) => {
                let zero = S::mul_i32(S::high_u16(param), S::splat_i32(sum));
                S::fma(S::to_f32(S::sub_i32(acc, zero)), S::low_f16(param), total)
            }
        }
    }
}
