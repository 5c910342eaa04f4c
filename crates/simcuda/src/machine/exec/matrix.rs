//! Matrix multiplication: `mma.sync`.
//!
//! Operand A of 16 rows and B of 8 columns come as rows of K bytes: in a fragment register, lanes 4g .. 4g+4 hold four
//! consecutive words of row (or column) g, so a row is gathered by copying runs of four words.

use super::half::{narrow_f16, widen_f16};
use super::{ALL, Block, Flow, Inst, Isa, LANES, Op, Warp};

/// Element types of A and B.
pub(crate) const S8: u8 = 0;
pub(crate) const U8: u8 = 1;
pub(crate) const F16: u8 = 2;
pub(crate) const BF16: u8 = 3;
pub(crate) const TF32: u8 = 4;
pub(crate) const S4: u8 = 5;
pub(crate) const U4: u8 = 6;

/// Words of a row of A or column of B: `WORDS` is 4 or 8.
type Rows<const N: usize> = [[u32; 8]; N];

/// Gathers 16 rows of A: registers come as (rows 0-7, rows 8-15) for each run of four words.
#[inline(always)]
fn rows_of_a<const WORDS: usize>(w: &Warp, b: &Block, i: &Inst, first: u32) -> Rows<16> {
    let mut rows = [[0; 8]; 16];
    for part in 0..WORDS / 4 {
        for half in 0..2 {
            let register = w.words(b.slot(i.extra + first + (part * 2 + half) as u32));
            for g in 0..8 {
                rows[half * 8 + g][part * 4..part * 4 + 4].copy_from_slice(&register[4 * g..4 * g + 4]);
            }
        }
    }
    rows
}

#[inline(always)]
fn columns_of_b<const WORDS: usize>(w: &Warp, b: &Block, i: &Inst, first: u32) -> Rows<8> {
    let mut columns = [[0; 8]; 8];
    for part in 0..WORDS / 4 {
        let register = w.words(b.slot(i.extra + first + part as u32));
        for g in 0..8 {
            columns[g][part * 4..part * 4 + 4].copy_from_slice(&register[4 * g..4 * g + 4]);
        }
    }
    columns
}

/// Tells the scheduler to gather the warp, or that all its lanes are here.
#[inline(always)]
fn together(w: &mut Warp) -> bool {
    w.members = ALL;
    !w.dead & !w.mask == 0
}

/// Integer `mma` of 16 x 8 x (4 * WORDS): list entries are D (4), A (WORDS / 2), B (WORDS / 4), C (4); `target` 1 saturates.
pub(crate) struct MmaInt<const WORDS: usize, const A: u8, const B: u8>;

impl<const WORDS: usize, const A: u8, const B: u8> Op for MmaInt<WORDS, A, B> {
    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, b: &mut Block, i: &Inst) -> Flow {
        if !together(w) {
            return Flow::Gather;
        }
        let c_at = 4 + (WORDS / 2 + WORDS / 4) as u32;
        let rows = rows_of_a::<WORDS>(w, b, i, 4);
        let columns = columns_of_b::<WORDS>(w, b, i, 4 + (WORDS / 2) as u32);
        let mut sums = [[0i32; 8]; 16];
        multiply_int::<I, WORDS, A, B>(&rows, &columns, &mut sums);
        for half in 0..2 {
            let c = [w.words(b.slot(i.extra + c_at + 2 * half)), w.words(b.slot(i.extra + c_at + 2 * half + 1))];
            let mut d = [[0; LANES]; 2];
            for lane in 0..LANES {
                let row = &sums[half as usize * 8 + lane / 4];
                for odd in 0..2 {
                    let product = row[2 * (lane % 4) + odd];
                    let c = c[odd][lane] as i32;
                    d[odd][lane] =
                        if i.target == 1 { c.saturating_add(product) } else { c.wrapping_add(product) } as u32;
                }
            }
            w.set_words(b.slot(i.extra + 2 * half), d[0]);
            w.set_words(b.slot(i.extra + 2 * half + 1), d[1]);
        }
        b.counters.tensor += 1;
        Flow::Next
    }
}

