//! Matrices of the forward pass that leave out the smallest values of one place of every MLP.

use std::cell::Cell;

use moray::llama::{Backend, CpuWork, Input, Layer, Linear, LinearCall, Mlp, Model};
use moray::sparse_mlp::Activation;
use moray::{Cpu, Error, Result};

use crate::on_cpu::{Matrices, OnCpu, Product};

/// A place of an MLP down(act(gate(x)) ⊙ up(x)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// x \[d\].
    Inputs,
    /// act(gate(x)) \[d_ff\].
    Gates,
    /// up(x) \[d_ff\].
    Ups,
    /// act(gate(x)) ⊙ up(x) \[d_ff\].
    Products,
}

impl Place {
    /// All of them, in the order of the forward pass.
    pub const ALL: [Place; 4] = [Place::Inputs, Place::Gates, Place::Ups, Place::Products];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Place::Inputs => "inputs",
            Place::Gates => "gates",
            Place::Ups => "ups",
            Place::Products => "products",
        }
    }
}

/// Sets all but the fewest values to 0 that have the fraction `p` of the sum of all sizes, the first where equal; returns how many stay.
pub fn keep_top_p(values: &mut [f32], p: f64) -> usize {
    let mut order: Vec<u32> = (0..values.len() as u32).collect();
    let size = |index: &u32| values[*index as usize].abs();
    order.sort_by(|a, b| size(b).total_cmp(&size(a)).then(a.cmp(b)));
    let all: f64 = order.iter().map(|index| f64::from(size(index))).sum();
    let mut sum = 0.0;
    let reaches = |index: &u32| {
        let enough = sum >= p * all;
        sum += f64::from(size(index));
        enough
    };
    let kept = order.iter().position(reaches).unwrap_or(order.len());
    order[kept..].iter().for_each(|&index| values[index as usize] = 0.0);
    kept
}

/// A matrix of the model, and whether it is a gate and up.
#[derive(Debug)]
pub struct Matrix<'a> {
    linear: &'a Linear,
    is_gate_up: bool,
}

/// The processor's matrices, but that a rule leaves out values of a place.
#[derive(Debug)]
pub struct Masked<'a> {
    cpu: &'a Cpu,
    place: Place,
    top_p: f64,
    /// Values that stayed, and all.
    counts: Cell<[u64; 2]>,
}

impl<'a> Masked<'a> {
    /// Leaves out, for each token, all but the fewest values of a place that have the fraction `top_p` of the sum of their sizes.
    pub fn new(cpu: &'a Cpu, place: Place, top_p: f64) -> Self {
        Masked { cpu, place, top_p, counts: Cell::default() }
    }

    /// The fraction of the values that were left out; 0 before any.
    pub fn sparsity(&self) -> f64 {
        let [kept, all] = self.counts.get();
        1.0 - kept as f64 / all.max(1) as f64
    }

