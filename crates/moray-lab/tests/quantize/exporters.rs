//! Variants that exporters write, each packed here element by element from the numbers it stands for.

use std::fs;
use std::path::Path;

use half::f16;
use moray_lab::Checkpoint;
use moray_lab::activations::ActivationScheme;
use moray_lab::checkpoint::LayerTensor;
use moray_lab::fixture::{Fixture, SplitMix};
use moray_lab::load::{Form, LoadOptions, load_cpu};
use moray_lab::packed::StoredArray;
use moray_lab::weights::WeightScheme;
use safetensors::Dtype;
use serde_json::{Value, json};

use super::layouts::write_model;
use super::{cpu, logits, tokens};

/// Rows and columns of every matrix.
const SIZE: usize = 128;

/// Codes, scales and zero points, and the group of each input.
#[derive(Clone)]
struct Plain {
    bits: usize,
    groups: usize,
    codes: Vec<u32>,
    scale: Vec<f16>,
    zero: Vec<u32>,
    group_of: Vec<usize>,
}

impl Plain {
    /// Random numbers in groups of neighbours; zero points from 0 on, so that one less does not fit.
    fn new(bits: usize, group_size: usize) -> Self {
        let (mut random, groups, width) = (SplitMix(7), SIZE / group_size, (1 << (bits - 4)) as f32);
        let mut draw =
            |count: usize, limit: usize| -> Vec<u32> { (0..count).map(|_| random.below(limit) as u32).collect() };
        Plain {
            bits,
            groups,
            codes: draw(SIZE * SIZE, 1 << bits),
            scale: draw(SIZE * groups, 1000).iter().map(|&s| f16::from_f32((0.002 + s as f32 / 1e5) / width)).collect(),
            zero: draw(SIZE * groups, 1 << bits),
            group_of: (0..SIZE).map(|k| k / group_size).collect(),
        }
    }

    fn symmetric(mut self) -> Self {
        self.zero.fill(1 << (self.bits - 1));
        self
    }

    /// Half of the scales below 0.
    fn signed(mut self) -> Self {
        self.scale.iter_mut().step_by(2).for_each(|scale| *scale = -*scale);
        self
    }

    /// Groups of inputs that are no neighbours.
    fn act_order(mut self) -> Self {
        let mut random = SplitMix(8);
        for i in (1..SIZE).rev() {
            self.group_of.swap(i, random.below(i + 1));
        }
        self
    }

    /// w[n, k] = scale · (code − zero).
    fn expected(&self) -> Vec<f32> {
        let at = |i: usize| i / SIZE * self.groups + self.group_of[i % SIZE];
        (0..SIZE * SIZE)
            .map(|i| self.scale[at(i)].to_f32() * (self.codes[i] as i32 - self.zero[at(i)] as i32) as f32)
            .collect()
    }

    /// Values of `rows` × `columns` in words along the columns, value `order[i]` of each word's at place i.
    fn packed(&self, rows: usize, columns: usize, order: &[usize], value: impl Fn(usize, usize) -> u32) -> Vec<u32> {
        let (count, mask) = (32 / self.bits, u32::MAX >> (32 - self.bits));
        let mut words = Vec::new();
        for row in 0..rows {
            for word in 0..columns / count {
                let place = |i: usize| order.get(i).copied().unwrap_or(i);
                let part = |i: usize| (value(row, word * count + place(i)) & mask) << (self.bits * i);
                words.push((0..count).map(part).fold(0, |word, part| word | part));
            }
        }
        words
    }

    fn scales_by_group(&self) -> Vec<f16> {
        (0..self.groups * SIZE).map(|i| self.scale[i % SIZE * self.groups + i / SIZE]).collect()
    }

