//! The forward pass of one layer in f32 over calibration windows, cut at the places where inputs are quantized.

use moray::Cpu;
use moray::attention::{
    Call, Heads, KvCache, KvDtype, KvPolicy, KvShape, Limits, Rope, Span, Workspace, attend, write_kv,
};
use moray::llama::{Config, rms_norm};
use moray::sparse_mlp::activate_product;
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
        let (q_elems, kv_elems, width) = (shape.q_elems(), shape.kv_elems(), self.config.qkv_features());
        let tokens = qkv.len() / width;
        let part = |at: usize, elems: usize| -> Vec<f32> {
            let mut out = Vec::with_capacity(tokens * elems);
            qkv.chunks_exact(width).for_each(|row| out.extend_from_slice(&row[at..at + elems]));
            out
        };
        let (mut q, k) = (part(0, q_elems), part(q_elems, kv_elems));
        let v = part(q_elems + kv_elems, kv_elems);
        let spans: Vec<Span> = windows.iter().enumerate().map(|(slot, &len)| Span { slot, start: 0, len }).collect();
        let capacity = windows.iter().copied().max().unwrap_or(1);
        let (n_slots, n_kv_heads, head_dim) = (windows.len(), shape.n_kv_heads, shape.head_dim);
        let kv_shape = KvShape { n_layers: 1, n_slots, n_kv_heads, head_dim, capacity };
        let mut cache = KvCache::new(kv_shape, KvDtype::F32)?;
        let limits = Limits { max_rows: tokens, max_spans: windows.len(), capacity };
        let mut workspace = Workspace::new(self.cpu, shape, limits)?;
        let call = Call { shape, layer: 0, spans: &spans, heads: Heads::All };
        self.rope.apply(self.cpu, &spans, shape.n_q_heads, &mut q)?;
        write_kv(self.cpu, &call, KvPolicy::WriteAll, Some(&self.rope), &k, &v, &mut cache)?;
        let mut out = vec![0.0; q.len()];
        attend(self.cpu, &call, &q, &cache, &mut out, &mut workspace)?;
        Ok(out)
    }

    /// act(gate) ⊙ up \[T, d_ff\] from \[T, 2·d_ff\].
    ///
    /// # Errors
    /// None for whole tokens.
    pub fn gated(&self, gate_up: &[f32]) -> Result<Vec<f32>> {
        let d_ff = self.config.d_ff;
        let mut gate = Vec::with_capacity(gate_up.len() / 2);
        let mut up = Vec::with_capacity(gate_up.len() / 2);
        for row in gate_up.chunks_exact(2 * d_ff) {
            gate.extend_from_slice(&row[..d_ff]);
            up.extend_from_slice(&row[d_ff..]);
        }
        activate_product(self.cpu, self.config.activation, &gate, &mut up)?;
        Ok(up)
    }
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

#[cfg(test)]
mod tests {
    use super::fake_quantize;
    use crate::fixture::SplitMix;

    #[test]
    fn int8_rounding_matches_its_definition_and_keeps_the_largest() {
        let (mut random, k) = (SplitMix(12), 48);
        let rows: Vec<f32> = (0..4 * k).map(|i| [1.0, 300.0, 1e-3, 0.0][i / k] * random.signed()).collect();
        let mut got = rows.clone();
        fake_quantize(&mut got, k);
        for (row, got) in rows.chunks_exact(k).zip(got.chunks_exact(k)) {
            let max = row.iter().fold(0.0f32, |max, v| max.max(v.abs()));
            let scale = f64::from(max) / 127.0;
            for (&v, &got) in row.iter().zip(got) {
                let expected = if max == 0.0 { 0.0 } else { (f64::from(v) / scale).round_ties_even() * scale };
                // the scale, its inverse, the product with it: a value this near a tie is not among these
                assert!(
                    (f64::from(got) - expected).abs() <= 3.0 * f64::from(f32::EPSILON) * f64::from(max),
                    "{v}: {got}"
                );
            }
        }
    }
}
