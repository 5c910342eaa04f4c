//! Sparse MLPs.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use candle_nn::Module;
use moray_candle::moray::sparse_mlp::{
    Activation, IndexList, Score, ScoreOn, Selection as Neurons, TokenMasks, Weights, Workspace, forward,
};
use moray_candle::moray::w4a8::{Format, Offset};
use moray_candle::{Selection, SparseMlp};

use super::{FLOATS, assert_refused, bits, f32s, layouts, numbers, runtime, shared_views};

const D_MODEL: usize = 64;
/// Not a whole number of words of a mask.
const D_FF: usize = 160;
const TOKENS: usize = 3;

fn matrices(dtype: DType) -> [Tensor; 3] {
    [numbers(&[D_FF, D_MODEL], 37, dtype), numbers(&[D_FF, D_MODEL], 41, dtype), numbers(&[D_MODEL, D_FF], 43, dtype)]
}

fn mlp(dtype: DType) -> SparseMlp {
    let [gate, up, down] = matrices(dtype);
    SparseMlp::new(&runtime(), Activation::Silu, &gate, &up, &down).unwrap()
}

fn four_bit() -> SparseMlp {
    let [gate, up, down] = matrices(DType::F32);
    let format = Format::per_group(32, Offset::None);
    SparseMlp::quantize(&runtime(), Activation::Silu, &gate, &up, &down, format).unwrap()
}

/// What moray gives for x [TOKENS, D_MODEL].
fn expected(weights: &Weights, x: &[f32], selection: &Neurons<'_>) -> Vec<f32> {
    let mut workspace = Workspace::new(weights, TOKENS).unwrap();
    let mut y = vec![0.0; x.len()];
    forward(runtime().cpu(), weights, x, selection, None, &mut y, &mut workspace).unwrap();
    y
}

fn kept(token: usize, j: usize) -> bool {
    (j * 7 + token * 3) % 5 < 2
}

