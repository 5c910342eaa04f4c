//! Codes against the objective they are chosen for.

use moray::w4a8::{Format, Offset};
use moray_lab::fixture::SplitMix;
use moray_lab::load::forward_config;
use moray_lab::quantize::{Matrix, Method, Options, Pass, SolveOptions, Source, Streams, Sums, quantize_layer, solve};
use proptest::prelude::*;

use super::{cpu, fixture, open, tokens};

const FORMATS: [Format; 4] = [
    Format::per_channel(),
    Format::per_group(64, Offset::None),
    Format::per_group(64, Offset::F16),
    Format::two_level(64),
];

#[test]
fn every_sites_error_is_below_round_to_nearests_for_every_method_and_mode() {
    let (cpu, fixture) = (cpu(), fixture());
    let checkpoint = open(&fixture);
    let text = tokens(768, &fixture, 3);
    for method in [Method::Gptq, Method::Qqq, Method::Full] {
        for format in FORMATS {
            let options = Options { context: 96, ..Options::new(method, format) };
            let source = Source::new(&checkpoint, &options);
            let config = forward_config(checkpoint.config()).unwrap();
            let pass = Pass::new(&cpu, config, options.context);
            let mut streams = Streams::new(source.embedded(&text).unwrap(), &[96; 8], fixture.hidden);
            for index in 0..fixture.n_layers {
                let layer = source.layer(index).unwrap();
                let done = quantize_layer(&pass, &options, &layer, index, &mut streams).unwrap();
                for (site, error) in done.errors.iter().enumerate() {
                    assert!(error.chosen < error.nearest, "{method} {format:?}, layer {index}, site {site}: {error:?}");
                }
            }
        }
    }
}

/// Inputs with correlated channels, and their sums.
fn problem(n: usize, k: usize, count: usize, random: &mut SplitMix) -> (Matrix, Vec<f32>, Sums) {
    let w = Matrix { rows: n, columns: k, data: (0..n * k).map(|_| random.signed()).collect() };
    let mix: Vec<f32> = (0..k * k).map(|_| random.signed()).collect();
    let mut inputs = Vec::with_capacity(count * k);
    for _ in 0..count {
        let latent: Vec<f32> = (0..k).map(|_| random.signed()).collect();
        for j in 0..k {
            let shared: f32 = (0..k / 4).map(|i| latent[i] * mix[i * k + j]).sum();
            inputs.push(shared + 0.3 * latent[j]);
        }
    }
    let mut sums = Sums::new(k);
    for x in inputs.chunks_exact(k) {
        for i in 0..k {
            for j in 0..k {
                sums.hessian[i * k + j] += f64::from(x[i]) * f64::from(x[j]);
            }
        }
    }
    sums.tokens = count;
    sums.energy = output_error(&w, 1.0, &inputs, &vec![0.0; n * k]);
    (w, inputs, sums)
}

/// Σ ‖(q − factor · w)·x‖², by definition.
fn output_error(w: &Matrix, factor: f64, inputs: &[f32], values: &[f32]) -> f64 {
    let k = w.columns;
    let mut total = 0.0;
    for x in inputs.chunks_exact(k) {
        for n in 0..w.rows {
            let miss: f64 = (0..k)
                .map(|i| (f64::from(values[n * k + i]) - factor * f64::from(w.data[n * k + i])) * f64::from(x[i]))
                .sum();
            total += miss * miss;
        }
    }
    total
}

/// How far apart Σ ‖v·x‖² may be in f64 when it is summed by tokens and when by tr(v H vᵀ), for |v| at most `size` \[N, K\].
///
/// With u = 2⁻⁵³ and terms of at most Σ (Σ size · |x|)²: u for each of T tokens in H, for each of K columns in H vᵀ, for each
/// of N·K in the trace; for each of K columns twice (it is squared) and of N·T in the sum by tokens; and 16 for the rest.
fn reordering(size: &[f64], inputs: &[f32], k: usize) -> f64 {
    let (n, count) = (size.len() / k, inputs.len() / k);
    let reach = |row: &[f64], x: &[f32]| row.iter().zip(x).map(|(v, &x)| v * f64::from(x.abs())).sum::<f64>().powi(2);
    let terms: f64 = inputs.chunks_exact(k).map(|x| size.chunks_exact(k).map(|row| reach(row, x)).sum::<f64>()).sum();
    (count + 3 * k + n * k + n * count + 16) as f64 * (f64::EPSILON / 2.0) * terms
}

