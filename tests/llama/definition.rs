//! The forward pass written from the formulas, in f64, plainly; roundings can be put in.

use moray::attention::RopeScaling;
use moray::sparse_mlp::Activation;

use crate::plain::{Matrix, Plain};

/// Where the plain pass rounds.
#[derive(Debug, Clone, Copy)]
pub struct Rounding {
    /// After every single operation.
    pub each: fn(f64) -> f64,
    /// Whether the inputs of the layers' matrices are rounded to int8, one scale a token.
    pub int8: bool,
    /// Sizes of the inputs of qkv, output, gate and up, and down that count as 0.
    pub thresholds: [f64; 4],
}

impl Rounding {
    pub const NONE: Rounding = Rounding { each: |x| x, int8: false, thresholds: [-1.0; 4] };
    /// A double keeps enough bits that rounding its sum, product, quotient or root gives what f32 arithmetic gives.
    pub const F32: Rounding = Rounding { each: |x| f64::from(x as f32), int8: false, thresholds: [-1.0; 4] };
    pub const INT8: Rounding = Rounding { each: |x| x, int8: true, thresholds: [-1.0; 4] };

    fn linear(self, matrix: &Matrix, x: &[f64], int8: bool, threshold: f64) -> Vec<f64> {
        let x: Vec<f64> = x.iter().map(|&x| if x.abs() <= threshold { 0.0 } else { x }).collect();
        let x = if int8 { to_int8(&x) } else { x };
        let row = |n: usize| {
            let w = &matrix.w[n * matrix.k..(n + 1) * matrix.k];
            let sum = self.sum(w.iter().zip(&x).map(|(&w, &x)| (self.each)(f64::from(w) * x)));
            matrix.bias.as_ref().map_or(sum, |bias| (self.each)(sum + f64::from(bias[n])))
        };
        (0..matrix.n).map(row).collect()
    }

    fn sum(self, terms: impl Iterator<Item = f64>) -> f64 {
        terms.fold(0.0, |sum, term| (self.each)(sum + term))
    }

    fn norm(self, x: &[f64], weight: &[f32], eps: f32) -> Vec<f64> {
        let each = self.each;
        let mean = each(self.sum(x.iter().map(|&x| each(x * x))) / x.len() as f64);
        let scale = each(1.0 / each(each(mean + f64::from(eps)).sqrt()));
        x.iter().zip(weight).map(|(&x, &w)| each(each(x * scale) * f64::from(w))).collect()
    }

    fn add(self, x: &[f64], y: &[f64]) -> Vec<f64> {
        x.iter().zip(y).map(|(x, y)| (self.each)(x + y)).collect()
    }
}

fn to_int8(x: &[f64]) -> Vec<f64> {
    let scale = x.iter().fold(0.0f64, |max, x| max.max(x.abs())) / 127.0;
    x.iter().map(|&x| if scale == 0.0 { 0.0 } else { (x / scale).round_ties_even() * scale }).collect()
}

/// The angle a pair turns by for each position.
fn frequency(scaling: &RopeScaling, theta: f64, head_dim: usize, i: usize) -> f64 {
    let plain = 1.0 / theta.powf(2.0 * i as f64 / head_dim as f64);
    match scaling {
        RopeScaling::Default => plain,
        RopeScaling::Linear { factor } => plain / factor,
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            let turns = *original_context as f64 * plain / (2.0 * std::f64::consts::PI);
            let kept = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
            kept * plain + (1.0 - kept) * plain / factor
        }
        RopeScaling::Factors(factors) => plain / f64::from(factors[i]),
        other => panic!("no definition of the frequencies of {other:?} is written here"),
    }
}

/// Turns every head of `x` in place.
fn rotate(plain: &Plain, rounding: Rounding, position: usize, x: &mut [f64]) {
    let (each, head_dim) = (rounding.each, plain.config.attention.head_dim);
    for head in x.chunks_exact_mut(head_dim) {
        let (first, second) = head.split_at_mut(head_dim / 2);
        for (i, (a, b)) in first.iter_mut().zip(second).enumerate() {
            let angle = position as f64 * frequency(&plain.config.rope_scaling, plain.config.rope_theta, head_dim, i);
            let (cos, sin) = (each(angle.cos()), each(angle.sin()));
            (*a, *b) = (each(each(*a * cos) - each(*b * sin)), each(each(*b * cos) + each(*a * sin)));
        }
    }
}

