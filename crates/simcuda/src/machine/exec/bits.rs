//! Logic, shifts, bit fields and byte permutation.

use std::marker::PhantomData;

use super::int::Int;
use super::lanewise::{F2, F3, lanewise};
use super::undefined::Spread;
use super::{Block, Flow, Inst, Isa, LANES, Op, Slot, Warp};

/// Bit operations on words of either width.
pub(crate) trait Bits: Int {
    fn and(self, other: Self) -> Self;
    fn or(self, other: Self) -> Self;
    fn xor(self, other: Self) -> Self;
    fn not(self) -> Self;
    fn ones(self) -> u32;
    fn leading(self) -> u32;
    fn reversed(self) -> Self;
}

macro_rules! bits {
    ($($t:ty)*) => {$(
        impl Bits for $t {
            #[inline(always)]
            fn and(self, other: Self) -> Self { self & other }
            #[inline(always)]
            fn or(self, other: Self) -> Self { self | other }
            #[inline(always)]
            fn xor(self, other: Self) -> Self { self ^ other }
            #[inline(always)]
            fn not(self) -> Self { !self }
            #[inline(always)]
            fn ones(self) -> u32 { self.count_ones() }
            #[inline(always)]
            fn leading(self) -> u32 { self.leading_zeros() }
            #[inline(always)]
            fn reversed(self) -> Self { self.reverse_bits() }
        }
    )*};
}
bits! { u16 u32 u64 i32 i64 }

lanewise! {
    And<T: Bits>(a: T, b: T) -> T = a.and(b), Spread::Bitwise(2);
    Or<T: Bits>(a: T, b: T) -> T = a.or(b), Spread::Bitwise(2);
    Xor<T: Bits>(a: T, b: T) -> T = a.xor(b), Spread::Bitwise(2);
    Not<T: Bits>(a: T) -> T = a.not(), Spread::Bitwise(1);
    Cnot<T: Bits>(a: T) -> T = T::from_bits(u64::from(a == T::default()));
    Popc<T: Bits>(a: T) -> u32 = a.ones();
    Clz<T: Bits>(a: T) -> u32 = a.leading();
    Brev<T: Bits>(a: T) -> T = a.reversed(), Spread::Move(1);
    Bfind<T: Bits>(a: T) -> u32 = find_high(a);
    BfindShift<T: Bits>(a: T) -> u32 = match find_high(a) { u32::MAX => u32::MAX, at => T::BITS - 1 - at };
    Bfe<T: Bits>(a: T, b: u32, c: u32) -> T = extract_field(a, b & 0xff, c & 0xff), Spread::Move(1);
}

/// Position of the highest bit that is not a sign bit; all ones if there is none.
#[inline(always)]
fn find_high<T: Bits>(a: T) -> u32 {
    let a = if T::SIGNED && a < T::default() { a.not() } else { a };
    (T::BITS - 1).wrapping_sub(a.leading())
}

#[inline(always)]
fn extract_field<T: Bits>(a: T, at: u32, len: u32) -> T {
    let bits = a.to_bits();
    let top = T::BITS - 1;
    let sign = T::SIGNED && len != 0 && bits >> (at + len - 1).min(top) & 1 == 1;
    let field = if at > top { 0 } else { bits >> at };
    // Bits of the field that the source has.
    let have = len.min(T::BITS.saturating_sub(at));
    let mask = if have == 0 { 0 } else { u64::MAX >> (64 - have) };
    T::from_bits(if sign { field & mask | !mask } else { field & mask })
}

/// `bfi`: operands are the field, the target, and position and length.
pub(crate) struct Bfi<T>(PhantomData<T>);

impl<T: Bits> Op for Bfi<T> {
    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, _: &mut Block, i: &Inst) -> Flow {
        let (a, b, at) = (T::read(w, i.a), T::read(w, i.b), w.words(i.c));
        let len = w.words(Slot(i.extra));
        let mut d = [T::default(); LANES];
        for lane in 0..LANES {
            let (at, len) = (at[lane] & 0xff, len[lane] & 0xff);
            let have = len.min(T::BITS.saturating_sub(at));
            let mask = if have == 0 { 0 } else { u64::MAX >> (64 - have) << (at & 63) };
            let field = if at < T::BITS { a[lane].to_bits() << (at & 63) } else { 0 };
            d[lane] = T::from_bits(b[lane].to_bits() & !mask | field & mask);
        }
        T::write(w, i.dst, d);
        Flow::Next
    }
}