/// Every form as candle has it and as moray has it.
fn for_selections(x: &Tensor, check: impl Fn(&str, &Selection, &Neurons<'_>)) {
    let cpu = &Device::Cpu;
    let list: Vec<u32> = (0..D_FF as u32).filter(|j| j % 3 != 1).collect();
    let bytes: Vec<u8> = (0..TOKENS * D_FF).map(|i| 3 * u8::from(kept(i / D_FF, i % D_FF))).collect();
    let mut words = vec![0u64; TOKENS * D_FF.div_ceil(64)];
    for i in (0..TOKENS * D_FF).filter(|i| bytes[*i] != 0) {
        words[i / D_FF * D_FF.div_ceil(64) + i % D_FF / 64] |= 1 << (i % D_FF % 64);
    }
    let scale: Vec<f32> = (0..D_FF).map(|j| 1.0 + (j % 4) as f32).collect();
    let dims = [&x.dims()[..x.rank() - 1], &[D_FF]].concat();
    let list_tensor = Tensor::new(&list[..], cpu).unwrap();
    let masks_tensor = Tensor::from_vec(bytes, dims, cpu).unwrap();
    let scale_tensor = Tensor::new(&scale[..], cpu).unwrap();
    let index = IndexList::new(&list, D_FF).unwrap();
    let masks = TokenMasks::new(&words, TOKENS, D_FF).unwrap();

    check("all", &Selection::All, &Neurons::All);
    check("list", &Selection::List(list_tensor.clone()), &Neurons::List(index));
    check("masks", &Selection::Masks(masks_tensor.clone()), &Neurons::Masks(masks));
    let union = Selection::Union { list: list_tensor, masks: masks_tensor };
    check("union", &union, &Neurons::Union { list: index, masks });
    for on in [ScoreOn::Gate, ScoreOn::Hidden, ScoreOn::Input] {
        for scaled in [false, true] {
            let on_inputs = on == ScoreOn::Input;
            let of = |all: &[f32]| all[..if on_inputs { D_MODEL } else { D_FF }].to_vec();
            let factors = scaled.then(|| of(&scale));
            let tensor = scaled.then(|| match on_inputs {
                true => scale_tensor.narrow(0, 0, D_MODEL).unwrap(),
                false => scale_tensor.clone(),
            });
            let score = Score { on, channel_scale: factors.as_deref() };
            let threshold = Selection::Threshold { on, channel_scale: tensor.clone(), threshold: 0.4 };
            check("threshold", &threshold, &Neurons::Threshold { score, threshold: 0.4 });
            check("top-k", &Selection::TopK { on, channel_scale: tensor, k: 20 }, &Neurons::TopK { score, k: 20 });
        }
    }
}

#[test]
fn every_selection_matches_moray_in_every_type_and_layout() {
    for dtype in FLOATS {
        for mlp in [mlp(dtype), four_bit()] {
            for dims in [&[TOKENS, D_MODEL][..], &[1, TOKENS, D_MODEL]] {
                let x = numbers(dims, 53, dtype);
                for_selections(&x, |name, selection, neurons| {
                    let y = expected(mlp.weights().unwrap(), &f32s(&x), neurons);
                    let rounded = f32s(&Tensor::new(&y[..], &Device::Cpu).unwrap().to_dtype(dtype).unwrap());
                    for x in layouts(&x) {
                        let got = mlp.forward_selected(&x, selection).unwrap();
                        assert_eq!((got.dtype(), got.dims()), (dtype, dims));
                        assert_eq!(f32s(&got), rounded, "{name} {dtype:?} {:?}", x.stride());
                    }
                });
            }
        }
    }
}

#[test]
fn dense_mlp_matches_candle_within_its_rounding() {
    let (mlp, x) = (mlp(DType::F32), numbers(&[TOKENS, D_MODEL], 53, DType::F32));
    let [gate, up, down] = matrices(DType::F32);
    let hidden = (candle_nn::ops::silu(&x.matmul(&gate.t().unwrap()).unwrap()).unwrap()
        * x.matmul(&up.t().unwrap()).unwrap())
    .unwrap();
    let expected = f32s(&hidden.matmul(&down.t().unwrap()).unwrap());
    // each term of a sum of D_FF is rounded a few times
    let size: f32 =
        f32s(&hidden.abs().unwrap().matmul(&down.abs().unwrap().t().unwrap()).unwrap()).into_iter().fold(0.0, f32::max);
    let bound = size * (D_MODEL + D_FF) as f32 * f32::EPSILON;
    for (got, expected) in f32s(&mlp.forward(&x).unwrap()).iter().zip(expected) {
        assert!((got - expected).abs() <= bound, "{got} and {expected} differ by more than {bound}");
    }
}

#[test]
fn blocks_match_what_is_quantized_alike() {
    let parts = matrices(DType::F32).map(|matrix| QTensor::quantize(&matrix, GgmlDType::Q4_0).unwrap());
    let [gate, up, down] = &parts;
    let mlp = SparseMlp::from_qtensors(&runtime(), Activation::Silu, gate, up, down).unwrap();
    let (mut row, exact) = (vec![0.0; D_MODEL], f32s(&gate.dequantize(&Device::Cpu).unwrap()));
    for (j, exact) in exact.chunks(D_MODEL).enumerate() {
        mlp.weights().unwrap().row(moray_candle::moray::sparse_mlp::Matrix::Gate, j, &mut row).unwrap();
        assert_eq!(row, exact, "neuron {j}");
    }
    let x = numbers(&[TOKENS, D_MODEL], 53, DType::F32);
    assert_eq!(f32s(&mlp.forward(&x).unwrap()), expected(mlp.weights().unwrap(), &f32s(&x), &Neurons::All));
}

#[test]
fn calls_of_other_sizes_and_kinds_share_buffers_without_a_trace() {
    let runtime = runtime();
    let [gate, up, down] = matrices(DType::F32);
    let dense = SparseMlp::new(&runtime, Activation::Silu, &gate, &up, &down).unwrap();
    let format = Format::per_channel();
    let small = SparseMlp::quantize(&runtime, Activation::Silu, &gate, &up, &down, format).unwrap();
    for tokens in [1, 5, 2, 7, 1] {
        let x = numbers(&[tokens, D_MODEL], 53, DType::F32);
        for mlp in [&dense, &small] {
            let rows = (0..tokens).flat_map(|t| f32s(&mlp.forward(&x.narrow(0, t, 1).unwrap()).unwrap()));
            assert_eq!(rows.collect::<Vec<_>>(), f32s(&mlp.forward(&x).unwrap()), "{tokens} tokens");
        }
    }
}

#[test]
fn views_that_share_memory_give_the_bits_of_their_copies() {
    let cpu = &Device::Cpu;
    for dtype in FLOATS {
        let mlp = mlp(dtype);
        for (name, x, copy) in shared_views(&[2, TOKENS, D_MODEL], 53, dtype) {
            let selection = Selection::top_k(20);
            let expected = bits(&mlp.forward_selected(&copy, &selection).unwrap());
            assert_eq!(bits(&mlp.forward_selected(&x, &selection).unwrap()), expected, "{dtype:?} {name}");
        }
        let x = numbers(&[TOKENS, D_MODEL], 53, dtype);
        let of = |[gate, up, down]: [&Tensor; 3]| {
            let mlp = SparseMlp::new(&runtime(), Activation::Silu, gate, up, down).unwrap();
            bits(&mlp.forward(&x).unwrap())
        };
        let [gate, up, down] = matrices(dtype);
        let (rows, columns) = (shared_views(&[D_FF, D_MODEL], 37, dtype), shared_views(&[D_MODEL, D_FF], 37, dtype));
        for ((name, row, row_copy), (_, column, column_copy)) in rows.iter().zip(&columns) {
            assert_eq!(of([row, &up, &down]), of([row_copy, &up, &down]), "{dtype:?} gate: {name}");
            assert_eq!(of([&gate, row, &down]), of([&gate, row_copy, &down]), "{dtype:?} up: {name}");
            assert_eq!(of([&gate, &up, column]), of([&gate, &up, column_copy]), "{dtype:?} down: {name}");
        }
    }

    // what a selection reads
    let (mlp, x) = (mlp(DType::F32), numbers(&[TOKENS, D_MODEL], 53, DType::F32));
    let same = |name, a: Selection, b: Selection| {
        let [a, b] = [a, b].map(|of| bits(&mlp.forward_selected(&x, &of).unwrap()));
        assert_eq!(a, b, "{name}");
    };
    let mask = Tensor::from_vec((0..D_FF).map(|j| u8::from(kept(1, j))).collect(), (1, D_FF), cpu).unwrap();
    let mask = mask.broadcast_as((TOKENS, D_FF)).unwrap();
    same("masks", Selection::Masks(mask.clone()), Selection::Masks(mask.contiguous().unwrap()));
    let evens = Tensor::arange(0u32, 40, cpu).unwrap().reshape((20, 2)).unwrap().narrow(1, 0, 1).unwrap();
    let evens = evens.squeeze(1).unwrap();
    assert!(!evens.is_contiguous());
    same("list", Selection::List(evens.clone()), Selection::List(evens.contiguous().unwrap()));
    for (name, scale, copy) in shared_views(&[D_FF], 37, DType::F32) {
        let of = |channel_scale| Selection::TopK { on: ScoreOn::Hidden, channel_scale: Some(channel_scale), k: 9 };
        same(name, of(scale.abs().unwrap().broadcast_as(scale.dims()).unwrap()), of(copy.abs().unwrap()));
    }
}

#[test]
fn no_token_gives_no_token_and_is_refused_what_tokens_are() {
    let cpu = &Device::Cpu;
    for mlp in [mlp(DType::F32), four_bit()] {
        let none = Tensor::zeros((2, 0, D_MODEL), DType::BF16, cpu).unwrap();
        let masks = Tensor::zeros((2, 0, D_FF), DType::U8, cpu).unwrap();
        let list = Tensor::new(&[1u32, 5], cpu).unwrap();
        let union = Selection::Union { list: list.clone(), masks: masks.clone() };
        let gates = Selection::gate_above(0.1);
        for selection in [Selection::All, Selection::List(list), Selection::Masks(masks), union, gates] {
            let y = mlp.forward_selected(&none, &selection).unwrap();
            assert_eq!((y.dtype(), y.dims()), (DType::BF16, &[2, 0, D_MODEL][..]));
        }
        assert_refused(mlp.forward(&none.to_dtype(DType::U32).unwrap()), &["x: expected f32, f16 or bf16, got u32"]);
        assert_refused(mlp.forward(&none.narrow(2, 0, 32).unwrap()), &["x: ", "64", "[2, 0, 32]"]);
        let bad = Selection::List(Tensor::new(&[3u32, 2], cpu).unwrap());
        assert_refused(mlp.forward_selected(&none, &bad), &["list: ", "2 after 3"]);
        assert_refused(mlp.forward_selected(&none, &Selection::top_k(0)), &["k"]);
        assert_refused(mlp.forward_selected(&none, &Selection::gate_above(-1.0)), &["threshold"]);
    }
}

#[test]
fn no_neuron_gives_zeros() {
    let (mlp, x) = (mlp(DType::F32), numbers(&[TOKENS, D_MODEL], 53, DType::F32));
    let list = Tensor::zeros(0, DType::U32, &Device::Cpu).unwrap();
    let masks = Tensor::zeros((TOKENS, D_FF), DType::U8, &Device::Cpu).unwrap();
    let union = Selection::Union { list: list.clone(), masks: masks.clone() };
    for selection in [Selection::List(list), Selection::Masks(masks), union] {
        let y = mlp.forward_selected(&x, &selection).unwrap();
        assert!(f32s(&y).iter().all(|y| *y == 0.0), "{selection:?}");
    }
}

#[test]
fn bad_input_is_refused_by_name() {
    let cpu = &Device::Cpu;
    let (mlp, x) = (mlp(DType::F32), numbers(&[TOKENS, D_MODEL], 53, DType::F32));
    let [gate, up, down] = matrices(DType::F32);
    let new = |gate: &Tensor, up: &Tensor, down: &Tensor| SparseMlp::new(&runtime(), Activation::Silu, gate, up, down);
    assert_refused(new(&gate, &up, &down.t().unwrap()), &["down: ", "[64, 160]", "[160, 64]"]);
    assert_refused(new(&gate, &up.to_dtype(DType::F16).unwrap(), &down), &["up: expected f32", "f16"]);
    assert_refused(new(&gate.to_dtype(DType::F64).unwrap(), &up, &down), &["gate: ", "f64"]);

    let list = |list: &[u32]| Selection::List(Tensor::new(list, cpu).unwrap());
    assert_refused(mlp.forward_selected(&x, &list(&[3, 2])), &["list: ", "increasing", "2 after 3"]);
    assert_refused(mlp.forward_selected(&x, &list(&[160])), &["list: ", "160"]);
    let floats = Selection::List(Tensor::new(&[1f32][..], cpu).unwrap());
    assert_refused(mlp.forward_selected(&x, &floats), &["list: expected u32, got f32"]);
    let masks = Selection::Masks(Tensor::zeros((TOKENS - 1, D_FF), DType::U8, cpu).unwrap());
    assert_refused(mlp.forward_selected(&x, &masks), &["masks: ", "[3, 160]", "[2, 160]"]);
    assert_refused(mlp.forward_selected(&x, &Selection::gate_above(f32::NAN)), &["threshold"]);
    assert_refused(mlp.forward_selected(&x, &Selection::top_k(D_FF + 1)), &["161"]);
    assert_refused(mlp.forward(&numbers(&[2, D_FF], 3, DType::F32)), &["x: ", "64", "[2, 160]"]);
    assert_refused(mlp.forward(&Tensor::new(1.0f32, cpu).unwrap()), &["x: ", "64", "[]"]);
    assert_refused(mlp.forward(&x.to_dtype(DType::F64).unwrap()), &["x: expected f32, f16 or bf16, got f64"]);
    let square = Selection::List(Tensor::arange(0u32, 8, cpu).unwrap().reshape((2, 4)).unwrap());
    assert_refused(mlp.forward_selected(&x, &square), &["list: ", "[2, 4]"]);
    let masks = Selection::Masks(Tensor::zeros((TOKENS, D_FF), DType::U32, cpu).unwrap());
    assert_refused(mlp.forward_selected(&x, &masks), &["masks: expected u8, got u32"]);
    let scaled = |channel_scale| Selection::TopK { on: ScoreOn::Gate, channel_scale: Some(channel_scale), k: 4 };
    let short = numbers(&[D_FF - 1], 3, DType::F32);
    assert_refused(mlp.forward_selected(&x, &scaled(short)), &["channel_scale", "160", "159"]);
    let square = numbers(&[1, D_FF], 3, DType::F32);
    assert_refused(mlp.forward_selected(&x, &scaled(square)), &["channel_scale: ", "[1, 160]"]);
    let whole = Tensor::ones(D_FF, DType::U32, cpu).unwrap();
    assert_refused(mlp.forward_selected(&x, &scaled(whole)), &["channel_scale: expected floating point, got u32"]);

    // weights without a neuron or a feature, and of shapes that do not go together
    for [d_ff, d_model] in [[0, D_MODEL], [D_FF, 0], [0, 0]] {
        let of = |n, k| Tensor::zeros((n, k), DType::F32, cpu).unwrap();
        let none = new(&of(d_ff, d_model), &of(d_ff, d_model), &of(d_model, d_ff));
        assert_refused(none, &["gate: ", &format!("{:?}", [d_ff, d_model])]);
    }
    let format = Format::per_group(32, Offset::None);
    let short = up.narrow(0, 0, D_FF - 32).unwrap();
    let quantized = SparseMlp::quantize(&runtime(), Activation::Silu, &gate, &short, &down, format);
    assert_refused(quantized, &["up: ", "[160, 64]", "[128, 64]"]);
    let quantized = SparseMlp::quantize(&runtime(), Activation::Silu, &gate, &up, &down.t().unwrap(), format);
    assert_refused(quantized, &["down: ", "[64, 160]", "[160, 64]"]);
    let whole = Tensor::ones((D_FF, D_MODEL), DType::U32, cpu).unwrap();
    let quantized = SparseMlp::quantize(&runtime(), Activation::Silu, &gate, &whole, &down, format);
    assert_refused(quantized, &["up: expected floating point, got u32"]);
    let blocks = |w: &Tensor| QTensor::quantize(w, GgmlDType::Q4_0).unwrap();
    let parts = SparseMlp::from_qtensors(
        &runtime(),
        Activation::Silu,
        &blocks(&gate),
        &blocks(&short.force_contiguous().unwrap()),
        &blocks(&down),
    );
    assert_refused(parts, &["up: ", "[160, 64]", "[128, 64]"]);
}
