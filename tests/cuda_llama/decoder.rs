//! Greedy decoding as a captured graph.

use crate::device::device;
use crate::plain::{D_FF, Kind, Plain, roomy, tokens, with_thresholds};
use moray::attention::KvDtype;
use moray::llama::cuda::{self, Decoder, NO_TOKEN, Rooms, argmax};
use moray::llama::{Backend, LogitRows, Model, Sampler, Sampling, Sequence, Session, Settings};
use moray::policy::{Griffin, HeadNorm, TopK};
use moray::w4a8::{ActScales, Format, Offset};
use moray::{Device, Error};

const STEPS: usize = 12;

fn settings() -> Settings {
    Settings { kv_dtype: KvDtype::F16, ..roomy(40) }
}

fn greedy(logits: &[f32]) -> u32 {
    Sampler::new(Sampling::GREEDY, 0).unwrap().sample(logits).unwrap()
}

/// Prompts of different lengths in slots 0 to 2; returns the token after each.
fn prefill(device: &Device, model: &Model<Device>, session: &mut Session<Device>) -> Vec<u32> {
    let prompts = [tokens(1, 5), tokens(2, 11), tokens(3, 2)];
    let step = |(slot, prompt): (usize, &Vec<u32>)| greedy(model.prefill(device, session, slot, prompt).unwrap());
    prompts.iter().enumerate().map(step).collect()
}

fn compare(device: &Device, model: &Model<Device>, settings: Settings, slots: &[usize]) {
    let mut session = model.session(device, settings.clone()).unwrap();
    let first = prefill(device, model, &mut session);
    let mut next: Vec<u32> = slots.iter().map(|&slot| first[slot]).collect();
    let start = next.clone();
    let mut expected = Vec::new();
    for _ in 0..STEPS {
        let pairs = slots.iter().zip(&next);
        let sequences: Vec<_> =
            pairs.map(|(&slot, token)| Sequence { slot, tokens: std::slice::from_ref(token) }).collect();
        let logits = model.forward(device, &mut session, &sequences, LogitRows::Last).unwrap();
        let rows = logits.chunks(model.config().vocab);
        let after: Vec<u32> = rows.map(greedy).collect();
        expected.push(after.clone());
        next = after;
    }

    let mut session = model.session(device, settings.clone()).unwrap();
    prefill(device, model, &mut session);
    let vocab = model.config().vocab;
    let mut samplers = device.samplers(&vec![Sampler::new(Sampling::GREEDY, 0).unwrap(); slots.len()], vocab).unwrap();
    let mut next = start.clone();
    for expected in &expected {
        let pairs = slots.iter().zip(&next);
        let sequences: Vec<_> =
            pairs.map(|(&slot, token)| Sequence { slot, tokens: std::slice::from_ref(token) }).collect();
        next = model.next_tokens(device, &mut session, &sequences, &mut samplers).unwrap().to_vec();
        assert_eq!(&next, expected);
    }

    let mut session = model.session(device, settings).unwrap();
    prefill(device, model, &mut session);
    let held: Vec<usize> = slots.iter().map(|&slot| session.len(slot)).collect();
    let mut decoder = Decoder::capture(device, model, &mut session, slots, &start).unwrap();
    for expected in &expected {
        assert_eq!(decoder.step().unwrap(), expected);
    }
    drop(decoder);
    // the session knows of the steps, and goes on
    for (&slot, held) in slots.iter().zip(held) {
        assert_eq!(session.len(slot), held + STEPS);
    }
    let tokens = [expected[STEPS - 1][0]];
    model.forward(device, &mut session, &[Sequence { slot: slots[0], tokens: &tokens }], LogitRows::Last).unwrap();
}

#[test]
fn replayed_steps_match_single_calls_for_one_and_more_slots() {
    let Some(device) = device() else { return };
    let plain = Plain::new(&Kind { biased: true, tied: false, ..Kind::default() }, 21);
    let fine = plain.w4a8_scaled(Format::per_channel(), ActScales::Fine);
    for model in [plain.dense(), plain.w4a8(Format::per_group(32, Offset::F16)), fine] {
        let model = cuda::upload(&device, &model).unwrap();
        compare(&device, &model, settings(), &[1]);
        compare(&device, &model, settings(), &[2, 0, 1]);
    }
}

#[test]
fn replayed_steps_match_single_calls_with_thresholds_on_inputs() {
    let Some(device) = device() else { return };
    let plain = Plain::new(&Kind { heads: (8, 2, 32), ..Kind::default() }, 27);
    for model in [plain.by_input(), plain.w4a8_by_input(Format::per_group(32, Offset::F16))] {
        let model = cuda::upload(&device, &model).unwrap();
        for slots in [&[1][..], &[2, 0, 1]] {
            compare(&device, &model, with_thresholds(settings(), 2), slots);
        }
    }
}

#[test]
fn replayed_steps_match_single_calls_with_skipped_heads() {
    let Some(device) = device() else { return };
    let plain = Plain::new(&Kind { heads: (8, 4, 16), ..Kind::default() }, 22);
    let model = cuda::upload(&device, &plain.dense()).unwrap();
    compare(&device, &model, settings().with(HeadNorm::new(0.5, 0).unwrap()), &[0, 2]);
}

