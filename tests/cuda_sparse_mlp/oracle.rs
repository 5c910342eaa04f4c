//! Every stage in f64, from what the stage before it left on the device.

use moray::sparse_mlp::cuda::{NeuronList, Selection, upload_masks};
use moray::sparse_mlp::{Activation, IndexList, Matrix, Shape, TokenMasks, mask_from_list};

use crate::common::Random;
use crate::device::{device, with_cut_sums};
use crate::run::{Model, Output, call, shape, subset};

const U: f64 = 1.0 / (1u64 << 24) as f64;

/// A value and how far f32 arithmetic may be from it.
#[derive(Clone, Copy)]
struct Bounded {
    value: f64,
    error: f64,
}

/// x as the rows see it: as it is, or quantized to int8 by the crate's definition (scale max|x| / 127, ties to even).
fn seen(x: &[f32], four_bit: bool) -> Vec<f64> {
    if !four_bit {
        return x.iter().map(|&x| f64::from(x)).collect();
    }
    let scale = x.iter().fold(0f32, |max, x| max.max(x.abs())) / 127.0;
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    x.iter().map(|x| f64::from(scale) * f64::from((x * inverse).clamp(-127.0, 127.0).round_ties_even())).collect()
}

/// Σ w x: n products and sums in any order are off by at most (n + 8)·u·Σ|w x|; for 4-bit rows |w| counts as the largest
/// code times scale plus offset, since the two are added apart.
fn dot(w: &[f32], x: &[f64], bias: f32, largest: Option<f32>) -> Bounded {
    let magnitude = |w: f32| f64::from(largest.unwrap_or(w.abs()));
    let value = w.iter().zip(x).map(|(&w, x)| f64::from(w) * x).sum::<f64>() + f64::from(bias);
    let sum: f64 = w.iter().zip(x).map(|(&w, x)| magnitude(w) * x.abs()).sum();
    Bounded { value, error: (w.len() + 8) as f64 * U * (sum + f64::from(bias).abs()) }
}

/// What silu leaves of a gate below −88, where the exponential stays e⁸⁸: 6.1e-37 of −100; gates here are far above −160.
const CAPPED: f64 = 1e-36;

/// A product below the normal numbers may become zero.
const FLUSHED: f64 = f32::MIN_POSITIVE as f64;

/// The nonlinearity: its slope is at most 1.1, its own error 4 units in the last place.
fn activated(activation: Activation, gate: Bounded) -> Bounded {
    let value = match activation {
        Activation::Relu => gate.value.max(0.0),
        _ => gate.value / (1.0 + (-gate.value).exp()),
    };
    Bounded { value, error: 1.1 * gate.error + 8.0 * U * value.abs() + CAPPED }
}

pub struct Rows<'a> {
    pub model: &'a Model,
    pub gate_bias: &'a [f32],
    pub up_bias: &'a [f32],
    pub down_bias: &'a [f32],
}

fn row(model: &Model, matrix: Matrix, j: usize) -> Vec<f32> {
    let mut row = vec![0.0; model.host.shape().d_model];
    model.host.row(matrix, j, &mut row).unwrap();
    row
}

fn bias(bias: &[f32], at: usize) -> f32 {
    bias.get(at).copied().unwrap_or(0.0)
}

