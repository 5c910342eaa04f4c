//! Scales against what they are searched for, and against what is stored of them.

use moray::w4a8::{Format, Offset};

use super::search::{best_channel, search_offset, search_symmetric};
use super::{CENTRE, Grid, LEVELS, Step};
use crate::fixture::SplitMix;
use crate::quantize::matrix::Matrix;

const GROUP: usize = 64;

const FORMATS: [Format; 4] = [
    Format::per_channel(),
    Format::per_group(GROUP, Offset::None),
    Format::per_group(GROUP, Offset::F16),
    Format::two_level(GROUP),
];

/// w \[5, 256\] whose groups are of very different sizes and off centre.
fn weights(random: &mut SplitMix) -> Matrix {
    let (rows, columns) = (5, 256);
    let group: Vec<[f32; 2]> =
        (0..rows * columns / GROUP).map(|_| [(2.5 * random.signed()).exp(), random.signed()]).collect();
    let data = (0..rows * columns).map(|i| group[i / GROUP][0] * (group[i / GROUP][1] + random.signed())).collect();
    Matrix { rows, columns, data }
}

#[test]
fn stored_weights_match_the_values_that_were_chosen() {
    let mut random = SplitMix(6);
    for format in FORMATS {
        let w = weights(&mut random);
        let importance: Vec<f32> = (0..w.columns).map(|_| 1.5 + random.signed()).collect();
        for mut grid in [Grid::plain(&w, format).unwrap(), Grid::searched(&w, format, &importance).unwrap()] {
            grid.scale.iter_mut().for_each(|scale| *scale *= 1.0 + 0.1 * random.signed());
            grid.centre.iter_mut().for_each(|centre| *centre *= 1.0 + 0.1 * random.signed());
            grid.round();
            let codes = grid.nearest_codes(&w.data);
            let values = grid.values(&codes);
            let stored = grid.finish(w.rows, codes).unwrap().dequantize();
            for (i, (value, stored)) in values.iter().zip(stored).enumerate() {
                // a product and a sum of numbers of at most 16 steps and the offset, each rounded once or twice
                let step = grid.step(i / w.columns, i % w.columns / grid.group_size);
                let bound = 2.0 * f32::EPSILON * (16.0 * step.scale.abs() + step.centre.abs());
                assert!((value - stored).abs() <= bound, "{format:?}: {value} is stored as {stored}");
            }
        }
    }
}

#[test]
fn integers_of_two_levels_match_the_best_of_sixteen() {
    let mut random = SplitMix(7);
    let mut largest = 0;
    for _ in 0..20 {
        let w = weights(&mut random);
        let mut grid = Grid::plain(&w, Format::two_level(GROUP)).unwrap();
        let wanted: Vec<f32> = grid.scale.iter().map(|scale| scale * (1.0 + 0.2 * random.signed())).collect();
        grid.scale.clone_from(&wanted);
        grid.round();
        for ((&wanted, &scale), &integer) in wanted.iter().zip(&grid.scale).zip(&grid.integer) {
            let channel = scale / f32::from(integer);
            let miss = |integer: u8| (channel * f32::from(integer) - wanted).abs();
            let least = (1..=16).map(miss).fold(f32::INFINITY, f32::min);
            assert!(miss(integer) <= least * (1.0 + 1e-5) + 1e-6 * scale, "{integer} of {channel} for {wanted}");
            largest = largest.max(integer);
        }
        for row in wanted.chunks_exact(grid.groups()) {
            let error = |channel: f32| -> f64 {
                let of = |&s: &f32| {
                    let integer = (f64::from(s) / f64::from(channel)).round().clamp(1.0, 16.0);
                    (f64::from(channel) * integer / f64::from(s) - 1.0).powi(2)
                };
                row.iter().map(of).sum()
            };
            let top = row.iter().copied().fold(0.0, f32::max);
            let found = best_channel(row);
            // no multiple that reaches the largest is better by much than the one of a grid of 48
            let best = (0..400).map(|i| error(top / 16.0 * (0.97 + i as f32 * 0.0024))).fold(f64::INFINITY, f64::min);
            assert!(error(found) <= 1.3 * best + 1e-3, "{} {best}", error(found));
        }
    }
    assert_eq!(largest, 16);
}

#[test]
fn scales_of_qqq_reach_127_in_the_largest_group_of_each_row_and_no_further() {
    let w = weights(&mut SplitMix(8));
    let grid = Grid::plain(&w, Format::qqq()).unwrap();
    let codes = grid.nearest_codes(&w.data);
    let stored = grid.finish(w.rows, codes.clone()).unwrap();
    let group_scale = stored.scales().group.as_ref().unwrap();
    let reach = |group: usize| {
        let codes = &codes[group * 128..(group + 1) * 128];
        codes.iter().map(|&code| (f32::from(code) - CENTRE).abs()).fold(0.0, f32::max) * group_scale.get(group)
    };
    for row in 0..w.rows {
        let largest = reach(2 * row).max(reach(2 * row + 1));
        // rounded to f16
        assert!((largest / 127.0 - 1.0).abs() <= 2f32.powi(-11), "{largest}");
    }
}

/// Σ weight · (w − nearest level)² in f64.
fn loss(w: &[f32], weight: &[f32], step: Step) -> f64 {
    let (scale, centre) = (f64::from(step.scale), f64::from(step.centre));
    let levels: Vec<f64> = (0..=LEVELS as i32).map(|code| scale * f64::from(code - 8) + centre).collect();
    let miss = |w: f32| levels.iter().map(|level| (level - f64::from(w)).powi(2)).fold(f64::INFINITY, f64::min);
    w.iter().zip(weight).map(|(&w, &h)| f64::from(h) * miss(w)).sum()
}

#[test]
fn searched_steps_beat_every_even_clipping_under_the_weights() {
    let mut random = SplitMix(9);
    let (mut better, mut plain) = (0.0, 0.0);
    for _ in 0..50 {
        let w: Vec<f32> = (0..GROUP).map(|_| random.signed() + 0.3).collect();
        // few columns count: the best scale is theirs
        let weight: Vec<f32> = (0..GROUP).map(|_| if random.below(8) == 0 { 100.0 } else { 0.1 }).collect();
        let reach = w.iter().fold(0.0f32, |max, v| max.max(v.abs())) / 7.5;
        let (low, high) = w.iter().fold((f32::MAX, f32::MIN), |(low, high), &v| (low.min(v), high.max(v)));
        let signed = loss(&w, &weight, search_symmetric(&w, &weight, true));
        let positive = search_symmetric(&w, &weight, false);
        let offset = loss(&w, &weight, search_offset(&w, &weight));
        assert!(positive.scale > 0.0);
        for clip in [1.0, 0.94, 0.88, 0.82, 0.76, 0.7, 0.64, 0.58, 0.51, 0.43] {
            let even = |scale: f32| loss(&w, &weight, Step { scale, centre: 0.0 });
            assert!(loss(&w, &weight, positive) <= even(reach * clip) * 1.001, "{clip}");
            assert!(signed <= even(reach * clip).min(even(-reach * clip)) * 1.001, "{clip}");
            let scale = clip * (high - low) / LEVELS;
            let both = loss(&w, &weight, Step { scale, centre: clip * low + CENTRE * scale });
            assert!(offset <= both * 1.001, "{clip}: {offset} {both}");
        }
        let full = (high - low) / LEVELS;
        plain += loss(&w, &weight, Step { scale: full, centre: low + CENTRE * full });
        better += offset;
    }
    assert!(better < 0.5 * plain, "{better} of {plain}");
}
