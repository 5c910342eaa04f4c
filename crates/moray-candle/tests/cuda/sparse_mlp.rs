//! Sparse MLPs against moray's own calls on the device: sums have other orders there than on the CPU.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use candle_nn::Module;
use half::{bf16, f16};
use moray_candle::moray::device::DeviceElement;
use moray_candle::moray::sparse_mlp::cuda::{
    MAX_TOKENS, NeuronList, Score, Selection as Neurons, Weights, Workspace, forward, upload_masks,
};
use moray_candle::moray::sparse_mlp::{Activation, IndexList, ScoreOn, TokenMasks, Weights as HostWeights};
use moray_candle::moray::w4a8::{Format, Offset};
use moray_candle::{Selection, SparseMlp, moray};

use super::{FLOATS, assert_refused, bits, device, f32s, layouts, moray_on, numbers, runtime};

const D_MODEL: usize = 64;
/// Not a whole number of words of a mask.
const D_FF: usize = 160;
const TOKENS: usize = 3;

fn matrices(dtype: DType) -> [Tensor; 3] {
    [numbers(&[D_FF, D_MODEL], 37, dtype), numbers(&[D_FF, D_MODEL], 41, dtype), numbers(&[D_MODEL, D_FF], 43, dtype)]
}

/// 16 bits and 4 bits, on the CPU.
fn both() -> [SparseMlp; 2] {
    let [gate, up, down] = matrices(DType::F16);
    let dense = SparseMlp::new(&runtime(), Activation::Silu, &gate, &up, &down).unwrap();
    let [gate, up, down] = matrices(DType::F32);
    let format = Format::per_group(32, Offset::None);
    [dense, SparseMlp::quantize(&runtime(), Activation::Silu, &gate, &up, &down, format).unwrap()]
}

/// What moray gives on the device for x \[tokens, D_MODEL\] of this type, as f32.
fn expected<E: DeviceElement>(
    device: &moray::Device,
    host: &HostWeights,
    x: &[f32],
    neurons: &Neurons<'_>,
) -> Vec<f32> {
    let weights = Weights::upload(device, host).unwrap();
    let mut workspace = Workspace::new(device, &weights, MAX_TOKENS).unwrap();
    let mut out = Vec::new();
    for x in x.chunks(MAX_TOKENS * D_MODEL) {
        let there = device.upload(&x.iter().map(|x| E::from_f32(*x)).collect::<Vec<E>>()).unwrap();
        let mut y = device.zeros::<E>(x.len()).unwrap();
        let tokens = x.len() / D_MODEL;
        forward::<E, E>(device, &weights, &there, tokens, neurons, None, &mut y, &mut workspace).unwrap();
        out.extend(device.download(&y).unwrap().iter().map(|y| y.to_f32()));
    }
    out
}

fn expected_in(dtype: DType, device: &moray::Device, host: &HostWeights, x: &[f32], neurons: &Neurons<'_>) -> Vec<f32> {
    match dtype {
        DType::F16 => expected::<f16>(device, host, x, neurons),
        DType::BF16 => expected::<bf16>(device, host, x, neurons),
        _ => expected::<f32>(device, host, x, neurons),
    }
}

fn kept(token: usize, j: usize) -> bool {
    (j * 7 + token * 3) % 5 < 2
}

