//! y = x · wᵀ of one token in 16 bits: the products of a layer of LLaMA-2-7B, and its output layer.

use moray::device::cudarc::driver::DevicePtr;
use moray::device::{Address, ElementKind, RawCall};
use moray::llama::cuda::raw::Dense;

use crate::counter::{Counter, Launch, with_bytes};

const D_MODEL: usize = 4096;
const D_FF: usize = 11008;
const VOCAB: usize = 32_000;

pub fn count(counter: &mut Counter) {
    let layer = [(3 * D_MODEL, D_MODEL), (D_MODEL, D_MODEL), (2 * D_FF, D_MODEL), (D_MODEL, D_FF)];
    for (name, shapes) in [("layer", &layer[..]), ("output", &[(VOCAB, D_MODEL)])] {
        let (mut all, mut total) = (Vec::new(), 0);
        for &(n, k) in shapes {
            let (launches, bytes) = product(counter, n, k);
            all.extend(launches);
            total += bytes;
        }
        counter.row(&format!("dense/f16/llama-2-7b/{name}/m1"), None, total, all);
    }
}

/// A product of one token, and the bytes that it has to move.
fn product(counter: &mut Counter, n: usize, k: usize) -> (Vec<Launch>, usize) {
    let device = &counter.device;
    let weight = device.zeros::<u8>(2 * Dense::weight_elems(n, k)).unwrap();
    let (x, y) = (device.zeros::<f32>(k).unwrap(), device.zeros::<f32>(n).unwrap());
    let stream = device.stream();
    let call = Dense {
        w: Address::new(weight.device_ptr(stream).0),
        element: ElementKind::F16,
        x: Address::new(x.device_ptr(stream).0),
        bias: None,
        residual: None,
        y: Address::new(y.device_ptr(stream).0),
        m: 1,
        n,
        k,
    };
    // SAFETY: the memory is held until the call has run.
    let launches = counter.launches(|device| unsafe { call.launch(device, device.raw_stream()).unwrap() });
    let bytes = weight.len() + 4 * (n + k);
    (with_bytes(launches, &[("llama_dense", bytes, 0)]), bytes)
}
