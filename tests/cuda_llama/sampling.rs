//! Drawn tokens: the CPU's, one by one and from a captured graph.

use crate::common::Random;
use crate::device::{device, with_late_warps};
use crate::plain::{Kind, Plain, roomy, tokens};
use moray::attention::KvDtype;
use moray::llama::cuda::{self, Decoder, NO_TOKEN, Samplers};
use moray::llama::{LogitRows, Sampler, Sampling, Sequence, Settings};
use moray::{Device, Error};

const fn sampling(temperature: f32, top_p: f32, min_p: f32) -> Sampling {
    Sampling { temperature, top_p, min_p }
}

const SETTINGS: [Sampling; 9] = [
    Sampling::GREEDY,
    sampling(1.0, 1.0, 0.0),
    sampling(0.7, 0.9, 0.0),
    sampling(1.3, 0.95, 0.05),
    sampling(2.0, 0.3, 0.0),
    sampling(1.0, 1e-6, 0.0),
    sampling(1e-30, 0.5, 0.5),
    sampling(50.0, 0.999, 0.0),
    sampling(1.0, 1.0, 1.0),
];

/// Rows of logits of every kind.
fn rows(vocab: usize, random: &mut Random) -> Vec<Vec<f32>> {
    let mut rows = vec![random.weights(vocab, 3.0), random.weights(vocab, 0.1)];
    // ties: few distinct values, so that a cut of top_p falls among equals
    rows.push((0..vocab).map(|_| random.below(4) as f32).collect());
    rows.push(vec![-2.5; vocab]);
    rows.push((0..vocab).map(|_| if random.below(3) == 0 { f32::NEG_INFINITY } else { random.weight(2.0) }).collect());
    rows[4][vocab / 2] = 0.25; // not all −∞
    let mut huge = random.weights(vocab, 1e37);
    huge[vocab - 1] = -f32::MAX;
    rows.push(huge);
    // refused
    rows.push(vec![f32::NEG_INFINITY; vocab]);
    for bad in [f32::NAN, f32::INFINITY] {
        let mut row = random.weights(vocab, 1.0);
        row[vocab - 1] = bad;
        rows.push(row);
    }
    rows
}

/// Draws `draws` times from every row with every setting, `at_once` of these in a call, on both sides.
fn compare_some(device: &Device, vocab: usize, settings: &[Sampling], draws: usize, at_once: usize) {
    let rows = rows(vocab, &mut Random::new(vocab as u64));
    let pairs: Vec<_> = rows.iter().flat_map(|row| settings.iter().map(move |setting| (row, *setting))).collect();
    for (pairs, call) in pairs.chunks(at_once).zip(0..) {
        let logits: Vec<f32> = pairs.iter().flat_map(|(row, _)| row.iter().copied()).collect();
        let sampler = |(&(_, setting), seed): (&(_, _), u64)| Sampler::new(setting, seed * 77 + 5 + call).unwrap();
        let mut on_cpu: Vec<Sampler> = pairs.iter().zip(0..).map(sampler).collect();
        let mut samplers = Samplers::new(device, &on_cpu, vocab).unwrap();
        let logits = device.upload(&logits).unwrap();
        let mut token = device.zeros::<u32>(on_cpu.len()).unwrap();
        for draw in 0..draws {
            samplers.sample(device, &logits.as_view(), &mut token.as_view_mut()).unwrap();
            let got = device.download(&token).unwrap();
            for (((row, setting), sampler), got) in pairs.iter().zip(&mut on_cpu).zip(got) {
                let expected = sampler.sample(row).unwrap_or(NO_TOKEN);
                let what = format!("draw {draw} of {setting:?}, vocab {vocab}, {at_once} at once");
                assert_eq!(got, expected, "{what}, logits from {:?}", &row[..1]);
            }
        }
    }
}

/// The same with all at once, where a row has one block.
fn compare(device: &Device, vocab: usize, settings: &[Sampling], draws: usize) {
    compare_some(device, vocab, settings, draws, usize::MAX);
}

#[test]
fn draws_match_the_cpus_for_all_settings_ties_infinities_and_refusals() {
    let Some(device) = device() else { return };
    for (vocab, draws) in [(1, 2), (2, 4), (33, 6), (1000, 2)] {
        compare(&device, vocab, &SETTINGS, draws);
    }
}

#[test]
fn draws_match_the_cpus_over_the_vocabulary_of_a_real_model() {
    let Some(device) = device() else { return };
    compare(&device, 49_152, &SETTINGS[3..4], 1);
    compare_some(&device, 49_152, &SETTINGS[2..4], 2, 1);
}

