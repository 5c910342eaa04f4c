//! The softmax of one row, taken block by block and merged over segments.
//!
//! A row's state over a segment is, in `state_elems` floats: its maximum score m, sixteen partial sums of weights (position j
//! adds to sum j % 16) and the weighted sum of values.
//!
//! Scores carry a factor log₂ e, so that weights are powers of two: 2^(s − m) = exp((q·k − max) / √head_dim).

use super::simd::{Lanes, Op, exp2};
use super::workspace::{STATE_HEADER, state_elems};

/// Turns a row's scores into weights, and brings its state to the new maximum.
///
/// # Safety
/// `state` has `state_elems(d)` floats, `weights` BLOCK.
#[inline(always)]
pub(super) unsafe fn weigh<V: Lanes>(state: *mut f32, weights: *mut f32, visible: u64, d: usize) {
    // SAFETY: the caller's.
    unsafe {
        let mut scores = [V::splat(0.0); 4];
        for (g, score) in scores.iter_mut().enumerate() {
            *score = V::load(weights.add(g * 16)).keep((visible >> (g * 16)) as u16, f32::NEG_INFINITY);
        }
        let largest = scores[0].max(scores[1]).max(scores[2].max(scores[3])).reduce_max();
        let old = *state;
        let new = if largest > old { largest } else { old };
        let mut sums = V::load(state.add(16));
        if new > old {
            *state = new;
            if old != f32::NEG_INFINITY {
                let factor = exp2(V::splat(old - new));
                sums = sums.mul(factor);
                for i in (STATE_HEADER..state_elems(d)).step_by(16) {
                    V::load(state.add(i)).mul(factor).store(state.add(i));
                }
            }
        }
        for (g, score) in scores.into_iter().enumerate() {
            let weight = exp2(score.sub(V::splat(new)));
            sums = sums.add(weight);
            weight.store(weights.add(g * 16));
        }
        sums.store(state.add(16));
    }
}

/// Merges the states of a later segment into those of the earlier ones, row by row.
pub(super) struct Merge<'a> {
    pub(super) head_dim: usize,
    pub(super) total: &'a mut [f32],
    pub(super) segment: &'a [f32],
}

impl Op for Merge<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Lanes, const W: usize>(self) {
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
            // SAFETY: a state is a whole number of sixteen floats; V's instruction set is the caller's care.
            unsafe {
                let (a, b) = (exp2(V::splat(total[0] - new)), exp2(V::splat(segment[0] - new)));
                for i in (16..stride).step_by(16) {
                    let (old, add) = (V::load(total[i..].as_ptr()), V::load(segment[i..].as_ptr()));
                    add.mul_add(b, old.mul(a)).store(total[i..].as_mut_ptr());
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

impl Op for Finish<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Lanes, const W: usize>(self) {
        let (header, out) = self.state.split_at_mut(STATE_HEADER);
        if header[0] == f32::NEG_INFINITY {
            out.fill(0.0);
            return;
        }
        // SAFETY: the header has 32 floats, the output a whole number of sixteen; V's instruction set is the caller's care.
        unsafe {
            let inverse = V::splat(1.0 / V::load(header[16..].as_ptr()).reduce_add());
            for lanes in out.chunks_exact_mut(16) {
                // Adding 0 makes one zero of the two.
                V::load(lanes.as_ptr()).mul_add(inverse, V::splat(0.0)).store(lanes.as_mut_ptr());
            }
        }
    }
}
