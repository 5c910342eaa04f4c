//! Whole runs: into a directory that opens, in both layouts, interrupted and taken up again.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use moray::Cpu;
use moray::w4a8::{Format, Offset};
use moray_lab::Checkpoint;
use moray_lab::activations::ActivationScheme;
use moray_lab::fixture::Fixture;
use moray_lab::load::{Form, LoadOptions, load_cpu};
use moray_lab::quantize::{Job, Layout, Method, Options, Report, Stage};
use moray_lab::weights::WeightScheme;

use super::{cpu, fixture, logits, open, tokens};

fn job<'a>(cpu: &'a Cpu, checkpoint: &'a Checkpoint, text: &'a [u32], out: &'a Path) -> Job<'a> {
    let options = Options { context: 64, ..Options::new(Method::Full, Format::per_group(64, Offset::F16)) };
    Job { cpu, checkpoint, options, layout: Layout::Moray, calibration: text, evaluation: None, questions: None, out }
}

/// Every file of a directory but the report, which holds times.
fn files(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<(String, Vec<u8>)> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .filter(|(name, _)| !name.starts_with("report"))
        .collect();
    files.sort();
    files
}

#[test]
fn written_checkpoints_match_the_quantized_model_and_report_on_it() {
    let (cpu, directory) = (cpu(), tempfile::tempdir().unwrap());
    let fixture = fixture();
    let source = directory.path().join("model");
    fixture.write_hf(&source, 1).unwrap();
    let checkpoint = Checkpoint::open(&source).unwrap();
    // random tokens teach nothing about each other, so it takes many for an estimate of their covariance
    let (text, scored) = (tokens(4096, &fixture, 1), tokens(128, &fixture, 2));
    let out = directory.path().join("out");
    let mut stages = Vec::new();
    let job = Job { evaluation: Some(&scored), ..job(&cpu, &checkpoint, &text, &out) };
    let (path, report) = job.run(&mut |stage, done, total| stages.push((stage, done, total))).unwrap();
    assert_eq!(path, out);
    assert_eq!(stages[..3], [1, 2, 3].map(|done| (Stage::Layers, done, 3)));
    assert!(stages[3..].iter().all(|(stage, ..)| *stage == Stage::Scoring) && stages.len() > 3);

    let written = Checkpoint::open(&out).unwrap();
    assert_eq!(written.config().n_layers, 3);
    assert!(!written.config().tied_embeddings, "a rotated model has an output layer of its own");
    assert_eq!(written.tokenizer().unwrap().encode("hello and", false).unwrap().len(), 3);
    let load = |checkpoint, weights| {
        load_cpu(
            checkpoint,
            LoadOptions { weights, activations: ActivationScheme::default(), form: Form::Whole },
            |_, _| (),
        )
        .unwrap()
    };
    let probe = tokens(16, &fixture, 4);
    let got = logits(&load(&written, WeightScheme::Auto), &cpu, &probe);
    let exact = logits(&load(&checkpoint, WeightScheme::F32), &cpu, &probe);
    let rounded = logits(&load(&checkpoint, WeightScheme::Quantized(Format::per_group(64, Offset::F16))), &cpu, &probe);
    let miss = |a: &[f32]| a.iter().zip(&exact).map(|(a, b)| f64::from((a - b) * (a - b))).sum::<f64>();
    // a layer that was stored for another, or rotated by half, would be far worse than rounding
    assert!(miss(&got) < 1.5 * miss(&rounded), "{} {}", miss(&got), miss(&rounded));
    check_report(&out, &report);
}

fn check_report(out: &Path, report: &Report) {
    // 4 bits, and 2 · 16 for each 64 weights
    assert_eq!(report.size.bits_per_weight, 4.5);
    let quality = report.quality.as_ref().unwrap();
    assert!(quality.perplexity.is_finite() && quality.dense.as_ref().unwrap().kl > 0.0);
    let json: serde_json::Value = serde_json::from_slice(&fs::read(out.join("report.json")).unwrap()).unwrap();
    assert_eq!(json["layers"].as_array().unwrap().len(), 3);
    assert_eq!(json["options"]["mode"], "g64o");
    let page = fs::read_to_string(out.join("report.html")).unwrap();
    assert_eq!(page.matches("<svg").count(), 8);
    assert!(!page.contains("http://") && !page.contains("https://"), "the page is to need nothing else");
    assert!(!out.with_file_name("out.partial").exists());
}

