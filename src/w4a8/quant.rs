//! Round-to-nearest quantization into every mode.

use super::weight::{Bits, GroupOffset, Mode, QQQ_GROUP, QuantizedWeight, Scales, check_group, check_shape};
use crate::error::{Error, Result, check_len};
use half::f16;

/// Quantizes w f32 \[N, K\] row-major by rounding to nearest, ties to even.
///
/// - [`Mode::PerChannel`]: scale = max|w| / 7, codes −7..=7 (stored + 8).
/// - [`Mode::PerGroup`] symmetric: scale = −extreme / 8 where extreme is the value of largest magnitude with its sign, so
///   that it is met exactly and all 16 codes are used; with offset: scale = (max − min) / 15, offset = min. Codes are
///   chosen against the scale and offset as stored, in f16.
/// - [`Mode::TwoLevel`]: channel scale = max over groups of max|w| / (7 · 16); each group takes the integer scale of
///   1..=16 with the least squared error.
/// - [`Mode::Qqq`]: group scale 2 · max|w| / 15, then both levels as QQQ stores them.
/// - [`Mode::W8`]: scale = max|w| / 127, codes −127..=127.
///
/// # Errors
/// [`Error::Length`] unless `w` has N · K elements, [`Error::Shape`] for a K or group size the mode does not take,
/// [`Error::Value`] if a weight is not finite or too large for an f16 scale.
pub fn quantize(w: &[f32], n: usize, k: usize, mode: Mode) -> Result<QuantizedWeight> {
    check_shape(n, k)?;
    check_len("w", n * k, w.len())?;
    if let Some(&got) = w.iter().find(|v| !v.is_finite()) {
        return Err(Error::Value { what: "w", expected: "finite weights", got });
    }
    match mode {
        Mode::PerChannel => per_channel(w, n, k, Bits::Four),
        Mode::W8 => per_channel(w, n, k, Bits::Eight),
        Mode::PerGroup { group_size, offset: false } => per_group_symmetric(w, n, k, group_size),
        Mode::PerGroup { group_size, offset: true } => per_group_offset(w, n, k, group_size),
        Mode::TwoLevel { group_size } => two_level(w, n, k, group_size),
        Mode::Qqq => qqq(w, n, k),
    }
}

fn max_abs(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |max, v| max.max(v.abs()))
}

/// Divides, taking 0/0 as 0: a group of zeros has a scale of zero and codes at the centre.
fn divide(value: f32, scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { value / scale }
}

fn code(value: f32, scale: f32, centre: f32, low: f32, high: f32) -> i8 {
    (divide(value, scale).round_ties_even() + centre).clamp(low, high) as i8
}

fn per_channel(w: &[f32], n: usize, k: usize, bits: Bits) -> Result<QuantizedWeight> {
    let (limit, centre) = if bits == Bits::Four { (7.0, 8.0) } else { (127.0, 0.0) };
    let scale: Vec<f32> = w.chunks_exact(k).map(|row| max_abs(row) / limit).collect();
    let rows = w.chunks_exact(k).zip(&scale);
    let codes = rows
        .flat_map(|(row, &s)| row.iter().map(move |&v| code(v, s, centre, centre - limit, centre + limit)))
        .collect();
    QuantizedWeight::new(n, k, bits, codes, Scales::PerChannel { scale })
}

fn per_group_symmetric(w: &[f32], n: usize, k: usize, group_size: usize) -> Result<QuantizedWeight> {
    check_group(k, group_size)?;
    let (mut codes, mut scale) = (Vec::with_capacity(n * k), Vec::with_capacity(n * k / group_size));
    for group in w.chunks_exact(group_size) {
        let extreme = group.iter().fold(0.0f32, |best, &v| if v.abs() > best.abs() { v } else { best });
        let s = f16::from_f32(extreme / -8.0);
        codes.extend(group.iter().map(|&v| code(v, s.to_f32(), 8.0, 0.0, 15.0)));
        scale.push(s);
    }
    let offset = GroupOffset::Symmetric;
    QuantizedWeight::new(n, k, Bits::Four, codes, Scales::PerGroup { group_size, scale, offset })
}

