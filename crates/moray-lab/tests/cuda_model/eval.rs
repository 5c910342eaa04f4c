//! Evaluation on the CUDA device: the CPU's numbers.

use std::path::Path;

use clap::Parser;
use moray_lab::cli::{Cli, run};
use moray_lab::fixture::Fixture;
use serde_json::Value;

use crate::device;

/// What `moray eval` reports of a text on a device.
fn report(files: &[(&str, &Path)], device: &str, switches: &[&str]) -> Value {
    let mut arguments = vec!["moray", "eval", "--context", "24", "--tokens", "60", "--json", "--kv-type", "f32"];
    arguments.extend(["--device", device]);
    arguments.extend(files.iter().flat_map(|(name, file)| [*name, file.to_str().unwrap()]));
    arguments.extend(switches);
    let mut out = Vec::new();
    run(Cli::try_parse_from(arguments).unwrap(), &mut out).unwrap();
    serde_json::from_slice(&out).unwrap()
}

/// Sums of up to 96 terms in f32, in another order through two layers: logits below ten differ by parts in a million. Every
/// mean over positions differs by no more than twice that.
const CLOSE: f64 = 1e-5;

/// With activations in 8 bits such a difference may move one of them to the next code, 1/127 of its row's largest, which is 1/64
/// of one sum of 64 or more. That is below the distance from the dense model, 0.03 nats, by a factor of ten and more.
pub(crate) const CLOSE_IN_CODES: f64 = 1e-3;

/// The numbers of a report: perplexities by their logarithm.
fn numbers(report: &Value) -> [f64; 8] {
    let number = |value: &Value| value.as_f64().unwrap();
    let dense = &report["dense"];
    [
        number(&report["nll"]),
        number(&report["nll_se"]),
        number(&report["perplexity"]).ln(),
        number(&report["perplexity_se"]).ln(),
        number(&dense["perplexity"]).ln(),
        number(&dense["perplexity_se"]).ln(),
        number(&dense["kl"]),
        number(&dense["kl_se"]),
    ]
}

/// Asserts that the device reports the CPU's numbers, and returns its distance from the dense model.
pub(crate) fn compare(files: &[(&str, &Path)], switches: &[&str], close: f64) -> f64 {
    let [cpu, cuda] = ["cpu", "cuda"].map(|device| report(files, device, switches));
    assert_eq!((&cpu["device"], &cuda["device"]), (&"cpu".into(), &"cuda".into()));
    let [expected, got] = [&cpu, &cuda].map(numbers);
    for (expected, got) in expected.iter().zip(got) {
        assert!((got - expected).abs() <= close, "{switches:?}: {cuda}, on the CPU {cpu}");
    }
    for exact in ["scored_tokens", "windows", "scored", "sparse", "kept_heads"] {
        assert_eq!(cuda[exact], cpu[exact], "{switches:?}: {exact}");
    }
    // the device does not say how many neurons pass the thresholds of CATS
    let counts = !switches.contains(&"cats:0.5");
    let kept = if counts { &cpu["kept_neurons"] } else { &Value::Null };
    assert_eq!(&cuda["kept_neurons"], kept, "{switches:?}");
    assert_eq!(cuda["dense"]["agreement_percent"], cpu["dense"]["agreement_percent"], "{switches:?}");
    got[6]
}

#[test]
fn every_number_matches_cpu_for_each_kind_of_run() {
    if device::device().is_none() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let [model, other, text] = ["tiny.gguf", "other.gguf", "text.txt"].map(|name| directory.path().join(name));
    Fixture { n_q_heads: 4, n_kv_heads: 4, ..Fixture::default() }.write_gguf(&model).unwrap();
    Fixture { n_q_heads: 4, n_kv_heads: 4, seed: 9, ..Fixture::default() }.write_gguf(&other).unwrap();
    std::fs::write(&text, "Some plain text, long enough for a few windows of a small model, no more. ").unwrap();
    let alone = [("--model", model.as_path()), ("--text", &text)];
    let against = [("--model", model.as_path()), ("--text", &text), ("--against", &other)];
    let mut found = Vec::new();
    for (files, switches, close) in [
        (&alone[..], &["--weights", "f32"][..], CLOSE),
        (&against, &["--weights", "f32"], CLOSE),
        (&alone, &["--weights", "per-channel"], CLOSE_IN_CODES),
        (&alone, &["--mlp", "topk:0.5"], CLOSE),
        (&alone, &["--mlp", "cats:0.5"], CLOSE),
        (&alone, &["--mlp", "griffin:0.5", "--heads", "norm:0.5", "--kv", "hole"], CLOSE),
        (&alone, &["--mlp", "tda:0.5", "--heads", "norm:0.5:3", "--kv", "recompute:2"], CLOSE),
    ] {
        found.push(compare(files, switches, close));
    }
    // no two kinds of run are as near to the dense model
    found.sort_by(f64::total_cmp);
    assert!(found.windows(2).all(|pair| pair[1] - pair[0] > CLOSE), "{found:?}");
}
