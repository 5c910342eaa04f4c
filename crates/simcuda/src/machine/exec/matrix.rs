//! Matrix multiplication: `mma.sync`.
//!
//! Operand A of 16 rows and B of 8 columns come as rows of K bytes: in a fragment register, lanes 4g .. 4g+4 hold four
//! consecutive words of row (or column) g, so a row is gathered by copying runs of four words.

use super::super::tensor_operand::TensorOperand;
use super::half::{narrow_f16, widen_f16};
use super::rounding;
use super::undefined::Spread;
use super::{ALL, Block, Flow, Inst, Isa, LANES, Op, Warp};

/// Element types of A and B.
pub(crate) const S8: u8 = 0;
pub(crate) const U8: u8 = 1;
pub(crate) const F16: u8 = 2;
pub(crate) const BF16: u8 = 3;
pub(crate) const TF32: u8 = 4;
pub(crate) const S4: u8 = 5;
pub(crate) const U4: u8 = 6;
pub(crate) const E4M3: u8 = 7;
pub(crate) const E5M2: u8 = 8;

/// The kind of an element type of A and B.
pub(crate) const fn operand(element: u8) -> TensorOperand {
    match element {
        S4 | U4 => TensorOperand::Int4,
        S8 | U8 => TensorOperand::Int8,
        E4M3 | E5M2 => TensorOperand::Float8,
        F16 | BF16 => TensorOperand::Float16,
        _ => TensorOperand::Float32,
    }
}

/// A fragment register's 32 lanes.
type Register = [u32; LANES];

/// Words of a row of A: registers alternate rows 0-7 and 8-15 for each run of four words.
#[inline(always)]
fn row_of_a<const WORDS: usize>(a: &[Register], row: usize) -> [u32; 8] {
    let mut words = [0; 8];
    for part in 0..WORDS / 4 {
        let g = row % 8;
        words[part * 4..part * 4 + 4].copy_from_slice(&a[part * 2 + row / 8][4 * g..4 * g + 4]);
    }
    words
}

/// Words of a column of B.
#[inline(always)]
fn column_of_b<const WORDS: usize>(b: &[Register], column: usize) -> [u32; 8] {
    let mut words = [0; 8];
    for part in 0..WORDS / 4 {
        words[part * 4..part * 4 + 4].copy_from_slice(&b[part][4 * column..4 * column + 4]);
    }
    words
}

/// Reads `N` registers from the list at `first`.
#[inline(always)]
fn registers<const N: usize>(w: &Warp, b: &Block, first: u32, count: usize) -> [Register; N] {
    let mut out = [[0; LANES]; N];
    for (n, register) in out.iter_mut().enumerate().take(count) {
        *register = w.words(b.slot(first + n as u32));
    }
    out
}

/// Tells the scheduler to gather the warp, or that all its lanes are here.
#[inline(always)]
pub(super) fn together(w: &mut Warp) -> bool {
    w.members = ALL;
    !w.dead & !w.mask == 0
}

/// Register and lane of an accumulator's element.
#[inline(always)]
fn place(row: usize, column: usize) -> (usize, usize) {
    (row / 8 * 2 + column % 2, row % 8 * 4 + column / 2)
}

/// Integer `mma` of ROWS x 8 x (4 * WORDS): list entries are D (ROWS / 4), A (WORDS * ROWS / 32), B (WORDS / 4), C (ROWS / 4);
/// `target` 1 saturates. With 8 rows the upper half of the fragments is all there is.
pub(crate) struct MmaInt<const ROWS: usize, const WORDS: usize, const A: u8, const B: u8>;

impl<const ROWS: usize, const WORDS: usize, const A: u8, const B: u8> Op for MmaInt<ROWS, WORDS, A, B> {
    const SPREAD: Spread = Spread::Matrix { rows: ROWS as u8, words: WORDS as u8, half: false };

    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, b: &mut Block, i: &Inst) -> Flow {
        if !together(w) {
            return Flow::Gather;
        }
        let (outputs, inputs) = (ROWS / 4, WORDS * ROWS / 32);
        let a_at = i.extra + outputs as u32;
        let b_at = a_at + inputs as u32;
        let c_at = b_at + (WORDS / 4) as u32;
        let x: [Register; 4] = registers(w, b, a_at, inputs);
        let y: [Register; 2] = registers(w, b, b_at, WORDS / 4);
        let c: [Register; 4] = registers(w, b, c_at, outputs);
        let d = multiply_int::<I, WORDS, A, B>(&x, &y, &c, i.target == 1);
        for (n, register) in d.into_iter().enumerate().take(outputs) {
            w.set_words(b.slot(i.extra + n as u32), register);
        }
        b.counters.tensor(operand(A), ROWS * 8 * WORDS * 32 / operand(A).bits());
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
    a: &[Register; 4],
    b: &[Register; 2],
    c: &[Register; 4],
    saturate: bool,
) -> [Register; 4] {
    #[cfg(target_arch = "x86_64")]
    if I::AVX2 && A <= U8 {
        if B == S8 && super::matrix_vnni::is_available() {
            // SAFETY: just found available.
            return unsafe { super::matrix_vnni::multiply::<WORDS, A>(a, b, c, saturate) };
        }
        // SAFETY: compiled for and run with AVX2.
        return unsafe { super::matrix_avx2::multiply_bytes::<WORDS, A, B>(a, b, c, saturate) };
    }
    let elements = if A <= U8 { WORDS * 4 } else { WORDS * 8 };
    let mut d = [[0; LANES]; 4];
    for row in 0..16 {
        let x = row_of_a::<WORDS>(a, row);
        for column in 0..8 {
            let y = column_of_b::<WORDS>(b, column);
            let product: i32 = (0..elements).map(|k| element::<A>(&x, k) * element::<B>(&y, k)).sum();
            let (register, lane) = place(row, column);
            let c = c[register][lane] as i32;
            d[register][lane] = if saturate { c.saturating_add(product) } else { c.wrapping_add(product) } as u32;
        }
    }
    d
}

