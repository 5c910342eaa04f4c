//! Products by input.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use candle_nn::Module;
use moray_candle::InputSparseLinear;
use moray_candle::moray::DenseType;
use moray_candle::moray::input_sparse::{Weight, Workspace, linear, linear_reference};
use moray_candle::moray::w4a8::{Block, Epilogue, Format, Offset, quantize};

use super::{FLOATS, assert_refused, bits, f32s, layouts, numbers, runtime, shared_views};

const N: usize = 40;
const K: usize = 96;
const THRESHOLD: f32 = 0.4;

/// What the definition gives for x \[M, K\], and moray's own product for weights in 4 bits.
fn expected(weight: &Weight, x: &[f32], bias: &[f32]) -> Vec<f32> {
    let mut y = vec![0.0; x.len() / K * N];
    let epilogue = Epilogue { bias: Some(bias), residual: None };
    match weight.is_integer() {
        true => {
            linear(runtime().cpu(), weight, x, THRESHOLD, epilogue, &mut y, &mut Workspace::default()).unwrap();
        }
        false => linear_reference(weight, x, THRESHOLD, epilogue, &mut y).unwrap(),
    }
    y
}

#[test]
fn products_match_the_definition_in_every_type_and_layout() {
    let (w, bias) = (numbers(&[N, K], 37, DType::F32), numbers(&[N], 11, DType::F32));
    for dtype in FLOATS {
        let (w, form) = (w.to_dtype(dtype).unwrap(), [DenseType::F32, DenseType::F16, DenseType::Bf16]);
        let form = form[FLOATS.iter().position(|of| *of == dtype).unwrap()];
        let floats = Weight::from_f32(&f32s(&w), N, K, form).unwrap();
        let format = Format::per_group(32, Offset::F16);
        let four_bit = Weight::from_quantized(&quantize(&f32s(&w), N, K, format).unwrap()).unwrap();
        let layers = [
            (floats, InputSparseLinear::new(&runtime(), &w, THRESHOLD).unwrap()),
            (four_bit, InputSparseLinear::quantize(&runtime(), &w, format, THRESHOLD).unwrap()),
        ];
        for (weight, layer) in layers {
            let layer = layer.with_bias(&bias).unwrap();
            for dims in [&[K][..], &[1, K], &[2, 6, K]] {
                let x = numbers(dims, 53, dtype);
                let y = expected(&weight, &f32s(&x), &f32s(&bias));
                let y = Tensor::new(&y[..], &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
                for x in layouts(&x) {
                    let got = layer.forward(&x).unwrap();
                    assert_eq!((got.dtype(), got.dims()), (dtype, &[&dims[..dims.len() - 1], &[N]].concat()[..]));
                    assert_eq!(bits(&got), bits(&y), "{dtype:?} {dims:?} {:?}", x.stride());
                }
            }
        }
    }
}

#[test]
fn blocks_match_what_is_imported_alike() {
    let blocks = QTensor::quantize(&numbers(&[N, K], 37, DType::F32), GgmlDType::Q4_1).unwrap();
    let layer = InputSparseLinear::from_qtensor(&runtime(), &blocks, THRESHOLD).unwrap();
    let weight = Weight::from_quantized(&Block::Q4_1.import(&blocks.data().unwrap(), N, K).unwrap()).unwrap();
    let x = numbers(&[3, K], 53, DType::F32);
    assert_eq!(f32s(&layer.forward(&x).unwrap()), expected(&weight, &f32s(&x), &[0.0; N]));
    let none = Tensor::zeros((0, K), DType::F16, &Device::Cpu).unwrap();
    assert_eq!(layer.forward(&none).unwrap().dims(), [0, N]);
}

#[test]
fn views_that_share_memory_give_the_bits_of_their_copies() {
    let w = numbers(&[N, K], 37, DType::F32);
    for dtype in FLOATS {
        let layer = InputSparseLinear::new(&runtime(), &w.to_dtype(dtype).unwrap(), THRESHOLD).unwrap();
        for (name, x, copy) in shared_views(&[2, 5, K], 53, dtype) {
            let expected = bits(&layer.forward(&copy).unwrap());
            assert_eq!(bits(&layer.forward(&x).unwrap()), expected, "{dtype:?} {name}");
        }
        let x = numbers(&[2, K], 53, dtype);
        let of = |w: &Tensor| InputSparseLinear::new(&runtime(), w, THRESHOLD).unwrap().forward(&x).unwrap();
        for (name, view, copy) in shared_views(&[N, K], 37, dtype) {
            assert_eq!(bits(&of(&view)), bits(&of(&copy)), "{dtype:?} weight: {name}");
        }
    }
}

#[test]
fn bad_input_is_refused_by_name() {
    let w = numbers(&[N, K], 37, DType::F32);
    let layer = InputSparseLinear::new(&runtime(), &w, THRESHOLD).unwrap();
    let x = numbers(&[2, K], 53, DType::F32);
    assert_refused(layer.forward(&x.narrow(1, 0, 64).unwrap()), &["x: ", "96", "[2, 64]"]);
    assert_refused(layer.forward(&x.to_dtype(DType::F64).unwrap()), &["x: expected f32, f16 or bf16, got f64"]);
    for threshold in [-1.0, f32::NAN, f32::INFINITY] {
        assert_refused(layer.clone().with_threshold(threshold), &["threshold: expected a finite number"]);
    }
    assert_refused(layer.forward(&Tensor::new(1.0f32, &Device::Cpu).unwrap()), &["x: ", "[]"]);
    let none = Tensor::zeros((0, K), DType::F32, &Device::Cpu).unwrap();
    assert_refused(layer.forward(&none.to_dtype(DType::I64).unwrap()), &["x: expected f32, f16 or bf16, got i64"]);
    assert_refused(layer.forward(&none.narrow(1, 0, 64).unwrap()), &["x: ", "96", "[0, 64]"]);
    let halves = x.to_dtype(DType::F16).unwrap();
    assert_refused(halves.apply_op1(layer.clone()), &["x: expected f32, got f16"]);
    assert_refused(layer.clone().with_bias(&numbers(&[N + 1], 3, DType::F32)), &["bias: ", "[40]", "[41]"]);
    let whole_bias = Tensor::ones(N, DType::U8, &Device::Cpu).unwrap();
    assert_refused(layer.with_bias(&whole_bias), &["bias: expected floating point, got u8"]);
    for dims in [[0, K], [N, 0]] {
        let none = Tensor::zeros(&dims, DType::F32, &Device::Cpu).unwrap();
        assert_refused(InputSparseLinear::new(&runtime(), &none, 0.0), &["weight: ", &format!("{dims:?}")]);
    }
    assert_refused(InputSparseLinear::new(&runtime(), &w.get(0).unwrap(), 0.0), &["weight: ", "[96]"]);
    let whole = w.to_dtype(DType::U32).unwrap();
    assert_refused(InputSparseLinear::new(&runtime(), &whole, 0.0), &["weight: expected f32, f16 or bf16, got u32"]);
    assert_refused(InputSparseLinear::quantize(&runtime(), &w, Format::w8(), 0.0), &["weight", "8"]);
}
