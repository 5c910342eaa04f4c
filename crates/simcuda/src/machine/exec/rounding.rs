//! Rounding modes: exact results narrowed once.
//!
//! A result computed in f64 and rounded to odd (the last bit of an inexact value is set) can be narrowed to f32 or less in
//! any mode as if it were exact, since f64 has more than twice their bits (Boldo and Melquiond).

/// A rounding mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Nearest,
    Zero,
    Down,
    Up,
}

impl Mode {
    pub(crate) fn from_index(index: u32) -> Self {
        match index & 3 {
            0 => Self::Nearest,
            1 => Self::Zero,
            2 => Self::Down,
            _ => Self::Up,
        }
    }
}

/// Sets the last bit of `x`, the nearest f64 to an exact value that differs from it by `error`.
#[inline(always)]
fn to_odd(x: f64, error: f64) -> f64 {
    let bits = x.to_bits();
    if error == 0.0 || !x.is_finite() || bits & 1 == 1 {
        return x;
    }
    // Away from or towards zero: the odd neighbour on the side of the exact value.
    let towards_zero = (error < 0.0) != (x < 0.0);
    f64::from_bits(if towards_zero { bits - 1 } else { bits + 1 })
}

/// The error of `s`, the rounded sum of `a` and `b` (Knuth).
#[inline(always)]
fn sum_error(a: f64, b: f64, s: f64) -> f64 {
    let part = s - a;
    (a - (s - part)) + (b - part)
}

/// a + b rounded to odd.
#[inline(always)]
pub(crate) fn sum_to_odd(a: f64, b: f64) -> f64 {
    let s = a + b;
    if s.is_finite() { to_odd(s, sum_error(a, b, s)) } else { s }
}

/// a / b rounded to odd; the operands are f32 values, so that nothing underflows.
#[inline(always)]
pub(crate) fn quotient_to_odd(a: f64, b: f64) -> f64 {
    let q = a / b;
    if !q.is_finite() || q == 0.0 || b.is_infinite() {
        return q;
    }
    let rest = (-q).mul_add(b, a);
    to_odd(q, if b < 0.0 { -rest } else { rest })
}

/// The square root rounded to odd; the operand is an f32 value.
#[inline(always)]
pub(crate) fn root_to_odd(a: f64) -> f64 {
    let r = a.sqrt();
    if r.is_finite() && r != 0.0 { to_odd(r, (-r).mul_add(r, a)) } else { r }
}

/// The zero that x + y gives when it vanishes.
#[inline(always)]
pub(crate) fn zero_sum(x: f64, y: f64, mode: Mode) -> f64 {
    let both_zero_alike = x == 0.0 && y == 0.0 && x.is_sign_negative() == y.is_sign_negative();
    if both_zero_alike {
        x
    } else if mode == Mode::Down {
        -0.0
    } else {
        0.0
    }
}

/// A binary floating-point format below f64.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Format {
    /// Bits of the fraction.
    pub fraction: i32,
    /// Exponent of the smallest normal.
    pub min_exponent: i32,
    /// Largest finite value.
    pub max: f64,
    /// Bits of infinity.
    pub infinity: u32,
    /// Bits of the canonical NaN.
    pub nan: u32,
    /// Bits in all.
    pub bits: u32,
}

pub(crate) const F32: Format = Format {
    fraction: 23,
    min_exponent: -126,
    max: f32::MAX as f64,
    infinity: 0x7f80_0000,
    nan: 0x7fff_ffff,
    bits: 32,
};
pub(crate) const F16: Format =
    Format { fraction: 10, min_exponent: -14, max: 65504.0, infinity: 0x7c00, nan: 0x7fff, bits: 16 };
pub(crate) const BF16: Format = Format {
    fraction: 7,
    min_exponent: -126,
    max: 3.389_531_389_251_535_5e38,
    infinity: 0x7f80,
    nan: 0x7fff,
    bits: 16,
};
/// The formats of 8 bits have no infinity in the conversions of PTX: they saturate to the largest finite value.
pub(crate) const E4M3: Format =
    Format { fraction: 3, min_exponent: -6, max: 448.0, infinity: 0x7e, nan: 0x7f, bits: 8 };