#[test]
fn every_selection_matches_moray_in_every_type_and_layout() {
    let device = device();
    let there = moray_on(&device);
    let list: Vec<u32> = (0..D_FF as u32).filter(|j| j % 3 != 1).collect();
    let bytes: Vec<u8> = (0..TOKENS * D_FF).map(|i| 3 * u8::from(kept(i / D_FF, i % D_FF))).collect();
    let mut words = vec![0u64; TOKENS * D_FF.div_ceil(64)];
    for i in (0..TOKENS * D_FF).filter(|i| bytes[*i] != 0) {
        words[i / D_FF * D_FF.div_ceil(64) + i % D_FF / 64] |= 1 << (i % D_FF % 64);
    }
    let scale: Vec<f32> = (0..D_FF).map(|j| 1.0 + (j % 4) as f32).collect();
    let mut neuron_list = NeuronList::new(&there, D_FF).unwrap();
    neuron_list.set(&there, IndexList::new(&list, D_FF).unwrap()).unwrap();
    let masks = upload_masks(&there, &TokenMasks::new(&words, TOKENS, D_FF).unwrap()).unwrap();
    let factors = there.upload(&scale).unwrap();

    // tensors of a selection may be on either side
    let list_tensor = Tensor::new(&list[..], &device).unwrap();
    let masks_tensor = Tensor::from_vec(bytes, (TOKENS, D_FF), &Device::Cpu).unwrap();
    let scale_tensor = Tensor::new(&scale[..], &device).unwrap();
    let score = |on| Score { on, channel_scale: None };
    let scaled = Score { on: ScoreOn::Gate, channel_scale: Some(&factors) };
    let on_gate = |k| Selection::TopK { on: ScoreOn::Gate, channel_scale: Some(scale_tensor.clone()), k };
    let on_input = Selection::Threshold { on: ScoreOn::Input, channel_scale: None, threshold: 0.4 };
    let union = Selection::Union { list: list_tensor.clone(), masks: masks_tensor.clone() };
    let forms = [
        (Selection::All, Neurons::All),
        (Selection::List(list_tensor), Neurons::List(&neuron_list)),
        (Selection::Masks(masks_tensor), Neurons::Masks(&masks)),
        (union, Neurons::Union { list: &neuron_list, masks: &masks }),
        (Selection::gate_above(0.4), Neurons::Threshold { score: score(ScoreOn::Gate), threshold: 0.4 }),
        (on_input, Neurons::Threshold { score: score(ScoreOn::Input), threshold: 0.4 }),
        (Selection::top_k(20), Neurons::TopK { score: score(ScoreOn::Hidden), k: 20 }),
        (on_gate(20), Neurons::TopK { score: scaled, k: 20 }),
    ];
    for (here, dtype) in both().iter().flat_map(|mlp| FLOATS.map(|dtype| (mlp, dtype))) {
        let mlp = here.clone().to_device(&device).unwrap();
        assert!(mlp.weights().is_none());
        let x = numbers(&[TOKENS, D_MODEL], 53, dtype);
        for (selection, neurons) in &forms {
            let y = expected_in(dtype, &there, here.weights().unwrap(), &f32s(&x), neurons);
            for x in layouts(&x.to_device(&device).unwrap()) {
                let got = mlp.forward_selected(&x, selection).unwrap();
                assert_eq!((got.dtype(), got.dims()), (dtype, x.dims()));
                assert!(got.device().is_cuda());
                assert_eq!(f32s(&got.to_device(&Device::Cpu).unwrap()), y, "{selection:?} {dtype:?}");
            }
        }
    }
}

#[test]
fn calls_of_many_tokens_have_the_rows_of_calls_of_few() {
    let device = device();
    let [mlp, _] = both().map(|mlp| mlp.to_device(&device).unwrap());
    let tokens = MAX_TOKENS + 9;
    let x = numbers(&[tokens, D_MODEL], 53, DType::F16).to_device(&device).unwrap();
    let bytes: Vec<u8> = (0..tokens * D_FF).map(|i| u8::from(kept(i / D_FF, i % D_FF))).collect();
    let masks = Tensor::from_vec(bytes, (tokens, D_FF), &Device::Cpu).unwrap();
    let whole = mlp.forward_selected(&x, &Selection::Masks(masks.clone())).unwrap();
    let parts = [(0, MAX_TOKENS), (MAX_TOKENS, 9)].map(|(first, count)| {
        let masks = Selection::Masks(masks.narrow(0, first, count).unwrap());
        bits(&mlp.forward_selected(&x.narrow(0, first, count).unwrap(), &masks).unwrap())
    });
    assert_eq!(bits(&whole), parts.concat());
    assert_eq!(mlp.forward(&x.narrow(0, 0, 0).unwrap()).unwrap().dims(), [0, D_MODEL]);
}

