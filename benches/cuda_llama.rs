//! The forward pass on a CUDA device with random weights: decode steps as captured graphs, and prefill.
//!
//! `cargo bench --features cublaslt --bench cuda_llama`. Ids: llama/weights/model/phase. Models of the larger shapes have few layers, so
//! that they fit and are made quickly; bytes are those of all weights, which a decode step reads once. A step of several
//! slots is checked to give each slot the token that it gets alone.

mod common;
#[path = "common/cuda.rs"]
mod cuda;

use common::numbers;
use cuda::{Bench, Row, repeated};
use half::f16;
use moray::attention::{AttentionShape, KvDtype, RopeScaling};
use moray::llama::cuda::{Decoder, upload};
use moray::llama::{Config, DenseType, DenseWeight, Layer, Linear, Mlp, Model, Settings};
use moray::sparse_mlp::Activation;
use moray::w4a8::{Format, Offset, PackedWeight, QuantizedWeight, Scales};
use moray::{Cpu, Device, Result};
use std::time::Instant;

/// Values that a matrix repeats; a prime, so that rows differ.
const BLOCK: usize = 1_000_003;

/// Steps that are timed, after as many that are not.
const STEPS: usize = 64;

struct Plan {
    name: &'static str,
    config: Config,
    prompt: usize,
    batches: &'static [usize],
}

fn config(d_model: usize, d_ff: usize, n_layers: usize, vocab: usize, heads: [usize; 3]) -> Result<Config> {
    Ok(Config {
        vocab,
        d_model,
        d_ff,
        n_layers,
        attention: AttentionShape::new(heads[0], heads[1], heads[2])?,
        rms_eps: 1e-5,
        rope_theta: 1e5,
        rope_scaling: RopeScaling::Default,
        activation: Activation::Silu,
    })
}

fn plans(quick: bool) -> Result<Vec<Plan>> {
    if quick {
        let config = config(128, 256, 2, 320, [4, 2, 32])?;
        return Ok(vec![Plan { name: "tiny", config, prompt: 12, batches: &[1, 2] }]);
    }
    let plan = |name, config, prompt| Plan { name, config, prompt, batches: &[1, 8, 32] };
    Ok(vec![
        plan("smollm2-135m", config(576, 1536, 30, 49_152, [9, 3, 64])?, 512),
        plan("llama-3-8b-8-layers", config(4096, 14336, 8, 128_256, [32, 8, 128])?, 512),
        plan("llama-2-70b-4-layers", config(8192, 28672, 4, 32_000, [64, 8, 128])?, 512),
    ])
}

fn main() -> Result<()> {
    let bench = Bench::open()?;
    bench.head();
    for plan in plans(bench.quick)? {
        let mut baselines = Vec::new();
        for name in ["f16", "w4a8-g32-offset"] {
            let (model, bytes) = model(&bench.device, &plan.config, name == "f16")?;
            let times = run(&bench, &model, &plan, name, bytes, &baselines)?;
            if name == "f16" {
                baselines = times;
            }
        }
    }
    Ok(())
}

