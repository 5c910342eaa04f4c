//! Evaluation against its definition on tiny models, and the command's errors.

use std::path::PathBuf;

use clap::Parser;
use moray::attention::KvDtype;
use moray::llama::{LogitRows, Model, Sequence, Settings};
use moray::policy::{Griffin, HeadNorm, TopK};
use moray::{Cpu, Error};
use moray_lab::activations::ActivationScheme;
use moray_lab::cli::{Cli, run};
use moray_lab::eval::{Evaluation, Runner, Scored, Text, evaluate};
use moray_lab::fixture::{Fixture, MIN_VOCAB, Pair};
use moray_lab::load::{Form, LoadOptions, load_cpu};
use moray_lab::weights::WeightScheme;

fn model(seed: u64, form: Form) -> Model<Cpu> {
    padded(seed, form, MIN_VOCAB)
}

fn padded(seed: u64, form: Form, vocab: usize) -> Model<Cpu> {
    let fixture = Fixture { seed, vocab, ..Fixture::default() };
    let checkpoint = fixture.open().unwrap();
    load_cpu(
        &checkpoint,
        LoadOptions { weights: WeightScheme::F32, activations: ActivationScheme::default(), form },
        |_, _| (),
    )
    .unwrap()
}

fn tokens(len: usize) -> Vec<u32> {
    (0..len as u32).map(|i| (i * i * 7 + i * 3) % 270).collect()
}

fn settings() -> Settings {
    Settings { kv_dtype: KvDtype::F32, ..Settings::dense(128) }
}

/// ln of the probabilities of every row, in f64.
fn ln_probabilities(cpu: &Cpu, model: &Model<Cpu>, window: &[u32]) -> Vec<Vec<f64>> {
    let (max_tokens, max_logits) = (window.len(), window.len());
    let mut session = model.session(cpu, Settings { max_tokens, max_logits, ..settings() }).unwrap();
    let sequence = Sequence { slot: 0, tokens: window };
    let logits = model.forward(cpu, &mut session, &[sequence], LogitRows::All).unwrap();
    let row = |row: &[f32]| {
        let sum: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
        row.iter().map(|&logit| f64::from(logit) - sum.ln()).collect()
    };
    logits.chunks_exact(model.config().vocab).map(row).collect()
}

/// (nll, dense nll, KL, agreement in percent) as lists over scored positions.
fn definition(cpu: &Cpu, model: &Model<Cpu>, dense: &Model<Cpu>, text: &Text<'_>) -> [Vec<f64>; 4] {
    let mut found: [Vec<f64>; 4] = Default::default();
    let width = text.context - usize::from(text.bos.is_some());
    for tokens in text.tokens.chunks(width) {
        let window: Vec<u32> = text.bos.into_iter().chain(tokens.iter().copied()).collect();
        let first = if text.scored == Scored::EveryToken { 1 } else { window.len() / 2 };
        let (run, dense) = (ln_probabilities(cpu, model, &window), ln_probabilities(cpu, dense, &window));
        for position in first.max(1)..window.len() {
            let (run, dense, token) = (&run[position - 1], &dense[position - 1], window[position] as usize);
            let top = |row: &[f64]| (0..row.len()).reduce(|a, b| if row[b] > row[a] { b } else { a });
            found[0].push(-run[token]);
            found[1].push(-dense[token]);
            // of what both vocabularies have, as a distribution of its own
            let common = run.len().min(dense.len());
            let within = |row: &[f64]| {
                let sum: f64 = row[..common].iter().map(|p| p.exp()).sum();
                row[..common].iter().map(|p| p - sum.ln()).collect::<Vec<_>>()
            };
            let (run, dense) = (&within(run)[..], &within(dense)[..]);
            found[2].push(dense.iter().zip(run).map(|(p, q)| p.exp() * (p - q)).sum());
            found[3].push(if top(run) == top(dense) { 100.0 } else { 0.0 });
        }
    }
    found
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn standard_error(values: &[f64]) -> f64 {
    let (n, mean) = (values.len() as f64, mean(values));
    (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0) / n).sqrt()
}