#[test]
fn interrupted_runs_end_in_the_same_files_as_whole_ones() {
    let (cpu, directory) = (cpu(), tempfile::tempdir().unwrap());
    let fixture = Fixture { attention_bias: true, mlp_bias: true, ..fixture() };
    let path = directory.path().join("model.gguf");
    fixture.write_gguf(&path).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    let text = tokens(512, &fixture, 1);
    let (whole, halved) = (directory.path().join("whole"), directory.path().join("halved"));
    job(&cpu, &checkpoint, &text, &whole).run(&mut |_, _, _| ()).unwrap();

    let job = job(&cpu, &checkpoint, &text, &halved);
    let killed = catch_unwind(AssertUnwindSafe(|| job.run(&mut |_, done, _| assert!(done < 2, "killed")).map(drop)));
    assert!(killed.is_err());
    assert!(!halved.exists(), "nothing half-written under the name asked for");
    let partial = directory.path().join("halved.partial");
    assert!(Checkpoint::open(&partial).is_err(), "a half-written directory is no checkpoint");
    // what a kill in the middle of a write leaves
    fs::write(partial.join("layer-00002.safetensors.tmp"), b"half").unwrap();
    fs::remove_file(partial.join("layer-00001.safetensors")).unwrap();
    // what a program of another algorithm leaves
    let run = fs::read_to_string(partial.join("run.json")).unwrap();
    let mut other: serde_json::Value = serde_json::from_str(&run).unwrap();
    other["algorithm"] = 0.into();
    fs::write(partial.join("run.json"), other.to_string()).unwrap();
    let refused = job.run(&mut |_, _, _| ()).unwrap_err().to_string();
    assert!(refused.contains("an interrupted run of the same program"), "{refused}");
    fs::write(partial.join("run.json"), run).unwrap();
    // other weights of the same sizes under the same path, and a text of the same length
    let replaced = open(&Fixture { seed: 2, ..fixture.clone() });
    assert_eq!(replaced.stored_bytes(), checkpoint.stored_bytes());
    let other_text = tokens(512, &fixture, 2);
    for job in [Job { checkpoint: &replaced, ..job }, Job { calibration: &other_text, ..job }] {
        let refused = job.run(&mut |_, _, _| ()).unwrap_err().to_string();
        assert!(refused.contains("an interrupted run of the same program"), "{refused}");
    }
    let mut seconds = Vec::new();
    job.run(&mut |_, done, _| seconds.push(done)).unwrap();
    assert_eq!(seconds, [1, 2, 3]);
    let (whole, mut halved) = (files(&whole), files(&halved));
    halved.retain(|(name, _)| !name.ends_with(".tmp"));
    assert_eq!(whole.len(), halved.len());
    for ((name, left), (other, right)) in whole.iter().zip(&halved) {
        assert_eq!(name, other);
        assert!(left == right, "{name}");
    }
    assert!(whole.iter().any(|(name, _)| name == "tokenizer.json"));
}

