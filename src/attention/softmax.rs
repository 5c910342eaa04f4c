//! The softmax of one row, taken block by block and merged over segments.
//!
//! A row's state over a segment is, in `state_elems` floats: its maximum score m, sixteen partial sums of weights (position j
//! adds to sum j % 16) and the weighted sum of values.
//!
//! Scores carry a factor log₂ e, so that weights are powers of two: 2^(s − m) = exp((q·k − max) / √head_dim).

use super::workspace::{STATE_HEADER, state_elems};
use crate::simd::{Kernel, Simd, exp2_to_one};

/// Turns a row's scores, BLOCK of them, into weights, and brings its state to the new maximum.
#[inline(always)]
pub(super) fn weigh<S: Simd>(simd: S, state: &mut [f32], weights: &mut [f32], visible: u64) {
    let weights: &mut [[f32; 16]; 4] = match weights.as_chunks_mut().0.first_chunk_mut() {
        Some(weights) => weights,
        None => unreachable!("a row of weights has a block's positions"),
    };
    let mut scores = [simd.splat(0.0); 4];
    for (g, score) in scores.iter_mut().enumerate() {
        *score = simd.select((visible >> (g * 16)) as u16, simd.load(&weights[g]), simd.splat(f32::NEG_INFINITY));
    }
    let largest = simd.largest(simd.max(simd.max(scores[0], scores[1]), simd.max(scores[2], scores[3])));
    let (header, output) = state.split_at_mut(STATE_HEADER);
    let (maximum, sums_of) = header.as_chunks_mut::<16>().0.split_at_mut(1);
    let (maximum, sums_of) = (&mut maximum[0][0], &mut sums_of[0]);
    let old = *maximum;
    let new = if largest > old { largest } else { old };
    let mut sums = simd.load(sums_of);
    if new > old {
        *maximum = new;
        if old != f32::NEG_INFINITY {
            let factor = exp2_to_one(simd, simd.splat(old - new));
            sums = simd.mul(sums, factor);
            for lanes in output.as_chunks_mut().0 {
                simd.store(lanes, simd.mul(simd.load(lanes), factor));
            }
        }
    }
    for (weights, score) in weights.iter_mut().zip(scores) {
        let weight = exp2_to_one(simd, simd.sub(score, simd.splat(new)));
        sums = simd.add(sums, weight);
        simd.store(weights, weight);
    }
    simd.store(sums_of, sums);
}

/// Merges the states of a later segment into those of the earlier ones, row by row.
pub(super) struct Merge<'a> {
    pub(super) head_dim: usize,
    pub(super) total: &'a mut [f32],
    pub(super) segment: &'a [f32],
}

impl Kernel for Merge<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let stride = state_elems(self.head_dim);
        for (total, segment) in self.total.chunks_exact_mut(stride).zip(self.segment.chunks_exact(stride)) {
            // A state whose sums are NaN has seen a score that is none, and may have no maximum; what it is merged with becomes NaN.
            let spoilt = simd.sum(simd.load(&segment[16..].as_chunks().0[0])).is_nan();
            if segment[0] == f32::NEG_INFINITY && !spoilt {
                continue;
            }
            if spoilt || simd.sum(simd.load(&total[16..].as_chunks().0[0])).is_nan() {
                total[16..STATE_HEADER].fill(f32::NAN);
                continue;
            }
            if total[0] == f32::NEG_INFINITY {
                total.copy_from_slice(segment);
                continue;
            }
            let new = if segment[0] > total[0] { segment[0] } else { total[0] };
            let a = exp2_to_one(simd, simd.splat(total[0] - new));
            let b = exp2_to_one(simd, simd.splat(segment[0] - new));
            for (old, add) in total[16..].as_chunks_mut().0.iter_mut().zip(segment[16..].as_chunks().0) {
                simd.store(old, simd.fma(simd.load(add), b, simd.mul(simd.load(old), a)));
            }
            total[0] = new;
        }
    }
}

/// Divides a state's output by its sum of weights, in place; nothing to attend to gives zeros, and scores that are no numbers NaN.
pub(super) struct Finish<'a> {
    pub(super) state: &'a mut [f32],
}

impl Kernel for Finish<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (header, out) = self.state.split_at_mut(STATE_HEADER);
        let sum = simd.sum(simd.load(&header.as_chunks().0[1]));
        // without a maximum because every score was NaN, the sum is NaN too
        if header[0] == f32::NEG_INFINITY && !sum.is_nan() {
            out.fill(0.0);
            return;
        }
        let inverse = simd.splat(1.0 / sum);
        for lanes in out.as_chunks_mut().0 {
            // Adding 0 makes one zero of the two.
            simd.store(lanes, simd.fma(simd.load(lanes), inverse, simd.splat(0.0)));
        }
    }
}