/// Terms exp(logit − largest) are rounded to f32: relative 2⁻²⁴ each, and as much in exp itself.
const CLOSE: f64 = 1e-6;

fn assert_matches(found: &Evaluation, [nll, dense_nll, kl, agreement]: &[Vec<f64>; 4]) {
    assert_eq!(found.scored_tokens, nll.len());
    assert!((found.nll - mean(nll)).abs() < CLOSE, "{} {}", found.nll, mean(nll));
    assert!((found.nll_se - standard_error(nll)).abs() < CLOSE);
    assert!((found.perplexity / mean(nll).exp() - 1.0).abs() < CLOSE);
    assert!((found.perplexity_se - found.perplexity * found.nll_se).abs() < CLOSE);
    let dense = found.dense.as_ref().unwrap();
    assert!((dense.perplexity / mean(dense_nll).exp() - 1.0).abs() < CLOSE);
    assert!((dense.kl - mean(kl)).abs() < CLOSE, "{} {}", dense.kl, mean(kl));
    assert!((dense.kl_se - standard_error(kl)).abs() < CLOSE);
    // sums of 0 and 100 are exact: a quotient and a product are rounded there, a quotient here, each to half a unit of 100
    assert!((dense.agreement_percent - mean(agreement)).abs() <= 100.0 * 1.5 * f64::EPSILON);
}

#[test]
fn every_number_matches_the_definition_for_each_window_bos_and_half() {
    let (cpu, run, dense, tokens) = (Cpu::detect(), model(2, Form::Whole), model(1, Form::Whole), tokens(203));
    for (context, bos) in [(64, None), (64, Some(1)), (7, None), (128, Some(1)), (2, None)] {
        for scored in [Scored::EveryToken, Scored::SecondHalf] {
            let text = Text { tokens: &tokens, bos, context, scored };
            let runner = |model| Runner { device: &cpu, model, settings: settings() };
            let mut steps = Vec::new();
            let found =
                evaluate(&cpu, &text, 128, &runner(&run), Some(&runner(&dense)), &mut |done| steps.push(done)).unwrap();
            assert_matches(&found, &definition(&cpu, &run, &dense, &text));
            assert_eq!(steps.last(), Some(&text.scored_tokens()));
            assert!(steps.is_sorted());
        }
    }
}

#[test]
fn a_padded_vocabulary_is_compared_over_the_common_tokens() {
    let (cpu, small, large, tokens) =
        (Cpu::detect(), model(2, Form::Whole), padded(1, Form::Whole, MIN_VOCAB + 13), tokens(101));
    let text = Text { tokens: &tokens, bos: Some(1), context: 48, scored: Scored::EveryToken };
    let runner = |model| Runner { device: &cpu, model, settings: settings() };
    for (run, reference) in [(&small, &large), (&large, &small)] {
        let found = evaluate(&cpu, &text, 128, &runner(run), Some(&runner(reference)), &mut |_| ()).unwrap();
        assert_matches(&found, &definition(&cpu, run, reference, &text));
    }
    let beyond = [1, MIN_VOCAB as u32, 2];
    let text = Text { tokens: &beyond, ..text };
    let error = evaluate(&cpu, &text, 128, &runner(&large), Some(&runner(&small)), &mut |_| ()).unwrap_err();
    assert!(error.to_string().contains("expected an index below 272, got 272"), "{error}");
}

#[test]
fn a_model_matches_itself_without_divergence() {
    let (cpu, model, tokens) = (Cpu::detect(), model(3, Form::Whole), tokens(100));
    for scored in [Scored::EveryToken, Scored::SecondHalf] {
        let text = Text { tokens: &tokens, bos: None, context: 32, scored };
        let runner = Runner { device: &cpu, model: &model, settings: settings() };
        let found = evaluate(&cpu, &text, 128, &runner, Some(&runner), &mut |_| ()).unwrap();
        let dense = found.dense.unwrap();
        assert_eq!(found.perplexity, dense.perplexity);
        assert_eq!(dense.agreement_percent, 100.0);
        assert!(dense.kl.abs() < CLOSE && dense.kl_se < CLOSE);
        assert_eq!((found.kept_neurons, found.kept_heads), (None, None));
        assert!(evaluate(&cpu, &text, 128, &runner, None, &mut |_| ()).unwrap().dense.is_none());
    }
}

