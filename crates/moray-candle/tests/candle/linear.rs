//! Linear layers.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{D, DType, Device, Tensor};
use candle_nn::Module;
use moray_candle::QuantizedLinear;
use moray_candle::moray::Cpu;
use moray_candle::moray::element::Element;
use moray_candle::moray::w4a8::{
    ActScales, Activations, Block, Epilogue, Format, Offset, PackedWeight, QuantizedWeight, linear_reference, quantize,
};

use super::{FLOATS, assert_refused, bits, f32s, layouts, numbers, runtime, shared_views};

const N: usize = 40;
const K: usize = 96;

fn weight() -> QuantizedWeight {
    quantize(&f32s(&numbers(&[N, K], 37, DType::F32)), N, K, Format::per_group(32, Offset::F16)).unwrap()
}

/// What the definition gives for x [M, K] in this type, as bits.
fn expected<E: Element>(
    weight: &QuantizedWeight,
    x: &[f32],
    scales: ActScales,
    bias: &[f32],
    residual: &[f32],
) -> Vec<f32> {
    let typed = |v: &[f32]| v.iter().map(|&v| E::from_f32(v)).collect::<Vec<E>>();
    let (k, m) = (weight.k(), x.len() / weight.k());
    let mut activations = Activations::default();
    activations.set_scales(scales);
    activations.quantize(&Cpu::detect(), &typed(x), m, k).unwrap();
    let residual = typed(residual);
    let epilogue = Epilogue {
        bias: (!bias.is_empty()).then_some(bias),
        residual: (!residual.is_empty()).then_some(&residual[..]),
    };
    let mut y = vec![E::from_f32(0.0); m * weight.n()];
    linear_reference(weight, &activations, epilogue, &mut y).unwrap();
    y.iter().map(|y| y.to_f32()).collect()
}

fn expected_in(
    dtype: DType,
    weight: &QuantizedWeight,
    x: &Tensor,
    scales: ActScales,
    bias: &[f32],
    residual: &[f32],
) -> Vec<f32> {
    let x = f32s(x);
    match dtype {
        DType::F16 => expected::<half::f16>(weight, &x, scales, bias, residual),
        DType::BF16 => expected::<half::bf16>(weight, &x, scales, bias, residual),
        _ => expected::<f32>(weight, &x, scales, bias, residual),
    }
}

#[test]
fn linear_matches_the_definition_in_every_type_and_layout() {
    let weight = weight();
    let bias = numbers(&[N], 11, DType::F32);
    let plain = QuantizedLinear::new(&runtime(), PackedWeight::pack(&weight));
    for dtype in FLOATS {
        for dims in [&[K][..], &[1, K], &[5, K], &[2, 3, K], &[2, 1, 3, K]] {
            let x = numbers(dims, 53, dtype);
            for scales in [ActScales::Token, ActScales::Fine] {
                let linear = plain.clone().with_scales(scales).with_bias(&bias).unwrap();
                let expected = expected_in(dtype, &weight, &x, scales, &f32s(&bias), &[]);
                for x in layouts(&x) {
                    let y = linear.forward(&x).unwrap();
                    assert_eq!(y.dtype(), dtype);
                    assert_eq!(y.dims(), [&dims[..dims.len() - 1], &[N]].concat());
                    assert_eq!(f32s(&y), expected, "{dtype:?} {dims:?} {:?}", x.stride());
                }
            }
        }
    }
}

#[test]
fn residual_matches_the_definition_and_is_rounded_once() {
    let weight = weight();
    let linear = QuantizedLinear::new(&runtime(), PackedWeight::pack(&weight));
    for dtype in FLOATS {
        let (x, residual) = (numbers(&[4, K], 53, dtype), numbers(&[4, N], 71, dtype));
        let expected = expected_in(dtype, &weight, &x, ActScales::Token, &[], &f32s(&residual));
        for residual in layouts(&residual) {
            assert_eq!(f32s(&linear.forward_add(&x, &residual).unwrap()), expected, "{dtype:?}");
        }
    }
}