/// Checks `hidden` of the neurons in `list`, of which token t keeps those for which `keep` holds, and y.
pub fn check(
    rows: &Rows<'_>,
    x: &[f32],
    residual: &[f32],
    list: &[u32],
    out: &Output,
    keep: impl Fn(usize, usize) -> bool,
) {
    let Shape { d_model, activation, .. } = rows.model.host.shape();
    let largest = rows.model.largest_4bit;
    for (t, x) in x.chunks_exact(d_model).enumerate() {
        let x = seen(x, largest.is_some());
        let hidden = &out.hidden[t * out.stride..][..list.len()];
        for (at, &j) in list.iter().enumerate() {
            let j = j as usize;
            if !keep(t, j) {
                assert_eq!(hidden[at].to_bits(), 0, "token {t} does not keep neuron {j}");
                continue;
            }
            let gate = dot(&row(rows.model, Matrix::Gate, j), &x, bias(rows.gate_bias, j), largest);
            let (a, u) =
                (activated(activation, gate), dot(&row(rows.model, Matrix::Up, j), &x, bias(rows.up_bias, j), largest));
            let (value, got) = (a.value * u.value, f64::from(hidden[at]));
            let error =
                a.value.abs() * u.error + u.value.abs() * a.error + a.error * u.error + U * value.abs() + FLUSHED;
            assert!(
                (got - value).abs() <= error,
                "hidden of token {t}, neuron {j}: {got} instead of {value} ± {error:e}"
            );
        }
        check_down(rows, t, hidden, list, &residual[t * d_model..], &out.y[t * d_model..(t + 1) * d_model]);
    }
}

/// y from the device's own hidden values: n products in any order, and a sum over warps, splits, bias and residual.
fn check_down(rows: &Rows<'_>, t: usize, hidden: &[f32], list: &[u32], residual: &[f32], y: &[f32]) {
    let largest = rows.model.largest_4bit;
    let h = seen(hidden, largest.is_some());
    let down: Vec<Vec<f32>> = list.iter().map(|&j| row(rows.model, Matrix::Down, j as usize)).collect();
    for (n, &got) in y.iter().enumerate() {
        let extra = f64::from(residual[n]) + f64::from(bias(rows.down_bias, n));
        let value: f64 = h.iter().zip(&down).map(|(h, row)| h * f64::from(row[n])).sum::<f64>() + extra;
        let magnitude: f64 =
            h.iter().zip(&down).map(|(h, row)| h.abs() * f64::from(largest.unwrap_or(row[n].abs()))).sum();
        let error = (list.len() + 80) as f64 * U * (magnitude + extra.abs() + f64::from(residual[n]).abs());
        let distance = (f64::from(got) - value).abs();
        assert!(distance <= error, "y of token {t}, column {n}: {got} instead of {value} ± {error:e}");
    }
}

const PLAIN: [&[f32]; 3] = [&[], &[], &[]];

