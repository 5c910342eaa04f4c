//! Two models that were trained alike but for the activation of their MLPs (scripts/activation_pair.py).

use std::path::{Path, PathBuf};

use clap::Parser;
use moray_lab::analyze::Analysis;
use moray_lab::cli::{Cli, run};

fn pair() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pair")
}

fn moray(command: &str, activation: &str, more: &[&str]) -> String {
    let (model, text) = (pair().join(activation), pair().join("held_out.txt"));
    let (model, text) = (model.to_str().unwrap(), text.to_str().unwrap());
    let arguments = ["moray", command, "--model", model, "--text", text];
    let mut out = Vec::new();
    run(Cli::try_parse_from(arguments.iter().chain(more)).unwrap(), &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn eval(activation: &str, more: &[&str]) -> serde_json::Value {
    let more = [&["--context", "128", "--tokens", "4096", "--json"], more].concat();
    serde_json::from_str(&moray("eval", activation, &more)).unwrap()
}

/// Perplexity of a byte over the whole model's.
fn ratio(activation: &str, more: &[&str]) -> f64 {
    eval(activation, more)["dense"]["perplexity_ratio"].as_f64().unwrap()
}

#[test]
fn both_have_learned_the_text_and_neither_much_more() {
    let [silu, relu] = ["silu", "relu"].map(|name| eval(name, &[])["nll"].as_f64().unwrap());
    // 5.5 nats a byte by chance, about 3.3 by how often bytes are
    assert!(silu < 1.9 && relu < 1.9 && (silu - relu).abs() < 0.1, "{silu} and {relu} nats");
}

#[test]
fn relu_bears_far_more_sparsity_than_silu() {
    for kept in ["topk:0.3", "topk:0.2", "topk:0.1"] {
        let [silu, relu] = ["silu", "relu"].map(|name| ratio(name, &["--mlp", kept]));
        println!("{kept}: perplexity over the whole model's {silu:.4} with silu, {relu:.4} with relu");
        assert!(silu - 1.0 > 2.0 * (relu - 1.0), "{kept}: {silu} with silu, {relu} with relu");
    }
    let folder = tempfile::tempdir().unwrap();
    let dropped = ["silu", "relu"].map(|name| {
        let out = folder.path().join(name);
        moray("analyze", name, &["cett", "--tokens", "128", "--out", out.to_str().unwrap()]);
        let found: Analysis = serde_json::from_slice(&std::fs::read(out.join("cett.json")).unwrap()).unwrap();
        let row = found.rows.iter().find(|row| row.name.starts_with("CETT 0.2, each")).unwrap();
        row.values.iter().flatten().sum::<f64>() / row.values.len() as f64
    });
    println!("dropped at a CETT of 0.2: {:.3} with silu, {:.3} with relu", dropped[0], dropped[1]);
    assert!(dropped[1] > dropped[0] + 0.1, "{dropped:?}");
}

#[test]
fn an_activation_that_a_model_was_not_trained_for_is_a_question_that_is_answered() {
    let swapped = eval("silu", &["--activation", "relu"]);
    let (ratio, name) = (swapped["dense"]["perplexity_ratio"].as_f64().unwrap(), &swapped["activation"]);
    assert!(ratio > 1.05 && name == "relu", "{swapped}");
    // its own activation is the model itself
    let same = eval("relu", &["--activation", "relu"]);
    assert_eq!(same["dense"]["kl"].as_f64().unwrap().abs(), 0.0, "{same}");
}