/// Attention outputs [q] of the last of the tokens in `keys`, `values`: [tokens][kv].
fn attend(plain: &Plain, rounding: Rounding, q: &[f64], keys: &[Vec<f64>], values: &[Vec<f64>]) -> Vec<f64> {
    let (each, shape) = (rounding.each, plain.config.attention);
    let mut out = Vec::new();
    for (head, q) in q.chunks_exact(shape.head_dim).enumerate() {
        let kv = head / shape.group_size() * shape.head_dim;
        let at = |row: &[f64]| row[kv..kv + shape.head_dim].to_vec();
        let root = each((shape.head_dim as f64).sqrt());
        let score = |key: &Vec<f64>| each(rounding.sum(q.iter().zip(at(key)).map(|(q, k)| each(q * k))) / root);
        let scores: Vec<f64> = keys.iter().map(score).collect();
        let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|&score| each(each(score - top).exp())).collect();
        let total = rounding.sum(weights.iter().copied());
        let mixed = (0..shape.head_dim).map(|i| {
            let terms = weights.iter().zip(values).map(|(&weight, value)| each(weight * value[kv + i]));
            each(rounding.sum(terms) / total)
        });
        out.extend(mixed);
    }
    out
}

/// Logits [tokens, vocab] of a sequence.
pub fn logits(plain: &Plain, tokens: &[u32], rounding: Rounding) -> Vec<f64> {
    let (each, config) = (rounding.each, &plain.config);
    let (d, q, kv) = (config.d_model, config.attention.q_elems(), config.attention.kv_elems());
    let [qkv_above, out_above, mlp_above, down_above] = rounding.thresholds;
    let row = |token: &u32| plain.embedding.w[*token as usize * d..][..d].iter().map(|&w| f64::from(w)).collect();
    let mut x: Vec<Vec<f64>> = tokens.iter().map(row).collect();
    for layer in &plain.layers {
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for (position, x) in x.iter_mut().enumerate() {
            let normed = rounding.norm(x, &layer.attn_norm, config.rms_eps);
            let mut qkv = rounding.linear(&layer.qkv, &normed, rounding.int8, qkv_above);
            if let Some(norms) = &layer.qk_norm {
                for (i, head) in qkv[..q + kv].chunks_exact_mut(config.attention.head_dim).enumerate() {
                    let weight = &norms[usize::from(i >= config.attention.n_q_heads)];
                    head.copy_from_slice(&rounding.norm(head, weight, config.rms_eps));
                }
            }
            rotate(plain, rounding, position, &mut qkv[..q + kv]);
            keys.push(qkv[q..q + kv].to_vec());
            values.push(qkv[q + kv..].to_vec());
            let out = attend(plain, rounding, &qkv[..q], &keys, &values);
            *x = rounding.add(x, &rounding.linear(&layer.o, &out, rounding.int8, out_above));

            let normed = rounding.norm(x, &layer.mlp_norm, config.rms_eps);
            let gate = rounding.linear(&layer.gate, &normed, rounding.int8, mlp_above);
            let up = rounding.linear(&layer.up, &normed, rounding.int8, mlp_above);
            let act = |g: f64| match config.activation {
                Activation::Silu => each(g / each(1.0 + each((-g).exp()))),
                Activation::Relu => g.max(0.0),
                other => panic!("no definition of the activation {other:?} is written here"),
            };
            let hidden: Vec<f64> = gate.iter().zip(up).map(|(&g, u)| each(act(g) * u)).collect();
            *x = rounding.add(x, &rounding.linear(&layer.down, &hidden, rounding.int8, down_above));
        }
    }
    let head = plain.lm_head.as_ref().unwrap_or(&plain.embedding);
    let last = |x: &Vec<f64>| rounding.linear(head, &rounding.norm(x, &plain.final_norm, config.rms_eps), false, -1.0);
    x.iter().flat_map(last).collect()
}

/// Largest and root-mean-square distance from the exact logits.
pub fn distance<T: Copy + Into<f64>>(got: &[T], exact: &[f64]) -> (f64, f64) {
    assert_eq!(got.len(), exact.len());
    let errors: Vec<f64> = got.iter().zip(exact).map(|(&got, exact)| (got.into() - exact).abs()).collect();
    let squares: f64 = errors.iter().map(|error| error * error).sum();
    (errors.iter().copied().fold(0.0, f64::max), (squares / errors.len() as f64).sqrt())
}
