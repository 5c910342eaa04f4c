//! Whole passes: attention rounds to 16 bits on tensor cores, so logits are near the CPU's, not equal.

use crate::definition::{Rounding, distance, logits};
use crate::device::device;
use crate::plain::{Kind, Plain, THRESHOLDS, roomy, tokens, with_thresholds};
use moray::attention::{KvDtype, KvPolicy};
use moray::llama::{Backend, LogitRows, Model, Sequence, Settings, cuda};
use moray::policy::HeadNorm;
use moray::w4a8::{Format, Offset};
use moray::{Cpu, Device};

/// Longer than a block of the KV cache.
pub const LEN: usize = 70;

pub fn settings(context: usize) -> Settings {
    Settings { kv_dtype: KvDtype::F16, ..roomy(context) }
}

/// Logits of a new session: the first tokens in one piece, the last ones one after another.
pub fn run<B: Backend>(backend: &B, model: &Model<B>, settings: &Settings, tokens: &[u32], first: usize) -> Vec<f32> {
    let mut session = model.session(backend, settings.clone()).unwrap();
    let mut all = Vec::new();
    let mut feed = |session: &mut _, tokens: &[u32]| {
        let logits = model.forward(backend, session, &[Sequence { slot: 1, tokens }], LogitRows::All);
        all.extend_from_slice(logits.unwrap());
    };
    feed(&mut session, &tokens[..first]);
    session.start_generation(1).unwrap();
    tokens[first..].iter().for_each(|token| feed(&mut session, &[*token]));
    all
}

/// Checks that the device is no further from the exact logits than twice the CPU, whose KV cache is rounded to the same type
/// and whose arithmetic is f32.
fn check(device: &Device, plain: &Plain, model: &Model<Cpu>, settings: &Settings, seed: u64, what: &str) {
    let (cpu, tokens) = (Cpu::detect(), tokens(seed, LEN));
    let exact = logits(plain, &tokens, Rounding::NONE);
    let on_cpu = distance(&run(&cpu, model, settings, &tokens, LEN - 6), &exact);
    let uploaded = cuda::upload(device, model).unwrap();
    let got = distance(&run(device, &uploaded, settings, &tokens, LEN - 6), &exact);
    println!("{what}: {got:?}, the CPU {on_cpu:?}");
    assert!(got.1 <= 2.0 * on_cpu.1, "{what}: mean distance {got:?}, the CPU's {on_cpu:?}");
}

#[test]
fn dense_logits_are_as_near_to_the_f64_definition_as_the_cpu_on_every_configuration() {
    let Some(device) = device() else { return };
    for (seed, kind) in Kind::all().iter().enumerate() {
        let plain = Plain::new(kind, seed as u64);
        check(&device, &plain, &plain.dense(), &settings(LEN), seed as u64 + 100, &format!("{kind:?}"));
    }
}

/// A threshold that an input misses by less than the error of either pass cuts off a whole input, so what is compared is the mean; over
/// an f32 cache, where errors are small, few do.
#[test]
fn logits_over_inputs_above_thresholds_match_the_f64_definition_of_the_same() {
    let Some(device) = device() else { return };
    for (seed, kind) in Kind::all().iter().enumerate() {
        let (plain, tokens) = (Plain::new(kind, seed as u64), tokens(seed as u64 + 500, LEN));
        let all = logits(&plain, &tokens, Rounding::NONE);
        let exact = logits(&plain, &tokens, Rounding { thresholds: THRESHOLDS.map(f64::from), ..Rounding::NONE });
        let cost = distance(&exact, &all).1;
        let settings = with_thresholds(Settings { kv_dtype: KvDtype::F32, ..settings(LEN) }, kind.n_layers);
        let model = cuda::upload(&device, &plain.by_input()).unwrap();
        let (_, mean) = distance(&run(&device, &model, &settings, &tokens, LEN - 6), &exact);
        println!("{kind:?}: {mean} where the thresholds themselves change {cost}");
        assert!(mean <= cost / 100.0, "{kind:?}: {mean} where the thresholds themselves change {cost}");
    }
}

