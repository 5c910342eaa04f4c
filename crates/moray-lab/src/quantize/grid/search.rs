//! The search for the scales, and offsets, with the least error.

use super::{CENTRE, LEVELS, Step, inverse, nearest};

/// Steps of the search for a scale, as fractions of the one that just reaches the largest weight.
const CLIP_STEPS: [f32; 22] = [
    1.08, 1.04, 1.0, 0.97, 0.94, 0.91, 0.88, 0.85, 0.82, 0.79, 0.76, 0.73, 0.7, 0.67, 0.64, 0.61, 0.58, 0.55, 0.51,
    0.47, 0.43, 0.39,
];

/// The channel scale whose multiples 1..=16 are nearest to a row's group scales, relative to them.
pub(super) fn best_channel(scales: &[f32]) -> f32 {
    let largest = scales.iter().fold(0.0f32, |max, &s| max.max(s));
    let error = |channel: f32| -> f64 {
        let miss = |&s: &f32| {
            let stored = channel * nearest(s * inverse(channel)).clamp(1.0, 16.0);
            f64::from((stored - s) * inverse(s)).powi(2)
        };
        scales.iter().map(miss).sum()
    };
    let candidates = (0..48).map(|i| largest / 16.0 * (0.97 + 0.02 * i as f32));
    let best = candidates.fold((f64::INFINITY, largest / 16.0), |best, channel| {
        let error = error(channel);
        if error < best.0 { (error, channel) } else { best }
    });
    best.1
}

/// Σ weight · (w − level)² for a step.
#[inline(always)]
fn loss(w: &[f32], weight: &[f32], step: Step) -> f32 {
    let inverse = inverse(step.scale);
    let mut sums = [0.0f32; 8];
    let tail = w.len() / 8 * 8;
    for (w, h) in w[..tail].as_chunks::<8>().0.iter().zip(weight[..tail].as_chunks::<8>().0) {
        for i in 0..8 {
            let miss = step.scale * step.code(w[i], inverse) + step.centre - w[i];
            sums[i] += h[i] * miss * miss;
        }
    }
    sums.iter().sum()
}

/// Scales of either sign reach −8 or 8 steps on the side of the larger outlier.
#[inline(always)]
pub(super) fn search_symmetric(w: &[f32], weight: &[f32], signed: bool) -> Step {
    let reach = w.iter().fold(0.0f32, |max, v| max.max(v.abs())) / 7.5;
    let step = |scale: f32| Step { scale, centre: 0.0 };
    let mut best = (f32::INFINITY, step(reach));
    for clip in CLIP_STEPS {
        for sign in [1.0, -1.0] {
            let candidate = step(sign * reach * clip);
            let loss = loss(w, weight, candidate);
            if loss < best.0 && (signed || sign > 0.0) {
                best = (loss, candidate);
            }
        }
    }
    best.1
}

/// Both ends of the range move, together and then each alone.
#[inline(always)]
pub(super) fn search_offset(w: &[f32], weight: &[f32]) -> Step {
    let (low, high) = w.iter().fold((f32::MAX, f32::MIN), |(low, high), &v| (low.min(v), high.max(v)));
    let step = |a: f32, b: f32| {
        let (low, high) = (low * a, high * b);
        let scale = (high - low) / LEVELS;
        Step { scale, centre: low + CENTRE * scale }
    };
    let mut best = (loss(w, weight, step(1.0, 1.0)), 1.0, 1.0);
    let consider = |a: f32, b: f32, best: &mut (f32, f32, f32)| {
        let loss = loss(w, weight, step(a, b));
        if loss < best.0 {
            *best = (loss, a, b);
        }
    };
    for clip in CLIP_STEPS {
        consider(clip, clip, &mut best);
    }
    for _ in 0..2 {
        let (a, b) = (best.1, best.2);
        for change in [0.84, 0.88, 0.92, 0.96, 1.04, 1.08, 1.12] {
            consider(a * change, b, &mut best);
        }
        let a = best.1;
        for change in [0.84, 0.88, 0.92, 0.96, 1.04, 1.08, 1.12] {
            consider(a, b * change, &mut best);
        }
    }
    step(best.1, best.2)
}