    /// GPTQ's arrays; `stored` is the zero point as it is packed.
    fn gptq(&self, stored: impl Fn(u32) -> u32) -> Vec<StoredArray> {
        let count = 32 / self.bits;
        let along = self.packed(SIZE, SIZE, &[], |n, k| self.codes[n * SIZE + k]);
        let rows = SIZE / count;
        let qweight: Vec<u32> = (0..rows * SIZE).map(|i| along[i % SIZE * rows + i / SIZE]).collect();
        let qzeros = self.packed(self.groups, SIZE, &[], |g, n| stored(self.zero[n * self.groups + g]));
        let g_idx: Vec<u32> = self.group_of.iter().map(|&group| group as u32).collect();
        vec![
            StoredArray::i32("p.qweight", &[rows, SIZE], &qweight),
            StoredArray::i32("p.qzeros", &[self.groups, SIZE / count], &qzeros),
            StoredArray::f16("p.scales", &[self.groups, SIZE], &self.scales_by_group()),
            StoredArray::i32("p.g_idx", &[SIZE], &g_idx),
        ]
    }

    fn awq(&self) -> Vec<StoredArray> {
        let order = [0, 2, 4, 6, 1, 3, 5, 7];
        let qweight = self.packed(SIZE, SIZE, &order, |k, n| self.codes[n * SIZE + k]);
        let qzeros = self.packed(self.groups, SIZE, &order, |g, n| self.zero[n * self.groups + g]);
        vec![
            StoredArray::i32("p.qweight", &[SIZE, SIZE / 8], &qweight),
            StoredArray::i32("p.qzeros", &[self.groups, SIZE / 8], &qzeros),
            StoredArray::f16("p.scales", &[self.groups, SIZE], &self.scales_by_group()),
        ]
    }

    fn compressed(&self) -> Vec<StoredArray> {
        let count = 32 / self.bits;
        let packed = self.packed(SIZE, SIZE, &[], |n, k| self.codes[n * SIZE + k]);
        let along = self.packed(self.groups, SIZE, &[], |g, n| self.zero[n * self.groups + g]);
        let rows = SIZE / count;
        let zero: Vec<u32> = (0..rows * self.groups).map(|i| along[i % self.groups * rows + i / self.groups]).collect();
        let g_idx: Vec<u32> = self.group_of.iter().map(|&group| group as u32).collect();
        vec![
            StoredArray::i32("p.weight_packed", &[SIZE, rows], &packed),
            StoredArray::f16("p.weight_scale", &[SIZE, self.groups], &self.scale),
            StoredArray::i32("p.weight_zero_point", &[rows, self.groups], &zero),
            StoredArray::i32("p.weight_g_idx", &[SIZE], &g_idx),
        ]
    }
}

fn fixture() -> Fixture {
    Fixture { hidden: SIZE, d_ff: SIZE, n_layers: 1, n_q_heads: 4, n_kv_heads: 4, head_dim: 32, ..Fixture::default() }
}

fn without(mut arrays: Vec<StoredArray>, suffixes: &[&str]) -> Vec<StoredArray> {
    arrays.retain(|array| !suffixes.iter().any(|suffix| array.name.ends_with(suffix)));
    arrays
}

fn gptq(group_size: i64, more: &[(&str, Value)]) -> Value {
    let mut config = json!({"quant_method": "gptq", "bits": 4, "group_size": group_size, "desc_act": false});
    more.iter().for_each(|(key, value)| config[*key] = value.clone());
    config
}

fn auto_round(packing: &str, sym: bool) -> Value {
    json!({"quant_method": "auto-round", "packing_format": packing, "bits": 4, "group_size": 64, "sym": sym,
        "data_type": "int", "autoround_version": "0.5.1"})
}

fn compressed(bits: u8, group_size: Option<usize>, symmetric: bool) -> Value {
    let strategy = if group_size.is_some() { "group" } else { "channel" };
    let weights = json!({"num_bits": bits, "type": "int", "symmetric": symmetric, "strategy": strategy, "group_size": group_size});
    json!({"quant_method": "compressed-tensors", "format": "pack-quantized",
        "config_groups": {"group_0": {"weights": weights, "targets": ["Linear"]}}})
}

