//! Bad calls: a typed error, and a session that goes on as if nothing had been asked.

use moray::attention::KvPolicy;
use moray::llama::{DenseType, DenseWeight, LogitRows, Model, Sequence, Settings};
use moray::policy::TopK;
use moray::w4a8::Format;
use moray::{Cpu, Error};

use crate::common::bits;
use crate::plain::{D_FF, Kind, Plain, VOCAB, feed, roomy, tokens};

const CONTEXT: usize = 16;

fn small() -> Settings {
    Settings { max_tokens: 8, max_logits: 6, slots: 2, ..roomy(CONTEXT) }
}

fn call<'a>(slot: usize, tokens: &'a [u32]) -> Sequence<'a> {
    Sequence { slot, tokens }
}

#[test]
fn a_refused_call_leaves_the_session_as_it_was() {
    let cpu = Cpu::detect();
    let model = Plain::new(&Kind::default(), 1).dense();
    let text = tokens(1, CONTEXT);
    let past_vocab = [VOCAB as u32];
    type Check = fn(&Error) -> bool;
    let cases: &[(&[Sequence<'_>], LogitRows, Check)] = &[
        (&[], LogitRows::Last, |e| matches!(e, Error::Shape { what: "sequences", got: 0, .. })),
        (&[call(0, &[])], LogitRows::Last, |e| matches!(e, Error::Shape { what: "tokens", got: 0, .. })),
        (&[call(0, &[1]), call(1, &[])], LogitRows::Last, |e| matches!(e, Error::Shape { what: "tokens", .. })),
        (&[call(0, &past_vocab)], LogitRows::Last, |e| {
            matches!(e, Error::Index { what: "token", limit: VOCAB, got: VOCAB })
        }),
        (&[call(0, &[1, u32::MAX])], LogitRows::Last, |e| matches!(e, Error::Index { what: "token", .. })),
        (&[call(2, &[1])], LogitRows::Last, |e| matches!(e, Error::Index { what: "slot", limit: 2, got: 2 })),
        (&[call(0, &[1]), call(0, &[2])], LogitRows::Last, |e| {
            matches!(e, Error::Unsupported { what: "sequences", .. })
        }),
        (&[call(0, &[1; 9])], LogitRows::Last, |e| matches!(e, Error::Shape { what: "tokens", got: 9, .. })),
        (&[call(0, &[1; 7])], LogitRows::All, |e| matches!(e, Error::Shape { what: "logits", got: 7, .. })),
        (&[call(0, &[1; 4]), call(1, &[1; 5])], LogitRows::Last, |e| {
            matches!(e, Error::Shape { what: "tokens", got: 9, .. })
        }),
    ];
    for (sequences, rows, check) in cases {
        let mut session = model.session(&cpu, small()).unwrap();
        let mut expected = model.session(&cpu, small()).unwrap();
        feed(&cpu, &model, &mut session, &text[..5]);
        feed(&cpu, &model, &mut expected, &text[..5]);
        let error = model.forward(&cpu, &mut session, sequences, *rows).unwrap_err();
        assert!(check(&error), "{error:?} for {sequences:?}");
        assert_eq!((session.len(0), session.len(1)), (5, 0));
        let (got, expected) =
            (feed(&cpu, &model, &mut session, &text[5..9]), feed(&cpu, &model, &mut expected, &text[5..9]));
        assert_eq!(bits(&got), bits(&expected), "{sequences:?}");
    }
}

#[test]
fn a_full_context_refuses_the_next_token_and_a_truncated_one_takes_it() {
    let cpu = Cpu::detect();
    let model = Plain::new(&Kind::default(), 2).dense();
    let text = tokens(2, CONTEXT);
    let mut session = model.session(&cpu, small()).unwrap();
    model.prefill(&cpu, &mut session, 0, &text).unwrap();
    let full = |error: Error| assert!(matches!(error, Error::Index { what: "position", limit: CONTEXT, got: CONTEXT }));
    full(model.forward(&cpu, &mut session, &[call(0, &[1])], LogitRows::Last).unwrap_err());
    full(model.prefill(&cpu, &mut session, 0, &[1]).unwrap_err());
    model.truncate(&cpu, &mut session, 0, CONTEXT - 1).unwrap();
    assert_eq!(feed(&cpu, &model, &mut session, &[1]).len(), VOCAB);
    // 17 tokens into 16 positions: refused before the first call
    let mut session = model.session(&cpu, small()).unwrap();
    assert!(matches!(
        model.prefill(&cpu, &mut session, 1, &[1; CONTEXT + 1]).unwrap_err(),
        Error::Index { what: "position", limit: CONTEXT, got: CONTEXT }
    ));
    assert_eq!(session.len(1), 0);
}

#[test]
fn prompts_that_are_not_there_are_refused() {
    let cpu = Cpu::detect();
    let model = Plain::new(&Kind::default(), 3).dense();
    let mut session = model.session(&cpu, small()).unwrap();
    assert!(matches!(model.prefill(&cpu, &mut session, 0, &[]).unwrap_err(), Error::Shape { got: 0, .. }));
    assert!(matches!(model.prefill(&cpu, &mut session, 5, &[1]).unwrap_err(), Error::Index { what: "slot", .. }));
    assert!(matches!(session.start_generation(0).unwrap_err(), Error::Shape { what: "prompt", .. }));
    assert!(matches!(session.start_generation(2).unwrap_err(), Error::Index { what: "slot", .. }));
    assert!(matches!(model.truncate(&cpu, &mut session, 2, 0).unwrap_err(), Error::Index { what: "slot", .. }));
    assert_eq!(feed(&cpu, &model, &mut session, &[1]).len(), VOCAB);
}

#[test]
fn settings_that_cannot_be_are_refused() {
    let cpu = Cpu::detect();
    let plain = Plain::new(&Kind::default(), 4);
    let model = plain.dense();
    let changes: [(fn(&mut Settings), &str); 4] = [
        (|settings| settings.slots = 0, "slots"),
        (|settings| settings.context = 0, "context"),
        (|settings| settings.max_tokens = 0, "max_tokens"),
        (|settings| settings.max_logits = 0, "max_logits"),
    ];
    for (change, name) in changes {
        let mut settings = small();
        change(&mut settings);
        let error = model.session(&cpu, settings).unwrap_err();
        assert!(matches!(error, Error::Shape { what, got: 0, .. } if what == name), "{error}");
    }
    // more kept inputs than an address has bits for
    for lag in [1 << 40, usize::MAX] {
        let error = model.session(&cpu, Settings { kv: KvPolicy::Recompute { lag }, ..small() }).unwrap_err();
        assert!(matches!(error, Error::Shape { what: "lag", got, .. } if got == lag), "{error}");
    }
    // neurons cannot be selected in whole matrices
    let refused = model
        .session(&cpu, small().with(TopK::by_gate(0.5, D_FF).unwrap()))
        .and_then(|mut session| model.forward(&cpu, &mut session, &[call(0, &[1])], LogitRows::Last).map(<[f32]>::len));
    assert!(matches!(refused.unwrap_err(), Error::Unsupported { what: "mlp", .. }));
}

#[test]
fn models_whose_parts_do_not_fit_are_refused() {
    let cpu = Cpu::detect();
    let plain = Plain::new(&Kind::default(), 5);
    let parts = || plain.dense_parts();
    let (config, embedding, mut layers, norm) = parts();
    layers.pop();
    let error = Model::<Cpu>::new(config, embedding, layers, norm, None).unwrap_err();
    assert!(matches!(error, Error::Length { what: "layers", expected: 2, got: 1 }));
    let (mut config, embedding, layers, norm) = parts();
    config.d_ff += 32;
    let refused =
        Model::<Cpu>::new(config, embedding, layers, norm, None).and_then(|m| m.session(&cpu, small()).map(drop));
    assert!(matches!(refused.unwrap_err(), Error::Length { what: "mlp gate", .. }));
    let (mut config, embedding, layers, norm) = parts();
    config.rms_eps = 0.0;
    let error = Model::<Cpu>::new(config, embedding, layers, norm, None).unwrap_err();
    assert!(matches!(error, Error::Value { what: "rms_eps", .. }));
}

/// Token `VOCAB − 1` alone has something in channel 0, which the second layer's norm takes beyond f32; by then the first
/// layer has written its K and V.
#[test]
fn activations_that_are_not_finite_are_refused_and_the_session_goes_on() {
    let cpu = Cpu::detect();
    let mut plain = Plain::new(&Kind::default(), 6);
    let d = plain.config.d_model;
    for (token, row) in plain.embedding.w.chunks_exact_mut(d).enumerate() {
        row[0] = if token == VOCAB - 1 { 100.0 } else { 0.0 };
    }
    let layer = &mut plain.layers[0];
    layer.o.w[..layer.o.k].fill(0.0);
    layer.down.w[..D_FF].fill(0.0);
    plain.layers[1].attn_norm[0] = 3e38;
    let text: Vec<u32> = tokens(6, 12).into_iter().map(|token| token % (VOCAB as u32 - 1)).collect();
    for model in [plain.w4a8(Format::per_channel()), plain.w4a8_by_neuron(Format::per_channel())] {
        let (mut session, mut expected) =
            (model.session(&cpu, small()).unwrap(), model.session(&cpu, small()).unwrap());
        for session in [&mut session, &mut expected] {
            feed(&cpu, &model, session, &text[..6]);
        }
        let bad = [VOCAB as u32 - 1];
        let error = model.forward(&cpu, &mut session, &[call(0, &bad)], LogitRows::Last).unwrap_err();
        assert!(matches!(error, Error::Value { .. }), "{error}");
        assert_eq!(session.len(0), 6);
        let (got, expected) =
            (feed(&cpu, &model, &mut session, &text[6..]), feed(&cpu, &model, &mut expected, &text[6..]));
        assert_eq!(bits(&got), bits(&expected));
    }
}

#[test]
fn matrices_that_no_memory_can_hold_are_typed_errors() {
    let huge = 1usize << 59;
    for (n, k) in [(huge, 32), (32, huge), (usize::MAX, 1)] {
        let zeros = DenseWeight::zeros(n, k, DenseType::F32);
        assert!(matches!(zeros, Err(Error::Shape { what: "n", .. })), "{n} × {k}: {zeros:?}");
        let from = DenseWeight::from_f32(&[], n, k, DenseType::F16);
        assert!(matches!(from, Err(Error::Shape { .. } | Error::Length { .. })), "{n} × {k}: {from:?}");
    }
}