/// Floating-point `mma` of 16 x 8 x K with 4 * WORDS bytes of K: list entries are D, A (WORDS / 2), B (WORDS / 4), C; C and D
/// have 4 registers of f32, or with `HALF` 2 of f16x2.
///
/// Products are exact; they are added in f32 in the order of k to the accumulator, or as [`add_truncated`] does.
pub(crate) struct MmaFloat<const WORDS: usize, const A: u8, const B: u8, const HALF: bool>;

impl<const WORDS: usize, const A: u8, const B: u8, const HALF: bool> Op for MmaFloat<WORDS, A, B, HALF> {
    const SPREAD: Spread = Spread::Matrix { rows: 16, words: WORDS as u8, half: HALF };

    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, b: &mut Block, i: &Inst) -> Flow {
        if !together(w) {
            return Flow::Gather;
        }
        let outputs = if HALF { 2 } else { 4 };
        let a_at = i.extra + outputs as u32;
        let b_at = a_at + (WORDS / 2) as u32;
        let c_at = b_at + (WORDS / 4) as u32;
        let x: [Register; 4] = registers(w, b, a_at, WORDS / 2);
        let y: [Register; 2] = registers(w, b, b_at, WORDS / 4);
        let mut c: [Register; 4] = registers(w, b, c_at, outputs);
        if HALF {
            c = widen_accumulator(&c);
        }
        let mut d = match b.env.options.truncates {
            true => multiply_truncated::<WORDS, A, B>(&x, &y, &c),
            false => multiply_float::<I, WORDS, A, B>(&x, &y, &c),
        };
        if HALF {
            d = narrow_accumulator(&d);
        }
        for (n, register) in d.into_iter().enumerate().take(outputs) {
            w.set_words(b.slot(i.extra + n as u32), register);
        }
        b.counters.tensor(operand(A), 16 * 8 * WORDS * 32 / operand(A).bits());
        Flow::Next
    }
}

/// Two registers of f16x2 as four of f32: a pair holds neighbouring columns.
#[inline(always)]
fn widen_accumulator(c: &[Register; 4]) -> [Register; 4] {
    let mut out = [[0; LANES]; 4];
    for half in 0..2 {
        for lane in 0..LANES {
            out[2 * half][lane] = widen_f16(c[half][lane] as u16).to_bits();
            out[2 * half + 1][lane] = widen_f16((c[half][lane] >> 16) as u16).to_bits();
        }
    }
    out
}

/// The reverse of [`widen_accumulator`], rounding to nearest.
#[inline(always)]
fn narrow_accumulator(d: &[Register; 4]) -> [Register; 4] {
    let mut out = [[0; LANES]; 4];
    for half in 0..2 {
        for lane in 0..LANES {
            let narrow = |register: usize| narrow_f16(f32::from_bits(d[register][lane]));
            out[half][lane] = narrow(2 * half + 1) << 16 | narrow(2 * half);
        }
    }
    out
}

/// Elements of a row as f32.
#[inline(always)]
fn widen_row<const WORDS: usize, const TYPE: u8>(row: &[u32; 8]) -> [f32; 32] {
    let mut out = [0f32; 32];
    for (k, value) in out.iter_mut().enumerate().take(depth::<WORDS, TYPE>()) {
        *value = match TYPE {
            // The low 13 bits of a tf32 register are not used.
            TF32 => f32::from_bits(row[k] & !0x1fff),
            BF16 => f32::from_bits(row[k / 2] >> (16 * (k % 2)) << 16),
            E4M3 => rounding::decode(row[k / 4] >> (8 * (k % 4)) & 0xff, rounding::E4M3) as f32,
            E5M2 => rounding::decode(row[k / 4] >> (8 * (k % 4)) & 0xff, rounding::E5M2) as f32,
            _ => widen_f16((row[k / 2] >> (16 * (k % 2))) as u16),
        };
    }
    out
}

