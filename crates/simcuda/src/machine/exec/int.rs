//! Integer arithmetic.

use std::marker::PhantomData;

use super::lanewise::{F2, lanewise};
use super::undefined::Spread;
use super::{Block, Flow, Inst, Isa, LANES, Lane, Op, Warp};

/// The integer types of PTX.
pub(crate) trait Int: Lane + Ord {
    type Wide: Int;
    const BITS: u32;
    const SIGNED: bool;
    fn to_bits(self) -> u64;
    fn from_bits(bits: u64) -> Self;
    fn wide(self) -> Self::Wide;
    fn wadd(self, other: Self) -> Self;
    fn wsub(self, other: Self) -> Self;
    fn wmul(self, other: Self) -> Self;
    fn mul_high(self, other: Self) -> Self;
    fn quotient(self, other: Self) -> Self;
    fn remainder(self, other: Self) -> Self;
    fn distance(self, other: Self) -> Self;
    fn left(self, by: u32) -> Self;
    fn right(self, by: u32) -> Self;
    fn wabs(self) -> Self;
    fn saturating(self, other: Self) -> Self;
    fn saturating_minus(self, other: Self) -> Self;
}

macro_rules! int {
    ($($t:ty, $u:ty, $wide:ty, $product:ty, $signed:expr, |$x:ident| $abs:expr;)*) => {$(
        impl Int for $t {
            type Wide = $wide;
            const BITS: u32 = <$t>::BITS;
            const SIGNED: bool = $signed;
            #[inline(always)]
            fn to_bits(self) -> u64 { self as $u as u64 }
            #[inline(always)]
            fn from_bits(bits: u64) -> Self { bits as $t }
            #[inline(always)]
            fn wide(self) -> $wide { self as $wide }
            #[inline(always)]
            fn wadd(self, other: Self) -> Self { self.wrapping_add(other) }
            #[inline(always)]
            fn wsub(self, other: Self) -> Self { self.wrapping_sub(other) }
            #[inline(always)]
            fn wmul(self, other: Self) -> Self { self.wrapping_mul(other) }
            #[inline(always)]
            fn mul_high(self, other: Self) -> Self { ((self as $product * other as $product) >> <$t>::BITS) as $t }
            // Division by zero has no defined result in PTX; all ones and the dividend are what devices give.
            #[inline(always)]
            fn quotient(self, other: Self) -> Self { if other == 0 { !0 } else { self.wrapping_div(other) } }
            #[inline(always)]
            fn remainder(self, other: Self) -> Self { if other == 0 { self } else { self.wrapping_rem(other) } }
            #[inline(always)]
            fn distance(self, other: Self) -> Self {
                if self < other { other.wrapping_sub(self) } else { self.wrapping_sub(other) }
            }
            #[inline(always)]
            fn left(self, by: u32) -> Self { if by < <$t>::BITS { self << by } else { 0 } }
            #[inline(always)]
            fn right(self, by: u32) -> Self {
                if $signed { self >> by.min(<$t>::BITS - 1) } else if by < <$t>::BITS { self >> by } else { 0 }
            }
            #[inline(always)]
            fn wabs(self) -> Self { let $x = self; $abs }
            #[inline(always)]
            fn saturating(self, other: Self) -> Self { self.saturating_add(other) }
            #[inline(always)]
            fn saturating_minus(self, other: Self) -> Self { self.saturating_sub(other) }
        }
    )*};
}

int! {
    u16, u16, u32, u32, false, |x| x;
    i16, u16, i32, i32, true, |x| x.wrapping_abs();
    u32, u32, u64, u64, false, |x| x;
    i32, u32, i64, i64, true, |x| x.wrapping_abs();
    u64, u64, u64, u128, false, |x| x;
    i64, u64, i64, i128, true, |x| x.wrapping_abs();
}

