//! Round-to-nearest quantization into every format that has a rule for it.

use super::format::{Bits, Format, GroupScale, Offset};
use super::scales::Scales;
use super::weight::QuantizedWeight;
use crate::error::{Error, Result, check_len, product};
use half::f16;

/// Quantizes w f32 \[N, K\] row-major by rounding to nearest, ties to even.
///
/// - [`Format::per_channel`]: scale = max|w| / 7, codes −7..=7 (stored + 8).
/// - [`Format::per_group`] without offsets: scale = −extreme / 8 where extreme is the value of largest magnitude with its
///   sign, so that it is met exactly and all 16 codes are used; with offsets: from scale = (max − min) / 15 and offset = min on, the
///   line that fits the codes best by least squares and the codes nearest to it in turn, as long as the squared error falls. Codes are
///   chosen against the scale and offset as stored, in f16.
/// - [`Format::two_level`]: channel scale = max over groups of max|w| / (7 · 16); each group takes the integer scale of
///   1..=16 with the least squared error.
/// - [`Format::qqq`]: group scale 2 · max|w| / 15, then both levels as QQQ stores them.
/// - [`Format::w8`]: scale = max|w| / 127, codes −127..=127.
///
/// # Errors
/// [`Error::Length`] unless `w` has N · K elements, [`Error::Shape`] for a K or group size the format does not take,
/// [`Error::Value`] if a weight is not finite or too large for an f16 scale, [`Error::Unsupported`] for groups of 8-bit codes
/// and for zero points, which come from checkpoints only.
pub fn quantize(w: &[f32], n: usize, k: usize, format: Format) -> Result<QuantizedWeight> {
    format.check(n, k)?;
    check_len("w", product("n", &[n, k])?, w.len())?;
    if let Some(&got) = w.iter().find(|v| !v.is_finite()) {
        return Err(Error::Value { what: "w", expected: "finite weights", got });
    }
    let quantize_rows = match (format.bits, format.group_scale(), format.offset()) {
        (_, None, _) => per_channel,
        (Bits::Four, Some(GroupScale::F16), Offset::None) => symmetric,
        (Bits::Four, Some(GroupScale::F16), Offset::F16) => with_offsets,
        (Bits::Four, Some(GroupScale::Integer), _) => two_level,
        (Bits::Four, Some(GroupScale::Qqq), _) => qqq,
        _ => {
            let (expected, got) = ("4-bit groups without zero points", format!("{format:?}"));
            return Err(Error::Unsupported { what: "format", expected, got });
        }
    };
    let mut codes = Vec::with_capacity(n * k);
    let scales = quantize_rows(w, k, format, &mut codes);
    QuantizedWeight::new(n, k, format, codes, scales)
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

/// The values of each group in turn, a row without groups being one.
fn groups(w: &[f32], k: usize, format: Format) -> std::slice::ChunksExact<'_, f32> {
    w.chunks_exact(format.group_size().unwrap_or(k))
}

fn per_channel(w: &[f32], k: usize, format: Format, codes: &mut Vec<i8>) -> Scales {
    let centre = format.centre() as f32;
    let limit = if format.bits == Bits::Four { 7.0 } else { 127.0 };
    let rows = groups(w, k, format).map(|row| {
        let s = max_abs(row) / limit;
        codes.extend(row.iter().map(|&v| code(v, s, centre, centre - limit, centre + limit)));
        s
    });
    Scales::per_channel(rows.collect())
}

fn symmetric(w: &[f32], k: usize, format: Format, codes: &mut Vec<i8>) -> Scales {
    let scale = groups(w, k, format).map(|group| {
        let extreme = group.iter().fold(0.0f32, |best, &v| if v.abs() > best.abs() { v } else { best });
        let s = f16::from_f32(extreme / -8.0);
        codes.extend(group.iter().map(|&v| code(v, s.to_f32(), 8.0, 0.0, 15.0)));
        s
    });
    Scales::per_group(scale.collect(), None)
}

