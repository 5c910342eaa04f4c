//! Layouts of quantized matrices: files of an independent writer, and round trips.

use std::fs;
use std::path::Path;

use moray::w4a8::{Format, GroupScale, Offset, QuantizedWeight, Scales, quantize};
use moray_lab::Checkpoint;
use moray_lab::activations::ActivationScheme;
use moray_lab::checkpoint::LayerTensor;
use moray_lab::fixture::{Fixture, SplitMix};
use moray_lab::load::{Form, LoadOptions, load_cpu};
use moray_lab::packed::{StoredArray, own_tensors, qqq_tensors, serialize_arrays};
use moray_lab::weights::WeightScheme;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

use super::{cpu, logits, tokens};

const MATRICES: [(LayerTensor, &str); 7] = [
    (LayerTensor::Q, "self_attn.q_proj"),
    (LayerTensor::K, "self_attn.k_proj"),
    (LayerTensor::V, "self_attn.v_proj"),
    (LayerTensor::O, "self_attn.o_proj"),
    (LayerTensor::Gate, "mlp.gate_proj"),
    (LayerTensor::Up, "mlp.up_proj"),
    (LayerTensor::Down, "mlp.down_proj"),
];

/// A model all of whose matrices are \[size, size\].
fn square(size: usize) -> Fixture {
    let heads = size / 32;
    Fixture {
        hidden: size,
        d_ff: size,
        n_layers: 1,
        n_q_heads: heads,
        n_kv_heads: heads,
        head_dim: 32,
        ..Fixture::default()
    }
}

fn golden(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/quantized").join(name)).unwrap()
}

/// Writes the fixture with `arrays` (under the prefix "p") as each of its matrices.
pub(crate) fn write_model(directory: &Path, fixture: &Fixture, config: &Value, arrays: &[StoredArray]) {
    fixture.write_hf(directory, 1).unwrap();
    let path = directory.join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let stored = SafeTensors::deserialize(&bytes).unwrap();
    let mut all: Vec<StoredArray> = Vec::new();
    for (name, view) in stored.tensors() {
        let matrix = name.contains("_proj.weight");
        let (shape, bytes) = (view.shape().to_vec(), view.data().to_vec());
        if !matrix {
            all.push(StoredArray { name, dtype: view.dtype(), shape, bytes });
        }
    }
    for (_, name) in MATRICES {
        for array in arrays {
            let suffix = array.name.strip_prefix("p").unwrap();
            all.push(StoredArray { name: format!("model.layers.0.{name}{suffix}"), ..array.clone() });
        }
    }
    fs::write(&path, serialize_arrays(&path, &all).unwrap()).unwrap();
    let path = directory.join("config.json");
    let mut json: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    json["quantization_config"] = config.clone();
    fs::write(&path, json.to_string()).unwrap();
}

/// The arrays of a golden file, and the numbers that they stand for.
pub(crate) fn golden_arrays(name: &str) -> (Vec<StoredArray>, Vec<f32>) {
    let bytes = golden(name);
    let stored = SafeTensors::deserialize(&bytes).unwrap();
    let (mut arrays, mut expected) = (Vec::new(), Vec::new());
    for (name, view) in stored.tensors() {
        if name == "expected" {
            assert_eq!(view.dtype(), Dtype::F32);
            expected = view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        } else {
            let (shape, bytes) = (view.shape().to_vec(), view.data().to_vec());
            arrays.push(StoredArray { name, dtype: view.dtype(), shape, bytes });
        }
    }
    (arrays, expected)
}

pub(crate) fn gptq_config() -> Value {
    json!({"quant_method": "gptq", "bits": 4, "group_size": 64, "desc_act": false, "sym": false})
}

fn compressed(symmetric: bool) -> Value {
    let weights = json!({"num_bits": 4, "type": "int", "symmetric": symmetric, "strategy": "group", "group_size": 64});
    json!({"quant_method": "compressed-tensors", "format": "pack-quantized",
        "config_groups": {"group_0": {"weights": weights, "targets": ["Linear"]}}, "ignore": ["lm_head"]})
}