#[test]
fn qqq_layout_of_a_run_opens_as_a_qqq_checkpoint() {
    let (cpu, directory) = (cpu(), tempfile::tempdir().unwrap());
    let fixture = Fixture { n_kv_heads: 4, ..fixture() };
    let path = directory.path().join("model.gguf");
    fixture.write_gguf(&path).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    let text = tokens(512, &fixture, 1);
    let out = directory.path().join("out");
    let options = Options { context: 64, smooth: true, ..Options::new(Method::Qqq, Format::per_channel()) };
    let job = Job { options, layout: Layout::Qqq, ..job(&cpu, &checkpoint, &text, &out) };
    let (_, report) = job.run(&mut |_, _, _| ()).unwrap();
    assert!(report.layers.iter().all(|layer| layer.sites.iter().all(|site| site.threshold.is_some())));
    let written = Checkpoint::open(&out).unwrap();
    assert_eq!(written.quantization(), Some(&moray_lab::packed::Quantization::Qqq { group_size: None }));
    // the keys that QQQ's reader and GPTQModel look for, and what older versions of transformers want in every file
    let config: serde_json::Value = serde_json::from_slice(&fs::read(out.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["torch_dtype"], "float16");
    let expected = serde_json::json!({
        "quant_method": "qqq", "format": "qqq", "checkpoint_format": "qqq", "wbits": 4, "bits": 4, "group_size": -1,
        "sym": true, "desc_act": false, "lm_head": false, "pack_dtype": "int32",
    });
    assert_eq!(config["quantization_config"], expected);
    let (mut shards, mut total_bytes) = (0, 0);
    for (name, bytes) in files(&out).iter().filter(|(name, _)| name.ends_with(".safetensors")) {
        let (_, header) = safetensors::SafeTensors::read_metadata(bytes).unwrap();
        assert_eq!(header.metadata().as_ref().unwrap()["format"], "pt", "{name}");
        shards += 1;
        total_bytes += header.data_len();
    }
    assert_eq!(shards, fixture.n_layers + 1);
    let index = fs::read(out.join("model.safetensors.index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
    assert_eq!(index["metadata"]["total_size"], total_bytes);
    let model = load_cpu(
        &written,
        LoadOptions { weights: WeightScheme::Auto, activations: ActivationScheme::default(), form: Form::Whole },
        |_, _| (),
    )
    .unwrap();
    assert!(logits(&model, &cpu, &tokens(8, &fixture, 4)).iter().all(|v| v.is_finite()));
}

/// Runs the command and returns what it says.
fn command(arguments: &[&str]) -> moray_lab::Result<String> {
    use clap::Parser;
    let cli = moray_lab::cli::Cli::try_parse_from(std::iter::once(&"moray").chain(arguments)).expect("valid arguments");
    let mut out = Vec::new();
    moray_lab::cli::run(cli, &mut out)?;
    Ok(String::from_utf8(out).unwrap())
}

#[test]
fn quantize_eval_and_generate_run_one_after_another_on_the_command_line() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (model, text, out) = (at("model.gguf"), at("text.txt"), at("out"));
    fixture().write_gguf(Path::new(&model)).unwrap();
    fs::write(&text, "the hen and the ant ran on in the rain; ".repeat(60)).unwrap();
    let quantize = ["quantize", "--model", &model, "--calibration", &text, "--out", &out, "--weights", "two-level"];
    let sizes = ["--tokens", "256", "--context", "64", "--smooth", "search", "--threads", "1"];
    let said = command(&[&quantize[..], &sizes[..]].concat()).unwrap();
    // 4 bits, 8 for each 64 weights, 32 for each channel
    assert!(
        said.contains("bits a weight") && said.contains("perplexity") && said.contains("calibrated on 256 tokens"),
        "{said}"
    );
    let bare = ["quantize", "--model", &model, "--out", &at("nearest"), "--context", "64", "--method"];
    let said = command(&[&bare[..], &["rtn"]].concat()).unwrap();
    assert!(said.contains("without calibration, errors measured on"), "{said}");
    let refused = command(&[&bare[..], &["gptq"]].concat()).unwrap_err().to_string();
    assert!(refused.contains("--calibration: expected a text") && refused.contains("got none"), "{refused}");
    let again = command(&[&quantize[..], &sizes[..]].concat()).unwrap_err();
    assert!(again.to_string().contains("expected an empty directory or none"), "{again}");
    let score =
        ["eval", "--model", &out, "--text", &text, "--tokens", "128", "--context", "64", "--threads", "1", "--json"];
    let json = |arguments: &[&str]| serde_json::from_str::<serde_json::Value>(&command(arguments).unwrap()).unwrap();
    let (own, other) = (json(&score), json(&[&score[..], &["--against", &model]].concat()));
    assert_eq!(own["weights"], "as-file");
    assert_eq!(own["perplexity"], other["perplexity"]);
    let kl = |report: &serde_json::Value| report["dense"]["kl"].as_f64().unwrap();
    // its own numbers in floating point differ by the activations' rounding only, the model by the weights' too
    assert!(kl(&own) > 0.0 && kl(&own) < kl(&other), "{} {}", kl(&own), kl(&other));
    let generated = json(&["generate", "--model", &out, "--prompt", "the ant", "-n", "4", "--threads", "1", "--json"]);
    assert!(generated["generated_tokens"].as_u64().unwrap() <= 4);
}

/// The report has what `moray choices` finds of both models.
#[test]
fn questions_of_a_report_are_those_of_the_command_that_asks_them() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (model, items, out) = (at("model.gguf"), at("items.jsonl"), at("out"));
    fixture().write_gguf(Path::new(&model)).unwrap();
    let item = |i: usize| {
        let choices = ["the hen", "the ant", "rain"].map(|choice| format!("{choice} {}", i * i % 7));
        serde_json::json!({"question": format!("after {i}"), "choices": choices, "answer": i % 3}).to_string()
    };
    fs::write(&items, (0..9).map(item).collect::<Vec<_>>().join("\n")).unwrap();
    let json = |arguments: &[&str]| serde_json::from_str::<serde_json::Value>(&command(arguments).unwrap()).unwrap();
    let quantize = ["quantize", "--model", &model, "--out", &out, "--context", "64", "--method", "rtn"];
    let ask = ["--weights", "two-level", "--items", &items, "--threads", "1"];
    let report = json(&[&quantize[..], &ask, &["--json"]].concat());
    for (which, model, weights) in [("quantized", &out, "as-file"), ("dense", &model, "dense")] {
        let asked = json(&["choices", "--model", model, "--weights", weights, "--items", &items, "--json"]);
        let found = &report["questions"][which];
        assert_eq!(found["items"], 9);
        for key in ["accuracy_percent", "normalised_percent", "by_chance_percent"] {
            assert_eq!(found[key], asked[key], "{which} {key}");
        }
    }
    let page = fs::read_to_string(Path::new(&out).join("report.html")).unwrap();
    assert!(page.contains("questions answered") && page.contains("by the 16-bit model"), "{page}");
    let again = at("again");
    let said = command(&[
        "quantize",
        "--model",
        &model,
        "--out",
        &again,
        "--context",
        "64",
        "--method",
        "rtn",
        "--items",
        &items,
    ])
    .unwrap();
    assert!(said.contains("9 questions: "), "{said}");
    fs::write(&items, "").unwrap();
    let refused = command(&["quantize", "--model", &model, "--out", &at("no"), "--method", "rtn", "--items", &items]);
    assert!(refused.unwrap_err().to_string().contains("items: expected at least 1"));
}
