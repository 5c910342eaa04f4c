//! Training of predictors by gradients.

use super::LowRank;
use super::low_rank::add;
use super::random::split_mix;
use crate::error::{Error, Result, check_len};
use crate::sparse_mlp::check_finite;

/// How predictors are trained, see [`LowRank::trained`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Training {
    /// Passes over the text, at most where what is held out says how many serve.
    pub epochs: usize,
    /// The order of the tokens follows from it.
    pub seed: u64,
}

impl Training {
    /// None.
    pub const NONE: Training = Training { epochs: 0, seed: 0 };

    /// What policies are trained with.
    pub const STANDARD: Training = Training { epochs: 8, seed: 1 };
}

/// Tokens of a step.
const BATCH: usize = 64;

/// Of the tokens, those at the end that are held out: 1 in so many.
const HELD_OUT: usize = 8;

/// Adam's: size of a step, decay of the means of gradients and of their squares, and what keeps a quotient finite.
const RATE: f32 = 1e-3;
const DECAY: [f32; 2] = [0.9, 0.999];
const EPSILON: f32 = 1e-8;

/// Labels of 0 and 1 that a fit by squares predicts, as logits: so many for 1.
const LOGITS: f32 = 6.0;

impl LowRank {
    /// Fits a predictor of labels 0 and 1, \[tokens, n\], by x \[tokens, d\], through at most `rank` directions ([`LowRank::fit`]), and trains it from there
    /// ([`LowRank::trained`]) for as many epochs as serve: the last eighth of the tokens is held out first, a predictor is fitted to the others and
    /// trained, and the number of epochs, `training.epochs` at most, the least where equal, is taken after which it finds most of the held-out tokens' ones among as
    /// many of its highest predictions. None may be best.
    ///
    /// # Errors
    /// As [`LowRank::fit`], and [`Error::Value`] for labels of which none is 1.
    pub fn fit_and_train(
        x: &[f32],
        labels: &[f32],
        (d, n): (usize, usize),
        rank: usize,
        training: Training,
    ) -> Result<LowRank> {
        let whole = LowRank::fit(x, labels, (d, n), rank)?;
        let tokens = x.len() / d;
        if training.epochs == 0 || tokens < 2 * HELD_OUT {
            return Ok(whole);
        }
        let (seen, held_out) = x.split_at((tokens - tokens / HELD_OUT) * d);
        let (seen_labels, held_out_labels) = labels.split_at(seen.len() / d * n);
        let start = LowRank::fit(seen, seen_labels, (d, n), rank)?;
        let mut best = (start.recall(held_out, held_out_labels), 0);
        start.passes(seen, seen_labels, training, &mut |epoch, predictor| {
            let recall = predictor.recall(held_out, held_out_labels);
            if recall > best.0 {
                best = (recall, epoch);
            }
        })?;
        whole.trained(x, labels, Training { epochs: best.1, ..training })
    }

    /// Trains a predictor of labels 0 and 1, \[tokens, n\], by x \[tokens, d\], from where it stands. The loss is the weighted binary cross entropy of
    /// σ(y),
    ///
    /// ```text
    /// Σ −w·label·ln σ(y) − (1 − label)·ln(1 − σ(y)),    w = (1 − q) / q,    q the share of ones
    /// ```
    ///
    /// and the steps are Adam's, over 64 tokens each, in an order that follows from the seed. Without an epoch nothing is changed, nor where all labels
    /// are 1; otherwise predictions are logits afterwards.
    ///
    /// # Errors
    /// [`Error::Length`] unless both have the same whole tokens, [`Error::Value`] for numbers that are not finite and labels of which none is 1.
    ///
    /// # Source
    /// Deja Vu (ICML 2023), whose predictors are trained by weighted binary cross entropy; the optimizer: Kingma and Ba (2015).
    pub fn trained(self, x: &[f32], labels: &[f32], training: Training) -> Result<LowRank> {
        let mut last = None;
        self.passes(x, labels, training, &mut |epoch, predictor| {
            if epoch == training.epochs {
                last = Some(predictor.clone());
            }
        })?;
        Ok(last.unwrap_or(self))
    }