#[test]
fn sparse_runs_match_what_their_policy_keeps() {
    let (cpu, model, tokens) = (Cpu::detect(), model(4, Form::ByNeuron), tokens(120));
    let d_ff = model.config().d_ff;
    let griffin = |kept| settings().with(Griffin::new(kept).unwrap());
    let top_k = |kept| settings().with(TopK::by_gate(kept, d_ff).unwrap());
    let dense = Runner { device: &cpu, model: &model, settings: settings() };
    let cases = [
        (griffin(0.5), Scored::SecondHalf, 0.5),
        (griffin(1.0), Scored::SecondHalf, 1.0),
        (top_k(0.25), Scored::EveryToken, 0.25),
        (top_k(1.0), Scored::EveryToken, 1.0),
    ];
    for (settings, scored, kept) in cases {
        let text = Text { tokens: &tokens, bos: None, context: 40, scored };
        let run = Runner { settings, ..dense.clone() };
        let found = evaluate(&cpu, &text, 128, &run, Some(&dense), &mut |_| ()).unwrap();
        assert_eq!(found.kept_neurons, Some(kept));
        let against = found.dense.unwrap();
        assert_eq!(found.perplexity == against.perplexity, kept == 1.0);
        assert_eq!(against.kl > CLOSE, kept < 1.0);
    }
    let run = Runner { settings: settings().with(HeadNorm::new(0.5, 0).unwrap()), ..dense.clone() };
    let text = Text { tokens: &tokens, bos: None, context: 40, scored: Scored::SecondHalf };
    let found = evaluate(&cpu, &text, 128, &run, Some(&dense), &mut |_| ()).unwrap();
    assert_eq!((found.kept_heads, found.kept_neurons), (Some(0.5), None));
    assert!(found.dense.unwrap().kl > CLOSE);
}

#[test]
fn contexts_and_texts_out_of_range_are_refused() {
    let (cpu, model, tokens) = (Cpu::detect(), model(1, Form::Whole), tokens(50));
    let runner = Runner { device: &cpu, model: &model, settings: settings() };
    let mut text = Text { tokens: &tokens, bos: None, context: 129, scored: Scored::EveryToken };
    let mut refused = |context, tokens| {
        (text.context, text.tokens) = (context, tokens);
        match evaluate(&cpu, &text, 128, &runner, None, &mut |_| ()).unwrap_err() {
            moray_lab::Error::Kernel(error) => error,
            other => panic!("{other}"),
        }
    };
    for context in [0, 1, 129] {
        assert!(matches!(refused(context, &tokens), Error::Unsupported { what: "context", .. }), "{context}");
    }
    for few in [&tokens[..0], &tokens[..1]] {
        assert!(matches!(refused(16, few), Error::Shape { what: "text", .. }));
    }
}

struct Files {
    directory: tempfile::TempDir,
    model: PathBuf,
}

fn files() -> Files {
    let directory = tempfile::tempdir().unwrap();
    let model = directory.path().join("tiny.gguf");
    Fixture::default().write_gguf(&model).unwrap();
    Files { directory, model }
}

fn command(files: &Files, text: &[u8], rest: &[&str]) -> Result<String, String> {
    let path = files.directory.path().join("text.txt");
    std::fs::write(&path, text).unwrap();
    let (model, path) = (files.model.to_str().unwrap(), path.to_str().unwrap());
    let arguments = ["moray", "eval", "--model", model, "--text", path].into_iter().chain(rest.iter().copied());
    let mut out = Vec::new();
    run(Cli::try_parse_from(arguments).map_err(|e| e.to_string())?, &mut out).map_err(|e| e.to_string())?;
    Ok(String::from_utf8(out).unwrap())
}