    /// The model on the device with these matrices, with the weights that it has.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for MLPs by neuron.
    pub fn model(model: &'a Model<Cpu>) -> Result<Model<OnCpu<Self>>> {
        let matrix = |linear| Matrix { linear, is_gate_up: false };
        let layer = |layer: &'a Layer<Cpu>| {
            let Mlp::Whole { gate_up, down } = &layer.mlp else {
                let (expected, got) = ("whole MLPs", "MLPs by neuron".into());
                return Err(Error::Unsupported { what: "mlp", expected, got });
            };
            Ok(Layer {
                attn_norm: layer.attn_norm.clone(),
                qkv: matrix(&layer.qkv),
                o: matrix(&layer.o),
                mlp_norm: layer.mlp_norm.clone(),
                mlp: Mlp::Whole { gate_up: Matrix { linear: gate_up, is_gate_up: true }, down: matrix(down) },
            })
        };
        let layers = model.layers().iter().map(layer).collect::<Result<Vec<_>>>()?;
        let (embedding, head) = (matrix(model.embedding()), model.own_lm_head().map(matrix));
        Model::new(model.config().clone(), embedding, layers, model.final_norm().clone(), head)
    }

    fn mask(&self, values: &mut [f32], width: usize) {
        let kept: usize = values.chunks_exact_mut(width).map(|token| keep_top_p(token, self.top_p)).sum();
        let [before, all] = self.counts.get();
        self.counts.set([before + kept as u64, all + values.len() as u64]);
    }

    /// act(gate) ⊙ up \[M, K\] with the place's values left out, of gate_up \[M, 2·K\].
    fn products(&self, gate_up: &[f32], activation: Activation, m: usize, k: usize) -> Result<Vec<f32>> {
        let mut gate_up = gate_up[..2 * m * k].to_vec();
        let mut room = vec![0.0; m * k];
        let ups: Vec<f32> = gate_up.chunks_exact(2 * k).flat_map(|token| token[k..].iter().copied()).collect();
        match self.place {
            Place::Gates => gate_up.chunks_exact_mut(2 * k).for_each(|token| token[k..].fill(1.0)),
            Place::Ups => gate_up.chunks_exact_mut(2 * k).for_each(|token| self.mask(&mut token[k..], k)),
            Place::Inputs | Place::Products => {}
        }
        let input: Input<'_, Cpu> = Input::SwiGlu { gate_up: &gate_up, activation };
        input.plain(self.cpu, m, k, &mut room)?;
        match self.place {
            Place::Gates => {
                self.mask(&mut room, k);
                room.iter_mut().zip(&ups).for_each(|(gate, up)| *gate *= up);
            }
            Place::Products => self.mask(&mut room, k),
            Place::Inputs | Place::Ups => {}
        }
        Ok(room)
    }
}

impl<'l> Matrices for Masked<'l> {
    type Matrix = Matrix<'l>;

    fn cpu(&self) -> &Cpu {
        self.cpu
    }

    fn shape(matrix: &Matrix<'l>) -> [usize; 2] {
        Cpu::matrix_shape(matrix.linear)
    }

    fn embed(&self, work: &mut CpuWork, table: &Matrix<'l>, x: &mut Vec<f32>) -> Result<()> {
        self.cpu.embed(work, table.linear, x)
    }