/// Every variant: its name, its arrays, its configuration and what it stands for.
fn variants() -> Vec<(&'static str, Vec<StoredArray>, Value, Plain)> {
    let (plain, wide) = (Plain::new(4, 64), Plain::new(8, 32).symmetric());
    let (symmetric, ordered) = (plain.clone().symmetric(), Plain::new(4, 32).act_order());
    let signed = plain.clone().symmetric().signed();
    let whole = Plain::new(4, SIZE);
    let less_one = |zero: u32| zero.wrapping_sub(1);
    let as_is = |zero: u32| zero;
    // one less of whole words: a 0 borrows from its neighbours
    let mut by_word = plain.gptq(as_is);
    for word in by_word[1].bytes.as_chunks_mut::<4>().0 {
        *word = u32::from_le_bytes(*word).wrapping_sub(0x1111_1111).to_le_bytes();
    }
    let mut bytes = plain.compressed();
    let zero_bytes = plain.zero.iter().map(|&zero| (zero as u8).wrapping_sub(8)).collect();
    bytes[2] = StoredArray { dtype: Dtype::I8, ..StoredArray::u8("p.weight_zero_point", &[SIZE, 2], zero_bytes) };
    let producer = ("meta", json!({"quantizer": ["gptqmodel:7.7.0"]}));
    vec![
        ("zero points wrap", plain.gptq(less_one), gptq(64, &[]), plain.clone()),
        ("zero points borrow", by_word.clone(), gptq(64, &[producer]), plain.clone()),
        ("AutoRound's borrow too", by_word, auto_round("auto_round:auto_gptq", false), plain.clone()),
        ("second form", plain.gptq(as_is), gptq(64, &[("format", json!("gptq_v2"))]), plain.clone()),
        (
            "zero points left out",
            without(symmetric.gptq(less_one), &["qzeros", "g_idx"]),
            gptq(64, &[("sym", json!(true))]),
            symmetric.clone(),
        ),
        ("act-order", ordered.gptq(less_one), gptq(32, &[("desc_act", json!(true))]), ordered.clone()),
        ("zero point of a channel", whole.gptq(less_one), gptq(-1, &[]), whole.clone()),
        ("a group longer than K", whole.gptq(less_one), gptq(256, &[]), whole),
        ("8 bits", wide.gptq(less_one), gptq(32, &[("bits", json!(8))]), wide.clone()),
        ("signed scales", signed.gptq(less_one), auto_round("auto_round:auto_gptq", true), signed.clone()),
        ("AutoRound's own form", plain.gptq(as_is), auto_round("auto_round", false), plain.clone()),
        ("AutoRound's AWQ", signed.awq(), auto_round("auto_round:auto_awq", true), signed),
        (
            "AWQ without zero points",
            without(symmetric.awq(), &["qzeros"]),
            json!({"quant_method": "awq", "w_bit": 4, "q_group_size": 64, "zero_point": false, "version": "GEMM"}),
            symmetric,
        ),
        ("zero points as bytes", without(bytes, &["g_idx"]), compressed(4, Some(64), false), plain),
        ("compressed act-order", ordered.compressed(), compressed(4, Some(32), false), ordered),
        ("compressed 8 bits", without(wide.compressed(), &["zero_point"]), compressed(8, Some(32), true), wide),
    ]
}

fn load(checkpoint: &Checkpoint, weights: WeightScheme, form: Form) -> moray::llama::Model<moray::Cpu> {
    let options = LoadOptions { weights, activations: ActivationScheme::default(), form };
    load_cpu(checkpoint, options, |_, _| ()).unwrap()
}

fn relative(a: &[f32], b: &[f32]) -> f32 {
    let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|v| v * v).sum::<f32>().sqrt();
    norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut b.iter().copied())
}

