//! Registers split into narrower ones, and joined from them: operands in the list at `extra`.

use super::undefined::Spread;
use super::{Block, Flow, Inst, Isa, LANES, Op, Warp};

/// Splits `a` into two halves: words of a 64-bit register, or 16 bits of a word.
pub(crate) struct Split<const DOUBLE: bool>;

impl<const DOUBLE: bool> Op for Split<DOUBLE> {
    const SPREAD: Spread = Spread::Parts(2);

    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, b: &mut Block, i: &Inst) -> Flow {
        let (mut low, mut high) = ([0; LANES], [0; LANES]);
        if DOUBLE {
            let a = w.doubles(i.a);
            for lane in 0..LANES {
                (low[lane], high[lane]) = (a[lane] as u32, (a[lane] >> 32) as u32);
            }
        } else {
            let a = w.words(i.a);
            for lane in 0..LANES {
                (low[lane], high[lane]) = (a[lane] & 0xffff, a[lane] >> 16);
            }
        }
        w.set_words(b.slot(i.extra), low);
        w.set_words(b.slot(i.extra + 1), high);
        Flow::Next
    }
}

/// The reverse of [`Split`], into `dst`.
pub(crate) struct Join<const DOUBLE: bool>;

impl<const DOUBLE: bool> Op for Join<DOUBLE> {
    const SPREAD: Spread = Spread::Parts(2);

    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, b: &mut Block, i: &Inst) -> Flow {
        let (low, high) = (w.words(b.slot(i.extra)), w.words(b.slot(i.extra + 1)));
        if DOUBLE {
            let mut d = [0; LANES];
            for lane in 0..LANES {
                d[lane] = u64::from(high[lane]) << 32 | u64::from(low[lane]);
            }
            w.set_doubles(i.dst, d);
        } else {
            let mut d = [0; LANES];
            for lane in 0..LANES {
                d[lane] = high[lane] << 16 | low[lane] & 0xffff;
            }
            w.set_words(i.dst, d);
        }
        Flow::Next
    }
}

/// Splits `a` (64 bits if `imm`) into `target >> 8` parts of `target & 255` bits.
pub(crate) struct Unpack;

impl Op for Unpack {
    const SPREAD: Spread = Spread::Parts(0);

    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, b: &mut Block, i: &Inst) -> Flow {
        let (count, width) = (i.target >> 8, i.target & 255);
        let mask = u32::MAX >> (32 - width);
        if i.imm == 1 {
            let a = w.doubles(i.a);
            for part in 0..count {
                let mut d = [0; LANES];
                for lane in 0..LANES {
                    d[lane] = (a[lane] >> (part * width)) as u32 & mask;
                }
                w.set_words(b.slot(i.extra + part), d);
            }
        } else {
            let a = w.words(i.a);
            for part in 0..count {
                let mut d = [0; LANES];
                for lane in 0..LANES {
                    d[lane] = a[lane] >> (part * width) & mask;
                }
                w.set_words(b.slot(i.extra + part), d);
            }
        }
        Flow::Next
    }
}

/// The reverse of [`Unpack`], into `dst`.
pub(crate) struct Pack;

impl Op for Pack {
    const SPREAD: Spread = Spread::Parts(0);

    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, b: &mut Block, i: &Inst) -> Flow {
        let (count, width) = (i.target >> 8, i.target & 255);
        let mask = u32::MAX >> (32 - width);
        if i.imm == 1 {
            let mut d = [0u64; LANES];
            for part in 0..count {
                let a = w.words(b.slot(i.extra + part));
                for lane in 0..LANES {
                    d[lane] |= u64::from(a[lane] & mask) << (part * width);
                }
            }
            w.set_doubles(i.dst, d);
        } else {
            let mut d = [0; LANES];
            for part in 0..count {
                let a = w.words(b.slot(i.extra + part));
                for lane in 0..LANES {
                    d[lane] |= (a[lane] & mask) << (part * width);
                }
            }
            w.set_words(i.dst, d);
        }
        Flow::Next
    }
}
