//! The library's forward pass of one layer over calibration windows, in f32, cut at the places where inputs are quantized.

use std::cell::RefCell;

use moray::Cpu;
use moray::attention::{Heads, KvDtype, Span};
use moray::llama::{self, Backend, Buffers, Config, CpuWork, Layer, Mlp, Settings};
use moray::policy::Wanted;
use moray::sparse_mlp::Selection;
use rayon::prelude::*;

use super::grid::nearest;
use super::layer::{Half, Projection, Site};
use super::matrix::multiply_transposed;
use super::sites::{AtSite, Place, Sites};
use crate::error::{Error, Result};
use crate::on_cpu::OnCpu;

/// What the pass needs besides weights.
#[derive(Debug)]
pub struct Pass<'a> {
    /// The device that the library's operations run on.
    pub cpu: &'a Cpu,
    /// Sizes and constants.
    pub config: Config,
    /// Positions of the longest window.
    context: usize,
    /// What the last run worked in, and how many windows and tokens that is for.
    work: RefCell<Option<([usize; 2], CpuWork)>>,
}

impl<'a> Pass<'a> {
    /// Makes the pass for windows of at most `context` positions.
    pub fn new(cpu: &'a Cpu, config: Config, context: usize) -> Self {
        Pass { cpu, config, context, work: RefCell::new(None) }
    }

    /// Runs x \[T, d\], windows one after another, past half a layer that begins with RMSNorm of weights `norm`. What becomes of
    /// the inputs of a matrix `at` says; where it ends the pass, x is left as it was.
    ///
    /// # Errors
    /// What `at` refuses, and [`Error::Kernel`] for a window beyond the rotary table.
    pub fn run(&self, half: Half, norm: &[f32], windows: &[usize], x: &mut [f32], at: AtSite<'_>) -> Result<()> {
        let (config, tokens) = (&self.config, x.len() / self.config.d_model);
        let place = |site| Place { site, shape: self.shape(site) };
        let layer = Layer {
            attn_norm: norm.to_vec(),
            qkv: place(Site::Qkv),
            o: place(Site::O),
            mlp_norm: norm.to_vec(),
            mlp: Mlp::Whole { gate_up: place(Site::GateUp), down: place(Site::Down) },
        };
        let slots = windows.len();
        let settings = Settings { slots, max_tokens: tokens, kv_dtype: KvDtype::F32, ..Settings::dense(self.context) };
        let spans: Vec<Span> = windows.iter().enumerate().map(|(slot, &len)| Span { slot, start: 0, len }).collect();
        let sites = OnCpu(Sites::new(self.cpu, at));
        let sizes = [slots, tokens];
        let mut work = match self.work.take() {
            Some((held, work)) if held == sizes => work,
            _ => sites.work(config, None, &settings)?,
        };
        (0..slots).try_for_each(|slot| sites.truncate(&mut work, slot, 0))?;
        let mut buffers = Buffers::new(&sites, config, &layer.mlp, tokens)?;
        buffers.x.copy_from_slice(x);
        let (backend, kv) = (&sites, settings.kv);
        let mut pass = llama::Pass {
            backend,
            config,
            spans: &spans,
            kv,
            inputs: llama::MatrixInputs::default(),
            buffers: &mut buffers,
            work: &mut work,
        };
        match half {
            Half::Attention => layer.attention(&mut pass, 0, Heads::All, None)?,
            Half::Mlp => layer.mlp(&mut pass, 0, &Selection::All, Wanted::Nothing)?,
        }
        if sites.0.finish()? {
            x.copy_from_slice(&buffers.x);
        }
        self.work.replace(Some((sizes, work)));
        Ok(())
    }

    /// The inputs of the second matrix of half a layer, from the outputs of the first.
    ///
    /// # Errors
    /// As [`Pass::run`].
    pub fn middle(&self, half: Half, windows: &[usize], y: Vec<f32>) -> Result<Vec<f32>> {
        let (d, tokens) = (self.config.d_model, windows.iter().sum::<usize>());
        let (mut y, mut inner) = (Some(y), Vec::new());
        // what it begins with does not matter
        self.run(half, &vec![1.0; d], windows, &mut vec![0.0; tokens * d], &mut |_, x| {
            let first = y.take();
            if first.is_none() {
                inner = x;
            }
            Ok(first)
        })?;
        Ok(inner)
    }

    /// N and K of a site's matrix.
    fn shape(&self, site: Site) -> [usize; 2] {
        let Config { d_model, d_ff, attention, .. } = self.config;
        match site {
            Site::Qkv => [self.config.qkv_features(), d_model],
            Site::O => [d_model, attention.q_elems()],
            Site::GateUp => [2 * d_ff, d_model],
            Site::Down => [d_model, d_ff],
        }
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