#[test]
fn variants_of_exporters_match_what_they_stand_for() {
    let cpu = cpu();
    for (name, arrays, config, plain) in variants() {
        let directory = tempfile::tempdir().unwrap();
        write_model(directory.path(), &fixture(), &config, &arrays);
        let checkpoint = Checkpoint::open(directory.path()).unwrap();
        for tensor in [LayerTensor::Q, LayerTensor::O, LayerTensor::Gate, LayerTensor::Down] {
            let matrix = checkpoint.layer_quantized(0, tensor).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(matrix.unwrap().dequantize() == plain.expected(), "{name}: {tensor:?}");
        }
        let text = tokens(8, &fixture(), 1);
        let exact = logits(&load(&checkpoint, WeightScheme::F32, Form::Whole), &cpu, &text);
        let int8 = logits(&load(&checkpoint, WeightScheme::Auto, Form::Whole), &cpu, &text);
        // seven products on activations rounded at 1/127 of their largest: about 1% each
        assert!(relative(&int8, &exact) < 0.07, "{name}: {}", relative(&int8, &exact));
        let neurons = logits(&load(&checkpoint, WeightScheme::F32, Form::ByNeuron), &cpu, &text);
        // the same weights in f32, sums of SIZE terms in another order: SIZE · 2⁻²⁴ at worst for each of seven products
        assert!(relative(&neurons, &exact) < 1e-4, "{name}: by neuron {}", relative(&neurons, &exact));
    }
}

/// What a file of safetensors holds.
fn stored_arrays(path: &Path) -> Vec<StoredArray> {
    let bytes = fs::read(path).unwrap();
    let stored = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let array = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        let (dtype, shape, bytes) = (view.dtype(), view.shape().into(), view.data().into());
        StoredArray { name, dtype, shape, bytes }
    };
    stored.tensors().into_iter().map(array).collect()
}

#[test]
fn matrices_of_several_group_sizes_run_side_by_side() {
    let (small, large) = (Plain::new(4, 32), Plain::new(4, 64).symmetric());
    let directory = tempfile::tempdir().unwrap();
    let dynamic = json!({"+:.*k_proj": {"group_size": 64, "sym": true}});
    let config = gptq(32, &[("dynamic", dynamic), ("sym", json!(false))]);
    let less_one = |zero: u32| zero.wrapping_sub(1);
    let mut arrays = small.gptq(less_one);
    write_model(directory.path(), &fixture(), &config, &arrays);
    let path = directory.path().join("model.safetensors");
    let prefix = "model.layers.0.self_attn.k_proj";
    let mut all = stored_arrays(&path);
    all.retain(|array| !array.name.starts_with(prefix));
    arrays = large.gptq(less_one);
    all.extend(arrays.into_iter().map(|array| StoredArray { name: array.name.replacen('p', prefix, 1), ..array }));
    fs::write(&path, moray_lab::packed::serialize_arrays(&path, &all).unwrap()).unwrap();
    let checkpoint = Checkpoint::open(directory.path()).unwrap();
    for (tensor, plain) in [(LayerTensor::Q, &small), (LayerTensor::K, &large)] {
        assert!(checkpoint.layer_quantized(0, tensor).unwrap().unwrap().dequantize() == plain.expected());
    }
    let (cpu, text) = (cpu(), tokens(8, &fixture(), 1));
    let exact = logits(&load(&checkpoint, WeightScheme::F32, Form::Whole), &cpu, &text);
    let int8 = logits(&load(&checkpoint, WeightScheme::Auto, Form::Whole), &cpu, &text);
    assert!(relative(&int8, &exact) < 0.07, "{}", relative(&int8, &exact));
}

#[test]
fn files_beside_the_configuration_need_no_method() {
    let plain = Plain::new(4, 64);
    let less_one = |zero: u32| zero.wrapping_sub(1);
    let cases = [
        (
            "quantize_config.json",
            plain.gptq(less_one),
            json!({"bits": 4, "group_size": 64, "sym": false, "damp_percent": 0.01}),
        ),
        (
            "quant_config.json",
            plain.awq(),
            json!({"zero_point": true, "q_group_size": 64, "w_bit": 4, "version": "GEMM"}),
        ),
    ];
    for (name, arrays, stated) in cases {
        let directory = tempfile::tempdir().unwrap();
        write_model(directory.path(), &fixture(), &Value::Null, &arrays);
        let error = Checkpoint::open(directory.path()).unwrap_err().to_string();
        assert!(error.contains("expected quantization_config") && error.contains("got neither"), "{error}");
        fs::write(directory.path().join(name), stated.to_string()).unwrap();
        let checkpoint = Checkpoint::open(directory.path()).unwrap();
        let matrix = checkpoint.layer_quantized(0, LayerTensor::Down).unwrap().unwrap();
        assert!(matrix.dequantize() == plain.expected(), "{name}");
    }
}

