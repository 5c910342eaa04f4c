//! The forward pass of one layer in f32 over calibration windows, cut at the places where inputs are quantized.

use moray::Cpu;
use moray::attention::{Rope, Span};
use moray::llama::{Config, rms_norm};
use moray::sparse_mlp::Activation;
use rayon::prelude::*;

use super::grid::nearest;
use super::layer::Projection;
use super::matrix::multiply_transposed;
use crate::error::{Error, Result};

/// What the pass needs besides weights.
#[derive(Debug)]
pub struct Pass<'a> {
    /// The device that the library's operations run on.
    pub cpu: &'a Cpu,
    /// Sizes and constants.
    pub config: Config,
    rope: Rope,
}

impl<'a> Pass<'a> {
    /// Makes the pass for windows of at most `context` positions.
    ///
    /// # Errors
    /// What the rotary table refuses.
    pub fn new(cpu: &'a Cpu, config: Config, context: usize) -> Result<Self> {
        let rope = Rope::new(config.attention.head_dim, config.rope_theta, &config.rope_scaling, context)?;
        Ok(Pass { cpu, config, rope })
    }

    /// RMSNorm of x \[T, d\].
    ///
    /// # Errors
    /// None for whole tokens.
    pub fn norm(&self, x: &[f32], gains: &[f32]) -> Result<Vec<f32>> {
        let mut out = vec![0.0; x.len()];
        rms_norm(self.cpu, x, gains, self.config.rms_eps, &mut out)?;
        Ok(out)
    }

    /// Attention's output \[T, q\] before o, from \[T, q + 2·kv\] and the lengths of the windows in it.
    ///
    /// # Errors
    /// [`Error::Kernel`] for a window beyond the rotary table.
    pub fn attention(&self, qkv: &[f32], windows: &[usize]) -> Result<Vec<f32>> {
        let shape = self.config.attention;
        let (q, kv, width) = (shape.q_elems(), shape.kv_elems(), self.config.qkv_features());
        let tokens = qkv.len() / width;
        let spans: Vec<Span> = windows.iter().map(|&len| Span { slot: 0, start: 0, len }).collect();
        // queries and keys side by side, so that one call turns them all
        let mut turned: Vec<f32> = qkv.chunks_exact(width).flat_map(|row| row[..q + kv].iter().copied()).collect();
        self.rope.apply(self.cpu, &spans, shape.n_q_heads + shape.n_kv_heads, &mut turned)?;
        let mut out = vec![0.0; tokens * q];
        let mut rest = out.as_mut_slice();
        let mut first = 0;
        for &len in windows {
            let (window, later) = rest.split_at_mut(len * q);
            rest = later;
            let (turned, rows) = (&turned[first * (q + kv)..], &qkv[first * width..(first + len) * width]);
            let heads: Vec<Vec<f32>> =
                (0..shape.n_q_heads).into_par_iter().map(|head| self.head(head, turned, rows, len)).collect();
            for (head, values) in heads.iter().enumerate() {
                for (row, value) in window.chunks_exact_mut(q).zip(values.chunks_exact(shape.head_dim)) {
                    row[head * shape.head_dim..][..shape.head_dim].copy_from_slice(value);
                }
            }
            first += len;
        }
        Ok(out)
    }