/// In f32 nothing is rounded but sums, and tensor cores take products of 22 bits: 4 times the CPU's distance, which is 2⁻²⁴ of
/// every product.
#[test]
fn dense_logits_over_an_f32_cache_are_as_near_to_the_f64_definition_as_products_of_22_bits() {
    let Some(device) = device() else { return };
    let settings = Settings { kv_dtype: KvDtype::F32, ..settings(LEN) };
    for (seed, kind) in Kind::all().iter().enumerate() {
        let plain = Plain::new(kind, seed as u64);
        let model = plain.dense();
        let (cpu, tokens) = (Cpu::detect(), tokens(seed as u64 + 100, LEN));
        let exact = logits(&plain, &tokens, Rounding::NONE);
        let on_cpu = distance(&run(&cpu, &model, &settings, &tokens, LEN - 6), &exact);
        let uploaded = cuda::upload(&device, &model).unwrap();
        let got = distance(&run(&device, &uploaded, &settings, &tokens, LEN - 6), &exact);
        println!("{kind:?}: {got:?}, the CPU {on_cpu:?}");
        assert!(got.1 <= 4.0 * on_cpu.1, "{kind:?}: mean distance {got:?}, the CPU's {on_cpu:?}");
    }
}

#[test]
fn w4a8_logits_are_as_near_to_the_dequantized_model_as_the_cpu() {
    let Some(device) = device() else { return };
    let kind = Kind::default();
    let plain = Plain::new(&kind, 7);
    for format in [Format::per_channel(), Format::per_group(32, Offset::F16), Format::two_level(32)] {
        let rounded = plain.rounded_to(format);
        check(&device, &rounded, &plain.w4a8(format), &settings(LEN), 8, &format!("{format:?}"));
    }
}

#[test]
fn skipped_heads_give_logits_near_the_cpus_under_every_kv_policy() {
    let Some(device) = device() else { return };
    let kind = Kind { heads: (8, 4, 16), ..Kind::default() };
    let (plain, cpu, tokens) = (Plain::new(&kind, 9), Cpu::detect(), tokens(10, LEN));
    let model = plain.dense();
    let uploaded = cuda::upload(&device, &model).unwrap();
    for kv in [KvPolicy::WriteAll, KvPolicy::Hole, KvPolicy::Zero, KvPolicy::Recompute { lag: 6 }] {
        for refresh in [0, 4] {
            let heads = HeadNorm::new(0.5, refresh).unwrap().whole_groups();
            let settings = Settings { kv, ..settings(LEN) }.with(heads);
            let expected = run(&cpu, &model, &settings, &tokens, LEN - 12);
            let got = run(&device, &uploaded, &settings, &tokens, LEN - 12);
            // another choice of heads would move logits by tenths; rounding q and the weights to 11 bits moves them by 2⁻¹¹ of
            // their size, several times over two layers
            let largest = expected.iter().fold(0.0f32, |max, v| max.max(v.abs()));
            let apart = got.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            println!("{kv:?}, refresh {refresh}: {apart} of {largest}");
            assert!(apart <= largest * 8.0 / 2048.0, "{kv:?}, refresh {refresh}: {apart} of {largest}");
        }
    }
}

#[test]
fn sequences_of_one_call_have_the_logits_that_they_have_alone() {
    let Some(device) = device() else { return };
    let plain = Plain::new(&Kind::default(), 11);
    let uploaded = cuda::upload(&device, &plain.w4a8(Format::per_channel())).unwrap();
    let settings = settings(40);
    let prompts = [tokens(12, 9), tokens(13, 21), tokens(14, 1)];
    let mut session = uploaded.session(&device, settings.clone()).unwrap();
    let sequences: Vec<_> = prompts.iter().enumerate().map(|(slot, tokens)| Sequence { slot, tokens }).collect();
    let together = uploaded.forward(&device, &mut session, &sequences, LogitRows::All).unwrap().to_vec();
    let mut alone = Vec::new();
    for (slot, tokens) in prompts.iter().enumerate() {
        let mut session = uploaded.session(&device, settings.clone()).unwrap();
        let sequence = Sequence { slot, tokens };
        alone.extend_from_slice(uploaded.forward(&device, &mut session, &[sequence], LogitRows::All).unwrap());
    }
    let apart = together.iter().zip(&alone).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let largest = alone.iter().fold(0.0f32, |max, v| max.max(v.abs()));
    assert!(apart <= largest * 8.0 / 2048.0, "{apart} of {largest}");
}