/// `lop3` by its table, given as a mux tree over a, b and c.
#[inline(always)]
fn lut(table: u32, a: u32, b: u32, c: u32) -> u32 {
    let t = |row: u32| (table >> row & 1).wrapping_neg();
    let leaf = |row: u32| c & (t(row + 1) ^ t(row)) ^ t(row);
    let mux = |s: u32, one: u32, zero: u32| s & (one ^ zero) ^ zero;
    mux(a, mux(b, leaf(6), leaf(4)), mux(b, leaf(2), leaf(0)))
}

/// `lop3` with a table known to the compiler.
pub(crate) struct Lop3Of<const TABLE: u32>;

impl<const TABLE: u32> F3 for Lop3Of<TABLE> {
    const SPREAD: Spread = Spread::Bitwise(3);

    type A = u32;
    type B = u32;
    type C = u32;
    type D = u32;
    #[inline(always)]
    fn f(a: u32, b: u32, c: u32) -> u32 {
        lut(TABLE, a, b, c)
    }
}

/// `lop3` with its table in `extra`.
pub(crate) struct Lop3;

impl Op for Lop3 {
    const SPREAD: Spread = Spread::Bitwise(3);

    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, _: &mut Block, i: &Inst) -> Flow {
        let (a, b, c) = (w.words(i.a), w.words(i.b), w.words(i.c));
        let mut d = [0; LANES];
        for lane in 0..LANES {
            d[lane] = lut(i.extra, a[lane], b[lane], c[lane]);
        }
        w.set_words(i.dst, d);
        Flow::Next
    }
}

/// `lop3.BoolOp`: also compares the result with zero and joins it with a predicate: table in `extra`, predicate result in
/// `target`, its operand in `imm`, whose bit 32 says `and`.
pub(crate) struct Lop3Pred;

impl Op for Lop3Pred {
    const SPREAD: Spread = Spread::WordAndPredicate;

    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, b: &mut Block, i: &Inst) -> Flow {
        let (x, y, z) = (w.words(i.a), w.words(i.b), w.words(i.c));
        let other = w.pred(i.imm as u32);
        let nonzero = (0..LANES).fold(0, |m, l| m | u32::from(lut(i.extra, x[l], y[l], z[l]) != 0) << l);
        Lop3::run::<I>(w, b, i);
        w.set_pred(i.target, if i.imm >> 32 & 1 == 1 { nonzero & other } else { nonzero | other });
        Flow::Next
    }
}

/// Funnel shifts; `RIGHT` takes the low word of the result, `WRAP` reduces the amount modulo 32.
pub(crate) struct Funnel<const RIGHT: bool, const WRAP: bool>;

impl<const RIGHT: bool, const WRAP: bool> F3 for Funnel<RIGHT, WRAP> {
    const SPREAD: Spread = Spread::Move(2);

    type A = u32;
    type B = u32;
    type C = u32;
    type D = u32;
    #[inline(always)]
    fn f(a: u32, b: u32, c: u32) -> u32 {
        let by = if WRAP { c & 31 } else { c.min(32) };
        let pair = u64::from(b) << 32 | u64::from(a);
        if RIGHT { (pair >> by) as u32 } else { (pair << by >> 32) as u32 }
    }
}

/// `prmt` in its default mode.
pub(crate) struct Prmt;

impl Op for Prmt {
    const SPREAD: Spread = Spread::Move(2);

    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, _: &mut Block, i: &Inst) -> Flow {
        let (a, b, c) = (w.words(i.a), w.words(i.b), w.words(i.c));
        let mut d = [0; LANES];
        let selector = c[0];
        // One selector for all lanes, without sign replication, is by far the commonest.
        if selector & 0x8888 == 0 && c.iter().all(|&s| s == selector) {
            for byte in 0..4 {
                let from = selector >> (4 * byte) & 7;
                let source = if from < 4 { &a } else { &b };
                let shift = 8 * (from & 3);
                for lane in 0..LANES {
                    d[lane] |= (source[lane] >> shift & 0xff) << (8 * byte);
                }
            }
        } else {
            for lane in 0..LANES {
                d[lane] = permute(a[lane], b[lane], c[lane]);
            }
        }
        w.set_words(i.dst, d);
        Flow::Next
    }
}