#[test]
fn matrices_of_an_independent_writer_match_what_they_stand_for_in_every_layout() {
    let qqq = |key: &str, group: i64| json!({"quant_method": "qqq", key: 4, "group_size": group});
    let cases = [
        ("qqq_channel", 128, qqq("wbits", -1)),
        ("qqq_channel", 128, qqq("bits", -1)),
        ("qqq_channel", 128, qqq("bits", 128)), // a group as long as K
        ("qqq_group", 256, qqq("wbits", 128)),
        ("gptq", 128, gptq_config()),
        (
            "awq",
            128,
            json!({"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": true, "version": "gemm"}),
        ),
        ("compressed", 128, compressed(true)),
        ("compressed_zero", 128, compressed(false)),
    ];
    let cpu = cpu();
    for (name, size, config) in cases {
        let (arrays, expected) = golden_arrays(&format!("{name}.safetensors"));
        let fixture = square(size);
        let directory = tempfile::tempdir().unwrap();
        write_model(directory.path(), &fixture, &config, &arrays);
        let checkpoint = Checkpoint::open(directory.path()).unwrap();
        for (tensor, _) in MATRICES {
            let weight = checkpoint.layer_quantized(0, tensor).unwrap().expect("a quantized matrix");
            // the writer's products are single f32 roundings, as are these
            assert!(weight.dequantize() == expected, "{name}: {tensor:?}");
        }
        // the same numbers in floating point give the same logits, but for the int8 activations
        let load = |weights| {
            load_cpu(
                &checkpoint,
                LoadOptions { weights, activations: ActivationScheme::default(), form: Form::Whole },
                |_, _| (),
            )
            .unwrap()
        };
        let text = tokens(8, &fixture, 1);
        let (int8, float) =
            (logits(&load(WeightScheme::Auto), &cpu, &text), logits(&load(WeightScheme::F32), &cpu, &text));
        let norm = |values: &[f32]| values.iter().map(|v| v * v).sum::<f32>().sqrt();
        let difference: Vec<f32> = int8.iter().zip(&float).map(|(a, b)| a - b).collect();
        // seven products on activations rounded at 1/127 of their largest: about 1% each
        assert!(norm(&difference) < 0.07 * norm(&float), "{name}: {} of {}", norm(&difference), norm(&float));
    }
}

#[test]
fn older_exports_configuration_file_is_read_where_the_model_says_nothing() {
    let (arrays, expected) = golden_arrays("qqq_channel.safetensors");
    for name in ["quant_config.json", "quantize_config.json"] {
        let directory = tempfile::tempdir().unwrap();
        write_model(directory.path(), &square(128), &Value::Null, &arrays);
        let stated = json!({"quant_method": "qqq", "wbits": 4, "group_size": -1});
        fs::write(directory.path().join(name), stated.to_string()).unwrap();
        let checkpoint = Checkpoint::open(directory.path()).unwrap();
        assert!(checkpoint.layer_quantized(0, LayerTensor::Up).unwrap().unwrap().dequantize() == expected);
    }
}

/// Random matrices in every form that the layouts have.
fn forms(n: usize, k: usize) -> Vec<QuantizedWeight> {
    let mut random = SplitMix(9);
    let w: Vec<f32> = (0..n * k).map(|_| random.signed()).collect();
    let modes = [
        Format::per_channel(),
        Format::per_group(64, Offset::None),
        Format::per_group(32, Offset::F16),
        Format::two_level(64),
        Format::qqq(),
    ];
    modes.into_iter().map(|format| quantize(&w, n, k, format).unwrap()).collect()
}

fn read_back(arrays: &[StoredArray], size: usize, config: &Value) -> QuantizedWeight {
    let directory = tempfile::tempdir().unwrap();
    write_model(directory.path(), &square(size), config, arrays);
    Checkpoint::open(directory.path()).unwrap().layer_quantized(0, LayerTensor::Q).unwrap().unwrap().weight
}

#[test]
fn own_layout_gives_back_every_form_bit_for_bit() {
    for weight in forms(256, 256) {
        let arrays = own_tensors("p", &weight).unwrap();
        assert_eq!(read_back(&arrays, 256, &json!({"quant_method": "moray", "version": 1})), weight);
    }
    let zero = Scales::per_group(vec![half::f16::ONE; 2], Some(vec![3u8; 2].into()));
    let format = Format::per_group(32, Offset::ZeroPoint);
    let weight = QuantizedWeight::new(2, 32, format, vec![0; 64], zero).unwrap();
    assert!(own_tensors("p", &weight).unwrap_err().to_string().contains("zero points"));
}

#[test]
fn qqq_layout_gives_back_its_two_forms_and_refuses_others() {
    for weight in forms(256, 256) {
        let group = match weight.format().group_scale() {
            None => -1,
            Some(GroupScale::Qqq) => 128,
            Some(_) => {
                assert!(qqq_tensors("p", &weight).unwrap_err().to_string().contains("other scales"));
                continue;
            }
        };
        let arrays = qqq_tensors("p", &weight).unwrap();
        let config = json!({"quant_method": "qqq", "wbits": 4, "group_size": group});
        // scale/16 and back are exact
        assert_eq!(read_back(&arrays, 256, &config), weight);
    }
    let narrow = quantize(&[0.5; 32 * 64], 32, 64, Format::per_channel()).unwrap();
    assert!(qqq_tensors("p", &narrow).unwrap_err().to_string().contains("multiples of 64"));
}