    /// One query head of one window, \[len, head_dim\].
    fn head(&self, head: usize, turned: &[f32], qkv: &[f32], len: usize) -> Vec<f32> {
        use faer::linalg::matmul::matmul;
        use faer::{Accum, Mat, MatMut, MatRef, Par};
        let shape = self.config.attention;
        let (q, kv, hd) = (shape.q_elems(), shape.kv_elems(), shape.head_dim);
        let kv_head = head / (shape.n_q_heads / shape.n_kv_heads);
        let columns =
            |data, stride, at| MatRef::from_row_major_slice_with_stride(data, len, at + hd, stride).subcols(at, hd);
        let turned = &turned[..len * (q + kv)];
        let queries = columns(turned, q + kv, head * hd);
        let keys = columns(turned, q + kv, q + kv_head * hd);
        let values = columns(qkv, self.config.qkv_features(), q + kv + kv_head * hd);
        // transposed, so that a query's scores lie side by side
        let mut scores = Mat::<f32>::zeros(len, len);
        let scale = 1.0 / (hd as f32).sqrt();
        matmul(scores.as_mut(), Accum::Replace, keys, queries.transpose(), scale, Par::Seq);
        for (t, column) in scores.col_iter_mut().enumerate() {
            if let Some(column) = column.try_as_col_major_mut() {
                softmax(column.as_slice_mut(), t + 1);
            }
        }
        let mut out = vec![0.0; len * hd];
        let view = MatMut::from_row_major_slice_mut(&mut out, len, hd);
        matmul(view, Accum::Replace, scores.transpose(), values, 1.0, Par::Seq);
        out
    }

    /// act(gate) ⊙ up \[T, d_ff\] from \[T, 2·d_ff\].
    pub fn gated(&self, gate_up: &[f32]) -> Vec<f32> {
        let d_ff = self.config.d_ff;
        let mut out = vec![0.0; gate_up.len() / 2];
        let activation = self.config.activation;
        out.par_chunks_exact_mut(d_ff).zip(gate_up.par_chunks_exact(2 * d_ff)).for_each(|(out, row)| {
            let (gate, up) = row.split_at(d_ff);
            for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
                *out = activate(activation, gate) * up;
            }
        });
        out
    }
}

fn activate(activation: Activation, gate: f32) -> f32 {
    match activation {
        Activation::Relu => gate.max(0.0),
        _ => gate / (1.0 + (-gate).exp()),
    }
}

/// Softmax of the first `count`, zero for the rest.
fn softmax(scores: &mut [f32], count: usize) {
    let (seen, hidden) = scores.split_at_mut(count);
    hidden.fill(0.0);
    let top = seen.iter().fold(f32::NEG_INFINITY, |top, &v| top.max(v));
    let mut sum = 0.0;
    for v in seen.iter_mut() {
        *v = (*v - top).exp();
        sum += *v;
    }
    seen.iter_mut().for_each(|v| *v /= sum);
}

/// y\[T, N\] = x · wᵀ + bias.
pub fn project(projection: &Projection, x: &[f32]) -> Vec<f32> {
    let weight = &projection.weight;
    let mut y = vec![0.0; x.len() / weight.columns * weight.rows];
    multiply_transposed(x, &weight.data, weight.columns, &mut y);
    add_bias(&mut y, projection.bias.as_deref());
    y
}

/// Adds a bias to every row.
pub fn add_bias(y: &mut [f32], bias: Option<&[f32]>) {
    let Some(bias) = bias else { return };
    y.par_chunks_exact_mut(bias.len()).for_each(|row| row.iter_mut().zip(bias).for_each(|(y, b)| *y += b));
}

/// Rounds each token to int8 and back, as the kernels do: scale = max|x| / 127, ties to even.
pub fn fake_quantize(x: &mut [f32], k: usize) {
    x.par_chunks_exact_mut(k).for_each(|row| {
        let max = row.iter().fold(0.0f32, |max, v| max.max(v.abs()));
        let scale = max / 127.0;
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        let inverse = if inverse.is_finite() { inverse } else { 0.0 };
        row.iter_mut().for_each(|v| *v = nearest((*v * inverse).clamp(-127.0, 127.0)) * scale);
    });
}

/// Refuses activations that are not finite.
///
/// # Errors
/// [`Error::Kernel`] naming the layer and the site.
pub fn check_finite(x: &[f32], layer: usize, site: &str) -> Result<()> {
    match x.par_iter().find_any(|v| !v.is_finite()) {
        None => Ok(()),
        Some(got) => {
            let got = format!("{got} before {site} of layer {layer}");
            Err(Error::Kernel(moray::Error::Unsupported { what: "activations", expected: "finite numbers", got }))
        }
    }
}