#[test]
fn dense_mlp_is_the_cpus_within_the_roundings_of_both() {
    let device = device();
    let [here, _] = both();
    let x = numbers(&[TOKENS, D_MODEL], 53, DType::F32);
    let mlp = here.clone().to_device(&device).unwrap();
    let (expected, got) = (here.forward(&x).unwrap(), mlp.forward(&x.to_device(&device).unwrap()).unwrap());
    let size = f32s(&expected).iter().fold(0.0f32, |size, y| size.max(y.abs()));
    // x and the products are rounded to 16 bits on the matrix units
    let bound = size * f16::EPSILON.to_f32() * 4.0;
    for (a, b) in f32s(&expected).iter().zip(f32s(&got.to_device(&Device::Cpu).unwrap())) {
        assert!((a - b).abs() <= bound, "{a} and {b} differ by more than {bound}");
    }
}

#[test]
fn layers_are_where_their_tensors_are() {
    let (device, x) = (device(), numbers(&[TOKENS, D_MODEL], 53, DType::F32));
    let x = x.to_device(&device).unwrap();
    let parts = matrices(DType::F32).map(|matrix| QTensor::quantize(&matrix, GgmlDType::Q4_0).unwrap());
    let there = parts.each_ref().map(|blocks| {
        let data = blocks.data().unwrap();
        let storage = candle_core::quantized::QStorage::from_data(data, &device, GgmlDType::Q4_0).unwrap();
        QTensor::new(storage, blocks.shape().clone()).unwrap()
    });
    let make = |[gate, up, down]: &[QTensor; 3]| {
        SparseMlp::from_qtensors(&runtime(), Activation::Silu, gate, up, down).unwrap()
    };
    let expected = make(&parts).to_device(&device).unwrap().forward(&x).unwrap();
    assert_eq!(bits(&make(&there).forward(&x).unwrap()), bits(&expected));
    let [gate, up, down] = matrices(DType::BF16).map(|matrix| matrix.to_device(&device).unwrap());
    let dense = SparseMlp::new(&runtime(), Activation::Silu, &gate, &up, &down).unwrap();
    assert!(dense.weights().is_none());
    dense.forward(&x).unwrap();
}

#[test]
fn bad_input_is_refused_by_name() {
    let (device, x) = (device(), numbers(&[TOKENS, D_MODEL], 53, DType::F32));
    let [here, _] = both();
    let mlp = here.clone().to_device(&device).unwrap();
    let there = x.to_device(&device).unwrap();
    assert_refused(mlp.forward(&x), &["x: expected a tensor on cuda:0, where the layer is, got one on the CPU"]);
    assert_refused(here.forward(&there), &["x: expected a tensor on the CPU, where the layer is, got one on cuda:0"]);
    let list = |list: &[u32]| Selection::List(Tensor::new(list, &device).unwrap());
    assert_refused(mlp.forward_selected(&there, &list(&[3, 2])), &["list: ", "increasing", "2 after 3"]);
    assert_refused(mlp.forward_selected(&there, &list(&[160])), &["list: ", "160"]);
    let masks = Selection::Masks(Tensor::zeros((TOKENS - 1, D_FF), DType::U8, &device).unwrap());
    assert_refused(mlp.forward_selected(&there, &masks), &["masks: ", "[3, 160]", "[2, 160]"]);
    assert_refused(mlp.forward_selected(&there, &Selection::gate_above(f32::NAN)), &["threshold"]);
    assert_refused(mlp.forward_selected(&there, &Selection::top_k(D_FF + 1)), &["161"]);
    let wide = there.to_dtype(DType::F64).unwrap();
    assert_refused(mlp.forward(&wide), &["x: expected f32, f16 or bf16, got f64"]);
    let [gate, up, down] = matrices(DType::F32);
    let floats = SparseMlp::new(&runtime(), Activation::Silu, &gate, &up, &down).unwrap();
    assert_refused(floats.to_device(&device), &["f32"]);
}
