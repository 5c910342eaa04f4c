//! Generation on the CUDA device: the CPU's tokens.
//!
//! Attention rounds to 16 bits on tensor cores, so logits are near the CPU's, not equal, and two tokens whose logits are
//! nearly so may change places. Each prompt is one that the model continues with confidence under its settings; each test says
//! how far apart the CPU's two largest logits come.

use std::path::Path;

use clap::Parser;
use moray::attention::KvPolicy;
use moray::llama::cuda::{Decoder, upload};
use moray::llama::{LogitRows, Model, Sampler, Sampling, Sequence, Settings};
use moray::policy::{Griffin, HeadNorm};
use moray::{Cpu, Device};
use moray_lab::activations::ActivationScheme;
use moray_lab::checkpoint::Checkpoint;
use moray_lab::cli::{Cli, run};
use moray_lab::fixture::Fixture;
use moray_lab::load::{Form, LoadOptions, load_cpu};
use moray_lab::weights::WeightScheme;

use crate::device;
use crate::eval::{CLOSE_IN_CODES, compare};

/// Tokens that must agree.
const TOKENS: usize = 16;

const PROMPT: &str = "red, green, blue, red, green, blue, red, green, blue, red, green, blue, red,";

const COUNTING: &str = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,";

/// The model's file, or nothing where it was not fetched; with `MORAY_REQUIRE_MODEL=1` that fails.
fn checkpoint() -> Option<Checkpoint> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/SmolLM2-135M-Instruct.Q4_1.gguf");
    if !path.exists() {
        assert!(std::env::var_os("MORAY_REQUIRE_MODEL").is_none(), "{} is missing: cargo xtask fetch", path.display());
        println!("skipped: no model");
        return None;
    }
    Some(Checkpoint::open(&path).unwrap())
}

fn load(checkpoint: &Checkpoint, weights: WeightScheme, form: Form) -> Model<Cpu> {
    load_cpu(checkpoint, LoadOptions { weights, activations: ActivationScheme::default(), form }, |_, _| ()).unwrap()
}

fn settings(prompt: &[u32]) -> Settings {
    Settings { max_tokens: prompt.len(), ..Settings::dense(prompt.len() + TOKENS) }
}

fn greedy(logits: &[f32]) -> u32 {
    Sampler::new(Sampling::GREEDY, 0).unwrap().sample(logits).unwrap()
}

/// The largest logit less the second.
fn margin(logits: &[f32]) -> f32 {
    let best = greedy(logits) as usize;
    let second = logits.iter().enumerate().filter(|(token, _)| *token != best).map(|(_, logit)| *logit);
    logits[best] - second.fold(f32::NEG_INFINITY, f32::max)
}

/// Greedy tokens of the CPU, and how far apart the two largest logits came.
fn by_calls(cpu: &Cpu, model: &Model<Cpu>, settings: Settings, prompt: &[u32]) -> (Vec<u32>, Vec<f32>) {
    let mut session = model.session(cpu, settings).unwrap();
    let logits = model.prefill(cpu, &mut session, 0, prompt).unwrap();
    let (mut tokens, mut margins) = (vec![greedy(logits)], vec![margin(logits)]);
    while tokens.len() < TOKENS {
        let sequence = Sequence { slot: 0, tokens: &tokens[tokens.len() - 1..] };
        let logits = model.forward(cpu, &mut session, &[sequence], LogitRows::Last).unwrap();
        margins.push(margin(logits));
        tokens.push(greedy(logits));
    }
    (tokens, margins)
}

/// Greedy tokens by replays of one graph.
fn by_graph(device: &Device, model: &Model<Device>, settings: Settings, prompt: &[u32]) -> Vec<u32> {
    let mut session = model.session(device, settings).unwrap();
    let mut tokens = vec![greedy(model.prefill(device, &mut session, 0, prompt).unwrap())];
    let mut decoder = Decoder::capture(device, model, &mut session, &[0], &tokens).unwrap();
    while tokens.len() < TOKENS {
        tokens.extend_from_slice(decoder.step().unwrap());
    }
    tokens
}

fn compare_tokens(prompt: &str, weights: WeightScheme, form: Form, change: impl Fn(Settings) -> Settings) {
    let Some(device) = device::device() else { return };
    let Some(checkpoint) = checkpoint() else { return };
    let prompt = checkpoint.tokenizer().unwrap().encode(prompt, checkpoint.config().add_bos).unwrap();
    let model = load(&checkpoint, weights, form);
    let (expected, margins) = by_calls(&Cpu::detect(), &model, change(settings(&prompt)), &prompt);
    println!("margins {margins:.2?}");
    let model = upload(&device, &model).unwrap();
    let got = by_graph(&device, &model, change(settings(&prompt)), &prompt);
    assert_eq!(got, expected, "the two largest logits are {margins:?} apart");
}