    /// Trains it, and shows it after each epoch, counted from 1.
    fn passes(
        &self,
        x: &[f32],
        labels: &[f32],
        training: Training,
        after: &mut dyn FnMut(usize, &LowRank),
    ) -> Result<()> {
        let [d, _, n] = self.sizes();
        let tokens = x.len() / d;
        check_len("calibration inputs", tokens * d, x.len())?;
        check_len("calibration labels", tokens * n, labels.len())?;
        [x, labels].into_iter().try_for_each(|values| check_finite("calibration", values))?;
        let share = (labels.iter().map(|&label| f64::from(label)).sum::<f64>() / labels.len().max(1) as f64) as f32;
        if training.epochs == 0 || share == 1.0 {
            return Ok(());
        }
        if !(share > 0.0 && share < 1.0) {
            let expected = "a number above 0 and no more than 1";
            return Err(Error::Value { what: "share of labels that are 1", expected, got: share });
        }
        let mut trainer = Trainer::new(self.clone().scaled_to_logits(x, share), share);
        let mut order: Vec<usize> = (0..tokens).collect();
        for epoch in 0..training.epochs {
            let start = split_mix(training.seed ^ split_mix(epoch as u64));
            order.sort_unstable_by_key(|&token| (split_mix(start ^ token as u64), token));
            for batch in order.chunks(BATCH) {
                trainer.step(batch, x, labels);
            }
            after(epoch + 1, &trainer.predictor);
        }
        Ok(())
    }

    /// The same order of predictions as logits, what lies between the matrices being about 1 for a token of x.
    fn scaled_to_logits(mut self, x: &[f32], share: f32) -> Self {
        let [d, rank, _] = self.sizes();
        let mut room = vec![0.0; rank];
        let mut squares = 0.0f64;
        for x in x.chunks_exact(d) {
            self.inner(x, &mut room);
            squares += room.iter().map(|&h| f64::from(h) * f64::from(h)).sum::<f64>();
        }
        let size = (squares / (x.len() / d * rank) as f64).sqrt() as f32;
        let size = if size > 0.0 { size } else { 1.0 };
        let [read, write, bias] = self.parts_mut();
        read.iter_mut().for_each(|r| *r /= size);
        write.iter_mut().for_each(|w| *w *= LOGITS * size);
        bias.iter_mut().for_each(|b| *b = LOGITS * (*b - share));
        self
    }

    /// The share of tokens' ones that are among as many of the highest predictions, the lower place first where equal.
    ///
    /// # Panics
    /// Unless both are whole rows of as many tokens.
    pub fn recall(&self, x: &[f32], labels: &[f32]) -> f64 {
        let [d, rank, n] = self.sizes();
        assert_eq!(x.len() / d * n, labels.len(), "labels of every token");
        let (mut room, mut y, mut order) = (vec![0.0; rank], vec![0.0; n], Vec::with_capacity(n));
        let (mut found, mut ones) = (0, 0);
        for (x, labels) in x.chunks_exact(d).zip(labels.chunks_exact(n)) {
            let k = labels.iter().filter(|label| **label == 1.0).count();
            self.predict(x, &mut room, &mut y);
            order.clear();
            order.extend(0..n);
            if k < n {
                order.select_nth_unstable_by(k, |&a, &b| y[b].total_cmp(&y[a]).then(a.cmp(&b)));
            }
            found += order[..k].iter().filter(|&&j| labels[j] == 1.0).count();
            ones += k;
        }
        found as f64 / ones.max(1) as f64
    }
}

/// A predictor with the means of its gradients.
struct Trainer {
    predictor: LowRank,
    /// Weight of ones.
    weight: f32,
    /// Of read, write and bias: gradient, its mean, the mean of its squares.
    state: [[Vec<f32>; 3]; 3],
    steps: i32,
}

impl Trainer {
    fn new(predictor: LowRank, share: f32) -> Self {
        let state = predictor.parts().map(|part| [(); 3].map(|()| vec![0.0; part.len()]));
        Trainer { predictor, weight: (1.0 - share) / share, state, steps: 0 }
    }

