//! Adaptive smoothing: input channels whose activations stand out are divided by a scale that the weights take over.
//!
//! With a threshold σ the scale of channel j is sⱼ = max(1, maxⱼ/σ, |minⱼ|/σ): channels inside ±σ are left alone. For each site
//! σ runs from the largest activation down to 0.1 in max(100, ⌊largest / 0.5⌋) even steps, and the one with the least
//!
//! ```text
//! mean over tokens of Σ |f(Q8(x / s), Q4(w · s)) − f(x, w)|²
//! ```
//!
//! is taken, f being the attention's output for q, k, v, act(gate) ⊙ up for gate and up, the product itself for o and down. The
//! scales are folded into what comes before: the norms, the rows of up, and the rows of v unless query heads share them.
//!
//! # Source
//! QQQ (arXiv 2406.09904).

use moray::w4a8::{Format, quantize};
use rayon::prelude::*;

use super::forward::{Pass, fake_quantize, project};
use super::layer::{FloatLayer, Half, Projection, Site};
use super::matrix::Matrix;
use super::solve::dequantized;
use crate::error::Result;

/// The smallest threshold.
const LOWEST: f32 = 0.1;

/// One layer's sample while its sites are smoothed.
struct Sample<'a> {
    pass: &'a Pass<'a>,
    format: Format,
    windows: &'a [usize],
}

/// Smooths the four sites of a layer in the order of the forward pass, each on inputs that have come through the quantized
/// sites before it. `hidden` is the quantized model's hidden state before the layer, for the windows of the sample.
/// Returns the thresholds by site, none where nothing was searched.
///
/// # Errors
/// What the format refuses.
pub fn smooth_layer(
    pass: &Pass<'_>,
    format: Format,
    layer: &mut FloatLayer,
    hidden: &[f32],
    windows: &[usize],
) -> Result<[Option<f32>; 4]> {
    let sample = Sample { pass, format, windows };
    let mut thresholds = [None; 4];
    let mut hidden = hidden.to_vec();
    for half in Half::ALL {
        let norm = layer.norm(half).to_vec();
        pass.run(half, &norm, windows, &mut hidden, &mut |site, mut x| {
            let heads = pass.config.attention;
            // query heads that share a value head would each want scales of their own
            if site != Site::O || heads.n_q_heads == heads.n_kv_heads {
                let Found { threshold, scales } = sample.search(site, layer.site(site), &x)?;
                divide(&mut x, &scales);
                sample.fold(layer, site, &scales);
                multiply_columns(&mut layer.site_mut(site).weight, &scales);
                thresholds[site as usize] = Some(threshold);
            }
            // nothing is smoothed after the last site
            if site == Site::Down { Ok(None) } else { sample.quantized(layer.site(site), &x).map(Some) }
        })?;
    }
    Ok(thresholds)
}

/// What a search found.
struct Found {
    threshold: f32,
    scales: Vec<f32>,
}

impl Sample<'_> {
    fn search(&self, site: Site, projection: &Projection, x: &[f32]) -> Result<Found> {
        let k = projection.weight.columns;
        let mut peaks = vec![0.0f32; k];
        for row in x.chunks_exact(k) {
            peaks.iter_mut().zip(row).for_each(|(peak, v)| *peak = peak.max(v.abs()));
        }
        let largest = peaks.iter().fold(0.0f32, |max, &v| max.max(v));
        let wanted = self.middle(site, project(projection, x))?;
        let steps = 100.max((largest / 0.5) as usize);
        let mut best = (f64::INFINITY, Found { threshold: largest, scales: vec![1.0; k] });
        for step in 0..steps {
            let threshold = largest - (largest - LOWEST) * step as f32 / (steps - 1) as f32;
            if threshold < LOWEST {
                break;
            }
            let scales: Vec<f32> = peaks.iter().map(|peak| (peak / threshold).max(1.0)).collect();
            let mut smoothed = x.to_vec();
            divide(&mut smoothed, &scales);
            let mut projection = projection.clone();
            multiply_columns(&mut projection.weight, &scales);
            let got = self.middle(site, self.quantized(&projection, &smoothed)?)?;
            let miss = |(a, b): (&f32, &f32)| f64::from(a - b) * f64::from(a - b);
            let loss: f64 = got.par_iter().zip(&wanted).map(miss).sum();
            if loss < best.0 {
                best = (loss, Found { threshold, scales });
            }
        }
        Ok(best.1)
    }

    /// The function whose error counts.
    fn middle(&self, site: Site, y: Vec<f32>) -> Result<Vec<f32>> {
        match site {
            Site::Qkv => self.pass.middle(Half::Attention, self.windows, y),
            Site::GateUp => self.pass.middle(Half::Mlp, self.windows, y),
            Site::O | Site::Down => Ok(y),
        }
    }

    /// Divides what makes the inputs of a site by scales.
    fn fold(&self, layer: &mut FloatLayer, site: Site, scales: &[f32]) {
        let shape = self.pass.config.attention;
        match site {
            Site::Qkv => fold_into_vector(layer.norm_mut(Half::Attention), scales),
            Site::O => divide_rows(layer.site_mut(Site::Qkv), shape.q_elems() + shape.kv_elems(), scales),
            Site::GateUp => fold_into_vector(layer.norm_mut(Half::Mlp), scales),
            Site::Down => divide_rows(layer.site_mut(Site::GateUp), self.pass.config.d_ff, scales),
        }
    }

    /// The product with int8 inputs and weights rounded to nearest.
    fn quantized(&self, projection: &Projection, x: &[f32]) -> Result<Vec<f32>> {
        let Matrix { rows, columns, data } = &projection.weight;
        let data = dequantized(&quantize(data, *rows, *columns, self.format)?);
        let weight = Matrix { rows: *rows, columns: *columns, data };
        let mut x = x.to_vec();
        fake_quantize(&mut x, *columns);
        Ok(project(&Projection { weight, bias: projection.bias.clone() }, &x))
    }
}

