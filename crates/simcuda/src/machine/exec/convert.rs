//! `cvt`: fast forms of the common pairs, and one form for all.

use super::float::{NAN_F32, flush, output};
use super::half::{Fp16, Half};
use super::lanewise::lanewise;
use super::rounding::{self, BF16, F16, F32, Format, Mode};
use super::undefined::Spread;
use super::{Block, Flow, Inst, Isa, LANES, Op, Warp};

lanewise! {
    SignExtend8<>(a: i8) -> u32 = a as i32 as u32, Spread::Move(1);
    ZeroExtend8<>(a: u8) -> u32 = a.into(), Spread::Move(1);
    SignExtend16<>(a: i16) -> u32 = a as i32 as u32, Spread::Move(1);
    ZeroExtend16<>(a: u16) -> u32 = a.into(), Spread::Move(1);
    SignExtend32<>(a: i32) -> i64 = a.into(), Spread::Move(1);
    ZeroExtend32<>(a: u32) -> u64 = a.into(), Spread::Move(1);
    SignedToF32<>(a: i32) -> f32 = a as f32;
    UnsignedToF32<>(a: u32) -> f32 = a as f32;
    F32ToSigned<>(a: f32) -> i32 = a as i32;
    F32ToSignedNearest<>(a: f32) -> i32 = a.round_ties_even() as i32;
    F32ToF64<>(a: f32) -> f64 = a.into();
    F64ToF32<>(a: f64) -> f32 = output::<false, false>(a as f32);
}

/// Takes the low word of 64 bits.
pub(crate) struct Truncate;

impl Op for Truncate {
    const SPREAD: Spread = Spread::Move(1);

    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, _: &mut Block, i: &Inst) -> Flow {
        let a = w.doubles(i.a);
        let mut d = [0; LANES];
        for lane in 0..LANES {
            d[lane] = a[lane] as u32;
        }
        w.set_words(i.dst, d);
        Flow::Next
    }
}

/// f16 in the low or the `HIGH` half of a word to f32.
pub(crate) struct F16ToF32<const HIGH: bool>;

impl<const HIGH: bool> Op for F16ToF32<HIGH> {
    const SPREAD: Spread = Spread::Half { high: HIGH };

    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, _: &mut Block, i: &Inst) -> Flow {
        let mut halves = w.words(i.a);
        if HIGH {
            for lane in 0..LANES {
                halves[lane] >>= 16;
            }
        }
        let values = Fp16::widen::<I>(&halves);
        let mut d = [0; LANES];
        for lane in 0..LANES {
            d[lane] = output::<false, false>(values[lane]).to_bits();
        }
        w.set_words(i.dst, d);
        Flow::Next
    }
}

/// f32 to f16, to nearest; `PACKED` puts a second operand into the low half.
pub(crate) struct F32ToHalf<H, const PACKED: bool>(std::marker::PhantomData<H>);

impl<H: Half, const PACKED: bool> Op for F32ToHalf<H, PACKED> {
    const SPREAD: Spread = if PACKED { Spread::Pair } else { Spread::Any };

    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, _: &mut Block, i: &Inst) -> Flow {
        use super::Lane;
        let mut d = H::narrow::<I>(&f32::read(w, i.a));
        if PACKED {
            let low = H::narrow::<I>(&f32::read(w, i.b));
            for lane in 0..LANES {
                d[lane] = d[lane] << 16 | low[lane];
            }
        }
        w.set_words(i.dst, d);
        Flow::Next
    }
}

/// Number types of the general conversion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Number {
    U8,
    S8,
    U16,
    S16,
    U32,
    S32,
    U64,
    S64,
    F16,
    Bf16,
    F32,
    F64,
}

impl Number {
    const ALL: [Self; 12] = [
        Self::U8,
        Self::S8,
        Self::U16,
        Self::S16,
        Self::U32,
        Self::S32,
        Self::U64,
        Self::S64,
        Self::F16,
        Self::Bf16,
        Self::F32,
        Self::F64,
    ];

    pub(crate) fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::Bf16 | Self::F32 | Self::F64)
    }

    pub(crate) fn is_double(self) -> bool {
        matches!(self, Self::U64 | Self::S64 | Self::F64)
    }

    /// Range of an integer type.
    fn range(self) -> (i128, i128) {
        match self {
            Self::U8 => (0, u8::MAX.into()),
            Self::S8 => (i8::MIN.into(), i8::MAX.into()),
            Self::U16 => (0, u16::MAX.into()),
            Self::S16 => (i16::MIN.into(), i16::MAX.into()),
            Self::U32 => (0, u32::MAX.into()),
            Self::S32 => (i32::MIN.into(), i32::MAX.into()),
            Self::U64 => (0, u64::MAX.into()),
            _ => (i64::MIN.into(), i64::MAX.into()),
        }
    }

    fn bits(self) -> u32 {
        match self {
            Self::U8 | Self::S8 => 8,
            Self::U16 | Self::S16 | Self::F16 | Self::Bf16 => 16,
            Self::U32 | Self::S32 | Self::F32 => 32,
            Self::U64 | Self::S64 | Self::F64 => 64,
        }
    }

    fn format(self) -> Format {
        match self {
            Self::F16 => F16,
            Self::Bf16 => BF16,
            _ => F32,
        }
    }
}