#[test]
fn the_command_reports_json_for_each_kind_of_run() {
    let files = files();
    let text = b"Some plain text, long enough for a few windows of a small model. ".repeat(4);
    for (rest, sparse) in [
        (&["--mlp", "topk:0.5"][..], "every token"),
        (&["--mlp", "cats:0.5"], "every token"),
        (&["--mlp", "cett:0.2", "--heads", "random:0.5"], "every token"),
        (&["--mlp", "random:0.5"], "every token"),
        (&["--weights", "f32", "--inputs", "teal:0.5"], "every token"),
        (
            &["--inputs", "teal:0.7", "--heads", "norm:0.5"],
            "inputs: every token; heads: the second half of each window, the half that is scored",
        ),
        (&["--mlp", "static:0.5", "--heads", "static:0.5"], "every token"),
        (
            &["--mlp", "static:0.5", "--heads", "norm:0.5"],
            "neurons: every token; heads: the second half of each window, the half that is scored",
        ),
        (&["--mlp", "griffin:0.5"], "the second half of each window, the half that is scored"),
        (&["--mlp", "tda:0.5", "--heads", "norm:0.5"], "the second half of each window, the half that is scored"),
        (&["--weights", "f32"], "no token"),
        (&["--logits", "preview:2", "--inputs", "teal:0.7"], "every token"),
    ] {
        let rest = [rest, &["--context", "24", "--tokens", "70", "--json"]].concat();
        let report: serde_json::Value = serde_json::from_str(&command(&files, &text, &rest).unwrap()).unwrap();
        assert_eq!(report["sparse"], sparse, "{rest:?}");
        assert_eq!(report["tokens"], 70);
        assert!(report["perplexity"].as_f64().unwrap() > 1.0 && report["dense"]["kl"].as_f64().unwrap() > -CLOSE);
    }
    let inputs = command(&files, &text, &["--inputs", "teal:0.5", "--context", "24", "--json"]).unwrap();
    let inputs: serde_json::Value = serde_json::from_str(&inputs).unwrap();
    assert!((0.3..0.7).contains(&inputs["kept_inputs"].as_f64().unwrap()) && inputs["inputs"] == "teal:0.5");
    // the largest logits are exact, and what is left of the others is an error of few bits and of small inputs
    for (looked, most) in [("preview:2", 0.01), ("preview:2:0.7", 0.02)] {
        let previewed = command(&files, &text, &["--logits", looked, "--context", "24", "--json"]).unwrap();
        let previewed: serde_json::Value = serde_json::from_str(&previewed).unwrap();
        let kl = previewed["dense"]["kl"].as_f64().unwrap();
        assert!((0.0..most).contains(&kl) && previewed["logits"] == looked, "{looked} {kl}");
    }
    for (text_of, part) in
        [("preview:0", "preview:N"), ("some", "all, preview:N or preview:N:K"), ("preview:300", "spares something")]
    {
        let refusal = command(&files, &text, &["--logits", text_of]).unwrap_err();
        assert!(refusal.contains(part), "{refusal}");
    }
    let both = command(&files, &text, &["--mlp", "topk:0.5", "--inputs", "teal:0.5"]).unwrap_err();
    assert!(both.contains("by neuron or by input"), "{both}");
    let report = command(&files, &text, &["--context", "24", "--json"]).unwrap();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert!(report["dense"].is_null());
}

