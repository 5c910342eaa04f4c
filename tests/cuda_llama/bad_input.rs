//! What a session on the device refuses, after which it goes on.

use crate::device::{device, metered};
use crate::plain::{Kind, Plain, VOCAB, roomy};
use moray::Error;
use moray::attention::{KvDtype, KvPolicy};
use moray::llama::{LogitRows, Sequence, Settings, cuda};

#[test]
fn settings_that_cannot_be_are_typed_errors() {
    let Some(device) = device() else { return };
    let model = cuda::upload(&device, &Plain::new(&Kind::default(), 1).dense()).unwrap();
    let f16 = Settings { kv_dtype: KvDtype::F16, ..roomy(8) };
    let recompute = Settings { kv: KvPolicy::Recompute { lag: 1 << 40 }, ..f16.clone() };
    let error = model.session(&device, recompute).unwrap_err();
    assert!(matches!(error, Error::Shape { what: "lag", .. }), "{error}");
    assert!(model.session(&device, f16).is_ok());
}

#[test]
fn bad_calls_are_typed_errors_and_the_session_goes_on() {
    let Some(device) = device() else { return };
    let model = cuda::upload(&device, &Plain::new(&Kind::default(), 2).dense()).unwrap();
    let settings = Settings { kv_dtype: KvDtype::F16, max_logits: 2, ..roomy(8) };
    let mut session = model.session(&device, settings).unwrap();
    let mut call = |slot, tokens: &[u32], rows| {
        model.forward(&device, &mut session, &[Sequence { slot, tokens }], rows).map(|logits| logits.to_vec())
    };
    let token = call(0, &[VOCAB as u32], LogitRows::Last).unwrap_err();
    assert_eq!(token, Error::Index { what: "token", limit: VOCAB, got: VOCAB });
    assert!(matches!(call(3, &[1], LogitRows::Last).unwrap_err(), Error::Index { what: "slot", .. }));
    assert!(matches!(call(0, &[1; 9], LogitRows::Last).unwrap_err(), Error::Index { what: "position", .. }));
    assert!(matches!(call(0, &[1; 3], LogitRows::All).unwrap_err(), Error::Shape { what: "logits", .. }));
    assert!(call(0, &[1; 3], LogitRows::Last).unwrap().iter().all(|v| v.is_finite()));
}

#[test]
fn activations_that_are_not_finite_are_a_typed_error() {
    let Some(device) = device() else { return };
    let mut plain = Plain::new(&Kind::default(), 3);
    // huge but finite weights overflow on the way
    plain.layers[0].gate.w.iter_mut().for_each(|w| *w *= 1e30);
    plain.layers[0].up.w.iter_mut().for_each(|w| *w *= 1e30);
    let model = cuda::upload(&device, &plain.dense()).unwrap();
    let mut session = model.session(&device, Settings { kv_dtype: KvDtype::F16, ..roomy(8) }).unwrap();
    let sequence = Sequence { slot: 0, tokens: &[1, 2] };
    let error = model.forward(&device, &mut session, &[sequence], LogitRows::Last).unwrap_err();
    assert!(matches!(error, Error::Value { what: "logits", .. }), "{error}");
}

/// One call runs, that which shows that the session goes on.
#[test]
fn refused_calls_launch_nothing() {
    let Some(all) = metered("bad_input::refused_calls_launch_nothing", |_| {
        settings_that_cannot_be_are_typed_errors();
        bad_calls_are_typed_errors_and_the_session_goes_on();
    }) else {
        return;
    };
    let count = |name: &str| all.iter().filter(|launch| launch.kernel().contains(name)).count();
    let layers = Kind::default().n_layers;
    assert_eq!(
        (count("llama_embed"), count("attention_decode"), count("norm")),
        (1, layers, 2 * layers + 1),
        "{all:?}"
    );
}
