//! Refinement against its definition: no single step of any kind lowers what it leaves.

use moray::w4a8::{Format, GroupScale, Offset};

use super::fit::{RIDGE, fitted};
use super::{Refined, refine};
use crate::fixture::SplitMix;
use crate::quantize::grid::{CENTRE, Grid, LEVELS};
use crate::quantize::matrix::{Matrix, solve_symmetric};

const GROUP: usize = 32;

const FORMATS: [Format; 4] = [
    Format::per_channel(),
    Format::per_group(GROUP, Offset::None),
    Format::per_group(GROUP, Offset::F16),
    Format::two_level(GROUP),
];

/// Wanted weights \[2, 128\] whose groups are of very different sizes, and a Hessian of correlated inputs.
fn problem(seed: u64) -> (Matrix, Vec<f32>) {
    let (mut random, rows, k) = (SplitMix(seed), 2, 128);
    let size: Vec<f32> = (0..k / GROUP).map(|_| 1.0 + random.signed() * 0.97).collect();
    let data = (0..rows * k).map(|i| size[i % k / GROUP] * random.signed()).collect();
    let a: Vec<f32> = (0..k * k).map(|_| random.signed()).collect();
    let entry = |i: usize, j: usize| (0..k).map(|p| a[i * k + p] * a[j * k + p]).sum::<f32>();
    let hessian = (0..k * k).map(|i| entry(i / k, i % k) + if i / k == i % k { 1.0 } else { 0.0 }).collect();
    (Matrix { rows, columns: k, data }, hessian)
}

/// (q − w)·H·(q − w)ᵀ of one row, in f64.
fn loss(grid: &Grid, row: usize, codes: &[i8], wanted: &Matrix, hessian: &[f32]) -> f64 {
    let k = wanted.columns;
    let miss = |i: usize| {
        let step = grid.step(row, i / grid.group_size);
        f64::from(step.scale) * f64::from(f32::from(codes[i]) - CENTRE) + f64::from(step.centre)
            - f64::from(wanted.row(row)[i])
    };
    let miss: Vec<f64> = (0..k).map(miss).collect();
    (0..k * k).map(|i| miss[i / k] * f64::from(hessian[i]) * miss[i % k]).sum()
}

fn losses(refined: &Refined, wanted: &Matrix, hessian: &[f32]) -> Vec<f64> {
    let k = wanted.columns;
    (0..wanted.rows)
        .map(|row| loss(&refined.grid, row, &refined.codes[row * k..(row + 1) * k], wanted, hessian))
        .collect()
}

/// Rounds after which nothing moves in these problems.
const ENOUGH: usize = 60;

/// Scales to begin with, as multiples of the plain ones.
const FACTORS: [f32; 3] = [1.0, 0.7, 1.4];

/// Every seed, format and factor.
fn cases() -> impl Iterator<Item = (u64, Format, f32)> {
    (0..3).flat_map(|seed| FORMATS.into_iter().flat_map(move |format| FACTORS.map(|factor| (seed, format, factor))))
}

fn start(wanted: &Matrix, format: Format, factor: f32) -> (Grid, Vec<i8>) {
    let mut grid = Grid::plain(wanted, format).unwrap();
    grid.scale.iter_mut().for_each(|scale| *scale *= factor);
    // that leaves integers as good as they are: some are off by as much again
    for (scale, integer) in grid.scale.iter_mut().zip(&mut grid.integer).step_by(2) {
        let other = (f32::from(*integer) * factor).round().clamp(1.0, 16.0);
        *scale *= other / f32::from(*integer);
        *integer = other as u8;
    }
    let codes = grid.nearest_codes(&wanted.data);
    (grid, codes)
}

/// Steps must gain a millionth of the curvature: what f32 makes of a gradient. The same is allowed here.
fn allowance(grid: &Grid, row: usize, column: usize, change: f64, hessian: &[f32], k: usize) -> f64 {
    let step = f64::from(grid.step(row, column / grid.group_size).scale) * change;
    2e-6 * step * step * f64::from(hessian[column * k + column])
}

#[test]
fn no_other_code_or_integer_of_one_place_is_better_after_refinement() {
    let mut bounds = [false; 2];
    for (seed, format, factor) in cases() {
        let (wanted, hessian) = problem(seed);
        let k = wanted.columns;
        let (grid, codes) = start(&wanted, format, factor);
        let refined = refine(&wanted, &hessian, grid, codes, ENOUGH);
        for (row, before) in losses(&refined, &wanted, &hessian).into_iter().enumerate() {
            // the loss it reports is that of the definition, summed in f32
            assert!((f64::from(refined.loss[row]) - before).abs() < 1e-4 * before, "{} {before}", refined.loss[row]);
            let mut codes = refined.codes[row * k..(row + 1) * k].to_vec();
            for column in 0..k {
                let own = codes[column];
                for other in 0..=LEVELS as i8 {
                    codes[column] = other;
                    let allowed = allowance(&refined.grid, row, column, f64::from(other - own), &hessian, k);
                    let after = loss(&refined.grid, row, &codes, &wanted, &hessian);
                    assert!(
                        after >= before - allowed,
                        "{format:?}, seed {seed}: {own} to {other}, {before} to {after}"
                    );
                }
                codes[column] = own;
            }
            let groups = refined.grid.groups();
            for group in 0..refined.grid.integer.len() / wanted.rows {
                let at = row * groups + group;
                let integer = refined.grid.integer[at];
                assert!((1..=16).contains(&integer), "{integer}");
                bounds[0] |= integer == 1;
                bounds[1] |= integer == 16;
                for other in [integer - 1, integer + 1].into_iter().filter(|other| (1..=16).contains(other)) {
                    let mut grid = refined.grid.clone();
                    grid.scale[at] *= f32::from(other) / f32::from(integer);
                    let after = loss(&grid, row, &codes, &wanted, &hessian);
                    assert!(after >= before * (1.0 - 1e-5), "seed {seed}: {integer} to {other}, {before} to {after}");
                }
            }
        }
    }
    assert_eq!(bounds, [true; 2], "both ends of the integers are to be met");
}

