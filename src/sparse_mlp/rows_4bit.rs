//! 4-bit gate and up rows times int8 activations.

use super::four_bit::{Kind, RowMatrix, SEGMENT};
use super::rows::BLOCK;
use super::simd::{Kernel, Simd};

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
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (tokens, d, x) = (self.out.len(), self.matrix.d, &self.x);
        assert!((1..=ROW_TOKENS).contains(&tokens) && x.scale.len() >= tokens);
        assert!(x.codes.len() >= (tokens - 1) * x.stride + d);
        assert!(x.sums.len() >= (tokens - 1) * x.sum_stride + d / SEGMENT);
        assert!((1..=BLOCK).contains(&self.rows.len()));
        // SAFETY: tokens are in bounds by the assertions, rows by the slicing in `starts`; the set is the caller's.
        unsafe { if tokens == 1 { self.tile::<S, 1>(1) } else { self.tile::<S, ROW_TOKENS>(tokens) } }
    }
}

impl FourBitRows<'_> {
    fn starts(&self, rows: &[u32]) -> [*const u8; BLOCK] {
        let (stride, records) = (self.matrix.stride, self.matrix.records());
        let mut starts = [records.as_ptr(); BLOCK];
        for (i, start) in starts.iter_mut().enumerate() {
            if let Some(&row) = rows.get(i.min(rows.len().saturating_sub(1))) {
                // scales are read 16 bytes at a time, up to 12 past the record; the matrix ends in slack for that
                *start = records[row as usize * stride..][..stride + 16].as_ptr();
            }
        }
        starts
    }

    /// # Safety
    /// As `run`, after its assertions; `tokens` ≤ `MAX`.
    #[inline(always)]
    unsafe fn tile<S: Simd, const MAX: usize>(self, tokens: usize) {
        let tokens = if MAX == 1 { 1 } else { tokens };
        let (m, x) = (self.matrix, &self.x);
        let (rows, next) = (self.starts(self.rows), self.starts(self.next));
        let per_group = m.group_size / SEGMENT;
        // SAFETY: `starts` checked the rows; a row has d/2 bytes of codes, then its scales, then 16 readable bytes;
        // a token has d codes and d/32 sums; prefetches never fault.
        unsafe {
            let zero = S::splat_i32(0);
            let mut total = [S::splat(0.0); MAX];
            let (mut acc, mut sum) = ([zero; MAX], [0i32; MAX]);
            let mut params = [zero; 4];
            let (mut left, mut group) = (per_group, 0);
            for segment in 0..m.d / SEGMENT {
                if MAX == 1 && segment % 4 == 0 && !self.next.is_empty() {
                    next.iter().for_each(|row| S::prefetch(row.add(segment * 16)));
                }
                let w = S::load_rows(&rows, segment * 16);
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
                let per_load = if m.kind == Kind::Symmetric { 8 } else { 4 };
                if group % per_load == 0 {
                    params = S::load_rows(&rows, m.d / 2 + group / per_load * 16);
                }
                let param = if m.kind == Kind::Symmetric { params[group / 2 % 4] } else { params[group % 4] };
                for t in 0..tokens {
                    total[t] = add_group::<S>(m.kind, group, param, acc[t], sum[t], total[t]);
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
unsafe fn add_group<S: Simd>(kind: Kind, group: usize, param: S::I, acc: S::I, sum: i32, total: S::F) -> S::F {
    // SAFETY: values only.
    unsafe {
        match kind {
            Kind::Channel => S::fma(S::to_f32(S::sub_i32(acc, S::splat_i32(8 * sum))), S::as_f32(param), total),
            Kind::Symmetric => {
                let scale = if group % 2 == 0 { S::low_f16(param) } else { S::high_f16(param) };
                S::fma(S::to_f32(S::sub_i32(acc, S::splat_i32(8 * sum))), scale, total)
            }
            Kind::Offset => {
                let total = S::fma(S::to_f32(acc), S::low_f16(param), total);
                S::fma(S::splat(sum as f32), S::high_f16(param), total)
            }
            Kind::ZeroPoint => {
                let zero = S::mul_i32(S::high_u16(param), S::splat_i32(sum));
                S::fma(S::to_f32(S::sub_i32(acc, zero)), S::low_f16(param), total)
            }
        }
    }
}
