//! Comparison, selection and predicates.

use std::marker::PhantomData;

use super::float::flush;
use super::half::{narrow_bf16, narrow_f16, widen_f16};
use super::undefined::Spread;
use super::warp::movemask;
use super::{ALL, Block, Flow, Inst, Isa, LANES, Lane, Op, Slot, Warp};

/// An f16 lane, held as the f32 of its value.
#[derive(Clone, Copy, Default)]
pub(crate) struct F16Lane(pub f32);

/// A bf16 lane, held as the f32 of its value.
#[derive(Clone, Copy, Default)]
pub(crate) struct Bf16Lane(pub f32);

impl Lane for F16Lane {
    #[inline(always)]
    fn read(w: &Warp, slot: Slot) -> [Self; LANES] {
        w.words(slot).map(|x| Self(widen_f16(x as u16)))
    }
    #[inline(always)]
    fn write(w: &mut Warp, slot: Slot, values: [Self; LANES]) {
        w.set_words(slot, values.map(|x| narrow_f16(x.0)));
    }
}

impl Lane for Bf16Lane {
    #[inline(always)]
    fn read(w: &Warp, slot: Slot) -> [Self; LANES] {
        w.words(slot).map(|x| Self(f32::from_bits(x << 16)))
    }
    #[inline(always)]
    fn write(w: &mut Warp, slot: Slot, values: [Self; LANES]) {
        w.set_words(slot, values.map(|x| narrow_bf16(x.0)));
    }
}

/// Comparison operators, as the const parameter of the forms below. From `EQU` on, they also hold for unordered operands.
pub(crate) const EQ: u8 = 0;
pub(crate) const NE: u8 = 1;
pub(crate) const LT: u8 = 2;
pub(crate) const LE: u8 = 3;
pub(crate) const GT: u8 = 4;
pub(crate) const GE: u8 = 5;
pub(crate) const EQU: u8 = 6;
pub(crate) const NEU: u8 = 7;
pub(crate) const LTU: u8 = 8;
pub(crate) const LEU: u8 = 9;
pub(crate) const GTU: u8 = 10;
pub(crate) const GEU: u8 = 11;
pub(crate) const NUM: u8 = 12;
pub(crate) const NAN: u8 = 13;

/// A type that `setp` compares.
pub(crate) trait Compared: Lane {
    /// The operand with its subnormals flushed if asked for.
    #[inline(always)]
    fn ready(self, _ftz: bool) -> Self {
        self
    }
    fn holds<const C: u8>(self, other: Self) -> bool;
}

macro_rules! compared_int {
    ($($t:ty)*) => {$(
        impl Compared for $t {
            #[inline(always)]
            fn holds<const C: u8>(self, other: Self) -> bool {
                match C {
                    EQ => self == other,
                    NE => self != other,
                    LT => self < other,
                    LE => self <= other,
                    GT => self > other,
                    _ => self >= other,
                }
            }
        }
    )*};
}
compared_int! { u16 i16 u32 i32 u64 i64 }

macro_rules! compared_float {
    ($($t:ty, |$x:ident| $value:expr, |$y:ident, $ftz:ident| $ready:expr;)*) => {$(
        impl Compared for $t {
            #[inline(always)]
            fn ready(self, $ftz: bool) -> Self { let $y = self; $ready }
            #[inline(always)]
            fn holds<const C: u8>(self, other: Self) -> bool {
                let (a, b) = ({ let $x = self; $value }, { let $x = other; $value });
                let nan = a.is_nan() | b.is_nan();
                match C {
                    EQ => a == b,
                    NE => (a != b) & !nan,
                    LT => a < b,
                    LE => a <= b,
                    GT => a > b,
                    GE => a >= b,
                    EQU => (a == b) | nan,
                    NEU => a != b,
                    LTU => (a < b) | nan,
                    LEU => (a <= b) | nan,
                    GTU => (a > b) | nan,
                    GEU => (a >= b) | nan,
                    NUM => !nan,
                    _ => nan,
                }
            }
        }
    )*};
}
compared_float! {
    f32, |x| x, |y, ftz| if ftz { flush(y) } else { y };
    f64, |x| x, |y, _ftz| y;
    F16Lane, |x| x.0, |y, _ftz| y;
    Bf16Lane, |x| x.0, |y, _ftz| y;
}

/// How a comparison joins a further predicate: none, and, or, xor.
pub(super) const JOIN_AND: i64 = 1;
pub(super) const JOIN_OR: i64 = 2;

