//! Numbers in int8 with a scale: code = x / scale to nearest, ties to even, so -127 to 127.

/// The scale of numbers of which `max` is the largest size.
#[inline(always)]
pub(crate) fn scale_of(max: f32) -> f32 {
    max / 127.0
}

/// 1 / scale; 0 for a scale of 0 or NaN, or one so small that its inverse is infinite.
#[inline(always)]
pub(crate) fn inverse_of(scale: f32) -> f32 {
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    if inverse.is_finite() { inverse } else { 0.0 }
}

/// The code of a number. A scale below the normal range has lost the bits that keep |x| / scale at most 127: it is cut there.
#[inline(always)]
pub(crate) fn code_of(x: f32, inverse: f32) -> i32 {
    let scaled = (x * inverse).clamp(-127.0, 127.0);
    // adding 1.5 · 2²³ leaves the integer nearest to `scaled`, ties to even, in the low mantissa bits
    ((scaled + 12_582_912.0).to_bits() as i32).wrapping_sub(0x4B40_0000)
}