/// Rows of less than a block's share, of one, of one and a logit more, of as many as there are multiprocessors and of more; alone, and several
/// of different settings side by side.
#[test]
fn draws_of_rows_that_blocks_share_match_the_cpus() {
    let Some(device) = device() else { return };
    for (vocab, draws, at_once) in
        [(1, 1, 1), (1023, 1, 2), (1024, 1, 1), (1025, 3, 1), (2049, 2, 4), (3100, 2, 3), (16_500, 1, 1)]
    {
        compare_some(&device, vocab, &SETTINGS, draws, at_once);
    }
}

/// What a row's blocks leave each other is there when they are told so.
#[test]
fn draws_of_rows_that_blocks_share_match_where_warps_are_late() {
    const NAME: &str = "sampling::draws_of_rows_that_blocks_share_match_where_warps_are_late";
    with_late_warps(NAME, || {
        let Some(device) = device() else { return };
        compare_some(&device, 3100, &SETTINGS, 2, 2);
    });
}

#[test]
fn replayed_draws_match_the_cpu_sampler_over_single_calls() {
    let Some(device) = device() else { return };
    let plain = Plain::new(&Kind { tied: false, ..Kind::default() }, 51);
    let model = cuda::upload(&device, &plain.dense()).unwrap();
    let settings = Settings { kv_dtype: KvDtype::F32, ..roomy(40) };
    let (slots, steps) = ([2, 0], 8);
    let samplers =
        [sampling(1.5, 0.95, 0.0), sampling(0.9, 1.0, 0.02)].map(|setting| Sampler::new(setting, 9).unwrap());
    let prompts = [tokens(1, 5), tokens(2, 9)];

    let mut session = model.session(&device, settings.clone()).unwrap();
    let mut draws = samplers.clone();
    let mut next: Vec<u32> = Vec::new();
    for ((slot, prompt), sampler) in slots.into_iter().zip(&prompts).zip(&mut draws) {
        next.push(sampler.sample(model.prefill(&device, &mut session, slot, prompt).unwrap()).unwrap());
    }
    let (start, begun) = (next.clone(), draws.clone());
    let mut expected = Vec::new();
    for _ in 0..steps {
        let sequences = [0, 1].map(|i| Sequence { slot: slots[i], tokens: std::slice::from_ref(&next[i]) });
        let logits = model.forward(&device, &mut session, &sequences, LogitRows::Last).unwrap();
        let rows = logits.chunks(model.config().vocab).zip(&mut draws);
        next = rows.map(|(row, sampler)| sampler.sample(row).unwrap()).collect();
        expected.push(next.clone());
    }
    // the draws are not those of a greedy sampler, and differ from step to step
    assert!(expected.windows(2).any(|pair| pair[0] != pair[1]));

    let mut session = model.session(&device, settings).unwrap();
    for (slot, prompt) in slots.into_iter().zip(&prompts) {
        model.prefill(&device, &mut session, slot, prompt).unwrap();
    }
    let mut decoder = Decoder::capture_sampling(&device, &model, &mut session, &slots, &start, &begun).unwrap();
    for expected in &expected {
        assert_eq!(decoder.step().unwrap(), expected);
    }
}

#[test]
fn samplers_that_do_not_fit_are_typed_errors() {
    let Some(device) = device() else { return };
    let one = [Sampler::new(Sampling::GREEDY, 0).unwrap()];
    assert!(matches!(Samplers::new(&device, &[], 4).unwrap_err(), Error::Shape { what: "samplers", .. }));
    assert!(matches!(Samplers::new(&device, &one, 0).unwrap_err(), Error::Shape { what: "vocab", .. }));
    let mut samplers = Samplers::new(&device, &one, 4).unwrap();
    let (logits, mut token) = (device.zeros::<f32>(8).unwrap(), device.zeros::<u32>(2).unwrap());
    let error = samplers.sample(&device, &logits.as_view(), &mut token.slice_mut(..1)).unwrap_err();
    assert_eq!(error, Error::Length { what: "logits", expected: 4, got: 8 });
    let error = samplers.sample(&device, &logits.slice(..4), &mut token.as_view_mut()).unwrap_err();
    assert_eq!(error, Error::Length { what: "token", expected: 1, got: 2 });
    let model = cuda::upload(&device, &Plain::new(&Kind::default(), 52).dense()).unwrap();
    let mut session = model.session(&device, Settings { kv_dtype: KvDtype::F16, ..roomy(8) }).unwrap();
    model.prefill(&device, &mut session, 0, &[1]).unwrap();
    let error = Decoder::capture_sampling(&device, &model, &mut session, &[0], &[1], &[]).unwrap_err();
    assert_eq!(error, Error::Length { what: "samplers", expected: 1, got: 0 });
}