#[test]
fn the_command_compares_only_models_that_read_a_text_alike() {
    let files = files();
    let text = b"the words and the ants in the hell of a context ".repeat(4);
    let against = |change: &dyn Fn(&mut moray_lab::fixture::GgufWriter)| {
        let other = files.directory.path().join("other.gguf");
        let mut writer = Fixture { seed: 5, vocab: MIN_VOCAB + 7, ..Fixture::default() }.gguf_writer();
        change(&mut writer);
        std::fs::write(&other, writer.to_bytes()).unwrap();
        command(&files, &text, &["--context", "24", "--against", other.to_str().unwrap(), "--json"])
    };
    let tokens = |writer: &mut moray_lab::fixture::GgufWriter, change: &dyn Fn(&mut Vec<String>)| {
        let found = writer.pairs.iter_mut().find(|(key, _)| key == "tokenizer.ggml.tokens");
        let Some((_, Pair::Strings(tokens))) = found else { panic!("the fixture has tokens") };
        change(tokens);
    };
    let report: serde_json::Value = serde_json::from_str(&against(&|_| ()).unwrap()).unwrap();
    assert!(report["dense"]["kl"].as_f64().unwrap() > 0.0);
    let refused = |change: &dyn Fn(&mut moray_lab::fixture::GgufWriter), message: &str| {
        let error = against(change).unwrap_err();
        assert!(error.contains(message) && error.contains("other.gguf") && !error.contains('\n'), "{error}");
    };
    refused(&|w| tokens(w, &|tokens| tokens.swap(5, 6)), "token 5: expected \"#\" as in the model");
    refused(&|w| w.set("tokenizer.ggml.merges", Pair::Strings(vec!["h e".into()])), "other.gguf: tokenizer: token ");
    refused(
        &|w| w.set("tokenizer.ggml.add_bos_token", Pair::Bool(true)),
        "beginning of a text: expected none, got \"<|im_start|>\"",
    );
    refused(
        &|w| w.set("llama.context_length", Pair::U32(16)),
        "context: expected at least the 24 positions of a window, got 16",
    );
}

#[cfg(unix)]
#[test]
fn paths_that_are_no_text_are_reported_as_far_as_they_are() {
    use std::os::unix::ffi::OsStringExt;
    let files = files();
    let name = |bytes: &[u8]| files.directory.path().join(std::ffi::OsString::from_vec(bytes.to_vec()));
    let (model, text) = (name(b"m\xff.gguf"), name(b"-n\xff.txt"));
    std::fs::copy(&files.model, &model).unwrap();
    std::fs::write(&text, b"the words and the ants ".repeat(4)).unwrap();
    let arguments: [&std::ffi::OsStr; 9] = [
        "moray".as_ref(),
        "eval".as_ref(),
        "--model".as_ref(),
        model.as_ref(),
        "--text".as_ref(),
        text.as_ref(),
        "--context".as_ref(),
        "16".as_ref(),
        "--json".as_ref(),
    ];
    let mut out = Vec::new();
    run(Cli::try_parse_from(arguments).unwrap(), &mut out).unwrap();
    let report: serde_json::Value = serde_json::from_slice(&out).unwrap();
    assert!(report["model"].as_str().unwrap().ends_with("m\u{fffd}.gguf"), "{report}");
    assert!(report["text"].as_str().unwrap().ends_with("-n\u{fffd}.txt"), "{report}");
}

#[test]
fn the_command_refuses_bad_texts_with_one_line() {
    let files = files();
    let long = b"plain text ".repeat(20);
    for (text, rest, message) in [
        (&b""[..], &[][..], "expected at least 2 tokens, got an empty file"),
        (b"a", &[], "expected at least 2 tokens, got 1"),
        (b"fine until \xff here", &[], "expected UTF-8, got an invalid byte at offset 11"),
        (&long, &["--context", "1"], "context: expected at least 2"),
        (&long, &["--context", "500"], "got 500 of 128"),
        (&long, &["--context", "16", "--tokens", "1"], "tokens: expected at least 2, got 1"),
        (&long, &["--context", "16", "--threads", "1000000"], "threads: expected 1 to 4096, got 1000000"),
        (&long, &["--context", "16", "--threads", "18446744073709551615"], "threads: expected 1 to 4096"),
        (&long, &["--context", "18446744073709551615"], "context: expected at least 2"),
    ] {
        let rest = if rest.is_empty() { &["--context", "16"] } else { rest };
        let error = command(&files, text, rest).unwrap_err();
        assert!(error.contains(message) && !error.contains('\n'), "{error}");
    }
    #[cfg(not(feature = "cuda"))]
    {
        let error = command(&files, &long, &["--device", "cuda"]).unwrap_err();
        assert_eq!(error, "device: expected cpu: this build has no CUDA kernels (feature cuda), got cuda");
    }
    let missing = ["moray", "eval", "--model", files.model.to_str().unwrap(), "--text", "/no/such/file"];
    let error = run(Cli::try_parse_from(missing).unwrap(), &mut Vec::new()).unwrap_err();
    assert!(error.to_string().starts_with("cannot read /no/such/file"), "{error}");
}