pub(crate) const E5M2: Format =
    Format { fraction: 2, min_exponent: -14, max: 57344.0, infinity: 0x7b, nan: 0x7f, bits: 8 };

/// Narrows `x` (exact, or rounded to odd) to a format.
pub(crate) fn encode(x: f64, format: Format, mode: Mode) -> u32 {
    if x.is_nan() {
        return format.nan;
    }
    let sign = u32::from(x.is_sign_negative()) << (format.bits - 1);
    let magnitude = x.abs();
    let up = match mode {
        Mode::Up => sign == 0,
        Mode::Down => sign != 0,
        Mode::Nearest | Mode::Zero => false,
    };
    if magnitude.is_infinite() {
        return sign | format.infinity;
    }
    let exponent = ((magnitude.to_bits() >> 52) as i32 - 1023).max(format.min_exponent);
    // In units of the format's last place the value is exact in f64: a power of two scales it.
    let units = magnitude * exp2i(format.fraction - exponent);
    let floor = units.floor();
    let rest = units - floor;
    let more = match mode {
        Mode::Nearest => rest > 0.5 || rest == 0.5 && floor % 2.0 == 1.0,
        _ => up && rest > 0.0,
    };
    let rounded = floor + f64::from(u8::from(more));
    let value = rounded * exp2i(exponent - format.fraction);
    if value > format.max {
        let to_infinity = mode == Mode::Nearest || up;
        return sign | if to_infinity { format.infinity } else { encode(format.max, format, Mode::Zero) };
    }
    // A carry out of the fraction steps the exponent, as the addition below does.
    let base = ((exponent - format.min_exponent) as u32) << format.fraction;
    sign | (base + rounded as u32)
}

/// 2^n for every n that a scale of f64 values by the formats above needs.
fn exp2i(n: i32) -> f64 {
    if n >= -1022 { f64::from_bits(((n + 1023).min(2046) as u64) << 52) } else { exp2i(n + 200) * exp2i(-200) }
}

/// Widens a value of a format.
pub(crate) fn decode(bits: u32, format: Format) -> f64 {
    let exponent_bits = format.bits - 1 - format.fraction as u32;
    let sign = if bits >> (format.bits - 1) & 1 == 1 { -1.0 } else { 1.0 };
    let exponent = bits >> format.fraction & ((1 << exponent_bits) - 1);
    let fraction = f64::from(bits & ((1 << format.fraction) - 1));
    if exponent == (1 << exponent_bits) - 1 && format.fraction != 3 {
        return if fraction == 0.0 { sign * f64::INFINITY } else { f64::NAN };
    }
    if format.fraction == 3 && bits & 0x7f == 0x7f {
        return f64::NAN;
    }
    let scale = exp2i(format.min_exponent - format.fraction);
    if exponent == 0 {
        return sign * fraction * scale;
    }
    let one = f64::from(1u32 << format.fraction);
    sign * (one + fraction) * scale * exp2i(exponent as i32 - 1)
}

/// Narrows to f32; a NaN is the canonical one.
#[inline(always)]
pub(crate) fn to_f32(x: f64, mode: Mode) -> f32 {
    if mode == Mode::Nearest { x as f32 } else { f32::from_bits(encode(x, F32, mode)) }
}

/// Moves `x`, the nearest to an exact value, to the neighbour that a directed mode asks for.
fn direct(x: f64, error: f64, mode: Mode) -> f64 {
    if error == 0.0 || x.is_nan() {
        return x;
    }
    match mode {
        Mode::Up if error > 0.0 => x.next_up(),
        Mode::Down if error < 0.0 => x.next_down(),
        Mode::Zero if (error < 0.0) != (x < 0.0) => {
            if x < 0.0 {
                x.next_up()
            } else {
                x.next_down()
            }
        }
        _ => x,
    }
}

