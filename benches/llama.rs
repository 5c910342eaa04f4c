//! The forward pass on the shape of SmolLM2-135M with random weights: 512 tokens of prompt, and one token after 8 and
//! after 512. Ids: llama/weights/smollm2-135m/phase. `moray bench` does the same with a real model, beside llama.cpp.

mod common;

use common::{numbers, read_bandwidth};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use moray::Cpu;
use moray::attention::{AttentionShape, RopeScaling};
use moray::llama::{Config, DenseType, DenseWeight, Layer, Linear, LogitRows, Mlp, Model, Sequence, Settings};
use moray::policy::TopK;
use moray::sparse_mlp::{Activation, Shape, Weights};
use moray::w4a8::{Format, Offset, PackedWeight, QuantizedWeight, quantize};

/// What a token can be decoded after.
const POSITIONS: [usize; 2] = [8, 512];
const PROMPT: usize = 512;

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    F16,
    W4a8,
    W4a8ByNeuron,
}

fn config() -> Config {
    Config {
        vocab: 49_152,
        d_model: 576,
        d_ff: 1536,
        n_layers: 30,
        attention: AttentionShape::new(9, 3, 64).expect("heads that go together"),
        rms_eps: 1e-5,
        rope_theta: 1e5,
        rope_scaling: RopeScaling::Default,
        activation: Activation::Silu,
    }
}

fn quantized(n: usize, k: usize, seed: u64) -> QuantizedWeight {
    let w: Vec<f32> = numbers(n * k, seed).iter().map(|w| w / (k as f32).sqrt()).collect();
    quantize(&w, n, k, Format::per_group(32, Offset::F16)).expect("a valid shape")
}

fn linear(kind: Kind, n: usize, k: usize, seed: u64) -> Linear {
    if kind == Kind::F16 {
        let w: Vec<f32> = numbers(n * k, seed).iter().map(|w| w / (k as f32).sqrt()).collect();
        return DenseWeight::from_f32(&w, n, k, DenseType::F16).expect("a valid shape").into();
    }
    PackedWeight::pack(&quantized(n, k, seed)).into()
}

fn model(kind: Kind) -> Model<Cpu> {
    let config = config();
    let (d, d_ff) = (config.d_model, config.d_ff);
    let mlp = if kind == Kind::W4a8ByNeuron {
        let shape = Shape { d_model: d, d_ff, activation: config.activation };
        let [gate, up] = [1, 2].map(|seed| quantized(d_ff, d, seed));
        Mlp::ByNeuron(Weights::from_quantized(shape, &gate, &up, &quantized(d, d_ff, 3)).expect("matching sizes"))
    } else {
        Mlp::Whole { gate_up: linear(kind, 2 * d_ff, d, 1), down: linear(kind, d, d_ff, 3) }
    };
    let (qkv, o) = (linear(kind, config.qkv_features(), d, 4), linear(kind, d, d, 5));
    let layer =
        |_| Layer { attn_norm: vec![1.0; d], qkv: qkv.clone(), o: o.clone(), mlp_norm: vec![1.0; d], mlp: mlp.clone() };
    let layers = (0..config.n_layers).map(layer).collect();
    let embedding = numbers(config.vocab * d, 6);
    let embedding = DenseWeight::from_f32(&embedding, config.vocab, d, DenseType::F16).expect("a valid shape");
    let head = linear(kind, config.vocab, d, 7);
    Model::new(config, embedding.into(), layers, vec![1.0; d], Some(head)).expect("sizes that go together")
}

fn llama(c: &mut Criterion) {
    let cpu = Cpu::detect();
    println!("{} threads, {}, reads {:.1} GB/s", cpu.threads(), cpu.isa().name(), read_bandwidth(&cpu) / 1e9);
    let dense = Settings::dense(PROMPT + 1);
    let top_k = dense.clone().with(TopK::by_gate(0.5, config().d_ff).expect("a fraction"));
    for (name, kind, settings) in [
        ("f16", Kind::F16, dense.clone()),
        ("w4a8-g32-offset", Kind::W4a8, dense),
        ("w4a8-g32-offset-topk-0.5", Kind::W4a8ByNeuron, top_k),
    ] {
        let model = model(kind);
        let tokens: Vec<u32> = (0..PROMPT as u32 + 1).map(|i| i * 7919 % 49_152).collect();
        let mut session = model.session(&cpu, settings).expect("valid settings");
        let mut group = c.benchmark_group(format!("llama/{name}/smollm2-135m"));
        group.sample_size(10);
        group.throughput(Throughput::Elements(PROMPT as u64));
        group.bench_function(BenchmarkId::from_parameter("prefill-512"), |b| {
            b.iter(|| {
                model.truncate(&cpu, &mut session, 0, 0).expect("a slot");
                model.prefill(&cpu, &mut session, 0, &tokens[..PROMPT]).expect("valid tokens")[0]
            });
        });
        group.throughput(Throughput::Elements(1));
        for position in POSITIONS {
            model.truncate(&cpu, &mut session, 0, 0).expect("a slot");
            model.prefill(&cpu, &mut session, 0, &tokens[..position]).expect("valid tokens");
            group.bench_function(BenchmarkId::from_parameter(format!("decode-after-{position}")), |b| {
                b.iter(|| {
                    model.truncate(&cpu, &mut session, 0, position).expect("a slot");
                    let sequence = Sequence { slot: 0, tokens: &tokens[position..=position] };
                    model.forward(&cpu, &mut session, &[sequence], LogitRows::Last).expect("valid tokens")[0]
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, llama);
criterion_main!(benches);
