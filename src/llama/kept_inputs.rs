//! Inputs of a matrix that are kept by their scores, in the host's memory.

use crate::error::Result;
use crate::sparse_mlp::{Score, Selection};

/// Where inputs are written that a selection other than a plain threshold keeps. Buffers grow to the largest call seen and are then reused.
#[derive(Debug, Default)]
pub(super) struct KeptInputs {
    values: Vec<f32>,
    order: Vec<u32>,
}

impl KeptInputs {
    /// x \[M, K\] with 0 in place of what a selection by the scores of inputs does not keep; NaN is kept, as by a plain threshold.
    ///
    /// # Errors
    /// As [`Selection::check`].
    pub(super) fn keep(&mut self, selection: &Selection<'_>, x: &[f32], k: usize) -> Result<&[f32]> {
        selection.check(x.len() / k, k, k)?;
        let KeptInputs { values, order } = self;
        values.clear();
        values.extend_from_slice(x);
        for token in values.chunks_exact_mut(k) {
            match selection {
                Selection::Threshold { score, threshold } => {
                    let drop = |(i, x): (usize, &mut f32)| {
                        if size(score, i, *x) <= *threshold {
                            *x = 0.0;
                        }
                    };
                    token.iter_mut().enumerate().for_each(drop);
                }
                Selection::TopK { score, k: kept } => keep_largest(token, score, *kept, order),
                _ => {}
            }
        }
        Ok(values)
    }
}

/// |x| times the channel's factor.
fn size(score: &Score<'_>, channel: usize, x: f32) -> f32 {
    x.abs() * score.channel_scale.map_or(1.0, |scale| scale[channel])
}

/// Sets all but the `kept` inputs of the highest scores to 0, the lower index first where equal; NaN is the highest.
fn keep_largest(token: &mut [f32], score: &Score<'_>, kept: usize, order: &mut Vec<u32>) {
    order.clear();
    order.extend(0..token.len() as u32);
    let size = |i: u32| size(score, i as usize, token[i as usize]);
    if kept < order.len() {
        order.select_nth_unstable_by(kept, |&a, &b| size(b).total_cmp(&size(a)).then(a.cmp(&b)));
    }
    order[kept..].iter().for_each(|&i| token[i as usize] = 0.0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sparse_mlp::ScoreOn;

    #[test]
    fn what_stays_matches_a_sort_of_the_scores() {
        let (m, k) = (3, 37);
        // some scores are equal, some 0
        let x: Vec<f32> = (0..m * k).map(|i| ((i * 37 % 41) as f32 - 20.0).round() / 4.0).collect();
        let scale: Vec<f32> = (0..k).map(|i| (i % 4) as f32).collect();
        let mut room = KeptInputs::default();
        for channel_scale in [None, Some(&scale[..])] {
            let score = Score { on: ScoreOn::Input, channel_scale };
            let factor = |i: usize| channel_scale.map_or(1.0, |scale| scale[i]);
            for kept in [1, 5, 36, 37] {
                let found = room.keep(&Selection::TopK { score, k: kept }, &x, k).unwrap();
                for (found, x) in found.chunks(k).zip(x.chunks(k)) {
                    let mut order: Vec<usize> = (0..k).collect();
                    order.sort_by(|&a, &b| (x[b].abs() * factor(b)).total_cmp(&(x[a].abs() * factor(a))));
                    let expected: Vec<f32> =
                        (0..k).map(|i| if order[..kept].contains(&i) { x[i] } else { 0.0 }).collect();
                    assert_eq!(found, expected, "{kept}");
                }
            }
            let threshold = 1.5;
            let found = room.keep(&Selection::Threshold { score, threshold }, &x, k).unwrap();
            let above = |i: usize| x[i].abs() * factor(i % k) > threshold;
            assert!((0..m * k).all(|i| found[i] == if above(i) { x[i] } else { 0.0 }));
        }
        let score = Score { on: ScoreOn::Input, channel_scale: Some(&scale[1..]) };
        assert!(room.keep(&Selection::TopK { score, k: 3 }, &x, k).is_err(), "a factor is missing");
    }
}