/// Joins comparison bits with the predicate that `imm` describes: its index, then the operator from bit 32 and its negation
/// in bit 34.
#[inline(always)]
fn join(w: &Warp, imm: i64, bits: u32) -> u32 {
    let operator = imm >> 32 & 3;
    if operator == 0 {
        return bits;
    }
    let other = w.pred(imm as u32) ^ if imm >> 34 & 1 == 1 { ALL } else { 0 };
    match operator {
        JOIN_AND => bits & other,
        JOIN_OR => bits | other,
        _ => bits ^ other,
    }
}

/// Lanes for which `a C b`.
#[inline(always)]
fn compare<I: Isa, T: Compared, const C: u8>(w: &Warp, i: &Inst) -> u32 {
    let (a, b, ftz) = (T::read(w, i.a), T::read(w, i.b), i.extra & 1 != 0);
    let mut row = [0u32; LANES];
    for lane in 0..LANES {
        row[lane] = u32::from(a[lane].ready(ftz).holds::<C>(b[lane].ready(ftz))).wrapping_neg();
    }
    movemask::<I>(&row)
}

/// `setp`: predicates `dst` and `target`; see [`join`] for `imm`.
pub(crate) struct Setp<T, const C: u8>(PhantomData<T>);

impl<T: Compared, const C: u8> Op for Setp<T, C> {
    const SPREAD: Spread = Spread::Compare { second_in_c: false };

    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, _: &mut Block, i: &Inst) -> Flow {
        let bits = compare::<I, T, C>(w, i);
        let (p, q) = (join(w, i.imm, bits), join(w, i.imm, !bits));
        w.set_pred(i.dst.0, p);
        if i.target != 0 {
            w.set_pred(i.target, q);
        }
        Flow::Next
    }
}

/// `set`: `target` is the value for true, as 32 bits.
pub(crate) struct Set<T, const C: u8>(PhantomData<T>);

impl<T: Compared, const C: u8> Op for Set<T, C> {
    const SPREAD: Spread = Spread::Set;

    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, _: &mut Block, i: &Inst) -> Flow {
        let bits = join(w, i.imm, compare::<I, T, C>(w, i));
        let mut d = [0; LANES];
        for lane in 0..LANES {
            d[lane] = (bits >> lane & 1).wrapping_neg() & i.target;
        }
        w.set_words(i.dst, d);
        Flow::Next
    }
}

/// `selp`: the predicate's index is `c`, `extra` is all ones to negate it.
pub(crate) struct Selp<T>(PhantomData<T>);

impl<T: Lane> Op for Selp<T> {
    const SPREAD: Spread = Spread::Select;

    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, _: &mut Block, i: &Inst) -> Flow {
        let (a, b, p) = (T::read(w, i.a), T::read(w, i.b), w.pred(i.c.0) ^ i.extra);
        let mut d = [T::default(); LANES];
        for lane in 0..LANES {
            d[lane] = if p >> lane & 1 == 1 { a[lane] } else { b[lane] };
        }
        T::write(w, i.dst, d);
        Flow::Next
    }
}

/// `slct`: `a` where `c` is not negative (a NaN counts as negative).
pub(crate) struct Slct<T, C>(PhantomData<(T, C)>);

impl<T: Lane, C: Compared> Op for Slct<T, C> {
    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, _: &mut Block, i: &Inst) -> Flow {
        let (a, b, c, ftz) = (T::read(w, i.a), T::read(w, i.b), C::read(w, i.c), i.extra & 1 != 0);
        let mut d = [T::default(); LANES];
        for lane in 0..LANES {
            d[lane] = if c[lane].ready(ftz).holds::<GE>(C::default()) { a[lane] } else { b[lane] };
        }
        T::write(w, i.dst, d);
        Flow::Next
    }
}

/// Predicate logic: what `extra` says of the predicates `a` and `b`, both negated by the bits of `target`.
pub(crate) struct PredLogic;

pub(crate) const PRED_AND: u32 = 0;
pub(crate) const PRED_OR: u32 = 1;
pub(crate) const PRED_XOR: u32 = 2;

impl PredLogic {
    /// The result for operands `a` and `b`.
    #[inline(always)]
    pub(super) fn bits(i: &Inst, a: u32, b: u32) -> u32 {
        let flip = |bit: u32| (i.target >> bit & 1).wrapping_neg();
        let (a, b) = (a ^ flip(0), b ^ flip(1));
        match i.extra {
            PRED_AND => a & b,
            PRED_OR => a | b,
            _ => a ^ b,
        }
    }
}

