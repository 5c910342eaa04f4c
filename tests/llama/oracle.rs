//! Logits against the definition: no further from the exact ones than twice a plain implementation of the same
//! precision, which rounds after every operation and sums from left to right.

use moray::Cpu;
use moray::w4a8::{Format, Offset};

use crate::common::{bits, cpus};
use crate::definition::{Rounding, distance, logits};
use crate::plain::{Kind, Plain, THRESHOLDS, roomy, tokens, whole, with_thresholds};

/// Longer than a block of the KV cache.
const LEN: usize = 70;

#[test]
fn dense_f32_logits_match_the_f64_definition_on_every_configuration() {
    for (seed, kind) in Kind::all().iter().enumerate() {
        let (plain, tokens) = (Plain::new(kind, seed as u64), tokens(seed as u64 + 100, LEN));
        let exact = logits(&plain, &tokens, Rounding::NONE);
        let (worst, mean) = distance(&logits(&plain, &tokens, Rounding::F32), &exact);
        for cpu in cpus() {
            let got = whole(&cpu, &plain.dense(), &roomy(LEN), &tokens);
            let (got_worst, got_mean) = distance(&got, &exact);
            assert!(got_worst <= 2.0 * worst, "{kind:?}: {got_worst} with a plain f32 pass at {worst}");
            assert!(got_mean <= 2.0 * mean, "{kind:?}: {got_mean} with a plain f32 pass at {mean}");
        }
    }
}

#[test]
fn by_neuron_and_by_input_f32_logits_match_the_f64_definition_on_every_configuration() {
    for (seed, kind) in Kind::all().iter().enumerate() {
        let (plain, tokens) = (Plain::new(kind, seed as u64), tokens(seed as u64 + 100, LEN));
        let exact = logits(&plain, &tokens, Rounding::NONE);
        let (worst, mean) = distance(&logits(&plain, &tokens, Rounding::F32), &exact);
        for cpu in cpus() {
            for model in [plain.by_neuron(), plain.by_input()] {
                let (got_worst, got_mean) = distance(&whole(&cpu, &model, &roomy(LEN), &tokens), &exact);
                assert!(got_worst <= 2.0 * worst && got_mean <= 2.0 * mean, "{kind:?}: {got_worst}, {got_mean}");
            }
        }
    }
}

#[test]
fn w4a8_logits_match_the_dequantized_model_as_closely_as_int8_activations_allow() {
    let modes = [
        Format::per_channel(),
        Format::per_group(32, Offset::F16),
        Format::per_group(32, Offset::None),
        Format::two_level(32),
        Format::w8(),
    ];
    for (seed, kind) in Kind::all().iter().enumerate() {
        let (plain, tokens) = (Plain::new(kind, seed as u64), tokens(seed as u64 + 200, LEN));
        for format in modes {
            let rounded = plain.rounded_to(format);
            let exact = logits(&rounded, &tokens, Rounding::NONE);
            let (_, mean) = distance(&logits(&rounded, &tokens, Rounding::INT8), &exact);
            for cpu in cpus() {
                let got = whole(&cpu, &plain.w4a8(format), &roomy(LEN), &tokens);
                let (_, got_mean) = distance(&got, &exact);
                assert!(got_mean <= 2.0 * mean, "{kind:?}, {format:?}: {got_mean} with plain int8 at {mean}");
            }
        }
    }
}

#[test]
fn by_neuron_and_by_input_logits_match_whole_4_bit_matrices_bit_for_bit() {
    for (seed, kind) in Kind::all().iter().enumerate() {
        let (plain, tokens) = (Plain::new(kind, seed as u64), tokens(seed as u64 + 300, LEN));
        for format in [Format::per_channel(), Format::per_group(32, Offset::F16)] {
            for cpu in cpus() {
                let whole_mlp = whole(&cpu, &plain.w4a8(format), &roomy(LEN), &tokens);
                let by_neuron = whole(&cpu, &plain.w4a8_by_neuron(format), &roomy(LEN), &tokens);
                assert_eq!(bits(&whole_mlp), bits(&by_neuron), "{kind:?}, {format:?}");
                let by_input = whole(&cpu, &plain.w4a8_by_input(format), &roomy(LEN), &tokens);
                assert_eq!(bits(&whole_mlp), bits(&by_input), "{kind:?}, {format:?}");
            }
        }
    }
}

/// A threshold that an input misses by less than the error of either pass cuts off a whole input, so what is compared is the mean.
#[test]
fn logits_over_inputs_above_thresholds_match_the_f64_definition_of_the_same() {
    for (seed, kind) in Kind::all().iter().enumerate() {
        let (plain, tokens) = (Plain::new(kind, seed as u64), tokens(seed as u64 + 400, LEN));
        let all = logits(&plain, &tokens, Rounding::NONE);
        let exact = logits(&plain, &tokens, Rounding { thresholds: THRESHOLDS.map(f64::from), ..Rounding::NONE });
        let cost = distance(&exact, &all).1;
        let settings = with_thresholds(roomy(LEN), kind.n_layers);
        let got = whole(&Cpu::detect(), &plain.by_input(), &settings, &tokens);
        let (_, mean) = distance(&got, &exact);
        assert!(mean <= cost / 100.0, "{kind:?}: {mean} where the thresholds themselves change {cost}");
    }
}