/// The finite value that a directed mode gives where to-nearest overflows.
fn overflow(x: f64, mode: Mode) -> f64 {
    match mode {
        Mode::Zero => f64::MAX.copysign(x),
        Mode::Down if x > 0.0 => f64::MAX,
        Mode::Up if x < 0.0 => f64::MIN,
        _ => x,
    }
}

/// a + b in f64.
pub(crate) fn directed_sum(a: f64, b: f64, mode: Mode) -> f64 {
    let s = a + b;
    if s.is_infinite() && a.is_finite() && b.is_finite() {
        return overflow(s, mode);
    }
    if s == 0.0 {
        return zero_sum(a, b, mode);
    }
    if s.is_finite() { direct(s, sum_error(a, b, s), mode) } else { s }
}

/// Splits a finite non-zero value into a fraction of magnitude [1, 2) and its exponent.
fn split(x: f64) -> (f64, i32) {
    let scaled = if x.abs() < f64::MIN_POSITIVE { (x * exp2i(64), -64) } else { (x, 0) };
    let exponent = (scaled.0.to_bits() >> 52 & 0x7ff) as i32 - 1023;
    let fraction = f64::from_bits(scaled.0.to_bits() & !(0x7ff << 52) | 1023 << 52);
    (fraction, exponent + scaled.1)
}

/// Scales `x` (with `error` below its last place) by 2^n into the f64 range, rounding once.
fn scale_directed(x: f64, error: f64, n: i32, mode: Mode) -> f64 {
    let exponent = (x.to_bits() >> 52 & 0x7ff) as i32 - 1023 + n;
    if exponent > 1023 {
        return overflow(f64::INFINITY.copysign(x), mode);
    }
    if exponent >= -1022 {
        let exact = direct(x, error, mode);
        return if (-1022..=1023).contains(&n) { exact * exp2i(n) } else { exact * exp2i(n / 2) * exp2i(n - n / 2) };
    }
    // Subnormal: count in units of the last place of f64's smallest values.
    let drop = (-1022 - exponent).min(60) as u32;
    let mantissa = x.to_bits() & ((1 << 52) - 1) | 1 << 52;
    let (kept, lost) = if drop > 53 { (0, mantissa) } else { (mantissa >> drop, mantissa & ((1 << drop) - 1)) };
    let toward = (error < 0.0) != (x < 0.0) && error != 0.0;
    let inexact = lost != 0 || error != 0.0;
    // The exact magnitude lies just below the kept units if nothing was dropped and the error points to zero.
    let floor = if lost == 0 && toward { kept - 1 } else { kept };
    let away = match mode {
        Mode::Up => x > 0.0,
        Mode::Down => x < 0.0,
        Mode::Zero | Mode::Nearest => false,
    };
    f64::from_bits(floor + u64::from(inexact && away)).copysign(x)
}

/// a * b in f64.
pub(crate) fn directed_product(a: f64, b: f64, mode: Mode) -> f64 {
    let p = a * b;
    if !a.is_finite() || !b.is_finite() || a == 0.0 || b == 0.0 {
        return p;
    }
    let ((x, m), (y, n)) = (split(a), split(b));
    let product = x * y;
    scale_directed(product, x.mul_add(y, -product), m + n, mode)
}

/// a / b in f64.
pub(crate) fn directed_quotient(a: f64, b: f64, mode: Mode) -> f64 {
    let q = a / b;
    if !a.is_finite() || !b.is_finite() || a == 0.0 || b == 0.0 {
        return q;
    }
    let ((x, m), (y, n)) = (split(a), split(b));
    let quotient = x / y;
    let rest = (-quotient).mul_add(y, x);
    scale_directed(quotient, if y < 0.0 { -rest } else { rest }, m - n, mode)
}

/// The square root in f64.
pub(crate) fn directed_root(a: f64, mode: Mode) -> f64 {
    let r = a.sqrt();
    if !r.is_finite() || r == 0.0 {
        return r;
    }
    let (x, n) = split(a);
    let (x, n) = if n % 2 == 0 { (x, n) } else { (x * 2.0, n - 1) };
    let root = x.sqrt();
    scale_directed(root, (-root).mul_add(root, x), n / 2, mode)
}