lanewise! {
    Mov<T: Lane>(a: T) -> T = a, Spread::Move(1);
    Add<T: Int>(a: T, b: T) -> T = a.wadd(b);
    Sub<T: Int>(a: T, b: T) -> T = a.wsub(b);
    AddSat<T: Int>(a: T, b: T) -> T = a.saturating(b);
    SubSat<T: Int>(a: T, b: T) -> T = a.saturating_minus(b);
    Mul<T: Int>(a: T, b: T) -> T = a.wmul(b);
    MulHigh<T: Int>(a: T, b: T) -> T = a.mul_high(b);
    MulWide<T: Int>(a: T, b: T) -> T::Wide = a.wide().wmul(b.wide());
    Mad<T: Int>(a: T, b: T, c: T) -> T = a.wmul(b).wadd(c);
    MadHigh<T: Int>(a: T, b: T, c: T) -> T = a.mul_high(b).wadd(c);
    MadHighSat<T: Int>(a: T, b: T, c: T) -> T = a.mul_high(b).saturating(c);
    MadWide<T: Int>(a: T, b: T, c: T::Wide) -> T::Wide = a.wide().wmul(b.wide()).wadd(c);
    Div<T: Int>(a: T, b: T) -> T = a.quotient(b);
    Rem<T: Int>(a: T, b: T) -> T = a.remainder(b);
    Min<T: Int>(a: T, b: T) -> T = a.min(b);
    Max<T: Int>(a: T, b: T) -> T = a.max(b);
    MinRelu<T: Int>(a: T, b: T) -> T = a.min(b).max(T::default());
    MaxRelu<T: Int>(a: T, b: T) -> T = a.max(b).max(T::default());
    Sad<T: Int>(a: T, b: T, c: T) -> T = c.wadd(a.distance(b));
    Abs<T: Int>(a: T) -> T = a.wabs();
    Neg<T: Int>(a: T) -> T = T::default().wsub(a);
    Shl<T: Int>(a: T, b: u32) -> T = a.left(b), Spread::Move(1);
    Shr<T: Int>(a: T, b: u32) -> T = a.right(b), Spread::Move(1);
    Mul24<T: Int24>(a: T, b: T) -> T = a.product24(b) ;
    Mul24High<T: Int24>(a: T, b: T) -> T = a.high24(b);
    Mad24<T: Int24>(a: T, b: T, c: T) -> T = a.product24(b).wadd(c);
    Mad24High<T: Int24>(a: T, b: T, c: T) -> T = a.high24(b).wadd(c);
}

/// 24-bit multiplication: the product of the low 24 bits has 48.
pub(crate) trait Int24: Int {
    /// Low 32 bits of the product.
    fn product24(self, other: Self) -> Self;
    /// High 32 of its 48 bits.
    fn high24(self, other: Self) -> Self;
}

impl Int24 for u32 {
    #[inline(always)]
    fn product24(self, other: Self) -> Self {
        (self & 0xff_ffff).wrapping_mul(other & 0xff_ffff)
    }
    #[inline(always)]
    fn high24(self, other: Self) -> Self {
        ((u64::from(self & 0xff_ffff) * u64::from(other & 0xff_ffff)) >> 16) as u32
    }
}

impl Int24 for i32 {
    #[inline(always)]
    fn product24(self, other: Self) -> Self {
        (self << 8 >> 8).wrapping_mul(other << 8 >> 8)
    }
    #[inline(always)]
    fn high24(self, other: Self) -> Self {
        ((i64::from(self << 8 >> 8) * i64::from(other << 8 >> 8)) >> 16) as i32
    }
}

/// Two 16-bit values in a word, each by `F`.
pub(crate) struct Halves<F>(PhantomData<F>);

impl<T: Int, F: F2<A = T, B = T, D = T>> F2 for Halves<F> {
    const SPREAD: Spread = Spread::Halves;

    type A = u32;
    type B = u32;
    type D = u32;
    #[inline(always)]
    fn f(a: u32, b: u32) -> u32 {
        let half = |shift: u32| {
            let (x, y) = (T::from_bits(u64::from(a >> shift)), T::from_bits(u64::from(b >> shift)));
            (F::f(x, y).to_bits() as u32 & 0xffff) << shift
        };
        half(0) | half(16)
    }
}

/// What an extended-precision form computes: sum, difference, or low or high product plus `c`.
pub(crate) const ADD: u8 = 0;
pub(crate) const SUB: u8 = 1;
pub(crate) const MAD_LOW: u8 = 2;
pub(crate) const MAD_HIGH: u8 = 3;

/// `add`, `sub`, `mad` with carry: `extra` bit 0 reads the carry, bit 1 writes it.
pub(crate) struct Carry<T, const KIND: u8>(PhantomData<T>);