fn divide(x: &mut [f32], scales: &[f32]) {
    x.par_chunks_exact_mut(scales.len()).for_each(|row| row.iter_mut().zip(scales).for_each(|(v, s)| *v /= s));
}

fn fold_into_vector(norm: &mut [f32], scales: &[f32]) {
    norm.iter_mut().zip(scales).for_each(|(gain, s)| *gain /= s);
}

fn multiply_columns(weight: &mut Matrix, scales: &[f32]) {
    weight
        .data
        .par_chunks_exact_mut(scales.len())
        .for_each(|row| row.iter_mut().zip(scales).for_each(|(w, s)| *w *= s));
}

/// Divides the rows from `first` on, and their biases.
fn divide_rows(projection: &mut Projection, first: usize, scales: &[f32]) {
    let k = projection.weight.columns;
    for (row, s) in projection.weight.data[first * k..].chunks_exact_mut(k).zip(scales) {
        row.iter_mut().for_each(|w| *w /= s);
    }
    if let Some(bias) = &mut projection.bias {
        bias[first..].iter_mut().zip(scales).for_each(|(b, s)| *b /= s);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Fixture, SplitMix};
    use crate::load::forward_config;

    const FORMAT: Format = Format::per_channel();

    /// Σ |f(Q8(x / s), Q4(w · s)) − f(x, w)|² in f64, f the product or act(gate) ⊙ up of it.
    fn loss(site: Site, w: &Matrix, x: &[f32], scales: &[f32]) -> f64 {
        let (n, k) = (w.rows, w.columns);
        let smoothed: Vec<f32> = w.data.iter().enumerate().map(|(i, w)| w * scales[i % k]).collect();
        let quantized = quantize(&smoothed, n, k, FORMAT).unwrap().dequantize();
        let function = |weight: &[f32], x: &[f64]| -> Vec<f64> {
            let y: Vec<f64> =
                weight.chunks_exact(k).map(|w| w.iter().zip(x).map(|(&w, x)| f64::from(w) * x).sum()).collect();
            match site {
                Site::GateUp => y[..n / 2].iter().zip(&y[n / 2..]).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect(),
                _ => y,
            }
        };
        x.chunks_exact(k)
            .map(|x| {
                let divided: Vec<f32> = x.iter().zip(scales).map(|(x, s)| x / s).collect();
                let scale = f64::from(divided.iter().fold(0.0f32, |max, v| max.max(v.abs())) / 127.0);
                let coded: Vec<f64> =
                    divided.iter().map(|&v| (f64::from(v) / scale).round_ties_even() * scale).collect();
                let exact: Vec<f64> = x.iter().map(|&v| f64::from(v)).collect();
                let pairs = function(&quantized, &coded).into_iter().zip(function(&w.data, &exact));
                pairs.map(|(got, wanted)| (got - wanted).powi(2)).sum::<f64>()
            })
            .sum()
    }

    #[test]
    fn thresholds_match_the_best_of_all_by_definition() {
        let (cpu, fixture) = (moray::Cpu::detect(), Fixture::default());
        let config = forward_config(fixture.open().unwrap().config()).unwrap();
        let pass = Pass::new(&cpu, config, 16);
        let sample = Sample { pass: &pass, format: FORMAT, windows: &[12] };
        let mut random = SplitMix(41);
        for (site, rows) in [(Site::O, 24), (Site::GateUp, 2 * fixture.d_ff)] {
            let k = fixture.hidden;
            let weight = Matrix { rows, columns: k, data: (0..rows * k).map(|_| 0.1 * random.signed()).collect() };
            // some channels stand out, by more than 50 so that there are more than 100 steps
            let gain = |channel: usize| if channel % 20 == 5 { 3.0 * channel as f32 } else { 1.0 };
            let x: Vec<f32> = (0..12 * k).map(|i| gain(i % k) * random.signed()).collect();
            let found = sample.search(site, &Projection { weight: weight.clone(), bias: None }, &x).unwrap();

            let peak = |channel: usize| x.iter().skip(channel).step_by(k).fold(0.0f32, |max, v| max.max(v.abs()));
            let largest = (0..k).map(peak).fold(0.0f32, f32::max);
            let steps = 100.max((largest / 0.5).floor() as usize);
            assert!(steps > 100);
            let scales = |threshold: f32| (0..k).map(|j| (peak(j) / threshold).max(1.0)).collect::<Vec<f32>>();
            let threshold = |step: usize| largest - (largest - 0.1) * step as f32 / (steps - 1) as f32;
            let all: Vec<f64> = (0..steps).map(|step| loss(site, &weight, &x, &scales(threshold(step)))).collect();
            let least = all.iter().copied().fold(f64::INFINITY, f64::min);
            assert!((0..steps).any(|step| threshold(step) == found.threshold), "{}", found.threshold);
            assert_eq!(found.scales, scales(found.threshold));
            // a code at a tie may round either way in f32
            let got = loss(site, &weight, &x, &found.scales);
            assert!(got <= 1.01 * least, "{site:?}: {got}, the least is {least}");
            let worst = all.iter().copied().fold(0.0, f64::max);
            assert!(least < 0.5 * all[0] && least < 0.5 * worst, "{site:?}: {least} of {} and {worst}", all[0]);
        }
    }
}
