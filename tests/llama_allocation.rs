//! Generation allocates nothing after its first token. A program without the test harness, whose own thread would be
//! counted.

#[path = "common/allocations.rs"]
mod allocations;
#[path = "common/mod.rs"]
mod common;
#[path = "llama/plain.rs"]
mod plain;

use allocations::{allocations, start_threads};
use moray::Cpu;
use moray::attention::KvPolicy;
use moray::llama::{LogitRows, Model, Sampler, Sampling, Sequence, Settings};
use moray::policy::{
    Cats, Griffin, HeadNorm, LowRank, Predicted, PredictedLayer, Projection, Random, Site, TdaQuantile, TopK, Wina,
};
use moray::w4a8::{Format, Offset};
use plain::{D_FF, Kind, Plain, tokens};

const PROMPT: usize = 30;
/// Past two blocks of the KV cache.
const CONTEXT: usize = 140;

fn main() {
    let cpu = Cpu::detect();
    start_threads(&cpu);
    let plain = Plain::new(&Kind { heads: (4, 4, 16), biased: true, ..Kind::default() }, 1);
    let group = Format::per_group(32, Offset::F16);
    let dense = || Settings::dense(CONTEXT);
    let top_k = || dense().with(TopK::by_gate(0.5, D_FF).unwrap());
    let cats = || dense().with(Cats::new(vec![0.02; 2]).unwrap());
    let griffin = || dense().with(Griffin::new(0.5).unwrap());
    let tda = || dense().with(TdaQuantile::new(0.5).unwrap());
    let random = || dense().with(Random::new(Site::Neurons, 0.5).unwrap());
    let heads = |settings: Settings, kv| Settings { kv, ..settings }.with(HeadNorm::new(0.5, 3).unwrap());
    let cases = [
        ("dense", plain.dense(), dense()),
        ("w4a8", plain.w4a8(group), dense()),
        ("top-k", plain.by_neuron(), top_k()),
        ("w4a8 top-k", plain.w4a8_by_neuron(group), top_k()),
        ("w4a8 cats", plain.w4a8_by_neuron(group), cats()),
        ("griffin", plain.by_neuron(), griffin()),
        ("w4a8 tda", plain.w4a8_by_neuron(Format::per_channel()), tda()),
        ("inputs", plain.by_input(), plain::with_thresholds(dense(), 2)),
        ("w4a8 inputs", plain.w4a8_by_input(group), plain::with_thresholds(dense(), 2)),
        ("w4a8 wina", plain.w4a8_by_input(group), dense().with(wina())),
        ("predicted", plain.by_neuron(), dense().with(predicted())),
        ("random", plain.by_neuron(), random()),
        ("heads, write-all", plain.dense(), heads(dense(), KvPolicy::WriteAll)),
        ("heads, hole", plain.w4a8(group), heads(dense(), KvPolicy::Hole)),
        ("heads, zero", plain.dense(), heads(dense(), KvPolicy::Zero)),
        ("heads, recompute", plain.w4a8(group), heads(dense(), KvPolicy::Recompute { lag: 4 })),
        ("everything", plain.w4a8_by_neuron(group), heads(griffin(), KvPolicy::Recompute { lag: 4 })),
    ];
    for (name, model, settings) in cases {
        for sampling in [Sampling::GREEDY, Sampling { temperature: 1.0, top_p: 0.9, min_p: 0.02 }] {
            generate(&cpu, name, &model, settings.clone(), sampling);
        }
        println!("test generation_allocates_nothing_after_its_first_token: {name} ... ok");
    }
}

/// Half of the inputs of gate and up.
fn wina() -> Wina {
    Wina::exact(Projection::GateUp, 0.5, vec![(0..64).map(|k| (k % 5) as f32).collect(); 2]).unwrap()
}

/// Half of the neurons of both layers, predicted one layer ahead.
fn predicted() -> Predicted {
    let (d, numbers) = (64, |len: usize| (0..len).map(|i| (i * 37 % 101) as f32 / 101.0 - 0.5).collect::<Vec<_>>());
    let predictor = LowRank::new(d, 8, numbers(d * 8), numbers(8 * D_FF), numbers(D_FF)).unwrap();
    let layer = PredictedLayer { predictor, units: Vec::new() };
    Predicted::new(vec![layer.clone(), layer], D_FF / 2, true).unwrap()
}

fn generate(cpu: &Cpu, name: &str, model: &Model<Cpu>, settings: Settings, sampling: Sampling) {
    let mut session = model.session(cpu, settings).unwrap();
    let mut sampler = Sampler::new(sampling, 1).unwrap();
    let prompt = tokens(1, PROMPT);
    let mut token = sampler.sample(model.prefill(cpu, &mut session, 0, &prompt).unwrap()).unwrap();
    let mut counts = Vec::with_capacity(CONTEXT);
    for _ in PROMPT..CONTEXT {
        counts.push(allocations());
        let sequence = Sequence { slot: 0, tokens: &[token] };
        let logits = model.forward(cpu, &mut session, &[sequence], LogitRows::Last).unwrap();
        token = sampler.sample(logits).unwrap();
    }
    // the first generated token is allowed to; all later ones are not
    let last = allocations();
    assert_eq!(last, counts[1], "{name}, {sampling:?}: allocations before each token: {counts:?}");
}