fn solver(format: Format) -> SolveOptions {
    SolveOptions { format, gptq: true, act_order: true, clip_search: true, refinements: 2 }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn reported_errors_match_the_definition_and_refinement_never_costs(
        n in 1usize..9, groups in 1usize..3, format in 0usize..4, seed in any::<u64>(),
    ) {
        let mut random = SplitMix(seed);
        let k = 64 * groups;
        let (w, inputs, sums) = problem(n, k, 3 * k, &mut random);
        let plain = solve(&w, &sums, SolveOptions { refinements: 0, ..solver(FORMATS[format]) }).unwrap();
        let refined = solve(&w, &sums, solver(FORMATS[format])).unwrap();
        for solved in [&plain, &refined] {
            prop_assert_eq!(solved.weight.dequantize(), solved.values.data.clone());
            let defined = output_error(&w, 1.0, &inputs, &solved.values.data) / sums.energy;
            let size: Vec<f64> =
                solved.values.data.iter().zip(&w.data).map(|(&v, &w)| (f64::from(v) - f64::from(w)).abs()).collect();
            prop_assert!((solved.error.chosen - defined).abs() <= reordering(&size, &inputs, k) / sums.energy);
        }
        // both minimise the damped objective, whose damping is 1% of the mean diagonal: the plain one can only be a
        // little better off
        prop_assert!(refined.error.chosen <= plain.error.chosen * 1.02, "{:?} {:?}", refined.error, plain.error);
        prop_assert!(refined.error.chosen < refined.error.nearest);
    }
}

#[test]
fn dead_channels_get_zero_weights_and_fewer_tokens_than_channels_still_solve() {
    let mut random = SplitMix(11);
    let (n, k) = (4, 64);
    let (w, _, mut sums) = problem(n, k, 20, &mut random);
    for i in 0..k {
        for dead in [3, 40] {
            sums.hessian[dead * k + i] = 0.0;
            sums.hessian[i * k + dead] = 0.0;
        }
    }
    for format in [Format::per_channel(), Format::per_group(32, Offset::None)] {
        let solved = solve(&w, &sums, solver(format)).unwrap();
        for row in solved.values.data.chunks_exact(k) {
            assert_eq!((row[3], row[40]), (0.0, 0.0), "{format:?}");
        }
        assert!(solved.error.chosen.is_finite() && solved.error.chosen < solved.error.nearest);
    }
    // no input at all: every channel is dead
    let none = Sums { hessian: vec![0.0; k * k], energy: 0.0, ..sums };
    assert!(solve(&w, &none, solver(Format::per_channel())).unwrap().values.data.iter().all(|&v| v == 0.0));
}

#[test]
fn wanted_outputs_are_met_by_the_least_squares_solution_where_errors_went_before() {
    // inputs that are off by a known linear map: the best weights undo it
    let mut random = SplitMix(23);
    let (n, k) = (8, 64);
    let (w, inputs, mut sums) = problem(n, k, 512, &mut random);
    let plain = solve(&w, &sums, solver(Format::per_group(32, Offset::F16))).unwrap();
    // y = 1.5 · w · x: T = 1.5 · w · H
    let mut target = vec![0.0; n * k];
    for row in 0..n {
        for j in 0..k {
            target[row * k + j] = (0..k).map(|i| 1.5 * f64::from(w.data[row * k + i]) * sums.hessian[i * k + j]).sum();
        }
    }
    sums.target = Some(target);
    sums.energy *= 2.25;
    let corrected = solve(&w, &sums, solver(Format::per_group(32, Offset::F16))).unwrap();
    let miss = output_error(&w, 1.5, &inputs, &corrected.values.data);
    let blind = output_error(&w, 1.5, &inputs, &plain.values.data);
    assert!(miss < 0.1 * blind, "{miss} of {blind}");
    // the reported error is the one defined, as tr(v H vᵀ) − 2 tr(v Tᵀ) + energy, which cancel
    let size: Vec<f64> = (corrected.values.data.iter().zip(&w.data))
        .map(|(&v, &w)| f64::from(v.abs()) + 1.5 * f64::from(w.abs()))
        .collect();
    assert!((corrected.error.chosen - miss / sums.energy).abs() <= reordering(&size, &inputs, k) / sums.energy);
}