    fn multiply(
        &self,
        work: &mut CpuWork,
        call: Product<'_, Matrix<'l>>,
        residual: Option<&Vec<f32>>,
        y: &mut Vec<f32>,
    ) -> Result<()> {
        let Product { weight: Matrix { linear, is_gate_up }, input, m, rows, inputs } = call;
        let made = match &input {
            Input::SwiGlu { gate_up, activation } => Some(self.products(gate_up, *activation, m, linear.k())?),
            Input::RmsNorm(norm) if *is_gate_up && self.place == Place::Inputs => {
                let mut normed = vec![0.0; m * linear.k()];
                self.cpu.rms_norm(*norm, m, &mut normed)?;
                self.mask(&mut normed, linear.k());
                Some(normed)
            }
            _ => None,
        };
        let input = made.as_ref().map_or(input, Input::Plain);
        self.cpu.linear(work, LinearCall { weight: linear, input, m, rows, inputs }, residual, y)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::SplitMix;
    use moray::DenseType;
    use moray::attention::{AttentionShape, RopeScaling};
    use moray::llama::{Config, DenseWeight, Norm, Settings};
    use moray::sparse_mlp::Selection;

    fn numbers(seed: u64, len: usize) -> Vec<f32> {
        let mut random = SplitMix(seed);
        (0..len).map(|_| random.signed()).collect()
    }

    #[test]
    fn what_stays_is_the_least_that_has_the_share() {
        for (seed, p) in [(1, 0.5), (2, 0.9), (3, 0.05), (4, 1.0)] {
            // some are equal, and some are 0
            let values: Vec<f32> = numbers(seed, 40).iter().map(|v| (v * 8.0).round()).collect();
            let mut masked = values.clone();
            let kept = keep_top_p(&mut masked, p);
            let sum = |values: &[f32]| values.iter().map(|v| f64::from(v.abs())).sum::<f64>();
            let stayed: Vec<f32> = masked.iter().copied().filter(|v| *v != 0.0).collect();
            let least = stayed.iter().fold(f32::INFINITY, |least, v| least.min(v.abs()));
            // whole numbers, whose sums are exact
            assert!(sum(&masked) >= p * sum(&values) && sum(&masked) - f64::from(least) < p * sum(&values), "{p}");
            assert!(masked.iter().zip(&values).all(|(m, v)| m == v || (*m == 0.0 && v.abs() <= least)), "{p}");
            assert_eq!(kept, stayed.len(), "{p}");
        }
        assert_eq!(keep_top_p(&mut [0.0; 3], 0.5), 0);
    }

    /// The definition, in f64: y = down · products, and gate and up of the inputs.
    #[test]
    fn each_place_is_masked_and_no_other() {
        let (m, d, d_ff) = (3, 32, 64);
        let cpu = Cpu::detect();
        let linear = |w: &[f32], n, k| Linear::from(DenseWeight::from_f32(w, n, k, DenseType::F32).unwrap());
        let (w_down, w_up) = (numbers(1, d * d_ff), numbers(2, 2 * d_ff * d));
        let (down, gate_up) = (linear(&w_down, d, d_ff), linear(&w_up, 2 * d_ff, d));
        let (gated, x, ones) = (numbers(3, m * 2 * d_ff), numbers(4, m * d), vec![1.0; d]);
        let top = |mut values: Vec<f32>, masked: bool| {
            masked.then(|| keep_top_p(&mut values, 0.6));
            values
        };
        let product = |x: &[f32], w: &[f32]| -> Vec<f64> {
            let dot = |w: &[f32]| x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
            w.chunks(x.len()).map(dot).collect()
        };
        let config = Config {
            vocab: 8,
            d_model: d,
            d_ff,
            n_layers: 1,
            attention: AttentionShape::new(2, 1, 16).unwrap(),
            rms_eps: 1e-5,
            rope_theta: 1e4,
            rope_scaling: RopeScaling::Default,
            activation: Activation::Relu,
        };
        for place in Place::ALL {
            let masked = OnCpu(Masked::new(&cpu, place, 0.6));
            let settings = Settings { max_tokens: m, ..Settings::dense(m) };
            let mut work = masked.work(&config, None, &settings).unwrap();
            let (mut y, mut z) = (vec![0.0; m * d], vec![0.0; m * 2 * d_ff]);
            let (down, gate_up) =
                (Matrix { linear: &down, is_gate_up: false }, Matrix { linear: &gate_up, is_gate_up: true });
            let input = Input::SwiGlu { gate_up: &gated, activation: Activation::Relu };
            let call = LinearCall { weight: &down, input, m, rows: None, inputs: Selection::All };
            masked.linear(&mut work, call, None, &mut y).unwrap();
            let input = Input::RmsNorm(Norm { x: &x, weight: &ones, eps: 0.0 });
            let call = LinearCall { weight: &gate_up, input, m, rows: None, inputs: Selection::All };
            masked.linear(&mut work, call, None, &mut z).unwrap();
            for t in 0..m {
                let (gate, up) = gated[t * 2 * d_ff..(t + 1) * 2 * d_ff].split_at(d_ff);
                let gate = top(gate.iter().map(|g| g.max(0.0)).collect(), place == Place::Gates);
                let up = top(up.to_vec(), place == Place::Ups);
                let h = gate.iter().zip(&up).map(|(gate, up)| gate * up).collect();
                let expected = product(&top(h, place == Place::Products), &w_down);
                let token = &x[t * d..(t + 1) * d];
                let rms = (token.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / d as f64).sqrt();
                let normed = token.iter().map(|x| (f64::from(*x) / rms) as f32).collect();
                let expected_z = product(&top(normed, place == Place::Inputs), &w_up);
                // sums of 64 products below 4 in f32
                let close = |found: &[f32], expected: &[f64]| {
                    found
                        .iter()
                        .zip(expected)
                        .all(|(a, b)| (f64::from(*a) - b).abs() < 64.0 * 4.0 * f64::from(f32::EPSILON))
                };
                assert!(
                    close(&y[t * d..], &expected) && close(&z[t * 2 * d_ff..], &expected_z),
                    "{place:?}, token {t}"
                );
            }
            assert!((0.2..0.9).contains(&masked.0.sparsity()), "{place:?}: {}", masked.0.sparsity());
        }
    }
}
