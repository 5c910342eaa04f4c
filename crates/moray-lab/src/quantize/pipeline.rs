//! One layer after another: the calibration text runs through the unquantized model and, beside it, through the part that
//! is already quantized; each site of a layer is solved on the inputs that it will really see.

#[cfg(test)]
mod tests;

use moray::w4a8::QuantizedWeight;
use rayon::prelude::*;

use super::forward::{Pass, check_finite, fake_quantize, project};
use super::layer::{FloatLayer, Half, Projection, Site};
use super::matrix::{gram_add, times};
use super::options::Options;
use super::solve::{SiteError, Solved, Sums, solve};
use super::targets::{inner, missing, soften, weigh};
use crate::error::Result;

/// Tokens that are worked on together.
const BATCH_TOKENS: usize = 4096;

/// A quantized layer, still in the library's plain form.
#[derive(Debug, Clone)]
pub struct QuantizedLayer {
    /// RMSNorm before attention.
    pub attn_norm: Vec<f32>,
    /// RMSNorm before the MLP.
    pub mlp_norm: Vec<f32>,
    /// By site, with biases.
    pub sites: [(QuantizedWeight, Option<Vec<f32>>); 4],
    /// By site.
    pub errors: [SiteError; 4],
}

/// Hidden states of the calibration tokens in both models, before a layer.
#[derive(Debug)]
pub struct Streams {
    /// Windows' lengths, by batch.
    batches: Vec<Vec<usize>>,
    hidden: usize,
    /// In the unquantized model, f32 \[T, d\].
    pub float: Vec<f32>,
    /// In the quantized model.
    pub quantized: Vec<f32>,
}

impl Streams {
    /// Starts both from the embedded tokens of windows.
    pub fn new(embedded: Vec<f32>, windows: &[usize], hidden: usize) -> Self {
        let mut batches: Vec<Vec<usize>> = Vec::new();
        let mut room = 0;
        for &len in windows {
            if len > room {
                batches.push(Vec::new());
                room = BATCH_TOKENS.max(len);
            }
            room -= len;
            if let Some(batch) = batches.last_mut() {
                batch.push(len);
            }
        }
        Streams { batches, hidden, quantized: embedded.clone(), float: embedded }
    }

    /// The first windows of the quantized stream that make up about `tokens`: their lengths and hidden states.
    pub fn sample(&self, tokens: usize) -> (Vec<usize>, &[f32]) {
        let mut total = 0;
        let windows = self.batches.iter().flatten().copied();
        let windows: Vec<usize> = windows
            .take_while(|len| {
                let before = total;
                total += len;
                before < tokens
            })
            .collect();
        let end = windows.iter().sum::<usize>() * self.hidden;
        (windows, &self.quantized[..end])
    }

    /// Calibration tokens.
    pub fn tokens(&self) -> usize {
        self.float.len() / self.hidden
    }

    /// Each batch's windows and its range of tokens.
    fn batches(&self) -> Vec<(Vec<usize>, std::ops::Range<usize>)> {
        let mut first = 0;
        let range = |windows: &Vec<usize>| {
            let start = first;
            first += windows.iter().sum::<usize>();
            (windows.clone(), start..first)
        };
        self.batches.iter().map(range).collect()
    }
}

/// What is known while one layer is worked on.
struct Work<'a> {
    pass: &'a Pass<'a>,
    options: &'a Options,
    layer: &'a FloatLayer,
    index: usize,
}

/// Quantizes one layer and moves both streams past it.
///
/// # Errors
/// [`crate::Error::Kernel`] for activations that are not finite and what [`solve`] refuses.
pub fn quantize_layer(
    pass: &Pass<'_>,
    options: &Options,
    layer: &FloatLayer,
    index: usize,
    streams: &mut Streams,
) -> Result<QuantizedLayer> {
    let work = Work { pass, options, layer, index };
    let [qkv, o] = work.solve_half(Half::Attention, streams)?;
    let [gate_up, down] = work.solve_half(Half::Mlp, streams)?;
    let solved = [qkv, o, gate_up, down];
    let errors = [0, 1, 2, 3].map(|i| solved[i].error);
    let mut sites = solved.into_iter().zip(&layer.sites).map(|(solved, float)| (solved.weight, float.bias.clone()));
    let mut next = || sites.next().expect("four sites were solved");
    Ok(QuantizedLayer {
        attn_norm: layer.attn_norm.clone(),
        mlp_norm: layer.mlp_norm.clone(),
        sites: [next(), next(), next(), next()],
        errors,
    })
}