/// Element `k` of a row of packed integers.
#[inline(always)]
fn element<const TYPE: u8>(row: &[u32; 8], k: usize) -> i32 {
    match TYPE {
        S8 => i32::from((row[k / 4] >> (8 * (k % 4))) as i8),
        U8 => (row[k / 4] >> (8 * (k % 4)) & 0xff) as i32,
        S4 => (row[k / 8] << (28 - 4 * (k % 8))) as i32 >> 28,
        _ => (row[k / 8] >> (4 * (k % 8)) & 15) as i32,
    }
}

#[inline(always)]
fn multiply_int<I: Isa, const WORDS: usize, const A: u8, const B: u8>(
    rows: &Rows<16>,
    columns: &Rows<8>,
    sums: &mut [[i32; 8]; 16],
) {
    if A >= S4 {
        for (row, sums) in rows.iter().zip(sums) {
            for (column, sum) in columns.iter().zip(sums) {
                *sum = (0..WORDS * 8).map(|k| element::<A>(row, k) * element::<B>(column, k)).sum();
            }
        }
        return;
    }
    // Bytes widen to 16 bits. Pairs along k stay together: B as [pair][column], A's pair broadcast against it.
    let mut pairs = [[[0i16; 2]; 8]; 16];
    for (n, column) in columns.iter().enumerate() {
        for k in 0..WORDS * 4 {
            pairs[k / 2][n][k % 2] = element::<B>(column, k) as i16;
        }
    }
    for (row, sums) in rows.iter().zip(sums) {
        let mut wide = [[0i16; 2]; 16];
        for k in 0..WORDS * 4 {
            wide[k / 2][k % 2] = element::<A>(row, k) as i16;
        }
        #[cfg(target_arch = "x86_64")]
        if I::AVX2 {
            use std::arch::x86_64::*;
            // SAFETY: compiled for and run with AVX2; each pairs[k] and sums are 32 bytes.
            unsafe {
                let (mut even, mut odd) = (_mm256_setzero_si256(), _mm256_setzero_si256());
                for k in (0..WORDS * 2).step_by(2) {
                    let a = |k: usize| _mm256_set1_epi32(i32::from(wide[k][0]) & 0xffff | i32::from(wide[k][1]) << 16);
                    let b = |k: usize| _mm256_loadu_si256(pairs[k].as_ptr().cast());
                    even = _mm256_add_epi32(even, _mm256_madd_epi16(a(k), b(k)));
                    odd = _mm256_add_epi32(odd, _mm256_madd_epi16(a(k + 1), b(k + 1)));
                }
                _mm256_storeu_si256(sums.as_mut_ptr().cast(), _mm256_add_epi32(even, odd));
            }
            continue;
        }
        for (n, sum) in sums.iter_mut().enumerate() {
            for k in 0..WORDS * 2 {
                let b = pairs[k][n];
                *sum += i32::from(wide[k][0]) * i32::from(b[0]) + i32::from(wide[k][1]) * i32::from(b[1]);
            }
        }
    }
}

/// Floating-point `mma` of 16 x 8 x K with 4 * WORDS bytes of K: list entries are D, A (WORDS / 2), B (WORDS / 4), C; C and D
/// have 4 registers of f32, or with `HALF` 2 of f16x2.
///
/// Products are exact; they are added in f32 in the order of k to the accumulator.
pub(crate) struct MmaFloat<const WORDS: usize, const TYPE: u8, const HALF: bool>;

impl<const WORDS: usize, const TYPE: u8, const HALF: bool> Op for MmaFloat<WORDS, TYPE, HALF> {
    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, b: &mut Block, i: &Inst) -> Flow {
        if !together(w) {
            return Flow::Gather;
        }
        let outputs = if HALF { 2 } else { 4 };
        let c_at = outputs + (WORDS / 2 + WORDS / 4) as u32;
        let rows = rows_of_a::<WORDS>(w, b, i, outputs);
        let columns = columns_of_b::<WORDS>(w, b, i, outputs + (WORDS / 2) as u32);
        let mut sums = [[0f32; 8]; 16];
        for half in 0..2usize {
            let at = i.extra + c_at;
            for odd in 0..2usize {
                let slot = if HALF { b.slot(at + half as u32) } else { b.slot(at + (2 * half + odd) as u32) };
                let c = w.words(slot);
                for lane in 0..LANES {
                    let value = if HALF { widen_f16((c[lane] >> (16 * odd)) as u16) } else { f32::from_bits(c[lane]) };
                    sums[half * 8 + lane / 4][2 * (lane % 4) + odd] = value;
                }
            }
        }
        multiply_float::<I, WORDS, TYPE>(&rows, &columns, &mut sums);
        for half in 0..2usize {
            let mut d = [[0u32; LANES]; 2];
            for lane in 0..LANES {
                let row = &sums[half * 8 + lane / 4];
                for odd in 0..2 {
                    let value = super::float::output::<false, false>(row[2 * (lane % 4) + odd]);
                    d[odd][lane] = if HALF { narrow_f16(value) } else { value.to_bits() };
                }
            }
            if HALF {
                let mut both = [0; LANES];
                for lane in 0..LANES {
                    both[lane] = d[1][lane] << 16 | d[0][lane];
                }
                w.set_words(b.slot(i.extra + half as u32), both);
            } else {
                w.set_words(b.slot(i.extra + 2 * half as u32), d[0]);
                w.set_words(b.slot(i.extra + 2 * half as u32 + 1), d[1]);
            }
        }
        b.counters.tensor += 1;
        Flow::Next
    }
}