pub fn rows<'a>(model: &'a Model, biases: [&'a [f32]; 3]) -> Rows<'a> {
    Rows { model, gate_bias: biases[0], up_bias: biases[1], down_bias: biases[2] }
}

/// Every kind of rows over shapes within, at and past a kernel's tiles: pieces of x (1024 elements, 4096 codes), 256
/// columns, 16 neurons; tokens below, at and past 8, 16 and 64.
#[test]
fn all_neurons_match_f64_for_every_kind_of_rows_and_shape() {
    let Some(device) = device() else { return };
    let mut random = Random::new(11);
    let random = &mut random;
    let mut models = Vec::new();
    for (d_model, d_ff) in [(8, 1), (264, 33), (1032, 48)] {
        models.push(Model::f16(&device, random, shape(d_model, d_ff)));
        models.push(Model::bf16(&device, random, shape(d_model, d_ff)));
    }
    for (kinds, group_size, d_model, d_ff) in [
        ([0, 0, 0], 32, 32, 32),
        ([1, 1, 1], 32, 96, 96),
        ([2, 2, 2], 64, 320, 64),
        ([3, 3, 3], 128, 256, 128),
        ([2, 1, 3], 32, 4128, 32),
        ([1, 3, 0], 64, 64, 192),
    ] {
        models.push(Model::four_bit(&device, random, kinds, group_size, shape(d_model, d_ff)));
    }
    for model in &models {
        let Shape { d_model, d_ff, .. } = model.host.shape();
        for tokens in if d_model > 1000 { vec![1, 9, 18] } else { vec![1, 2, 8, 16, 17, 66] } {
            let x = random.weights(tokens * d_model, 1.0);
            let residual = random.weights(tokens * d_model, 1.0);
            let all: Vec<u32> = (0..d_ff as u32).collect();
            let out = call(&device, &model.device, &x, &Selection::All, Some(&residual));
            check(&rows(model, PLAIN), &x, &residual, &all, &out, |_, _| true);
        }
    }
}

#[test]
fn lists_masks_and_unions_match_f64() {
    let Some(device) = device() else { return };
    let mut random = Random::new(12);
    let random = &mut random;
    let models = [
        Model::f16(&device, random, shape(72, 300)),
        Model::four_bit(&device, random, [2, 1, 3], 32, shape(64, 320)),
        Model::four_bit(&device, random, [0, 3, 1], 64, shape(128, 256)),
    ];
    for model in &models {
        let Shape { d_model, d_ff, .. } = model.host.shape();
        for (tokens, q) in [(1, 0.5), (1, 0.0), (1, 0.02), (3, 0.3), (20, 0.1), (2, 0.0), (12, 0.6), (12, 0.0)] {
            let x = random.weights(tokens * d_model, 1.0);
            let residual = random.weights(tokens * d_model, 1.0);
            let list = subset(random, d_ff, q);
            let words_per_token = d_ff.div_ceil(64);
            let mut words = vec![0; tokens * words_per_token];
            for token in words.chunks_exact_mut(words_per_token) {
                mask_from_list(IndexList::new(&subset(random, d_ff, q), d_ff).unwrap(), token).unwrap();
            }
            let host_masks = TokenMasks::new(&words, tokens, d_ff).unwrap();
            let has = |t: usize, j: usize| host_masks.token(t)[j / 64] >> (j % 64) & 1 == 1;
            let mut on_device = NeuronList::new(&device, d_ff).unwrap();
            on_device.set(&device, IndexList::new(&list, d_ff).unwrap()).unwrap();
            let masks = upload_masks(&device, &host_masks).unwrap();

            let out = call(&device, &model.device, &x, &Selection::List(&on_device), Some(&residual));
            check(&rows(model, PLAIN), &x, &residual, &list, &out, |_, _| true);
            let out = call(&device, &model.device, &x, &Selection::Masks(&masks), Some(&residual));
            assert_eq!(out.kept, host_masks.union().indices());
            check(&rows(model, PLAIN), &x, &residual, &out.kept, &out, has);
            let union = Selection::Union { list: &on_device, masks: &masks };
            let out = call(&device, &model.device, &x, &union, Some(&residual));
            check(&rows(model, PLAIN), &x, &residual, &list, &out, has);
        }
    }
}

#[test]
fn biases_and_relu_match_f64() {
    let Some(device) = device() else { return };
    for four_bit in [false, true] {
        let (d_model, d_ff) = (64, 96);
        let shape = Shape { d_model, d_ff, activation: Activation::Relu };
        // the same seed twice: the biases that the model was given are drawn again
        let model = |random: &mut Random| match four_bit {
            false => Model::bf16(&device, random, shape),
            true => Model::four_bit(&device, random, [2, 0, 1], 32, shape),
        };
        let mut random = Random::new(13);
        let with_biases = model(&mut random).with_biases(&device, &mut random);
        let mut again = Random::new(13);
        model(&mut again);
        let biases = [again.weights(d_ff, 0.3), again.weights(d_ff, 0.3), again.weights(d_model, 0.3)];
        let biases = [&biases[0][..], &biases[1], &biases[2]];
        let x = random.weights(3 * d_model, 1.0);
        let residual = random.weights(3 * d_model, 1.0);
        let all: Vec<u32> = (0..d_ff as u32).collect();
        let out = call(&device, &with_biases.device, &x, &Selection::All, Some(&residual));
        assert!(out.hidden[..d_ff].contains(&0.0), "some neurons are cut off");
        check(&rows(&with_biases, biases), &x, &residual, &all, &out, |_, _| true);
    }
}

/// The tensor cores' 16-bit parts of inputs keep what f32 has, also where their sums are cut.
#[test]
fn all_neurons_match_f64_where_matrix_units_cut_their_sums() {
    const NAME: &str = "oracle::all_neurons_match_f64_where_matrix_units_cut_their_sums";
    with_cut_sums(NAME, all_neurons_match_f64_for_every_kind_of_rows_and_shape);
}
