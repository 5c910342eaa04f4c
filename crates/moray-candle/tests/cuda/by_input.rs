//! Products by input.

use candle_core::DType;
use candle_nn::Module;
use moray_candle::InputSparseLinear;
use moray_candle::moray::w4a8::{Format, Offset};

use super::{FLOATS, assert_refused, bits, device, layouts, numbers, runtime};

const N: usize = 40;
const K: usize = 96;

#[test]
fn products_have_the_bits_of_the_cpu_in_every_type_and_layout() {
    let (device, w, bias) = (device(), numbers(&[N, K], 37, DType::F32), numbers(&[N], 11, DType::F32));
    for dtype in FLOATS {
        let format = Format::per_group(32, Offset::F16);
        let layers = [
            InputSparseLinear::new(&runtime(), &w.to_dtype(dtype).unwrap(), 0.4).unwrap(),
            InputSparseLinear::quantize(&runtime(), &w, format, 0.4).unwrap(),
        ];
        for here in layers {
            let here = here.with_bias(&bias).unwrap();
            let layer = here.clone().to_device(&device).unwrap();
            for dims in [&[K][..], &[1, K], &[2, 6, K]] {
                let x = numbers(dims, 53, dtype);
                let expected = here.forward(&x).unwrap();
                for x in layouts(&x.to_device(&device).unwrap()) {
                    let y = layer.forward(&x).unwrap();
                    assert_eq!((y.dtype(), y.dims()), (dtype, expected.dims()));
                    assert_eq!(bits(&y), bits(&expected), "{dtype:?} {dims:?} {:?}", x.stride());
                }
            }
        }
    }
}

#[test]
fn layers_are_where_their_tensors_are_and_refuse_others() {
    let (device, w) = (device(), numbers(&[N, K], 37, DType::F32));
    let layer = InputSparseLinear::new(&runtime(), &w.to_device(&device).unwrap(), 0.4).unwrap();
    let x = numbers(&[2, K], 53, DType::F32);
    let here = InputSparseLinear::new(&runtime(), &w, 0.4).unwrap();
    let y = layer.forward(&x.to_device(&device).unwrap()).unwrap();
    assert_eq!(bits(&y), bits(&here.forward(&x).unwrap()));
    assert_refused(layer.forward(&x), &["x: expected a tensor on cuda:0, where the layer is, got one on the CPU"]);
    assert_refused(here.forward(&x.to_device(&device).unwrap()), &["x: expected a tensor on the CPU", "cuda:0"]);
    let none = x.to_device(&device).unwrap().narrow(0, 0, 0).unwrap();
    assert_eq!(layer.forward(&none).unwrap().dims(), [0, N]);
    let narrow = x.to_device(&device).unwrap().narrow(1, 0, 64).unwrap();
    assert_refused(layer.forward(&narrow), &["x: ", "96", "[2, 64]"]);
}