impl Op for PredLogic {
    const SPREAD: Spread = Spread::Logic;

    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, _: &mut Block, i: &Inst) -> Flow {
        let bits = Self::bits(i, w.pred(i.a.0), w.pred(i.b.0));
        w.set_pred(i.dst.0, bits);
        Flow::Next
    }
}

/// `testp`: which class of floating-point value.
pub(crate) struct Testp<const DOUBLE: bool>;

pub(crate) const TEST_FINITE: u32 = 0;
pub(crate) const TEST_INFINITE: u32 = 1;
pub(crate) const TEST_NUMBER: u32 = 2;
pub(crate) const TEST_NAN: u32 = 3;
pub(crate) const TEST_NORMAL: u32 = 4;

impl<const DOUBLE: bool> Op for Testp<DOUBLE> {
    const SPREAD: Spread = Spread::Test;

    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, _: &mut Block, i: &Inst) -> Flow {
        let mut classes = [std::num::FpCategory::Zero; LANES];
        if DOUBLE {
            classes = f64::read(w, i.a).map(f64::classify);
        } else {
            classes.copy_from_slice(&f32::read(w, i.a).map(f32::classify));
        }
        use std::num::FpCategory::{Infinite, Nan, Normal, Subnormal};
        let holds = |c: std::num::FpCategory| match i.extra {
            TEST_FINITE => !matches!(c, Nan | Infinite),
            TEST_INFINITE => c == Infinite,
            TEST_NUMBER => c != Nan,
            TEST_NAN => c == Nan,
            TEST_NORMAL => c == Normal,
            _ => c == Subnormal,
        };
        let bits = (0..LANES).fold(0, |m, lane| m | u32::from(holds(classes[lane])) << lane);
        w.set_pred(i.dst.0, bits);
        Flow::Next
    }
}

/// `set` and `setp` on packed halves: operator in `target`, bit 8 of it for bf16, bit 9 for a result of 1.0 in place of all
/// ones; with `PREDICATES` the results go to the predicates `dst` and `c`.
pub(crate) struct SetPacked<const PREDICATES: bool>;

impl<const PREDICATES: bool> Op for SetPacked<PREDICATES> {
    const SPREAD: Spread = if PREDICATES { Spread::Compare { second_in_c: true } } else { Spread::Set };

    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, _: &mut Block, i: &Inst) -> Flow {
        let (a, b) = (w.words(i.a), w.words(i.b));
        let bf16 = i.target >> 8 & 1 == 1;
        let widen = |x: u32| if bf16 { f32::from_bits(x << 16) } else { widen_f16(x as u16) };
        let yes = match (i.target >> 9 & 1, bf16) {
            (0, _) => 0xffff,
            (_, true) => 0x3f80,
            (_, false) => 0x3c00,
        };
        let (mut low, mut high) = (0, 0);
        for lane in 0..LANES {
            low |= u32::from(holds(i.target as u8, widen(a[lane] & 0xffff), widen(b[lane] & 0xffff))) << lane;
            high |= u32::from(holds(i.target as u8, widen(a[lane] >> 16), widen(b[lane] >> 16))) << lane;
        }
        let (low, high) = (join(w, i.imm, low), join(w, i.imm, high));
        if PREDICATES {
            w.set_pred(i.dst.0, low);
            w.set_pred(i.c.0, high);
            return Flow::Next;
        }
        let mut d = [0; LANES];
        for lane in 0..LANES {
            d[lane] = (low >> lane & 1) * yes | (high >> lane & 1) * yes << 16;
        }
        w.set_words(i.dst, d);
        Flow::Next
    }
}

/// A comparison whose operator is known only here.
fn holds(operator: u8, a: f32, b: f32) -> bool {
    match operator {
        EQ => a.holds::<EQ>(b),
        NE => a.holds::<NE>(b),
        LT => a.holds::<LT>(b),
        LE => a.holds::<LE>(b),
        GT => a.holds::<GT>(b),
        GE => a.holds::<GE>(b),
        EQU => a.holds::<EQU>(b),
        NEU => a.holds::<NEU>(b),
        LTU => a.holds::<LTU>(b),
        LEU => a.holds::<LEU>(b),
        GTU => a.holds::<GTU>(b),
        GEU => a.holds::<GEU>(b),
        NUM => a.holds::<NUM>(b),
        _ => a.holds::<NAN>(b),
    }
}