    /// One step by some tokens, in their order.
    fn step(&mut self, batch: &[usize], x: &[f32], labels: &[f32]) {
        let [d, rank, n] = self.predictor.sizes();
        let (mut inner, mut back, mut y) = (vec![0.0; rank], vec![0.0; rank], vec![0.0; n]);
        self.state.iter_mut().for_each(|[gradient, ..]| gradient.fill(0.0));
        for &token in batch {
            let (x, labels) = (&x[token * d..(token + 1) * d], &labels[token * n..(token + 1) * n]);
            self.predictor.inner(x, &mut inner);
            self.predictor.outer(&inner, &mut y);
            for (y, &label) in y.iter_mut().zip(labels) {
                let sigma = 1.0 / (1.0 + (-*y).exp());
                *y = (sigma * (self.weight * label + 1.0 - label) - self.weight * label) / batch.len() as f32;
            }
            let [_, write, _] = self.predictor.parts();
            for (r, row) in write.chunks_exact(n).enumerate() {
                back[r] = dot(&y, row);
                add(&mut self.state[1][0][r * n..(r + 1) * n], inner[r], &y);
            }
            add(&mut self.state[2][0], 1.0, &y);
            x.iter().zip(self.state[0][0].chunks_exact_mut(rank)).for_each(|(&x, row)| add(row, x, &back));
        }
        self.steps += 1;
        let [first, second] = DECAY.map(|decay| 1.0 - decay.powi(self.steps));
        for (part, [gradient, mean, square]) in self.predictor.parts_mut().into_iter().zip(&mut self.state) {
            for (((value, &g), mean), square) in part.iter_mut().zip(&*gradient).zip(mean).zip(square) {
                *mean += (1.0 - DECAY[0]) * (g - *mean);
                *square += (1.0 - DECAY[1]) * (g * g - *square);
                *value -= RATE * (*mean / first) / ((*square / second).sqrt() + EPSILON);
            }
        }
    }
}

/// a · b in eight sums.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (mut sums, (a8, a_rest), (b8, b_rest)) = ([0.0f32; 8], a.as_chunks::<8>(), b.as_chunks::<8>());
    for (a, b) in a8.iter().zip(b8) {
        (0..8).for_each(|lane| sums[lane] += a[lane] * b[lane]);
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The loss of one token, in f64.
    fn loss(predictor: &LowRank, x: &[f32], labels: &[f32], weight: f64) -> f64 {
        let [d, rank, n] = predictor.sizes();
        let [read, write, bias] = predictor.parts();
        let h = |r: usize| (0..d).map(|k| f64::from(x[k]) * f64::from(read[k * rank + r])).sum::<f64>();
        (0..n)
            .map(|j| {
                let y = f64::from(bias[j]) + (0..rank).map(|r| h(r) * f64::from(write[r * n + j])).sum::<f64>();
                let sigma = 1.0 / (1.0 + (-y).exp());
                let label = f64::from(labels[j]);
                -weight * label * sigma.ln() - (1.0 - label) * (1.0 - sigma).ln()
            })
            .sum()
    }

    /// Adam's first step is as long for every number, against the sign of its gradient; its second is by both gradients.
    #[test]
    fn steps_go_down_the_weighted_cross_entropy() {
        let number = |i: u64| (split_mix(i) >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
        let numbers = |seed: u64, len: usize| (0..len as u64).map(|i| number(seed * 1000 + i)).collect::<Vec<_>>();
        let (d, rank, n, tokens) = (5, 3, 11, 4);
        let start = LowRank::new(d, rank, numbers(1, d * rank), numbers(2, rank * n), numbers(3, n)).unwrap();
        let (x, share) = (numbers(4, tokens * d), 0.25);
        let labels: Vec<f32> = numbers(5, tokens * n).iter().map(|&v| f32::from(u8::from(v > 0.5))).collect();
        let mut trainer = Trainer::new(start.clone(), share);
        trainer.step(&[2, 0, 3], &x, &labels);
        let total = |predictor: &LowRank| {
            [2, 0, 3]
                .iter()
                .map(|&t: &usize| loss(predictor, &x[t * d..][..d], &labels[t * n..][..n], 3.0))
                .sum::<f64>()
        };
        let mut checked = 0;
        for part in 0..3 {
            for i in 0..start.parts()[part].len() {
                let at = |by: f32| {
                    let mut moved = start.clone();
                    moved.parts_mut()[part][i] += by;
                    total(&moved)
                };
                let gradient = (at(1e-2) - at(-1e-2)) / 2e-2;
                let step = trainer.predictor.parts()[part][i] - start.parts()[part][i];
                // a gradient that differences of 0.01 leave a sign of
                if gradient.abs() > 1e-2 {
                    assert!((f64::from(step) + 1e-3 * gradient.signum()).abs() < 1e-5, "{part} {i}: {step} {gradient}");
                    checked += 1;
                }
            }
        }
        assert!(checked > 40, "{checked}");
        let before = total(&trainer.predictor);
        (0..50).for_each(|_| trainer.step(&[2, 0, 3], &x, &labels));
        assert!(total(&trainer.predictor) < before && before < total(&start));
        assert!(
            (dot(&numbers(6, 19), &numbers(7, 19))
                - numbers(6, 19).iter().zip(numbers(7, 19)).map(|(a, b)| a * b).sum::<f32>())
            .abs()
                < 1e-5
        );
    }
}
