//! What has the CPU's bits: embedding, norms, matrices and whole MLPs.

use crate::common::{Random, bits};
use crate::device::device;
use crate::plain::{D_FF, Kind, Plain, VOCAB, roomy, tokens};
use moray::attention::{KvDtype, KvPolicy, Span};
use moray::llama::{
    Backend, Buffers, DenseType, DenseWeight, Input, Linear, LinearCall, MatrixInputs, Mlp, Model, Norm, Pass,
    Settings, cuda,
};
use moray::policy::Wanted;
use moray::sparse_mlp::{Score, ScoreOn, Selection};
use moray::w4a8::{ActScales, Format, Offset, PackedWeight, quantize};
use moray::{Cpu, Device};

fn settings(context: usize) -> Settings {
    Settings { kv_dtype: KvDtype::F16, ..roomy(context) }
}

/// Logits of `rows` after the embedding and, if wanted, the first layer's MLP over the inputs above a threshold.
fn logits<B: Backend>(backend: &B, model: &Model<B>, tokens: &[u32], mlp: Option<f32>, rows: &[usize]) -> Vec<u32> {
    let (config, layer, kv) = (model.config(), &model.layers()[0], KvPolicy::WriteAll);
    let spans = [Span { slot: 0, start: 0, len: tokens.len() }];
    let mut work = backend.work(config, layer.mlp.neurons(), &settings(tokens.len())).unwrap();
    let mut buffers = Buffers::new(backend, config, &layer.mlp, tokens.len()).unwrap();
    backend.begin(&mut work, tokens, &spans, rows).unwrap();
    backend.embed(&mut work, model.embedding(), &mut buffers.x).unwrap();
    if let Some(threshold) = mlp {
        let selection = match threshold > 0.0 {
            true => Selection::Threshold { score: Score::plain(ScoreOn::Input), threshold },
            false => Selection::All,
        };
        let mut pass = Pass {
            backend,
            config,
            spans: &spans,
            kv,
            inputs: MatrixInputs { down: selection, ..MatrixInputs::default() },
            buffers: &mut buffers,
            work: &mut work,
        };
        layer.mlp(&mut pass, 0, &selection, Wanted::Nothing).unwrap();
    }
    let mut normed = backend.zeros(rows.len() * config.d_model).unwrap();
    let mut logits = backend.zeros(rows.len() * config.vocab).unwrap();
    let norm = Norm { x: &buffers.x, weight: model.final_norm(), eps: config.rms_eps };
    backend.rms_norm_rows(&mut work, norm, &mut normed).unwrap();
    let call = LinearCall {
        weight: model.lm_head(),
        input: Input::Plain(&normed),
        m: rows.len(),
        rows: None,
        inputs: Selection::All,
    };
    backend.linear(&mut work, call, None, &mut logits).unwrap();
    bits(backend.read(&logits, rows.len() * config.vocab, &mut Vec::new()).unwrap())
}

fn compare(device: &Device, cpu: &Cpu, model: &Model<Cpu>, mlp: Option<f32>, what: &str) {
    let uploaded = cuda::upload(device, model).unwrap();
    for m in [1, 3, 9, 19] {
        let tokens = tokens(m as u64, m);
        let rows: Vec<usize> = (0..m).rev().step_by(2).collect();
        let got = logits(device, &uploaded, &tokens, mlp, &rows);
        assert_eq!(got, logits(cpu, model, &tokens, mlp, &rows), "{what}, {m} tokens, mlp {mlp:?}");
    }
}

const FORMATS: [Format; 7] = [
    Format::per_channel(),
    Format::per_group(32, Offset::F16),
    Format::per_group(64, Offset::None),
    Format::per_group(128, Offset::F16),
    Format::two_level(32),
    Format::qqq(),
    Format::w8(),
];

#[test]
fn embedding_and_output_layer_match_cpu_bit_for_bit_in_every_format() {
    let Some(device) = device() else { return };
    let (cpu, mut random) = (Cpu::detect(), Random::new(1));
    // 128, so that every group size divides it
    let kind = Kind { d_model: 128, n_layers: 1, ..Kind::default() };
    let plain = Plain::new(&kind, 1);
    let w = random.weights(VOCAB * 128, 0.3);
    let mut tables: Vec<(String, Linear)> = Vec::new();
    for dtype in [DenseType::F32, DenseType::F16, DenseType::Bf16] {
        tables.push((format!("{dtype:?}"), DenseWeight::from_f32(&w, VOCAB, 128, dtype).unwrap().into()));
    }
    for format in FORMATS {
        let packed = PackedWeight::pack(&quantize(&w, VOCAB, 128, format).unwrap());
        tables.push((format!("{format:?}"), packed.into()));
    }
    for (name, table) in tables {
        let (config, _, layers, norm) = plain.dense_parts();
        let model = Model::new(config, table, layers, norm, None).unwrap();
        compare(&device, &cpu, &model, None, &name);
    }
}

#[test]
fn whole_mlp_matches_cpu_bit_for_bit_on_every_configuration() {
    let Some(device) = device() else { return };
    let cpu = Cpu::detect();
    for (seed, kind) in Kind::all().iter().enumerate() {
        let plain = Plain::new(kind, seed as u64);
        compare(&device, &cpu, &plain.dense(), Some(0.0), &format!("{kind:?}"));
        for format in [Format::per_channel(), Format::per_group(32, Offset::F16), Format::w8()] {
            for scales in [ActScales::Token, ActScales::Fine] {
                let model = plain.w4a8_scaled(format, scales);
                compare(&device, &cpu, &model, Some(0.0), &format!("{kind:?}, {format:?}, {scales:?}"));
            }
        }
    }
}

#[test]
fn whole_mlp_by_input_matches_cpu_bit_for_bit_above_a_threshold() {
    let Some(device) = device() else { return };
    let cpu = Cpu::detect();
    for (seed, kind) in Kind::all().iter().enumerate() {
        let model = Plain::new(kind, seed as u64).by_input();
        for threshold in [0.0, 0.05, 0.5] {
            compare(&device, &cpu, &model, Some(threshold), &format!("{kind:?}, above {threshold}"));
        }
        for format in [Format::per_channel(), Format::per_group(32, Offset::F16)] {
            let model = Plain::new(kind, seed as u64).w4a8_by_input(format);
            for threshold in [0.0, 0.05] {
                let what = format!("{kind:?}, {format:?}, above {threshold}");
                compare(&device, &cpu, &model, Some(threshold), &what);
            }
        }
    }
}

#[test]
fn dense_matrices_of_16_bits_match_cpu_bit_for_bit_where_k_is_no_multiple_of_4() {
    let Some(device) = device() else { return };
    let (cpu, mut random) = (Cpu::detect(), Random::new(3));
    let kind = Kind { n_layers: 1, ..Kind::default() };
    let plain = Plain::new(&kind, 3);
    for (d_ff, dtype) in [(D_FF + 1, DenseType::F16), (D_FF + 2, DenseType::Bf16), (35, DenseType::F32)] {
        let (mut config, embedding, mut layers, norm) = plain.dense_parts();
        let d = config.d_model;
        let mut matrix = |n: usize, k: usize| -> Linear {
            DenseWeight::from_f32(&random.weights(n * k, 0.2), n, k, dtype).unwrap().into()
        };
        layers[0].mlp = Mlp::Whole { gate_up: matrix(2 * d_ff, d), down: matrix(d, d_ff) };
        config.d_ff = d_ff;
        let model = Model::new(config, embedding, layers, norm, None).unwrap();
        compare(&device, &cpu, &model, Some(0.0), &format!("{dtype:?}, d_ff {d_ff}"));
    }
}