/// Runs both streams past a layer that is quantized already: `float` as it was, `done` what the codes stand for.
///
/// # Errors
/// As [`quantize_layer`].
pub fn pass_layer(
    pass: &Pass<'_>,
    options: &Options,
    float: &FloatLayer,
    done: &FloatLayer,
    streams: &mut Streams,
) -> Result<()> {
    let d = streams.hidden;
    for (windows, tokens) in streams.batches() {
        let range = tokens.start * d..tokens.end * d;
        run_layer(pass, float, &windows, &mut streams.float[range.clone()], false)?;
        run_layer(pass, done, &windows, &mut streams.quantized[range], options.int8_aware)?;
    }
    Ok(())
}

/// Runs hidden states \[T, d\] past one layer in place, inputs of all sites int8 if asked.
fn run_layer(pass: &Pass<'_>, layer: &FloatLayer, windows: &[usize], x: &mut [f32], int8: bool) -> Result<()> {
    for half in Half::ALL {
        pass.run(half, layer.norm(half), windows, x, &mut |site, mut inputs| {
            if int8 {
                fake_quantize(&mut inputs, layer.site(site).weight.columns);
            }
            Ok(Some(project(layer.site(site), &inputs)))
        })?;
    }
    Ok(())
}

impl Work<'_> {
    /// Solves the two sites of half a layer and moves both streams past it.
    fn solve_half(&self, half: Half, streams: &mut Streams) -> Result<[Solved; 2]> {
        let first = self.solve_inputs(half, streams)?;
        let (second, inputs) = self.solve_outputs(half, &first, streams)?;
        self.advance(half, &second, &inputs, streams);
        Ok([first, second])
    }

    /// The inputs of a half's first site.
    fn inputs(&self, half: Half, windows: &[usize], x: &mut [f32]) -> Result<Vec<f32>> {
        let mut inputs = Vec::new();
        self.pass.run(half, self.layer.norm(half), windows, x, &mut |_, x| {
            inputs = x;
            Ok(None)
        })?;
        Ok(inputs)
    }

    /// A site's inputs as the quantized model sees them.
    fn coded(&self, site: Site, mut inputs: Vec<f32>) -> Result<Vec<f32>> {
        check_finite(&inputs, self.index, site.name())?;
        if self.options.int8_aware {
            fake_quantize(&mut inputs, self.layer.site(site).weight.columns);
        }
        Ok(inputs)
    }

    /// Solves q, k, v or gate, up, whose inputs are a norm's output.
    fn solve_inputs(&self, half: Half, streams: &mut Streams) -> Result<Solved> {
        let [site, _] = half.sites();
        let (d, weight) = (streams.hidden, &self.layer.site(site).weight);
        let mut sums = Sums::new(d);
        // Σ x_float xᵀ: the target is w times this
        let mut cross = vec![0.0f64; d * d];
        let mut float_gram = vec![0.0f64; d * d];
        for (windows, tokens) in streams.batches() {
            let range = tokens.start * d..tokens.end * d;
            let float = self.inputs(half, &windows, &mut streams.float[range.clone()])?;
            let quantized = self.coded(site, self.inputs(half, &windows, &mut streams.quantized[range])?)?;
            add_gram(&quantized, d, &quantized, d, &mut sums.hessian);
            if self.options.correct {
                add_gram(&float, d, &quantized, d, &mut cross);
                add_gram(&float, d, &float, d, &mut float_gram);
            }
            sums.tokens += tokens.len();
        }
        if self.options.correct {
            sums.target = Some(times(weight, &cross));
            sums.energy = inner(&times(weight, &float_gram), weight);
        }
        soften(weight, &mut sums);
        solve(weight, &sums, self.options.solve())
    }

    /// One batch past attention or the gate: the float stream moves past the whole half-layer, and the quantized model's
    /// inputs of o or down are appended to `collected`.
    fn outputs(
        &self,
        half: Half,
        first: &Projection,
        windows: &[usize],
        tokens: std::ops::Range<usize>,
        streams: &mut Streams,
        collected: &mut Vec<f32>,
    ) -> Result<()> {
        let range = tokens.start * streams.hidden..tokens.end * streams.hidden;
        let (layer, norm) = (self.layer, self.layer.norm(half));
        self.pass.run(half, norm, windows, &mut streams.float[range.clone()], &mut |site, x| {
            Ok(Some(project(layer.site(site), &x)))
        })?;
        self.pass.run(half, norm, windows, &mut streams.quantized[range], &mut |site, x| {
            let x = self.coded(site, x)?;
            if site == half.sites()[0] {
                return Ok(Some(project(first, &x)));
            }
            collected.extend_from_slice(&x);
            Ok(None)
        })
    }

    /// Solves o or down, whose output is added to the hidden state. Returns its inputs in the quantized model too.
    fn solve_outputs(&self, half: Half, first: &Solved, streams: &mut Streams) -> Result<(Solved, Vec<f32>)> {
        let [before, site] = half.sites();
        let first = Projection { weight: first.values.clone(), bias: self.layer.site(before).bias.clone() };
        let Projection { weight, bias } = self.layer.site(site);
        let (n, k, d) = (weight.rows, weight.columns, streams.hidden);
        let mut sums = Sums::new(k);
        let mut target = vec![0.0f64; n * k];
        let mut collected = Vec::with_capacity(streams.tokens() * k);
        for (windows, tokens) in streams.batches() {
            self.outputs(half, &first, &windows, tokens.clone(), streams, &mut collected)?;
            let mut inputs = collected[tokens.start * k..tokens.end * k].to_vec();
            if self.options.correct {
                let range = tokens.start * d..tokens.end * d;
                let (float, quantized) = (&streams.float[range.clone()], &streams.quantized[range]);
                let mut wanted = missing(float, quantized, bias.as_deref());
                weigh(float, d, &mut inputs, k, &mut wanted);
                add_gram(&wanted, n, &inputs, k, &mut target);
                sums.energy += wanted.iter().map(|&y| f64::from(y) * f64::from(y)).sum::<f64>();
            }
            add_gram(&inputs, k, &inputs, k, &mut sums.hessian);
            sums.tokens += tokens.len();
        }
        if self.options.correct {
            sums.target = Some(target);
        }
        soften(weight, &mut sums);
        Ok((solve(weight, &sums, self.options.solve())?, collected))
    }

    /// Adds o's or down's output to the quantized stream, as [`run_layer`] does it, so that a run that was interrupted goes
    /// on from the same numbers.
    fn advance(&self, half: Half, solved: &Solved, inputs: &[f32], streams: &mut Streams) {
        let [_, site] = half.sites();
        let (k, d) = (solved.values.columns, streams.hidden);
        let projection = Projection { weight: solved.values.clone(), bias: self.layer.site(site).bias.clone() };
        for (_, tokens) in streams.batches() {
            let change = project(&projection, &inputs[tokens.start * k..tokens.end * k]);
            let x = &mut streams.quantized[tokens.start * d..tokens.end * d];
            x.par_iter_mut().zip(&change).for_each(|(x, y)| *x += y);
        }
    }
}

/// sum\[A, B\] += a\[T, A\]ᵀ · b\[T, B\]: f32 within a batch, f64 over batches.
fn add_gram(a: &[f32], a_columns: usize, b: &[f32], b_columns: usize, sum: &mut [f64]) {
    let mut product = vec![0.0f32; a_columns * b_columns];
    gram_add(a, a_columns, b, b_columns, &mut product);
    sum.par_iter_mut().zip(product).for_each(|(sum, v)| *sum += f64::from(v));
}