#[test]
fn biases_of_zeros_are_forgotten_and_others_refused() {
    let plain = Plain::new(4, 64);
    for (value, refused) in [(0.0, false), (-0.0, false), (0.5, true)] {
        let mut arrays = plain.gptq(|zero| zero.wrapping_sub(1));
        arrays.push(StoredArray::f32("p.bias", &[SIZE], &[value; SIZE]));
        let directory = tempfile::tempdir().unwrap();
        write_model(directory.path(), &fixture(), &gptq(64, &[]), &arrays);
        match Checkpoint::open(directory.path()) {
            Ok(checkpoint) => {
                assert!(!refused);
                assert!(
                    checkpoint.notes().iter().any(|note| note.to_string().contains("7 biases")),
                    "{:?}",
                    checkpoint.notes()
                );
                assert!(checkpoint.layer_optional(0, LayerTensor::QBias).unwrap().is_none());
            }
            Err(error) => assert!(refused && error.to_string().contains("q_proj.bias"), "{error}"),
        }
    }
}

#[test]
fn contradictions_are_refused_by_name() {
    let (plain, symmetric) = (Plain::new(4, 64), Plain::new(4, 64).symmetric());
    let ordered = Plain::new(4, 32).act_order();
    let less_one = |zero: u32| zero.wrapping_sub(1);
    let mut uneven = ordered.clone();
    let other = uneven.group_of.iter().position(|&group| group != uneven.group_of[0]).unwrap();
    uneven.group_of[0] = uneven.group_of[other];
    let head = |mut arrays: Vec<StoredArray>| {
        arrays.push(StoredArray::f32("p.other", &[1], &[0.0]));
        arrays
    };
    for (message, arrays, config) in [
        (
            "zero points of model.layers.0.self_attn.q_proj: expected 8 everywhere",
            plain.gptq(less_one),
            gptq(64, &[("sym", json!(true))]),
        ),
        ("expected 8 everywhere", symmetric.gptq(|zero| zero), gptq(64, &[("sym", json!(true))])),
        ("q_proj.qzeros", without(plain.gptq(less_one), &["qzeros"]), gptq(64, &[("sym", json!(false))])),
        ("q_proj.g_idx", without(ordered.gptq(less_one), &["g_idx"]), gptq(32, &[("desc_act", json!(true))])),
        ("expected groups of equally many inputs", uneven.gptq(less_one), gptq(32, &[("desc_act", json!(true))])),
        ("expected 4 bits in groups of 32", plain.gptq(less_one), gptq(32, &[])),
        ("expected 8 bits in groups of 64", plain.gptq(less_one), gptq(64, &[("bits", json!(8))])),
        ("128 everywhere with codes of 8 bits", Plain::new(8, 64).gptq(less_one), gptq(64, &[("bits", json!(8))])),
        ("other", head(plain.gptq(less_one)), gptq(64, &[])),
    ] {
        let directory = tempfile::tempdir().unwrap();
        write_model(directory.path(), &fixture(), &config, &arrays);
        let opened =
            Checkpoint::open(directory.path()).and_then(|checkpoint| checkpoint.layer_quantized(0, LayerTensor::Q));
        let error = opened.map(drop).expect_err(message).to_string();
        assert!(error.contains(message), "{message}: {error}");
    }
}

#[test]
fn a_quantized_output_layer_is_refused_as_what_it_is() {
    let directory = tempfile::tempdir().unwrap();
    write_model(directory.path(), &fixture(), &gptq(64, &[]), &Plain::new(4, 64).gptq(|zero| zero.wrapping_sub(1)));
    let path = directory.path().join("model.safetensors");
    let mut all = stored_arrays(&path);
    all.push(StoredArray::i32("lm_head.qweight", &[16, 272], &[0; 16 * 272]));
    fs::write(&path, moray_lab::packed::serialize_arrays(&path, &all).unwrap()).unwrap();
    let error = Checkpoint::open(directory.path()).unwrap_err().to_string();
    assert!(error.contains("unsupported output layer") && error.contains("lm_head.qweight"), "{error}");
}
