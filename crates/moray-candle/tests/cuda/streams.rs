//! Layers that threads and streams share.

use candle_core::{DType, Device, Tensor};
use candle_nn::Module;
use moray_candle::moray::attention::{Heads, KvDtype, KvShape, Span};
use moray_candle::moray::w4a8::Format;
use moray_candle::{Attention, QuantizedLinear};

use super::{bits, numbers, runtime};

const N: usize = 40;
const K: usize = 96;

fn layer(device: &Device) -> (QuantizedLinear, Tensor, Vec<u32>) {
    let w = numbers(&[N, K], 37, DType::F32);
    let here = QuantizedLinear::quantize(&runtime(), &w, Format::per_channel()).unwrap();
    let x = numbers(&[3, K], 53, DType::F32);
    let expected = bits(&here.forward(&x).unwrap());
    (here.to_device(device).unwrap(), x, expected)
}

/// `Device::new_cuda` has another stream in each thread under one name.
#[test]
fn threads_with_a_stream_each_share_a_layer() {
    let device = Device::new_cuda(0).unwrap();
    let (layer, x, expected) = layer(&device);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..10 {
                    let y = layer.forward(&x.to_device(&device).unwrap()).unwrap();
                    assert_eq!(bits(&y), expected);
                }
            });
        }
    });
}

#[test]
fn streams_share_a_layer_that_is_dropped_on_one() {
    let (first, second) = (Device::new_cuda_with_stream(0).unwrap(), Device::new_cuda_with_stream(0).unwrap());
    let (layer, x, expected) = layer(&first);
    let y = layer.forward(&x.to_device(&second).unwrap()).unwrap();
    drop(layer);
    assert_eq!(bits(&y), expected);
}

#[test]
fn attention_goes_on_in_another_thread() {
    let device = Device::new_cuda(0).unwrap();
    let kv = KvShape { n_layers: 1, n_slots: 1, n_kv_heads: 2, head_dim: 16, capacity: 16 };
    let make = || Attention::new(&runtime(), 2, kv, KvDtype::F16).unwrap().to_device(&device).unwrap();
    let step = |attention: &Attention, start: usize| {
        let x = numbers(&[2, 2, 16], 53 + start, DType::F16).to_device(&device).unwrap();
        let spans = [Span { slot: 0, start, len: 2 }];
        attention.forward(0, &spans, Heads::All, &x, &x, &x).unwrap()
    };
    let (one, many) = (make(), make());
    let expected: Vec<_> = (0..4).map(|i| bits(&step(&one, 2 * i))).collect();
    // each step in a thread of its own, of which only the last waits for what it has put on its stream
    let in_thread = |i: usize| {
        let y = step(&many, 2 * i);
        if i == 3 {
            device.synchronize().unwrap();
        }
        y
    };
    let got: Vec<_> =
        (0..4).map(|i| std::thread::scope(|scope| scope.spawn(|| in_thread(i)).join().unwrap())).collect();
    assert_eq!(bits(&got[3]), expected[3]);
}