fn per_group_offset(w: &[f32], n: usize, k: usize, group_size: usize) -> Result<QuantizedWeight> {
    check_group(k, group_size)?;
    let groups = n * k / group_size;
    let (mut codes, mut scale, mut offset) =
        (Vec::with_capacity(n * k), Vec::with_capacity(groups), Vec::with_capacity(groups));
    for group in w.chunks_exact(group_size) {
        let (min, max) = group.iter().fold((f32::MAX, f32::MIN), |(low, high), &v| (low.min(v), high.max(v)));
        let (s, o) = (f16::from_f32((max - min) / 15.0), f16::from_f32(min));
        codes.extend(group.iter().map(|&v| code(v - o.to_f32(), s.to_f32(), 0.0, 0.0, 15.0)));
        scale.push(s);
        offset.push(o);
    }
    let offset = GroupOffset::F16(offset);
    QuantizedWeight::new(n, k, Bits::Four, codes, Scales::PerGroup { group_size, scale, offset })
}

fn two_level(w: &[f32], n: usize, k: usize, group_size: usize) -> Result<QuantizedWeight> {
    check_group(k, group_size)?;
    let (mut codes, mut group_scale, mut scale) = (Vec::with_capacity(n * k), Vec::new(), Vec::with_capacity(n));
    for row in w.chunks_exact(k) {
        let channel = max_abs(row) / (7.0 * 16.0);
        for group in row.chunks_exact(group_size) {
            let integer = best_integer_scale(group, channel);
            codes.extend(group.iter().map(|&v| code(v, channel * f32::from(integer), 8.0, 0.0, 15.0)));
            group_scale.push(integer);
        }
        scale.push(channel);
    }
    QuantizedWeight::new(n, k, Bits::Four, codes, Scales::TwoLevel { group_size, group_scale, scale })
}

/// The integer scale of 1..=16 whose codes have the least squared error, the smallest of equals.
fn best_integer_scale(group: &[f32], channel: f32) -> u8 {
    let error = |integer: u8| -> f64 {
        let scale = channel * f32::from(integer);
        let difference = |&v: &f32| f64::from(scale * (f32::from(code(v, scale, 8.0, 0.0, 15.0)) - 8.0) - v);
        group.iter().map(difference).map(|d| d * d).sum()
    };
    let ideal = divide(max_abs(group) / 7.0, channel);
    // below 5/8 of the ideal scale the clipped extremes alone cost more than the finer steps gain
    let from = (ideal * 0.625).floor().clamp(1.0, 16.0) as u8;
    let to = (ideal * 1.25).ceil().clamp(1.0, 16.0) as u8;
    let mut best = (f64::INFINITY, 1);
    for integer in from..=to.max(from) {
        let e = error(integer);
        if e < best.0 {
            best = (e, integer);
        }
    }
    best.1
}

fn qqq(w: &[f32], n: usize, k: usize) -> Result<QuantizedWeight> {
    check_group(k, QQQ_GROUP)?;
    let (mut codes, mut group_scale, mut scale) = (Vec::with_capacity(n * k), Vec::new(), Vec::with_capacity(n));
    for row in w.chunks_exact(k) {
        let mut largest = 0.0f32;
        let first = group_scale.len();
        for group in row.chunks_exact(QQQ_GROUP) {
            let s = 2.0 * max_abs(group) / 15.0;
            for &v in group {
                let c = code(v, s, 8.0, 0.0, 15.0);
                largest = largest.max(((f32::from(c) - 8.0) * s).abs());
                codes.push(c);
            }
            group_scale.push(s);
        }
        let channel = largest / 127.0;
        group_scale[first..].iter_mut().for_each(|s| *s = divide(*s, channel));
        scale.push(channel);
    }
    let group_scale = group_scale.into_iter().map(f16::from_f32).collect();
    QuantizedWeight::new(n, k, Bits::Four, codes, Scales::Qqq { group_scale, scale })
}
