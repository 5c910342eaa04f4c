//! What a site's outputs should be: nearer to the unquantized model's, token by token of equal weight.

use rayon::prelude::*;

use super::forward::add_bias;
use super::matrix::{Matrix, times};
use super::solve::Sums;

/// How much of the way from a site's own outputs on the quantized model's inputs to the unquantized model's outputs the
/// targets are. All of it fits the calibration text closely and costs on every other: SmolLM2-135M in groups of 64 with
/// offsets, calibrated on 8192 tokens of news, is away from the 16-bit model on 2048 tokens of Wikipedia by a KL divergence of
/// 0.127 nats at 0, 0.106 at 1/4 and 0.123 at 1/2; at 1, without refinement, by more than without correction.
const CORRECTION: f64 = 0.25;

/// Moves targets back towards the site's own outputs, y ← (1 − α)·w·x + α·y with α = [`CORRECTION`], in the sums over them;
/// without targets the outputs are the site's own.
pub(super) fn soften(weight: &Matrix, sums: &mut Sums) {
    let own = times(weight, &sums.hessian);
    let own_energy = inner(&own, weight);
    let Some(target) = &mut sums.target else {
        sums.energy = own_energy;
        return;
    };
    let (keep, take) = (1.0 - CORRECTION, CORRECTION);
    let cross = inner(target, weight);
    sums.energy = keep * keep * own_energy + 2.0 * keep * take * cross + take * take * sums.energy;
    target.par_iter_mut().zip(&own).for_each(|(target, own)| *target = keep * own + take * *target);
}

/// tr(a·wᵀ).
pub(super) fn inner(a: &[f64], w: &Matrix) -> f64 {
    a.iter().zip(&w.data).map(|(a, &w)| a * f64::from(w)).sum()
}

/// What the quantized stream lacks to be the float one, before a bias: o and down may make up for all of it.
pub(super) fn missing(float: &[f32], quantized: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
    let mut wanted: Vec<f32> = float.par_iter().zip(quantized).map(|(float, quantized)| float - quantized).collect();
    if let Some(bias) = bias {
        let negative: Vec<f32> = bias.iter().map(|b| -b).collect();
        add_bias(&mut wanted, Some(&negative));
    }
    wanted
}

/// Multiplies each token's inputs and wanted outputs by 1 / rms of its hidden state: the norms that follow see errors
/// relative to it, and a few tokens of each text have a hidden state a hundred times larger than the others.
pub(super) fn weigh(hidden: &[f32], d: usize, inputs: &mut [f32], k: usize, wanted: &mut [f32]) {
    let tokens = inputs.par_chunks_exact_mut(k).zip(wanted.par_chunks_exact_mut(d)).zip(hidden.par_chunks_exact(d));
    tokens.for_each(|((inputs, wanted), hidden)| {
        let mean = hidden.iter().map(|v| v * v).sum::<f32>() / d as f32;
        let weight = 1.0 / mean.sqrt().max(1e-6);
        inputs.iter_mut().chain(wanted).for_each(|v| *v *= weight);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::SplitMix;

    #[test]
    fn softened_sums_match_the_sums_of_softened_outputs() {
        let (n, k, tokens) = (3, 5, 11);
        let mut random = SplitMix(4);
        let mut draw = |len: usize| (0..len).map(|_| random.signed()).collect::<Vec<f32>>();
        let (w, x, y) = (Matrix { rows: n, columns: k, data: draw(n * k) }, draw(tokens * k), draw(tokens * n));
        let wide = |v: &[f32]| v.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
        let (x, y) = (wide(&x), wide(&y));
        // by definition, from outputs y[T, N]
        let sums_of = |y: &[f64]| {
            let mut sums = Sums::new(k);
            let mut target = vec![0.0; n * k];
            for (x, y) in x.chunks_exact(k).zip(y.chunks_exact(n)) {
                for i in 0..k {
                    (0..k).for_each(|j| sums.hessian[i * k + j] += x[i] * x[j]);
                    (0..n).for_each(|o| target[o * k + i] += y[o] * x[i]);
                }
                sums.energy += y.iter().map(|y| y * y).sum::<f64>();
            }
            sums.target = Some(target);
            sums
        };
        let own = |t: usize, o: usize| (0..k).map(|i| f64::from(w.row(o)[i]) * x[t * k + i]).sum::<f64>();
        let soft: Vec<f64> =
            (0..tokens * n).map(|i| (1.0 - CORRECTION) * own(i / n, i % n) + CORRECTION * y[i]).collect();
        let (mut got, expected) = (sums_of(&y), sums_of(&soft));
        soften(&w, &mut got);
        // sums of some 11 · 5 products of numbers below 1, and once more over n · k of them: each adds at most an ulp of 2⁶
        let bound = 2f64.powi(6) * f64::EPSILON * 200.0;
        let (got_target, target) = (got.target.unwrap(), expected.target.unwrap());
        got_target.iter().zip(&target).for_each(|(a, b)| assert!((a - b).abs() < bound, "{a} {b}"));
        assert!((got.energy - expected.energy).abs() < bound, "{} {}", got.energy, expected.energy);
        // without targets the energy is that of the own outputs
        got.target = None;
        soften(&w, &mut got);
        let expected: f64 = (0..tokens * n).map(|i| own(i / n, i % n).powi(2)).sum();
        assert!((got.energy - expected).abs() < bound, "{} {expected}", got.energy);
    }
}