#[test]
fn losses_fall_from_round_to_round_in_every_row() {
    let (mut alone, mut fitted) = (0.0, 0.0);
    for (seed, format, factor) in cases() {
        let (wanted, hessian) = problem(seed);
        let (grid, codes) = start(&wanted, format, factor);
        let unrefined = Refined { grid: grid.clone(), codes: codes.clone(), loss: Vec::new() };
        let first = losses(&unrefined, &wanted, &hessian);
        let mut last = first.clone();
        for rounds in 0..5 {
            let refined = refine(&wanted, &hessian, grid.clone(), codes.clone(), rounds);
            let now = losses(&refined, &wanted, &hessian);
            // what two losses in f32 may be taken for each other
            assert!(now.iter().zip(&last).all(|(now, last)| *now <= last * (1.0 + 1e-4)), "{format:?}, round {rounds}");
            last = now;
        }
        assert!(last.iter().zip(&first).all(|(last, first)| *last < 0.9 * first), "{format:?}: {first:?} to {last:?}");
        // codes alone cannot make up for scales that are wrong
        let mut descended = unrefined;
        let mut gradient = descended.evaluate(&wanted, &hessian);
        (0..ENOUGH).for_each(|_| descended.descend(&wanted, &hessian, &mut gradient));
        let codes_alone = losses(&descended, &wanted, &hessian);
        if factor != 1.0 {
            alone += codes_alone.iter().sum::<f64>();
            fitted += last.iter().sum::<f64>();
        }
    }
    assert!(fitted < 0.98 * alone, "{alone} to {fitted}");
}

#[test]
fn fitted_scales_match_the_solution_of_the_normal_equations() {
    for (seed, format, factor) in cases() {
        let (wanted, hessian) = problem(seed);
        let (k, rows) = (wanted.columns, wanted.rows);
        let (grid, codes) = start(&wanted, format, factor);
        let product =
            |row: usize, column: usize| (0..k).map(|i| wanted.row(row)[i] * hessian[i * k + column]).sum::<f32>();
        let wanted_h: Vec<f32> = (0..rows * k).map(|i| product(i / k, i % k)).collect();
        let got = fitted(&grid, &codes, &hessian, &wanted_h);
        let (groups, single) = (grid.groups(), format.group_scale() == Some(GroupScale::Integer));
        let offsets = format.offset() == Offset::F16;
        for row in 0..rows {
            // each unknown multiplies one of these vectors
            let scaled = |i: usize| {
                let integer = if single { f64::from(grid.integer[row * groups + i / GROUP]) } else { 1.0 };
                integer * f64::from(f32::from(codes[row * k + i]) - CENTRE)
            };
            let parts = if single { 1 } else { groups };
            let within = |part: usize, i: usize| if i / (k / parts) == part { 1.0 } else { 0.0 };
            let mut vectors: Vec<Vec<f64>> =
                (0..parts).map(|part| (0..k).map(|i| within(part, i) * scaled(i)).collect()).collect();
            if offsets {
                vectors.extend((0..parts).map(|part| (0..k).map(|i| within(part, i)).collect::<Vec<f64>>()));
            }
            let unknowns = vectors.len();
            let inner = |a: &[f64], b: &dyn Fn(usize) -> f64| {
                (0..k * k).map(|i| a[i / k] * f64::from(hessian[i]) * b(i % k)).sum::<f64>()
            };
            let mut system: Vec<f64> = (0..unknowns * unknowns)
                .map(|at| inner(&vectors[at / unknowns], &|i| vectors[at % unknowns][i]))
                .collect();
            let mut right: Vec<f64> =
                vectors.iter().map(|vector| inner(vector, &|i| f64::from(wanted.row(row)[i]))).collect();
            let step = |group: usize| grid.step(row, group);
            for at in 0..unknowns {
                let start = match at {
                    _ if single => f64::from(step(0).scale) / f64::from(grid.integer[row * groups]),
                    at if at < parts => f64::from(step(at).scale),
                    at => f64::from(step(at - parts).centre),
                };
                let ridge = RIDGE * system[at * unknowns + at];
                system[at * unknowns + at] += ridge;
                right[at] += ridge * start;
            }
            solve_symmetric(&system, unknowns, &mut right).unwrap();
            for group in 0..groups {
                let (before, found) = (step(group), got.step(row, group));
                let fit = match single {
                    true => right[0] * f64::from(grid.integer[row * groups + group]),
                    false => right[group],
                };
                // such a fit is of noise and is left
                let taken = single || fit * f64::from(before.scale) > 0.25 * f64::from(before.scale).powi(2);
                let expected = if taken { fit } else { before.scale.into() };
                // sums of 128 terms in f32, with a condition of some tens; f16 where groups store it
                let close = if format.group_scale() == Some(GroupScale::F16) { 1e-3 } else { 3e-5 };
                let got = f64::from(found.scale);
                assert!((got - expected).abs() <= close * expected.abs(), "{format:?}, seed {seed}: {got} {expected}");
                if offsets && taken {
                    // the value of code 0 is stored, some eight steps away
                    let (got, expected) = (f64::from(found.centre), right[parts + group]);
                    assert!((got - expected).abs() <= 0.02 * f64::from(found.scale), "seed {seed}: {got} {expected}");
                }
            }
        }
    }
}
