//! Linear layers.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use candle_nn::Module;
use moray_candle::QuantizedLinear;
use moray_candle::moray::w4a8::{ActScales, Format, Offset};

use super::{FLOATS, assert_refused, bits, device, layouts, numbers, runtime};

const N: usize = 40;
const K: usize = 96;

fn on_cpu(format: Format) -> QuantizedLinear {
    QuantizedLinear::quantize(&runtime(), &numbers(&[N, K], 37, DType::F32), format).unwrap()
}

#[test]
fn products_have_the_bits_of_the_cpu_in_every_type_and_layout() {
    let (device, bias) = (device(), numbers(&[N], 11, DType::F32));
    let formats = [Format::per_channel(), Format::w8(), Format::per_group(32, Offset::F16)];
    for (format, dtype) in formats.into_iter().flat_map(|format| FLOATS.map(|dtype| (format, dtype))) {
        for scales in [ActScales::Token, ActScales::Fine] {
            let here = on_cpu(format).with_bias(&bias).unwrap().with_scales(scales);
            let layer = here.clone().to_device(&device).unwrap();
            assert!(layer.weight().is_none());
            for dims in [&[K][..], &[1, K], &[2, 9, K]] {
                let x = numbers(dims, 53, dtype);
                let expected = here.forward(&x).unwrap();
                for x in layouts(&x.to_device(&device).unwrap()) {
                    let y = layer.forward(&x).unwrap();
                    assert!(y.device().is_cuda());
                    assert_eq!((y.dtype(), y.dims()), (dtype, expected.dims()));
                    assert_eq!(bits(&y), bits(&expected), "{format:?} {dtype:?} {dims:?} {:?}", x.stride());
                }
            }
        }
    }
}

#[test]
fn residuals_have_the_bits_of_the_cpu_in_every_layout() {
    let (device, here) = (device(), on_cpu(Format::per_group(32, Offset::None)));
    let layer = here.clone().to_device(&device).unwrap();
    for dtype in FLOATS {
        let (x, residual) = (numbers(&[4, K], 53, dtype), numbers(&[4, N], 71, dtype));
        let expected = bits(&here.forward_add(&x, &residual).unwrap());
        let x = x.to_device(&device).unwrap();
        for residual in layouts(&residual.to_device(&device).unwrap()) {
            assert_eq!(bits(&layer.forward_add(&x, &residual).unwrap()), expected, "{dtype:?}");
        }
    }
}

#[test]
fn layers_are_where_their_tensors_are() {
    let device = device();
    let w = numbers(&[N, K], 37, DType::F32);
    let blocks = QTensor::quantize(&w, GgmlDType::Q4_1).unwrap();
    let x = numbers(&[3, K], 53, DType::F32);
    let expected = QuantizedLinear::from_qtensor(&runtime(), &blocks).unwrap().forward(&x).unwrap();
    let storage =
        candle_core::quantized::QStorage::from_data(blocks.data().unwrap(), &device, GgmlDType::Q4_1).unwrap();
    let there = QTensor::new(storage, (N, K)).unwrap();
    let layer = QuantizedLinear::from_qtensor(&runtime(), &there).unwrap();
    assert_eq!(bits(&layer.forward(&x.to_device(&device).unwrap()).unwrap()), bits(&expected));

    let rounded = QuantizedLinear::quantize(&runtime(), &w.to_device(&device).unwrap(), Format::per_channel()).unwrap();
    assert_eq!(
        bits(&rounded.forward(&x.to_device(&device).unwrap()).unwrap()),
        bits(&on_cpu(Format::per_channel()).forward(&x).unwrap())
    );
    // a bias that comes later goes there too
    let bias = numbers(&[N], 11, DType::F16);
    let expected = on_cpu(Format::per_channel()).with_bias(&bias).unwrap().forward(&x).unwrap();
    let biased = rounded.with_bias(&bias).unwrap();
    assert_eq!(bits(&biased.forward(&x.to_device(&device).unwrap()).unwrap()), bits(&expected));
}

#[test]
fn no_token_gives_no_token_and_calls_of_all_sizes_share_buffers() {
    let (device, here) = (device(), on_cpu(Format::per_channel()));
    let layer = here.clone().to_device(&device).unwrap();
    // candle itself allocates no tensor without elements on a device
    let none = Tensor::zeros((2, 1, K), DType::F32, &device).unwrap().narrow(1, 0, 0).unwrap();
    assert_eq!(layer.forward(&none).unwrap().dims(), [2, 0, N]);
    for m in [1, 40, 3, 17, 1] {
        let x = numbers(&[m, K], 53, DType::F16);
        let y = layer.forward(&x.to_device(&device).unwrap()).unwrap();
        assert_eq!(bits(&y), bits(&here.forward(&x).unwrap()), "{m} tokens");
    }
}

#[test]
fn bad_input_is_refused_by_name() {
    let (device, here) = (device(), on_cpu(Format::per_channel()));
    let layer = here.clone().to_device(&device).unwrap();
    let x = numbers(&[2, K], 53, DType::F32);
    let x_there = x.to_device(&device).unwrap();
    let elsewhere = ["x: expected a tensor on cuda:0, where the layer is, got one on the CPU"];
    assert_refused(layer.forward(&x), &elsewhere);
    assert_refused(x.apply_op1(layer.clone()), &elsewhere);
    let elsewhere = ["x: expected a tensor on the CPU, where the layer is, got one on cuda:0"];
    assert_refused(here.forward(&x_there), &elsewhere);
    assert_refused(x_there.apply_op1(here.clone()), &elsewhere);
    let residual = numbers(&[2, N], 71, DType::F32);
    assert_refused(layer.forward_add(&x_there, &residual), &["residual: expected a tensor on cuda:0"]);
    let residual = residual.to_device(&device).unwrap();
    assert_refused(layer.forward_add(&x_there, &residual.t().unwrap()), &["residual: ", "[2, 40]", "[40, 2]"]);
    let half = residual.to_dtype(DType::F16).unwrap();
    assert_refused(layer.forward_add(&x_there, &half), &["residual: expected f32, got f16"]);
    assert_refused(layer.forward(&x_there.narrow(1, 0, 64).unwrap()), &["x: ", "96", "[2, 64]"]);
    let wide = x_there.to_dtype(DType::F64).unwrap();
    assert_refused(layer.forward(&wide), &["x: expected f32, f16 or bf16, got f64"]);
    assert_refused(
        layer.clone().to_device(&Device::Cpu),
        &["device: expected cuda:0, where the layer is, got the CPU"],
    );
    layer.to_device(&device).unwrap().forward(&x_there).unwrap();
}

#[test]
fn backward_pass_is_refused() {
    let device = device();
    let layer = on_cpu(Format::per_channel()).to_device(&device).unwrap();
    let x = candle_core::Var::from_tensor(&numbers(&[2, K], 53, DType::F32).to_device(&device).unwrap()).unwrap();
    let loss = layer.forward(x.as_tensor()).unwrap().sum_all().unwrap();
    assert_refused(loss.backward(), &["moray_w4a8_linear"]);
}