/// How to convert, packed into the `extra` of an instruction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Conversion {
    pub from: Number,
    pub to: Number,
    pub mode: Mode,
    /// Round to an integral value (`.rni` and its kin).
    pub integral: bool,
    pub saturate: bool,
    pub ftz: bool,
    pub relu: bool,
}

impl Conversion {
    pub(crate) fn pack(self) -> u32 {
        let flags = [self.integral, self.saturate, self.ftz, self.relu];
        let bits = flags.iter().enumerate().fold(0, |m, (at, &flag)| m | u32::from(flag) << at);
        self.from as u32 | (self.to as u32) << 4 | (self.mode as u32) << 8 | bits << 10
    }

    fn unpack(bits: u32) -> Self {
        let flag = |at: u32| bits >> (10 + at) & 1 == 1;
        let number = |at: u32| Number::ALL[(bits >> at & 15).min(11) as usize];
        let mode = Mode::from_index(bits >> 8);
        Self { from: number(0), to: number(4), mode, integral: flag(0), saturate: flag(1), ftz: flag(2), relu: flag(3) }
    }

    /// Converts one value, given and returned as bits.
    pub(crate) fn apply(self, bits: u64) -> u64 {
        if !self.from.is_float() {
            let value = self.integer_value(bits);
            return if self.to.is_float() { self.integer_to_float(value) } else { self.integer_to_integer(value) };
        }
        let mut value = match self.from {
            Number::F64 => f64::from_bits(bits),
            Number::F32 if self.ftz => flush(f32::from_bits(bits as u32)).into(),
            from => rounding::decode(bits as u32 & (u32::MAX >> (32 - from.bits())), from.format()),
        };
        if self.integral {
            value = match self.mode {
                Mode::Nearest => value.round_ties_even(),
                Mode::Zero => value.trunc(),
                Mode::Down => value.floor(),
                Mode::Up => value.ceil(),
            };
        }
        if self.to.is_float() { self.float_to_float(value) } else { self.float_to_integer(value) }
    }

    fn integer_value(self, bits: u64) -> i128 {
        let shift = 64 - self.from.bits();
        if self.from.range().0 < 0 {
            i128::from((bits << shift) as i64 >> shift)
        } else {
            i128::from(bits << shift >> shift)
        }
    }

    fn integer_to_integer(self, value: i128) -> u64 {
        let (low, high) = self.to.range();
        (if self.saturate { value.clamp(low, high) } else { value }) as u64 & (u64::MAX >> (64 - self.to.bits()))
    }

    fn integer_to_float(self, value: i128) -> u64 {
        let nearest = value as f64;
        let error = value - nearest as i128;
        if self.to == Number::F64 {
            let adjusted = match self.mode {
                Mode::Nearest => nearest,
                _ => rounding::directed_sum(nearest, error as f64, self.mode),
            };
            return adjusted.to_bits();
        }
        let odd = rounding::sum_to_odd(nearest, error as f64);
        let odd = if self.saturate { odd.clamp(0.0, 1.0) } else { odd };
        rounding::encode(odd, self.to.format(), self.mode).into()
    }

    fn float_to_integer(self, value: f64) -> u64 {
        let (low, high) = self.to.range();
        let mask = u64::MAX >> (64 - self.to.bits());
        // NaN becomes 0; everything else is clamped to the type's range.
        (value as i128).clamp(low, high) as u64 & mask
    }

    fn float_to_float(self, value: f64) -> u64 {
        let value = if self.saturate {
            if value > 0.0 { value.min(1.0) } else { 0.0 }
        } else if self.relu && value < 0.0 {
            0.0
        } else {
            value
        };
        match self.to {
            Number::F64 => value.to_bits(),
            Number::F32 if value.is_nan() => NAN_F32.into(),
            to => {
                // A value that is already integral or of the target's width is exact in any mode.
                let mode = if self.integral { Mode::Nearest } else { self.mode };
                let bits = rounding::encode(value, to.format(), mode);
                let bits = if to == Number::F32 && self.ftz { flush(f32::from_bits(bits)).to_bits() } else { bits };
                bits.into()
            }
        }
    }
}

/// Any conversion, described by `extra`.
pub(crate) struct ConvertAny;

impl Op for ConvertAny {
    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, _: &mut Block, i: &Inst) -> Flow {
        convert_lanes(w, i);
        Flow::Next
    }
}

fn convert_lanes(w: &mut Warp, i: &Inst) {
    let conversion = Conversion::unpack(i.extra);
    let input = if conversion.from.is_double() { w.doubles(i.a) } else { w.words(i.a).map(u64::from) };
    for lane in w.lanes() {
        let value = conversion.apply(input[lane]);
        if conversion.to.is_double() {
            w.doubles_mut(i.dst)[lane] = value;
        } else {
            w.words_mut(i.dst)[lane] = value as u32;
        }
    }
}
