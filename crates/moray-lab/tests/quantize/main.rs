//! Quantization: the same function after rotation and smoothing, codes against their objective, layouts, runs that are
//! interrupted, bad input.

mod equivalence;
mod exporters;
mod layouts;
mod objective;
mod refusals;
mod runs;

use moray::llama::{DenseType, DenseWeight, Layer, Linear, LogitRows, Mlp, Model, Sequence, Settings};
use moray::{Cpu, Isa};
use moray_lab::Checkpoint;
use moray_lab::fixture::{Fixture, SplitMix};
use moray_lab::load::forward_config;
use moray_lab::quantize::{FloatLayer, Projection, Site, Source};

/// A model of 3 layers whose sizes are multiples of 64 and have no common factor with a power of two beyond that.
fn fixture() -> Fixture {
    Fixture { hidden: 64, d_ff: 192, n_layers: 3, n_q_heads: 4, n_kv_heads: 2, head_dim: 32, ..Fixture::default() }
}

fn open(fixture: &Fixture) -> Checkpoint {
    fixture.open().unwrap()
}

fn cpu() -> Cpu {
    Cpu::new(1, Isa::detect()).unwrap()
}

/// Random tokens that are not special.
fn tokens(count: usize, fixture: &Fixture, seed: u64) -> Vec<u32> {
    let mut random = SplitMix(seed);
    (0..count).map(|_| 3 + random.below(fixture.vocab - 3) as u32).collect()
}

fn dense(projection: &Projection) -> Linear {
    let weight = &projection.weight;
    let linear: Linear =
        DenseWeight::from_f32(&weight.data, weight.rows, weight.columns, DenseType::F32).unwrap().into();
    match &projection.bias {
        Some(bias) => linear.with_bias(bias.clone()).unwrap(),
        None => linear,
    }
}

/// The model of a source in f32, each layer changed by `change`.
fn model(source: &Source<'_>, mut change: impl FnMut(usize, &mut FloatLayer)) -> Model<Cpu> {
    let config = forward_config(source.checkpoint().config()).unwrap();
    let layers = (0..config.n_layers)
        .map(|index| {
            let mut layer = source.layer(index).unwrap();
            change(index, &mut layer);
            let mlp = Mlp::Whole { gate_up: dense(layer.site(Site::GateUp)), down: dense(layer.site(Site::Down)) };
            let (qkv, o) = (dense(layer.site(Site::Qkv)), dense(layer.site(Site::O)));
            Layer { attn_norm: layer.attn_norm, qkv, o, mlp_norm: layer.mlp_norm, mlp }
        })
        .collect();
    let plain = |weight| dense(&Projection { weight, bias: None });
    let head = source.lm_head().unwrap().map(plain);
    Model::new(config, plain(source.embedding().unwrap()), layers, source.final_norm().unwrap(), head).unwrap()
}

fn logits(model: &Model<Cpu>, cpu: &Cpu, tokens: &[u32]) -> Vec<f32> {
    let mut settings = Settings::dense(tokens.len());
    settings.kv_dtype = moray::attention::KvDtype::F32;
    settings.max_logits = tokens.len();
    let mut session = model.session(cpu, settings).unwrap();
    model.forward(cpu, &mut session, &[Sequence { slot: 0, tokens }], LogitRows::All).unwrap().to_vec()
}