#[test]
fn blocks_match_their_own_numbers() {
    let cases = [
        (GgmlDType::Q4_0, Block::Q4_0),
        (GgmlDType::Q4_1, Block::Q4_1),
        (GgmlDType::Q5_0, Block::Q5_0),
        (GgmlDType::Q5_1, Block::Q5_1),
        (GgmlDType::Q8_0, Block::Q8_0),
    ];
    for (dtype, block) in cases {
        let blocks = QTensor::quantize(&numbers(&[N, K], 37, DType::F32), dtype).unwrap();
        let linear = QuantizedLinear::from_qtensor(&runtime(), &blocks).unwrap();
        let (mut row, exact) = (vec![0.0; K], f32s(&blocks.dequantize(&Device::Cpu).unwrap()));
        for (n, exact) in exact.chunks(K).enumerate() {
            linear.weight().unwrap().dequantize_row(n, &mut row).unwrap();
            assert_eq!(row, exact, "{dtype:?} row {n}");
        }
        let weight = block.import(&blocks.data().unwrap(), N, K).unwrap();
        let x = numbers(&[3, K], 53, DType::F32);
        let expected = expected_in(DType::F32, &weight, &x, ActScales::Token, &[], &[]);
        assert_eq!(f32s(&linear.forward(&x).unwrap()), expected, "{dtype:?}");
    }
}

#[test]
fn views_that_share_memory_give_the_bits_of_their_copies() {
    let linear = QuantizedLinear::new(&runtime(), PackedWeight::pack(&weight()));
    for dtype in FLOATS {
        let (x, residual) = (numbers(&[2, 5, K], 53, dtype), numbers(&[2, 5, N], 71, dtype));
        for (name, x, copy) in shared_views(&[2, 5, K], 53, dtype) {
            let expected = bits(&linear.forward(&copy).unwrap());
            assert_eq!(bits(&linear.forward(&x).unwrap()), expected, "{dtype:?} {name}");
        }
        for (name, residual, copy) in shared_views(&[2, 5, N], 71, dtype) {
            let expected = bits(&linear.forward_add(&x, &copy).unwrap());
            assert_eq!(bits(&linear.forward_add(&x, &residual).unwrap()), expected, "{dtype:?} residual: {name}");
        }
        // x and the residual in one storage, one beginning within the other
        let both = Tensor::cat(&[&x, &residual], 2).unwrap();
        let (x, residual) = (both.narrow(2, 0, K).unwrap(), both.narrow(2, K - 10, N).unwrap());
        let expected = linear.forward_add(&x.contiguous().unwrap(), &residual.contiguous().unwrap()).unwrap();
        assert_eq!(bits(&linear.forward_add(&x, &residual).unwrap()), bits(&expected), "{dtype:?} in one storage");
    }
}

#[test]
fn every_split_of_a_batch_gives_the_same_bits() {
    let linear = QuantizedLinear::new(&runtime(), PackedWeight::pack(&weight()));
    let x = numbers(&[7, K], 53, DType::F16);
    let whole = bits(&linear.forward(&x).unwrap());
    let rows = (0..7).flat_map(|m| bits(&linear.forward(&x.narrow(0, m, 1).unwrap()).unwrap())).collect::<Vec<_>>();
    assert_eq!(rows, whole);
}

#[test]
fn threads_that_share_a_layer_give_the_same_bits() {
    let linear = QuantizedLinear::new(&runtime(), PackedWeight::pack(&weight()));
    let x = numbers(&[3, K], 53, DType::F32);
    let expected = bits(&linear.forward(&x).unwrap());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..50).for_each(|_| assert_eq!(bits(&linear.forward(&x).unwrap()), expected)));
        }
    });
}

#[test]
fn no_token_gives_no_token() {
    let linear = QuantizedLinear::new(&runtime(), PackedWeight::pack(&weight()));
    let x = Tensor::zeros((2, 0, K), DType::F32, &Device::Cpu).unwrap();
    assert_eq!(linear.forward(&x).unwrap().dims(), [2, 0, N]);
    let residual = Tensor::zeros((2, 0, N), DType::F32, &Device::Cpu).unwrap();
    assert_eq!(linear.forward_add(&x, &residual).unwrap().dims(), [2, 0, N]);
    // and is refused what tokens are refused
    assert_refused(linear.forward(&x.to_dtype(DType::U32).unwrap()), &["x: expected f32, f16 or bf16, got u32"]);
    assert_refused(linear.forward(&x.narrow(2, 0, 64).unwrap()), &["x: ", "96", "[2, 0, 64]"]);
    let half = residual.to_dtype(DType::F16).unwrap();
    assert_refused(linear.forward_add(&x, &half), &["residual: expected f32, got f16"]);
    let narrow = residual.narrow(2, 0, N - 1).unwrap();
    assert_refused(linear.forward_add(&x, &narrow), &["residual: ", "[2, 0, 40]", "[2, 0, 39]"]);
}