fn with_offsets(w: &[f32], k: usize, format: Format, codes: &mut Vec<i8>) -> Scales {
    let (scale, offset): (Vec<f16>, Vec<f16>) = groups(w, k, format)
        .map(|group| {
            let line = fitted(group);
            let [s, o] = line.map(f16::to_f32);
            codes.extend(group.iter().map(|&v| code(v - o, s, 0.0, 0.0, 15.0)));
            (line[0], line[1])
        })
        .unzip();
    Scales::per_group(scale, Some(offset.into()))
}

/// Lines that are tried for a group at most; few of real weights still gain after as many.
const LINES: usize = 10;

/// A group's scale and offset: the ends of its range stretched over the codes, then fitted to the codes nearest to it as long as that
/// lowers the squared error. Ends are worth less than all that lies between them.
fn fitted(group: &[f32]) -> [f16; 2] {
    let (min, max) = group.iter().fold((f32::MAX, f32::MIN), |(low, high), &v| (low.min(v), high.max(v)));
    let stored = |[scale, offset]: [f32; 2]| [f16::from_f32(scale), f16::from_f32(offset)];
    let mut best = stored([(max - min) / 15.0, min]);
    if !best.iter().all(|end| end.is_finite()) {
        // no f16, which is refused later; a line through such codes would be the mean of all
        return best;
    }
    let (mut least, mut next) = error_and_fit(group, best);
    for _ in 1..LINES {
        let line = stored(next);
        let (error, fit) = error_and_fit(group, line);
        // also false for scales that are no f16, which are refused later
        if error.partial_cmp(&least) != Some(std::cmp::Ordering::Less) {
            break;
        }
        (best, least, next) = (line, error, fit);
    }
    best
}

/// The squared error of the codes nearest to a line, and the line that fits them best.
fn error_and_fit(group: &[f32], line: [f16; 2]) -> (f32, [f32; 2]) {
    const LANES: usize = 8;
    // to nearest, ties to even, for what is between 0 and 15
    const ROUND: f32 = 12_582_912.0;
    let [scale, offset] = line.map(f16::to_f32);
    let inverse = divide(1.0, scale);
    // of q, q², q·w, w and the squared error, in lanes that any instruction set sums alike
    let mut sums = [[0.0f32; LANES]; 5];
    for values in group.as_chunks::<LANES>().0 {
        for (lane, &w) in values.iter().enumerate() {
            let q = (((w - offset) * inverse).clamp(0.0, 15.0) + ROUND) - ROUND;
            let miss = scale * q + offset - w;
            for (sum, term) in sums.iter_mut().zip([q, q * q, q * w, w, miss * miss]) {
                sum[lane] += term;
            }
        }
    }
    let [q, qq, qw, w, error] = sums.map(|lanes| lanes.iter().sum::<f32>());
    let count = group.len() as f32;
    let scale = divide(qw - q * w / count, qq - q * q / count);
    (error, [scale, (w - scale * q) / count])
}

fn two_level(w: &[f32], k: usize, format: Format, codes: &mut Vec<i8>) -> Scales {
    let (mut group_scale, mut scale) = (Vec::new(), Vec::new());
    for row in w.chunks_exact(k) {
        let channel = max_abs(row) / (7.0 * 16.0);
        for group in groups(row, k, format) {
            let integer = best_integer_scale(group, channel);
            codes.extend(group.iter().map(|&v| code(v, channel * f32::from(integer), 8.0, 0.0, 15.0)));
            group_scale.push(integer);
        }
        scale.push(channel);
    }
    Scales::over_channel(group_scale, scale)
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

fn qqq(w: &[f32], k: usize, format: Format, codes: &mut Vec<i8>) -> Scales {
    let (mut group_scale, mut scale) = (Vec::new(), Vec::new());
    for row in w.chunks_exact(k) {
        let mut largest = 0.0f32;
        let first = group_scale.len();
        for group in groups(row, k, format) {
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
    Scales::over_channel(group_scale.into_iter().map(f16::from_f32).collect::<Vec<_>>(), scale)
}
