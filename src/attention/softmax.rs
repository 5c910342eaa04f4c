//! The softmax of one row, taken block by block and merged over segments.
//!
//! A row's state over a segment is, in `state_elems` floats: its maximum score m, sixteen partial sums of weights (position j
//! adds to sum j % 16) and the weighted sum of values.
//!
//! Scores carry a factor log₂ e, so that weights are powers of two: 2^(s − m) = exp((q·k − max) / √head_dim).

use super::workspace::{STATE_HEADER, state_elems};
use crate::simd::{Kernel, Simd, exp2_to_one};

/// Turns a row's scores into weights, and brings its state to the new maximum.
///
/// # Safety
/// `state` has `state_elems(d)` floats, `weights` BLOCK.
#[inline(always)]
pub(super) unsafe fn weigh<S: Simd>(state: *mut f32, weights: *mut f32, visible: u64, d: usize) {
    // SAFETY: the caller's.
    unsafe {
        let mut scores = [S::splat(0.0); 4];
        for (g, score) in scores.iter_mut().enumerate() {
            *score = S::select((visible >> (g * 16)) as u16, S::load(weights.add(g * 16)), S::splat(f32::NEG_INFINITY));
        }
        let largest = S::largest(S::max(S::max(scores[0], scores[1]), S::max(scores[2], scores[3])));
        let old = *state;
        let new = if largest > old { largest } else { old };
        let mut sums = S::load(state.add(16));
        if new > old {
            *state = new;
            if old != f32::NEG_INFINITY {
                let factor = exp2_to_one::<S>(S::splat(old - new));
                sums = S::mul(sums, factor);
                for i in (STATE_HEADER..state_elems(d)).step_by(16) {
                    S::store(state.add(i), S::mul(S::load(state.add(i)), factor));
                }
            }
        }
        for (g, score) in scores.into_iter().enumerate() {
            let weight = exp2_to_one::<S>(S::sub(score, S::splat(new)));
            sums = S::add(sums, weight);
            S::store(weights.add(g * 16), weight);
        }
        S::store(state.add(16), sums);
    }
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
    unsafe fn run<S: Simd>(self) {
        let stride = state_elems(self.head_dim);
        for (total, segment) in self.total.chunks_exact_mut(stride).zip(self.segment.chunks_exact(stride)) {
            if segment[0] == f32::NEG_INFINITY {
                continue;
            }
            if total[0] == f32::NEG_INFINITY {
                total.copy_from_slice(segment);
                continue;
            }
            let new = if segment[0] > total[0] { segment[0] } else { total[0] };
            // SAFETY: a state is a whole number of sixteen floats; the instruction set is the caller's care.
            unsafe {
                let (a, b) = (exp2_to_one::<S>(S::splat(total[0] - new)), exp2_to_one::<S>(S::splat(segment[0] - new)));
                for i in (16..stride).step_by(16) {
                    let (old, add) = (S::load(total[i..].as_ptr()), S::load(segment[i..].as_ptr()));
                    S::store(total[i..].as_mut_ptr(), S::fma(add, b, S::mul(old, a)));
                }
            }
            total[0] = new;
        }
    }
}

/// Divides a state's output by its sum of weights, in place; nothing to attend to gives zeros.
pub(super) struct Finish<'a> {
    pub(super) state: &'a mut [f32],
}

impl Kernel for Finish<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (header, out) = self.state.split_at_mut(STATE_HEADER);
        if header[0] == f32::NEG_INFINITY {
            out.fill(0.0);
            return;
        }
        // SAFETY: the header has 32 floats, the output a whole number of sixteen; the instruction set is the caller's care.
        unsafe {
            let inverse = S::splat(1.0 / S::sum(S::load(header[16..].as_ptr())));
            for lanes in out.chunks_exact_mut(16) {
                // Adding 0 makes one zero of the two.
                S::store(lanes.as_mut_ptr(), S::fma(S::load(lanes.as_ptr()), inverse, S::splat(0.0)));
            }
        }
    }
}