#[test]
fn replayed_steps_match_single_calls_with_selected_neurons() {
    let Some(device) = device() else { return };
    let plain = Plain::new(&Kind { heads: (8, 4, 16), ..Kind::default() }, 25);
    let model = plain.w4a8_by_neuron(Format::per_group(32, Offset::F16));
    let model = cuda::upload(&device, &model).unwrap();
    let heads = || settings().with(HeadNorm::new(0.5, 0).unwrap());
    let top_k = heads().with(TopK::by_gate(0.5, D_FF).unwrap());
    let prompt = heads().with(Griffin::new(0.5).unwrap());
    for settings in [top_k, prompt] {
        // slots with lists of their own take masks
        for slots in [&[1][..], &[0, 2]] {
            compare(&device, &model, settings.clone(), slots);
        }
    }
}

#[test]
fn decoder_refuses_what_a_graph_cannot_hold_and_the_end_of_the_context() {
    let Some(device) = device() else { return };
    let plain = Plain::new(&Kind { heads: (8, 4, 16), ..Kind::default() }, 23);
    let model = cuda::upload(&device, &plain.dense()).unwrap();
    let renewed = settings().with(HeadNorm::new(0.5, 3).unwrap());
    let mut session = model.session(&device, renewed).unwrap();
    prefill(&device, &model, &mut session);
    let error = Decoder::capture(&device, &model, &mut session, &[0], &[1]).unwrap_err();
    assert!(matches!(error, Error::Unsupported { what: "heads", .. }), "{error}");

    let mut session = model.session(&device, Settings { context: 12, ..settings() }).unwrap();
    let error = Decoder::capture(&device, &model, &mut session, &[0], &[1]).unwrap_err();
    assert!(matches!(error, Error::Shape { what: "prompt", .. }), "{error}");
    prefill(&device, &model, &mut session);
    let error = Decoder::capture(&device, &model, &mut session, &[0, 1], &[1]).unwrap_err();
    assert!(matches!(error, Error::Length { what: "tokens", .. }), "{error}");
    let error = Decoder::capture(&device, &model, &mut session, &[3], &[1]).unwrap_err();
    assert!(matches!(error, Error::Index { what: "slot", .. }), "{error}");
    let error = Decoder::capture(&device, &model, &mut session, &[0], &[1000]).unwrap_err();
    assert!(matches!(error, Error::Index { what: "token", .. }), "{error}");
    // slot 1 holds 11 of 12 positions
    let mut decoder = Decoder::capture(&device, &model, &mut session, &[1], &[1]).unwrap();
    assert!(decoder.step().is_ok());
    let error = decoder.step().unwrap_err();
    assert_eq!(error, Error::Index { what: "position", limit: 12, got: 12 });
}

#[test]
fn argmax_matches_the_greedy_sampler() {
    let Some(device) = device() else { return };
    let mut random = crate::common::Random::new(24);
    let (rows, vocab) = (9, 4099);
    let mut logits = random.weights(rows * vocab, 1.0);
    logits[vocab + 7] = 100.0;
    logits[vocab + 4000] = 100.0; // equals: the first
    logits[2 * vocab..3 * vocab].fill(-3.5);
    logits[3 * vocab..4 * vocab].fill(f32::NEG_INFINITY);
    logits[4 * vocab + 4098] = f32::NAN;
    logits[5 * vocab + 1] = f32::INFINITY;
    logits[6 * vocab..7 * vocab].fill(-1.0);
    logits[6 * vocab + 3] = -0.0;
    logits[6 * vocab + 5] = 0.0;
    logits[7 * vocab..8 * vocab].fill(f32::NEG_INFINITY);
    logits[7 * vocab + 2049] = -1e30;
    let expected: Vec<u32> = logits
        .chunks(vocab)
        .map(|row| Sampler::new(Sampling::GREEDY, 0).unwrap().sample(row).unwrap_or(NO_TOKEN))
        .collect();
    let mut got = device.zeros::<u32>(rows).unwrap();
    let logits = device.upload(&logits).unwrap();
    let mut rooms = Rooms::new(&device, rows).unwrap();
    // a row, whose blocks share it, and all at once, of which each has one
    for at_once in [1, 4, rows] {
        device.clear(&mut got).unwrap();
        for first in (0..rows).step_by(at_once) {
            let end = (first + at_once).min(rows);
            let logits = logits.slice(first * vocab..end * vocab);
            argmax(&device, &logits, vocab, &mut got.slice_mut(first..end), &mut rooms).unwrap();
        }
        assert_eq!(device.download(&got).unwrap(), expected, "{at_once} rows at once");
    }
    let mut few = Rooms::new(&device, rows - 1).unwrap();
    let error = argmax(&device, &logits.as_view(), vocab, &mut got.as_view_mut(), &mut few).unwrap_err();
    assert!(matches!(error, Error::Length { what: "rooms", .. }), "{error}");
}