#[test]
fn bad_input_is_refused_by_name() {
    let linear = QuantizedLinear::new(&runtime(), PackedWeight::pack(&weight()));
    let x = numbers(&[2, K], 53, DType::F32);
    assert_refused(linear.forward(&x.narrow(1, 0, 64).unwrap()), &["x: ", "96", "[2, 64]"]);
    assert_refused(linear.forward(&x.to_dtype(DType::F64).unwrap()), &["x: expected f32, f16 or bf16, got f64"]);
    assert_refused(linear.forward(&Tensor::new(1.0f32, &Device::Cpu).unwrap()), &["x: ", "[]"]);
    let residual = numbers(&[2, N], 71, DType::F32);
    assert_refused(linear.forward_add(&x, &residual.t().unwrap()), &["residual: ", "[2, 40]", "[40, 2]"]);
    let half = residual.to_dtype(DType::F16).unwrap();
    assert_refused(linear.forward_add(&x, &half), &["residual: expected f32, got f16"]);
    assert_refused(linear.clone().with_bias(&numbers(&[N + 1], 3, DType::F32)), &["bias: ", "[40]", "[41]"]);

    let k_quant = QTensor::quantize(&numbers(&[N, 256], 37, DType::F32), GgmlDType::Q4K).unwrap();
    assert_refused(QuantizedLinear::from_qtensor(&runtime(), &k_quant), &["weight: ", "Q4_0", "Q4K"]);
    let odd = numbers(&[N, 48], 37, DType::F32);
    assert_refused(QuantizedLinear::quantize(&runtime(), &odd, Format::per_channel()), &["k: ", "48"]);
    let vector = numbers(&[64], 37, DType::F32);
    assert_refused(QuantizedLinear::quantize(&runtime(), &vector, Format::per_channel()), &["weight: ", "[64]"]);
    // what has no rows, no columns, whole numbers or three dimensions
    let quantize = |weight: &Tensor| QuantizedLinear::quantize(&runtime(), weight, Format::per_channel());
    for dims in [[0, K], [N, 0]] {
        assert_refused(
            quantize(&Tensor::zeros(&dims, DType::F32, &Device::Cpu).unwrap()),
            &["weight: ", &format!("{dims:?}")],
        );
    }
    let whole = Tensor::ones((N, K), DType::U32, &Device::Cpu).unwrap();
    assert_refused(quantize(&whole), &["weight: expected floating point, got u32"]);
    assert_refused(quantize(&numbers(&[1, N, K], 37, DType::F32)), &["weight: ", "[1, 40, 96]"]);
    let whole = Tensor::ones(N, DType::I64, &Device::Cpu).unwrap();
    assert_refused(linear.clone().with_bias(&whole), &["bias: expected floating point, got i64"]);
    let none = Tensor::zeros(0, DType::F32, &Device::Cpu).unwrap();
    assert_refused(linear.clone().with_bias(&none), &["bias: ", "[40]", "[0]"]);
    assert_refused(linear.with_bias(&numbers(&[1, N], 3, DType::F32)), &["bias: ", "[40]", "[1, 40]"]);
}

#[test]
fn weights_and_biases_may_lie_anyhow() {
    let (w, x) = (numbers(&[N, K], 37, DType::F32), numbers(&[2, K], 53, DType::F32));
    let of = |w: &Tensor, bias: &Tensor| {
        let layer = QuantizedLinear::quantize(&runtime(), w, Format::per_channel()).unwrap().with_bias(bias).unwrap();
        bits(&layer.forward(&x).unwrap())
    };
    let bias = numbers(&[N], 11, DType::F32);
    for laid in layouts(&w) {
        assert_eq!(of(&laid, &bias), of(&w, &bias), "{:?}", laid.stride());
    }
    for (name, view, copy) in shared_views(&[N, K], 37, DType::F32) {
        assert_eq!(of(&view, &bias), of(&copy, &bias), "{name}");
    }
    for (name, view, copy) in shared_views(&[N], 37, DType::F32) {
        assert_eq!(of(&w, &view), of(&w, &copy), "bias: {name}");
    }
}

#[test]
fn backward_pass_is_refused() {
    let linear = QuantizedLinear::new(&runtime(), PackedWeight::pack(&weight()));
    let x = candle_core::Var::from_tensor(&numbers(&[2, K], 53, DType::F32)).unwrap();
    let loss = linear.forward(x.as_tensor()).unwrap().sum(D::Minus1).unwrap().sum_all().unwrap();
    assert_refused(loss.backward(), &["moray_w4a8_linear"]);
}
