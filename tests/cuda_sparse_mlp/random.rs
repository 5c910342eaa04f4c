//! Random shapes, weights, selections and batches against the CPU backend.

use moray::Device;
use moray::sparse_mlp::cuda::{NeuronList, Score, Selection, upload_masks};
use moray::sparse_mlp::{self as host, Activation, IndexList, ScoreOn, Shape, TokenMasks, mask_from_list};
use proptest::prelude::*;

use crate::common::{Random, bits, cpus};
use crate::device::device;
use crate::oracle::{Rows, check};
use crate::run::{Model, Output, call, subset};

/// How a list or mask is filled.
#[derive(Debug, Clone, Copy)]
enum Fill {
    Empty,
    One,
    Some(f32),
    Full,
}

impl Fill {
    fn list(self, random: &mut Random, n: usize) -> Vec<u32> {
        match self {
            Fill::Empty => Vec::new(),
            Fill::One => vec![random.below(n) as u32],
            Fill::Some(q) => subset(random, n, q),
            Fill::Full => (0..n as u32).collect(),
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Form {
    All,
    List,
    Masks,
    Union,
    Threshold(ScoreOn),
    TopK(ScoreOn),
}

#[derive(Debug, Clone)]
struct Case {
    seed: u64,
    tokens: usize,
    /// f16, bf16 or the kinds of 4-bit gate, up and down.
    rows: Option<[usize; 3]>,
    bf16: bool,
    group_size: usize,
    d_model: usize,
    d_ff: usize,
    relu: bool,
    biases: bool,
    scaled: bool,
    form: Form,
    fill: Fill,
}

fn cases() -> impl Strategy<Value = Case> {
    let fill = prop_oneof![
        Just(Fill::Empty),
        Just(Fill::One),
        Just(Fill::Full),
        (0.02f32..0.98).prop_map(Fill::Some),
        (0.02f32..0.98).prop_map(Fill::Some),
    ];
    let on = prop_oneof![Just(ScoreOn::Gate), Just(ScoreOn::Hidden), Just(ScoreOn::Input)];
    let form = prop_oneof![
        Just(Form::All),
        Just(Form::List),
        Just(Form::List),
        Just(Form::Masks),
        Just(Form::Union),
        on.clone().prop_map(Form::Threshold),
        on.prop_map(Form::TopK),
    ];
    let rows = prop_oneof![Just(None), [0usize..4, 0..4, 0..4].prop_map(Some)];
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let sizes = (0usize..3, 1usize..40, 1usize..300);
    let tokens = prop_oneof![1usize..=8, 9usize..=64];
    (any::<u64>(), tokens, rows, sizes, flags, form, fill).prop_map(
        |(seed, tokens, rows, (group, d_model, d_ff), (bf16, relu, biases, scaled), form, fill)| {
            let group_size = 32 << group;
            // 4 bits: at least one group each way; 16 bits: columns by 8, neurons any
            let whole = |n: usize, limit: usize| (n % limit.div_ceil(group_size) + 1) * group_size;
            let (d_model, d_ff) =
                if rows.is_some() { (whole(d_model, 320), whole(d_ff, 256)) } else { (8 * d_model, d_ff) };
            Case { seed, tokens, rows, bf16, group_size, d_model, d_ff, relu, biases, scaled, form, fill }
        },
    )
}

/// What the CPU backend makes of a call.
struct Expected {
    y: Vec<f32>,
    kept: Vec<u32>,
    /// By token, by position in `kept`.
    hidden: Vec<Vec<f32>>,
    /// By token, by neuron: |gate| and |hidden| of all.
    gate: Vec<Vec<f32>>,
}

fn on_the_cpu(model: &Model, x: &[f32], selection: &host::Selection<'_>, residual: &[f32]) -> Expected {
    let tokens = x.len() / model.host.shape().d_model;
    let mut workspace = host::Workspace::new(&model.host, tokens).unwrap();
    let mut y = vec![0.0; x.len()];
    host::forward(&cpus()[0], &model.host, x, selection, Some(residual), &mut y, &mut workspace).unwrap();
    let each = |f: &dyn Fn(usize) -> Vec<f32>| (0..tokens).map(f).collect();
    let kept = workspace.kept().to_vec();
    let hidden = each(&|t| workspace.hidden(t)[..kept.len()].to_vec());
    Expected { y, hidden, gate: each(&|t| workspace.gate(t).to_vec()), kept }
}

/// A threshold, or a number of values to keep, that roundings cannot move: in the widest gap between neighbouring scores.
/// Nothing if every gap is within what the two orders of summation may differ by: of at most 320 products and a bias
/// 2 · 321 · 2⁻²⁴ = 3.8e-5 of their sizes, taken 26 times, for scores that are so much smaller than their products.
fn split_scores(scores: &[Vec<f32>], together: bool) -> Option<(f32, usize)> {
    let n = scores[0].len();
    let gap = |low: f32, high: f32| (high - low) / high.max(f32::MIN_POSITIVE);
    if together {
        let mut all: Vec<f32> = scores.concat();
        all.sort_by(f32::total_cmp);
        let best = all.windows(2).max_by(|a, b| gap(a[0], a[1]).total_cmp(&gap(b[0], b[1])))?;
        return (gap(best[0], best[1]) > 1e-3).then_some(((best[0] + best[1]) / 2.0, 0));
    }
    // the k whose narrowest gap over the tokens is widest
    let mut sorted = scores.to_vec();
    sorted.iter_mut().for_each(|scores| scores.sort_by(|a, b| b.total_cmp(a)));
    let narrowest = |k: usize| sorted.iter().map(|s| gap(s[k], s[k - 1])).fold(f32::INFINITY, f32::min);
    let k = (1..n).max_by(|&a, &b| narrowest(a).total_cmp(&narrowest(b)))?;
    (narrowest(k) > 1e-3).then_some((0.0, k))
}

struct Prepared {
    model: Model,
    biases: [Vec<f32>; 3],
    x: Vec<f32>,
    residual: Vec<f32>,
}

fn prepare(device: &Device, case: &Case, random: &mut Random) -> Prepared {
    let activation = if case.relu { Activation::Relu } else { Activation::Silu };
    let shape = Shape { d_model: case.d_model, d_ff: case.d_ff, activation };
    let mut model = match case.rows {
        Some(kinds) => Model::four_bit(device, random, kinds, case.group_size, shape),
        None if case.bf16 => Model::bf16(device, random, shape),
        None => Model::f16(device, random, shape),
    };
    let mut biases = [Vec::new(), Vec::new(), Vec::new()];
    if case.biases {
        let seed = random.bits();
        model = model.with_biases(device, &mut Random::new(seed));
        let mut again = Random::new(seed);
        biases = [case.d_ff, case.d_ff, case.d_model].map(|n| again.weights(n, 0.3));
    }
    let (x, residual) =
        (random.weights(case.tokens * case.d_model, 1.0), random.weights(case.tokens * case.d_model, 1.0));
    Prepared { model, biases, x, residual }
}

/// Everything that must hold between the device's result and the CPU's.
fn compare(
    case: &Case,
    p: &Prepared,
    x: &[f32],
    got: &Output,
    expected: &Expected,
    keep: impl Fn(usize, usize) -> bool,
) {
    let on_matrix_units = case.tokens > 8;
    if case.rows.is_some() && on_matrix_units {
        // up to 256 neurons are one part of the list
        for (t, hidden) in expected.hidden.iter().enumerate() {
            assert_eq!(bits(&got.hidden[t * got.stride..][..hidden.len()]), bits(hidden), "hidden of token {t}");
        }
        assert_eq!(bits(&got.y), bits(&expected.y));
    }
    let [gate_bias, up_bias, down_bias] = [&p.biases[0][..], &p.biases[1], &p.biases[2]];
    let rows = Rows { model: &p.model, gate_bias, up_bias, down_bias };
    check(&rows, x, &p.residual, &expected.kept, got, &keep);
    // the CPU's own values lie within the same bounds of the same numbers in f64
    let stride = got.stride;
    let mut hidden = vec![0.0; case.tokens * stride];
    for (t, values) in expected.hidden.iter().enumerate() {
        hidden[t * stride..][..values.len()].copy_from_slice(values);
    }
    let cpu = Output { y: expected.y.clone(), gate: Vec::new(), hidden, stride, kept: expected.kept.clone() };
    check(&rows, x, &p.residual, &expected.kept, &cpu, &keep);
}

fn run_case(device: &Device, case: &Case) -> Result<(), TestCaseError> {
    let mut random = Random::new(case.seed);
    let p = prepare(device, case, &mut random);
    let (d_model, d_ff, tokens) = (case.d_model, case.d_ff, case.tokens);
    let device_call = |selection: &Selection<'_>| call(device, &p.model.device, &p.x, selection, Some(&p.residual));
    let host_call = |selection: &host::Selection<'_>| on_the_cpu(&p.model, &p.x, selection, &p.residual);

    let list = case.fill.list(&mut random, d_ff);
    let list = IndexList::new(&list, d_ff).unwrap();
    let mut on_device = NeuronList::new(device, d_ff).unwrap();
    on_device.set(device, list).unwrap();
    let words_per_token = d_ff.div_ceil(64);
    let mut words = vec![0; tokens * words_per_token];
    for token in words.chunks_exact_mut(words_per_token) {
        mask_from_list(IndexList::new(&case.fill.list(&mut random, d_ff), d_ff).unwrap(), token).unwrap();
    }
    let masks = TokenMasks::new(&words, tokens, d_ff).unwrap();
    let device_masks = upload_masks(device, &masks).unwrap();
    let has = |t: usize, j: usize| masks.token(t)[j / 64] >> (j % 64) & 1 == 1;
    match case.form {
        Form::All => {
            let (got, expected) = (device_call(&Selection::All), host_call(&host::Selection::All));
            compare(case, &p, &p.x, &got, &expected, |_, _| true);
        }
        Form::List => {
            let got = device_call(&Selection::List(&on_device));
            compare(case, &p, &p.x, &got, &host_call(&host::Selection::List(list)), |_, _| true);
        }
        Form::Masks => {
            let got = device_call(&Selection::Masks(&device_masks));
            let expected = host_call(&host::Selection::Masks(masks));
            prop_assert_eq!(&got.kept, &expected.kept);
            compare(case, &p, &p.x, &got, &expected, has);
        }
        Form::Union => {
            let got = device_call(&Selection::Union { list: &on_device, masks: &device_masks });
            compare(case, &p, &p.x, &got, &host_call(&host::Selection::Union { list, masks }), has);
        }
        Form::Threshold(on) | Form::TopK(on) => {
            let n = if on == ScoreOn::Input { d_model } else { d_ff };
            let factors: Vec<f32> = (0..n).map(|_| 0.1 + random.unit()).collect();
            let device_factors = device.upload(&factors).unwrap();
            let dense = host_call(&host::Selection::All);
            let score_of = |values: &[f32]| -> Vec<f32> {
                let factor = |i: usize| if case.scaled { factors[i] } else { 1.0 };
                values[..n].iter().enumerate().map(|(i, v)| v.abs() * factor(i)).collect()
            };
            let scores: Vec<Vec<f32>> = match on {
                ScoreOn::Input => p.x.chunks_exact(d_model).map(score_of).collect(),
                ScoreOn::Gate => dense.gate.iter().map(|gate| score_of(gate)).collect(),
                _ => dense.hidden.iter().map(|hidden| score_of(hidden)).collect(),
            };
            let is_top = matches!(case.form, Form::TopK(_));
            let Some((threshold, k)) = split_scores(&scores, !is_top) else { return Ok(()) };
            let score = Score { on, channel_scale: case.scaled.then_some(&device_factors) };
            let host_score = host::Score { on, channel_scale: case.scaled.then_some(&factors[..]) };
            let (selection, host_selection) = match is_top {
                true => (Selection::TopK { score, k }, host::Selection::TopK { score: host_score, k }),
                false => (
                    Selection::Threshold { score, threshold },
                    host::Selection::Threshold { score: host_score, threshold },
                ),
            };
            let keeps: Vec<Vec<bool>> = scores.iter().map(|s| kept_of(s, threshold, is_top.then_some(k))).collect();
            let (got, expected) = (device_call(&selection), host_call(&host_selection));
            if on == ScoreOn::Input {
                let masked = p.x.iter().enumerate().map(|(i, &x)| if keeps[i / n][i % n] { x } else { 0.0 });
                compare(case, &p, &masked.collect::<Vec<_>>(), &got, &expected, |_, _| true);
            } else {
                prop_assert_eq!(&got.kept, &expected.kept);
                compare(case, &p, &p.x, &got, &expected, |t, j| keeps[t][j]);
            }
        }
    }
    Ok(())
}

fn kept_of(scores: &[f32], threshold: f32, k: Option<usize>) -> Vec<bool> {
    match k {
        None => scores.iter().map(|&s| s > threshold).collect(),
        Some(k) => {
            let mut order: Vec<usize> = (0..scores.len()).collect();
            order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
            let mut kept = vec![false; scores.len()];
            order[..k].iter().for_each(|&i| kept[i] = true);
            kept
        }
    }
}

#[test]
fn random_calls_match_the_cpu_for_every_form() {
    let Some(device) = device() else { return };
    let cases_run = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(64);
    // a kernel that the checker stops ends the context, so a smaller case could not run
    let config = ProptestConfig {
        cases: cases_run,
        max_shrink_iters: 0,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |(case in cases())| run_case(&device, &case)?);
}