/// Selects four bytes of `b:a`; bit 3 of a selector replicates the byte's sign.
#[inline(always)]
fn permute(a: u32, b: u32, selector: u32) -> u32 {
    let pair = u64::from(b) << 32 | u64::from(a);
    let mut d = 0;
    for byte in 0..4 {
        let select = selector >> (4 * byte) & 15;
        let value = (pair >> (8 * (select & 7))) as u8;
        let value = if select & 8 != 0 { (value as i8 >> 7) as u8 } else { value };
        d |= u32::from(value) << (8 * byte);
    }
    d
}

/// The other modes of `prmt`, as the selectors that the low two bits of `c` stand for.
pub(crate) struct PrmtMode<const MODE: u8>;

/// Selectors of the modes f4e, b4e, rc8, ecl, ecr and rc16.
const PRMT_MODES: [[u32; 4]; 6] = [
    [0x3210, 0x4321, 0x5432, 0x6543],
    [0x5670, 0x6701, 0x7012, 0x0123],
    [0x0000, 0x1111, 0x2222, 0x3333],
    [0x3210, 0x3211, 0x3222, 0x3333],
    [0x0000, 0x1110, 0x2210, 0x3210],
    [0x1010, 0x3232, 0x1010, 0x3232],
];

impl<const MODE: u8> F3 for PrmtMode<MODE> {
    const SPREAD: Spread = Spread::Move(2);

    type A = u32;
    type B = u32;
    type C = u32;
    type D = u32;
    #[inline(always)]
    fn f(a: u32, b: u32, c: u32) -> u32 {
        permute(a, b, PRMT_MODES[MODE as usize][c as usize & 3])
    }
}

/// `bmsk`: ones from position `a`, `b` of them.
pub(crate) struct Bmsk<const WRAP: bool>;

impl<const WRAP: bool> F2 for Bmsk<WRAP> {
    type A = u32;
    type B = u32;
    type D = u32;
    #[inline(always)]
    fn f(a: u32, b: u32) -> u32 {
        let (at, len) = if WRAP { (a & 31, b & 31) } else { (a, b) };
        if at >= 32 {
            return 0;
        }
        let from = u32::MAX << at;
        if len >= 32 || at + len >= 32 { from } else { from & !(u32::MAX << (at + len)) }
    }
}

/// `szext`: extends the low `b` bits of `a`.
pub(crate) struct Szext<const SIGNED: bool, const WRAP: bool>;

impl<const SIGNED: bool, const WRAP: bool> F2 for Szext<SIGNED, WRAP> {
    type A = u32;
    type B = u32;
    type D = u32;
    #[inline(always)]
    fn f(a: u32, b: u32) -> u32 {
        let bits = if WRAP { b & 31 } else { b.min(32) };
        if bits == 0 {
            return 0;
        }
        let high = a << (32 - bits);
        if SIGNED { (high as i32 >> (32 - bits)) as u32 } else { high >> (32 - bits) }
    }
}

/// `fns`: the `offset`-th set bit of a mask counted from `base`.
pub(crate) struct Fns;

impl F3 for Fns {
    type A = u32;
    type B = u32;
    type C = i32;
    type D = u32;
    #[inline(always)]
    fn f(mask: u32, base: u32, offset: i32) -> u32 {
        let base = base & 31;
        let mut left = offset.unsigned_abs();
        if offset == 0 {
            return if mask >> base & 1 == 1 { base } else { u32::MAX };
        }
        let mut at = base as i32;
        while (0..32).contains(&at) {
            if mask >> at & 1 == 1 {
                left -= 1;
                if left == 0 {
                    return at as u32;
                }
            }
            at += offset.signum();
        }
        u32::MAX
    }
}