#[test]
fn dense_greedy_tokens_match_cpu_on_smollm2() {
    compare_tokens(PROMPT, WeightScheme::Dense, Form::Whole, |settings| settings);
}

#[test]
fn w4a8_greedy_tokens_match_cpu_on_smollm2() {
    compare_tokens(COUNTING, WeightScheme::AsFile, Form::Whole, |settings| settings);
}

#[test]
fn w4a8_greedy_tokens_with_selected_neurons_and_heads_match_cpu_on_smollm2() {
    let skipping = |settings: Settings| settings.with(HeadNorm::new(0.7, 0).unwrap()).with(Griffin::new(0.7).unwrap());
    let change = |settings| skipping(Settings { kv: KvPolicy::Hole, ..settings });
    compare_tokens(PROMPT, WeightScheme::AsFile, Form::ByNeuron, change);
}

/// The text that `moray generate` continues a prompt with on a tiny model.
fn generated(model: &Path, device: &str, switches: &[&str]) -> String {
    let model = model.to_str().unwrap();
    let command =
        ["moray", "generate", "--model", model, "--prompt", "a tale of", "-n", "24", "--ignore-eos", "--json"];
    let place = ["--device", device, "--kv-type", "f32"];
    let arguments = command.iter().chain(&place).chain(switches);
    let mut out = Vec::new();
    run(Cli::try_parse_from(arguments).unwrap(), &mut out).unwrap();
    let report: serde_json::Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(report["generated_tokens"], 24);
    report["text"].as_str().unwrap().to_owned()
}

/// Over an f32 cache logits differ by parts in a million: no two of this model's largest are as near, and no draw falls as near
/// to a token's edge.
#[test]
fn generated_text_matches_cpu_on_a_tiny_model_when_drawn_and_under_recomputation() {
    if device::device().is_none() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let model = directory.path().join("tiny.gguf");
    Fixture { n_q_heads: 4, n_kv_heads: 4, ..Fixture::default() }.write_gguf(&model).unwrap();
    let drawn = ["--temperature", "1.2", "--top-p", "0.95", "--min-p", "0.01", "--seed", "5"];
    let recomputed = ["--heads", "norm:0.5:3", "--kv", "recompute:2"];
    let both: Vec<&str> = drawn.iter().chain(&recomputed).copied().collect();
    for switches in [&drawn[..], &recomputed, &both] {
        assert_eq!(generated(&model, "cuda", switches), generated(&model, "cpu", switches), "{switches:?}");
    }
    assert_ne!(generated(&model, "cpu", &drawn), generated(&model, "cpu", &[]));
}

/// Products of codes are the CPU's bits, so what differs is what attention makes of an f32 cache: parts in a million, until one
/// of them moves an activation past the middle between two codes. This model's largest logits are further apart than that.
#[test]
fn generated_text_and_evaluation_match_cpu_on_quantized_checkpoints() {
    if device::device().is_none() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let text: String = (0..400).map(|i| ["a tale ", "of one ", "long ", "road, "][i * i % 7 % 4]).collect();
    std::fs::write(path("text"), text).unwrap();
    let fixture = Fixture { hidden: 128, d_ff: 256, head_dim: 32, ..Fixture::default() };
    fixture.write_gguf(&path("tiny.gguf")).unwrap();
    let mut texts = Vec::new();
    for weights in ["per-channel", "g64", "g64o", "two-level", "qqq"] {
        let (model, out) = (path("tiny.gguf"), path(weights));
        let files = [("--model", &model), ("--calibration", &path("text")), ("--out", &out)];
        let mut arguments = vec!["moray", "quantize", "--weights", weights, "--method", "rtn", "--tokens", "256"];
        arguments.extend(["--context", "64", "--scored-tokens", "0", "--threads", "1"]);
        arguments.extend(files.iter().flat_map(|(name, file)| [*name, file.to_str().unwrap()]));
        run(Cli::try_parse_from(arguments).unwrap(), &mut Vec::new()).unwrap();
        for switches in [&[][..], &["--activations", "fine"]] {
            texts.push(generated(&out, "cuda", switches));
            assert_eq!(texts.last(), Some(&generated(&out, "cpu", switches)), "{weights}, {switches:?}");
        }
        let files = [("--model", out.as_path()), ("--text", &path("text")), ("--against", &path("tiny.gguf"))];
        let far = compare(&files, &[], CLOSE_IN_CODES);
        assert!(far > 10.0 * CLOSE_IN_CODES, "{weights}: {far} nats");
    }
    texts.dedup();
    assert!(texts.len() > 1, "{texts:?}");
}