/// Elements of a row as f32.
#[inline(always)]
fn widen_row<I: Isa, const WORDS: usize, const TYPE: u8>(row: &[u32; 8]) -> [f32; 16] {
    let mut out = [0f32; 16];
    #[cfg(target_arch = "x86_64")]
    if I::AVX2 && TYPE == F16 && WORDS == 8 {
        use std::arch::x86_64::*;
        // SAFETY: compiled for and run with AVX2 and F16C; row has 32 bytes and out 64.
        unsafe {
            let low = _mm_loadu_si128(row.as_ptr().cast());
            let high = _mm_loadu_si128(row.as_ptr().add(4).cast());
            _mm256_storeu_ps(out.as_mut_ptr(), _mm256_cvtph_ps(low));
            _mm256_storeu_ps(out.as_mut_ptr().add(8), _mm256_cvtph_ps(high));
        }
        return out;
    }
    if TYPE == TF32 {
        for k in 0..WORDS {
            // The low 13 bits of a tf32 register are not used.
            out[k] = f32::from_bits(row[k] & !0x1fff);
        }
        return out;
    }
    for k in 0..WORDS * 2 {
        let bits = row[k / 2] >> (16 * (k % 2));
        out[k] = if TYPE == F16 { widen_f16(bits as u16) } else { f32::from_bits(bits << 16) };
    }
    out
}

#[inline(always)]
fn multiply_float<I: Isa, const WORDS: usize, const TYPE: u8>(
    rows: &Rows<16>,
    columns: &Rows<8>,
    sums: &mut [[f32; 8]; 16],
) {
    let depth = if TYPE == TF32 { WORDS } else { WORDS * 2 };
    let mut b = [[0f32; 8]; 16];
    for (n, column) in columns.iter().enumerate() {
        let wide = widen_row::<I, WORDS, TYPE>(column);
        for k in 0..depth {
            b[k][n] = wide[k];
        }
    }
    for (row, sums) in rows.iter().zip(sums) {
        let a = widen_row::<I, WORDS, TYPE>(row);
        let mut acc = *sums;
        for k in 0..depth {
            for n in 0..8 {
                acc[n] = a[k].mul_add(b[k][n], acc[n]);
            }
        }
        *sums = acc;
    }
}

/// `movmatrix`: transposes the 8 x 8 matrix of 16-bit elements in `a`.
pub(crate) struct MovMatrix;

impl Op for MovMatrix {
    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, _: &mut Block, i: &Inst) -> Flow {
        if !together(w) {
            return Flow::Gather;
        }
        let d = transpose(&w.words(i.a));
        w.set_words(i.dst, d);
        Flow::Next
    }
}

/// Transposes an 8 x 8 matrix of 16-bit elements, of which lane l holds (l / 4, 2 * (l % 4)) and its right neighbour.
#[inline(always)]
pub(crate) fn transpose(a: &[u32; LANES]) -> [u32; LANES] {
    let at = |row: usize, column: usize| a[row * 4 + column / 2] >> (16 * (column % 2)) & 0xffff;
    let mut d = [0; LANES];
    for lane in 0..LANES {
        let (row, column) = (lane / 4, 2 * (lane % 4));
        d[lane] = at(column, row) | at(column + 1, row) << 16;
    }
    d
}