/// Times the phases of a model, prints them and returns their seconds.
fn run(
    bench: &Bench,
    model: &Model<Device>,
    plan: &Plan,
    name: &str,
    bytes: usize,
    baselines: &[f64],
) -> Result<Vec<f64>> {
    let (device, vocab) = (&bench.device, plan.config.vocab as u32);
    let steps = if bench.quick { 2 } else { STEPS };
    let prompt: Vec<u32> = (0..plan.prompt as u32).map(|i| i * 7919 % vocab).collect();
    let mut times = Vec::new();
    let mut alone = Vec::new();
    for &batch in plan.batches {
        let settings = Settings {
            slots: batch,
            max_logits: batch,
            kv_dtype: KvDtype::F16,
            ..Settings::dense(plan.prompt + 2 * steps + 1)
        };
        let mut session = model.session(device, settings)?;
        let start = Instant::now();
        for slot in 0..batch {
            model.prefill(device, &mut session, slot, &prompt)?;
        }
        let prefill = start.elapsed().as_secs_f64() / batch as f64;
        let slots: Vec<usize> = (0..batch).collect();
        let mut decoder = Decoder::capture(device, model, &mut session, &slots, &vec![1; batch])?;
        let mut tokens = Vec::new();
        for _ in 0..steps {
            tokens.push(decoder.step()?.to_vec());
        }
        if batch == 1 {
            alone = tokens.iter().map(|step| step[0]).collect();
        }
        // all slots have one prompt; a batch may take other kernels, whose sums have another order, so only the first step counts
        assert!(tokens[0].iter().all(|&token| token == alone[0]), "{name}: {:?} instead of {}", tokens[0], alone[0]);
        let start = Instant::now();
        for _ in 0..steps {
            decoder.step()?;
        }
        let step = start.elapsed().as_secs_f64() / steps as f64;
        let id = |phase: &str| format!("llama/{name}/{}/{phase}/b{batch}", plan.name);
        let operations = |tokens: usize| 2.0 * (tokens * parameters(&plan.config)) as f64;
        for (phase, seconds, rows) in [("decode", step, batch), ("prefill", prefill, plan.prompt)] {
            let baseline = baselines.get(times.len()).copied();
            let (bytes, operations) = (bytes as f64, operations(rows));
            bench.print(&Row { id: id(phase), seconds, bytes, operations, baseline });
            times.push(seconds);
        }
    }
    Ok(times)
}

/// A matrix of f16, or of random codes in groups of 32 with offsets.
fn linear(dense: bool, n: usize, k: usize, seed: u64) -> Result<Linear> {
    let step = 1.0 / (k as f32).sqrt();
    if dense {
        let block: Vec<f32> = numbers(BLOCK.min(n * k), seed).iter().map(|w| w * step).collect();
        return Ok(DenseWeight::from_f32(&repeated(&block, n * k), n, k, DenseType::F16)?.into());
    }
    let block: Vec<i8> = numbers(BLOCK.min(n * k), seed).iter().map(|v| (v * 8.0 + 8.0) as i8).collect();
    let values = |seed, step: f32| {
        let block: Vec<f16> = numbers(1021, seed).iter().map(|v| f16::from_f32(v * step)).collect();
        repeated(&block, n * k / 32)
    };
    let offset = values(seed + 7, step).into();
    let (format, scales) =
        (Format::per_group(32, Offset::F16), Scales::per_group(values(seed + 5, step / 8.0), Some(offset)));
    let weight = QuantizedWeight::new(n, k, format, repeated(&block, n * k), scales)?;
    Ok(PackedWeight::pack(&weight).into())
}

/// A model whose layers are alike, on the device, and the bytes of the weights that a decode step reads.
fn model(device: &Device, config: &Config, dense: bool) -> Result<(Model<Device>, usize)> {
    let (d, d_ff, vocab) = (config.d_model, config.d_ff, config.vocab);
    let (qkv, o) = (linear(dense, config.qkv_features(), d, 4)?, linear(dense, d, config.attention.q_elems(), 5)?);
    let (gate_up, down) = (linear(dense, 2 * d_ff, d, 1)?, linear(dense, d, d_ff, 3)?);
    let head = linear(dense, vocab, d, 7)?;
    let layer_bytes = [&qkv, &o, &gate_up, &down].map(Linear::bytes).iter().sum::<usize>();
    let bytes = config.n_layers * layer_bytes + head.bytes();
    let mlp = Mlp::Whole { gate_up, down };
    let layer =
        |_| Layer { attn_norm: vec![1.0; d], qkv: qkv.clone(), o: o.clone(), mlp_norm: vec![1.0; d], mlp: mlp.clone() };
    let layers = (0..config.n_layers).map(layer).collect();
    let embedding =
        DenseWeight::from_f32(&repeated(&numbers(BLOCK.min(vocab * d), 6), vocab * d), vocab, d, DenseType::F16)?;
    let model: Model<Cpu> = Model::new(config.clone(), embedding.into(), layers, vec![1.0; d], Some(head))?;
    Ok((upload(device, &model)?, bytes))
}

/// Weights that a token is multiplied with.
fn parameters(config: &Config) -> usize {
    let (d, q) = (config.d_model, config.attention.q_elems());
    config.n_layers * (config.qkv_features() * d + q * d + 3 * config.d_ff * d) + config.vocab * d
}