impl<T: Int, const KIND: u8> Op for Carry<T, KIND> {
    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, _: &mut Block, i: &Inst) -> Flow {
        let (a, b) = (T::read(w, i.a), T::read(w, i.b));
        let c = if KIND >= MAD_LOW { T::read(w, i.c) } else { b };
        let (mut d, mut out) = ([T::default(); LANES], 0u32);
        let carry_in = if i.extra & 1 != 0 { w.carry } else { 0 };
        let top = u128::from(u64::MAX >> (64 - T::BITS));
        for lane in 0..LANES {
            let carry = u128::from(carry_in >> lane & 1);
            let (x, y, z) = (a[lane], b[lane], u128::from(c[lane].to_bits()));
            let (bits, flag) = match KIND {
                ADD => {
                    let sum = u128::from(x.to_bits()) + z + carry;
                    (sum, sum > top)
                }
                SUB => {
                    (u128::from(x.to_bits()).wrapping_sub(z).wrapping_sub(carry), u128::from(x.to_bits()) < z + carry)
                }
                _ => {
                    let product = if KIND == MAD_LOW { x.wmul(y) } else { x.mul_high(y) };
                    let sum = u128::from(product.to_bits()) + z + carry;
                    (sum, sum > top)
                }
            };
            d[lane] = T::from_bits(bits as u64);
            out |= u32::from(flag) << lane;
        }
        if i.extra & 2 != 0 {
            w.carry = w.carry & !w.mask | out & w.mask;
        }
        T::write(w, i.dst, d);
        Flow::Next
    }
}

/// `dp4a`: the signs of its operands' bytes are the parameters.
pub(crate) struct Dp4a<const A_SIGNED: bool, const B_SIGNED: bool>;

impl<const A_SIGNED: bool, const B_SIGNED: bool> Op for Dp4a<A_SIGNED, B_SIGNED> {
    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, _: &mut Block, i: &Inst) -> Flow {
        let (a, b, mut d) = (w.words(i.a), w.words(i.b), w.words(i.c));
        #[cfg(target_arch = "x86_64")]
        if I::AVX2 {
            dp4a_avx2::<A_SIGNED, B_SIGNED>(&a, &b, &mut d);
            w.set_words(i.dst, d);
            return Flow::Next;
        }
        for lane in 0..LANES {
            for byte in 0..4 {
                let x = extract(a[lane], 8 * byte, 8, A_SIGNED);
                let y = extract(b[lane], 8 * byte, 8, B_SIGNED);
                d[lane] = d[lane].wrapping_add(x.wrapping_mul(y) as u32);
            }
        }
        w.set_words(i.dst, d);
        Flow::Next
    }
}

/// A field of a word, extended by its sign or with zeros.
#[inline(always)]
fn extract(word: u32, shift: u32, bits: u32, signed: bool) -> i32 {
    let high = word >> shift << (32 - bits);
    if signed { high as i32 >> (32 - bits) } else { (high >> (32 - bits)) as i32 }
}

/// Even and odd bytes widen to 16 bits, and `pmaddwd` multiplies and adds pairs exactly.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn dp4a_avx2<const A_SIGNED: bool, const B_SIGNED: bool>(a: &[u32; LANES], b: &[u32; LANES], d: &mut [u32; LANES]) {
    use std::arch::x86_64::*;
    for part in 0..4 {
        // SAFETY: only called where AVX2 holds; each array has 8 words at index 8 * part.
        unsafe {
            let load = |row: *const u32| _mm256_loadu_si256(row.add(8 * part).cast());
            let split = |v, signed: bool| {
                let low = _mm256_set1_epi16(0xff);
                if signed {
                    (_mm256_srai_epi16(_mm256_slli_epi16(v, 8), 8), _mm256_srai_epi16(v, 8))
                } else {
                    (_mm256_and_si256(v, low), _mm256_srli_epi16(v, 8))
                }
            };
            let (a_even, a_odd) = split(load(a.as_ptr()), A_SIGNED);
            let (b_even, b_odd) = split(load(b.as_ptr()), B_SIGNED);
            let products = _mm256_add_epi32(_mm256_madd_epi16(a_even, b_even), _mm256_madd_epi16(a_odd, b_odd));
            let sum = _mm256_add_epi32(load(d.as_ptr()), products);
            _mm256_storeu_si256(d.as_mut_ptr().add(8 * part).cast(), sum);
        }
    }
}

/// `dp2a`: two 16-bit values of `a` by the low or high two bytes of `b`.
pub(crate) struct Dp2a<const A_SIGNED: bool, const B_SIGNED: bool, const HIGH: bool>;

impl<const A_SIGNED: bool, const B_SIGNED: bool, const HIGH: bool> super::lanewise::F3
    for Dp2a<A_SIGNED, B_SIGNED, HIGH>
{
    type A = u32;
    type B = u32;
    type C = u32;
    type D = u32;
    #[inline(always)]
    fn f(a: u32, b: u32, c: u32) -> u32 {
        let first = if HIGH { 16 } else { 0 };
        let low = extract(a, 0, 16, A_SIGNED).wrapping_mul(extract(b, first, 8, B_SIGNED));
        let high = extract(a, 16, 16, A_SIGNED).wrapping_mul(extract(b, first + 8, 8, B_SIGNED));
        c.wrapping_add(low as u32).wrapping_add(high as u32)
    }
}