/// Elements of K.
const fn depth<const WORDS: usize, const TYPE: u8>() -> usize {
    match TYPE {
        TF32 => WORDS,
        E4M3 | E5M2 => WORDS * 4,
        _ => WORDS * 2,
    }
}

#[inline(always)]
fn multiply_float<I: Isa, const WORDS: usize, const A: u8, const B: u8>(
    a: &[Register; 4],
    b: &[Register; 2],
    c: &[Register; 4],
) -> [Register; 4] {
    #[cfg(target_arch = "x86_64")]
    if I::AVX2 && A < E4M3 {
        // SAFETY: compiled for and run with AVX2, FMA and F16C.
        return unsafe { super::matrix_avx2::multiply_floats::<WORDS, A>(a, b, c) };
    }
    let mut d = [[0; LANES]; 4];
    for row in 0..16 {
        let x = widen_row::<WORDS, A>(&row_of_a::<WORDS>(a, row));
        for column in 0..8 {
            let y = widen_row::<WORDS, B>(&column_of_b::<WORDS>(b, column));
            let (register, lane) = place(row, column);
            let c = f32::from_bits(c[register][lane]);
            let sum = (0..depth::<WORDS, A>()).fold(c, |sum, k| x[k].mul_add(y[k], sum));
            d[register][lane] = super::float::output::<false, false>(sum).to_bits();
        }
    }
    d
}

/// Products of an element type that a tensor core adds at a time: those of compute capability 8.0, of which later ones add no fewer.
pub(super) const fn added_together(element: u8) -> usize {
    match element {
        TF32 => 4,
        E4M3 | E5M2 => 16,
        _ => 8,
    }
}

/// [`multiply_float`] by [`add_truncated`].
fn multiply_truncated<const WORDS: usize, const A: u8, const B: u8>(
    a: &[Register; 4],
    b: &[Register; 2],
    c: &[Register; 4],
) -> [Register; 4] {
    let mut d = [[0; LANES]; 4];
    for row in 0..16 {
        let x = widen_row::<WORDS, A>(&row_of_a::<WORDS>(a, row));
        for column in 0..8 {
            let y = widen_row::<WORDS, B>(&column_of_b::<WORDS>(b, column));
            let (register, lane) = place(row, column);
            let depth = depth::<WORDS, A>();
            let c = f32::from_bits(c[register][lane]);
            d[register][lane] = dot_truncated(c, &x[..depth], &y[..depth], added_together(A)).to_bits();
        }
    }
    d
}

/// c + x · y, so many products at a time by [`add_truncated`].
pub(super) fn dot_truncated(c: f32, x: &[f32], y: &[f32], together: usize) -> f32 {
    x.chunks(together).zip(y.chunks(together)).fold(c, |sum, (x, y)| add_truncated(sum, x, y))
}

/// c + x · y as a tensor core adds: c and the exact products are aligned to the largest of them, cut to its 24 bits, toward zero, and the exact sum
/// of these is cut to the 24 bits of an f32. Tensor cores from 8.0 on keep some bits more while they add, so their errors are smaller.
///
/// # Source
/// Fasi, Higham, Mikaitis and Pranesh, Numerical behavior of NVIDIA tensor cores (PeerJ Computer Science 2021).
fn add_truncated(c: f32, x: &[f32], y: &[f32]) -> f32 {
    let terms = || x.iter().zip(y).map(|(&x, &y)| f64::from(x) * f64::from(y)).chain([f64::from(c)]);
    let largest = terms().map(f64::abs).fold(0.0, f64::max);
    let plain = terms().sum::<f64>();
    if largest == 0.0 || !plain.is_finite() {
        return super::float::output::<false, false>(plain as f32);
    }
    // the place of the largest one's last bit: f64 has the exponents of all products
    let exponent = (largest.to_bits() >> 52) as i32 - 1023;
    let unit = f64::from_bits(((exponent - 23 + 1023) as u64) << 52);
    toward_zero(terms().map(|term| (term / unit).trunc()).sum::<f64>() * unit)
}

/// The f32 next to a number of f64, or it, that is not further from zero.
fn toward_zero(v: f64) -> f32 {
    let nearest = v as f32;
    if f64::from(nearest).abs() > v.abs() && nearest.is_finite() {
        return f32::from_bits(nearest.to_bits() - 1);
    }
    nearest
}

/// `movmatrix`: transposes the 8 x 8 matrix of 16-bit elements in `a`.
pub(crate) struct MovMatrix;

impl Op for MovMatrix {
    const SPREAD: Spread = Spread::Move(1);

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

#[cfg(test)]
mod tests;
