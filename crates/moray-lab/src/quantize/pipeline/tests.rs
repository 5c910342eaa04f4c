//! One layer's four sites against their targets by definition.

use moray::Cpu;
use moray::llama::rms_norm;
use moray::w4a8::{Format, quantize};

use super::{Half, Pass, QuantizedLayer, Streams, quantize_layer};
use crate::fixture::{Fixture, SplitMix};
use crate::load::forward_config;
use crate::quantize::layer::{FloatLayer, Site};
use crate::quantize::options::{Method, Options};
use crate::quantize::source::Source;

const FORMAT: Format = Format::per_channel();

const WINDOWS: [usize; 3] = [16, 16, 8];

/// x · wᵀ + bias for w \[N, K\], in f64.
fn product(w: &[f32], x: &[f32], k: usize, bias: &[f32]) -> Vec<f32> {
    let inner = |w: &[f32], x: &[f32]| w.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum::<f64>();
    let row = |x: &[f32]| {
        w.chunks_exact(k).zip(bias).map(|(w, &b)| (inner(w, x) + f64::from(b)) as f32).collect::<Vec<f32>>()
    };
    x.chunks_exact(k).flat_map(row).collect()
}

/// What int8 makes of each token.
fn int8(x: &[f32], k: usize) -> Vec<f32> {
    let token = |x: &[f32]| {
        let scale = x.iter().fold(0.0f32, |max, v| max.max(v.abs())) / 127.0;
        x.iter().map(|v| (v / scale).round_ties_even() * scale).collect::<Vec<f32>>()
    };
    x.chunks_exact(k).flat_map(token).collect()
}

fn sum(a: &[f32], b: &[f32]) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

/// One site: its weights as they were and as they are, and its bias.
struct Plain {
    k: usize,
    float: Vec<f32>,
    quantized: Vec<f32>,
    bias: Vec<f32>,
}

impl Plain {
    fn new(layer: &FloatLayer, done: &QuantizedLayer, site: Site) -> Self {
        let projection = layer.site(site);
        let bias = projection.bias.clone().expect("the fixture has biases");
        let quantized = done.sites[site as usize].0.dequantize();
        Plain { k: projection.weight.columns, float: projection.weight.data.clone(), quantized, bias }
    }

    /// Σ ‖q·x − y‖² / Σ ‖y‖² of weights rounded to nearest, y three quarters w·x and one quarter `wanted`.
    fn error(&self, x: &[f32], wanted: &[f32]) -> f64 {
        let none = vec![0.0; self.bias.len()];
        let nearest = quantize(&self.float, none.len(), self.k, FORMAT).unwrap().dequantize();
        let own = product(&self.float, x, self.k, &none);
        let (mut miss, mut energy) = (0.0, 0.0);
        for ((got, own), wanted) in product(&nearest, x, self.k, &none).iter().zip(own).zip(wanted) {
            let y = 0.75 * f64::from(own) + 0.25 * f64::from(*wanted);
            miss += (f64::from(*got) - y).powi(2);
            energy += y * y;
        }
        miss / energy
    }
}

#[test]
fn errors_of_all_sites_match_their_targets_by_definition() {
    let (cpu, mut random) = (Cpu::detect(), SplitMix(3));
    let fixture = Fixture { attention_bias: true, mlp_bias: true, ..Fixture::default() };
    let (d, tokens) = (fixture.hidden, WINDOWS.iter().sum::<usize>());
    let checkpoint = fixture.open().unwrap();
    let options = Options { rotate: false, refinements: 0, ..Options::new(Method::Full, FORMAT) };
    let layer = Source::new(&checkpoint, &options).layer(0).unwrap();
    let pass = Pass::new(&cpu, forward_config(checkpoint.config()).unwrap(), 16);
    // some tokens are larger than others, and the quantized model's stream has gone astray
    let float: Vec<f32> = (0..tokens * d).map(|i| [1.0, 0.1, 4.0][i / d % 3] * random.signed()).collect();
    let astray: Vec<f32> = float.iter().map(|v| v * (1.0 + 0.3 * random.signed())).collect();
    let mut streams = Streams::new(float.clone(), &WINDOWS, d);
    streams.quantized = astray.clone();
    let done = quantize_layer(&pass, &options, &layer, 0, &mut streams).unwrap();

    let mut states = (float, astray);
    for half in Half::ALL {
        let [first, second] = half.sites();
        let middle = |y: Vec<f32>| pass.middle(half, &WINDOWS, y).unwrap();
        let normed = |x: &[f32]| {
            let mut y = vec![0.0; x.len()];
            rms_norm(&cpu, x, layer.norm(half), pass.config.rms_eps, &mut y).unwrap();
            y
        };
        let close = |site: Site, expected: f64| {
            let got = done.errors[site as usize].nearest;
            // sums of squares in f32, and a code or two that may round the other way
            assert!((got - expected).abs() < 2e-3 * expected, "{site:?}: {got}, by definition {expected}");
        };
        let site = Plain::new(&layer, &done, first);
        let x = normed(&states.0);
        let coded = int8(&normed(&states.1), d);
        close(first, site.error(&coded, &product(&site.float, &x, d, &vec![0.0; site.bias.len()])));
        let inner = middle(product(&site.float, &x, d, &site.bias));
        let site_after = Plain::new(&layer, &done, second);
        let coded = int8(&middle(product(&site.quantized, &coded, d, &site.bias)), site_after.k);

        let Plain { k, float, quantized, bias } = &site_after;
        let after = sum(&states.0, &product(float, &inner, *k, bias));
        let weight: Vec<f32> = after
            .chunks_exact(d)
            .map(|token| 1.0 / (token.iter().map(|v| v * v).sum::<f32>() / d as f32).sqrt())
            .collect();
        let wanted: Vec<f32> =
            (0..tokens * d).map(|i| weight[i / d] * (after[i] - states.1[i] - bias[i % d])).collect();
        let weighed: Vec<f32> = coded.iter().enumerate().map(|(i, v)| weight[i / k] * v).collect();
        close(second, site_after.error(&weighed, &wanted));
        states = (after, sum(&states.1, &product(quantized, &coded, *k, bias)));
    }
    for (got, expected) in [(&streams.float, &states.0), (&streams.quantized, &states.1)] {
        let miss: f64 = got.iter().zip(expected).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        let size: f64 = expected.iter().map(|v| f64::from(*v).powi(2)).sum();
        assert!(miss < 1e-6 * size, "{miss} of {size}");
    }
}
