//! Rotation of a model's hidden state: the same function, without the outlier channels that cost bits.
//!
//! With an orthogonal R the hidden state x becomes Rᵀx everywhere. RMSNorm commutes with it once its gains are folded into
//! the matrices that follow, so
//!
//! ```text
//! embedding ← embedding · R          q, k, v, gate, up ← W · diag(norm) · R       o, down ← Rᵀ · W, bias ← Rᵀ · bias
//! lm_head ← lm_head · diag(norm) · R  norms ← 1
//! ```
//!
//! and each head's values turn by an orthogonal H on their way to o: v ← H · v, o ← o · Hᵀ, head by head. Nothing is added
//! at run time. An embedding that is also the output layer has to be untied, as only one of them takes the norm.
//!
//! # Source
//! QuaRot (arXiv 2404.00456), the parts that need no operation of their own.

use super::hadamard::orthogonal;
use super::layer::{FloatLayer, Projection, Site};
use super::matrix::{Matrix, multiply_add, multiply_transposed};
use crate::config::ModelConfig;

/// Folds an RMSNorm's gains into the matrix that reads its output: w\[n, k\] ← w\[n, k\] · norm\[k\].
pub fn fold_norm(weight: &mut Matrix, norm: &[f32]) {
    for row in weight.data.chunks_exact_mut(weight.columns) {
        row.iter_mut().zip(norm).for_each(|(w, gain)| *w *= gain);
    }
}

/// The rotation of one model.
#[derive(Debug, Clone)]
pub struct Rotation {
    hidden: usize,
    /// R, \[d, d\].
    matrix: Vec<f32>,
    /// H, \[head_dim, head_dim\].
    head: Vec<f32>,
    head_dim: usize,
    n_q_heads: usize,
    n_kv_heads: usize,
}

impl Rotation {
    /// Draws the rotation of a model from a seed.
    pub fn new(config: &ModelConfig, seed: u64) -> Self {
        Rotation {
            hidden: config.hidden,
            matrix: orthogonal(config.hidden, seed),
            head: orthogonal(config.head_dim, seed ^ 0x6865_6164),
            head_dim: config.head_dim,
            n_q_heads: config.n_q_heads,
            n_kv_heads: config.n_kv_heads,
        }
    }

    /// w ← w · R, for what reads the hidden state, and for the embedding.
    pub fn turn_input(&self, weight: &mut Matrix) {
        let mut out = vec![0.0; weight.data.len()];
        multiply_add(&weight.data, &self.matrix, self.hidden, 1.0, &mut out);
        weight.data = out;
    }

    /// w ← Rᵀ · w and bias ← Rᵀ · bias, for what writes the hidden state.
    pub fn turn_output(&self, projection: &mut Projection) {
        let weight = &mut projection.weight;
        weight.data = transposed_times(&self.matrix, &weight.data, self.hidden);
        if let Some(bias) = &mut projection.bias {
            *bias = transposed_times(&self.matrix, bias, self.hidden);
        }
    }

    /// Folds the norms of a layer and turns all its matrices.
    pub fn apply(&self, layer: &mut FloatLayer) {
        for (site, norm) in [(Site::Qkv, &mut layer.attn_norm), (Site::GateUp, &mut layer.mlp_norm)] {
            let weight = &mut layer.sites[site as usize].weight;
            fold_norm(weight, norm);
            norm.fill(1.0);
            self.turn_input(weight);
        }
        self.turn_output(layer.site_mut(Site::O));
        self.turn_output(layer.site_mut(Site::Down));
        self.turn_heads(layer);
    }

    /// v ← H · v in each key/value head, o ← o · Hᵀ in each query head.
    fn turn_heads(&self, layer: &mut FloatLayer) {
        let (hd, first) = (self.head_dim, (self.n_q_heads + self.n_kv_heads) * self.head_dim);
        let Projection { weight, bias } = layer.site_mut(Site::Qkv);
        let k = weight.columns;
        for head in weight.data[first * k..].chunks_exact_mut(hd * k) {
            let mut out = vec![0.0; hd * k];
            multiply_add(&self.head, head, hd, 1.0, &mut out);
            head.copy_from_slice(&out);
        }
        if let Some(bias) = bias {
            for head in bias[first..].chunks_exact_mut(hd) {
                let mut out = vec![0.0; hd];
                multiply_add(&self.head, head, hd, 1.0, &mut out);
                head.copy_from_slice(&out);
            }
        }
        let weight = &mut layer.site_mut(Site::O).weight;
        // a row of o is one head after another
        let mut out = vec![0.0; weight.data.len()];
        multiply_transposed(&weight.data, &self.head, hd, &mut out);
        weight.data = out;
    }
}

/// aᵀ\[d, d\] · b\[d, K\].
fn transposed_times(a: &[f32], b: &[f32], d: usize) -> Vec<f32> {
    let mut out = vec![0.0; b.len()];
    super::matrix::gram_add(a, d, b, b.len() / d, &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Fixture;

    /// Σ a\[i\] · b\[i\] over `len`, in f64.
    fn sum(len: usize, term: impl Fn(usize) -> f64) -> f64 {
        (0..len).map(term).sum()
    }

    fn assert_close(got: &[f32], expected: impl Fn(usize) -> f64) {
        for (i, &got) in got.iter().enumerate() {
            // two products over at most 96 terms below 1, in f32
            assert!((f64::from(got) - expected(i)).abs() < 2e-5, "{i}: {got}, by definition {}", expected(i));
        }
    }

    #[test]
    fn values_and_output_are_turned_within_heads_and_by_the_hidden_rotation() {
        let fixture = Fixture { attention_bias: true, ..Fixture::default() };
        let checkpoint = fixture.open().unwrap();
        let before = FloatLayer::read(&checkpoint, 0).unwrap();
        let rotation = Rotation::new(checkpoint.config(), 5);
        let mut after = before.clone();
        rotation.apply(&mut after);
        let (d, hd) = (fixture.hidden, fixture.head_dim);
        let wide = |values: &[f32]| values.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
        let (r, h, gains) = (wide(&rotation.matrix), wide(&rotation.head), wide(&before.attn_norm));
        // H · V · diag(norm) · R, head by head
        let first = (fixture.n_q_heads + fixture.n_kv_heads) * hd;
        let qkv = wide(&before.site(Site::Qkv).weight.data);
        assert_close(&after.site(Site::Qkv).weight.data[first * d..], |at| {
            let (row, column) = (at / d, at % d);
            sum(hd * d, |i| {
                let (inner, k) = (i / d, i % d);
                h[row % hd * hd + inner] * qkv[(first + row / hd * hd + inner) * d + k] * gains[k] * r[k * d + column]
            })
        });
        let bias = wide(before.site(Site::Qkv).bias.as_ref().unwrap());
        assert_close(&after.site(Site::Qkv).bias.as_ref().unwrap()[first..], |row| {
            sum(hd, |inner| h[row % hd * hd + inner] * bias[first + row / hd * hd + inner])
        });
        // Rᵀ · O · Hᵀ
        let (o, width) = (wide(&before.site(Site::O).weight.data), fixture.n_q_heads * hd);
        assert_close(&after.site(Site::O).weight.data, |at| {
            let (row, column) = (at / width, at % width);
            sum(d * hd, |i| {
                let (k, inner) = (i / hd, i % hd);
                r[k * d + row] * o[k * width + column / hd * hd + inner] * h[column % hd * hd + inner]
            })
        });
        assert!(after.attn_norm.iter().chain(&after.mlp_norm).all(|&gain| gain == 1.0));
    }
}
