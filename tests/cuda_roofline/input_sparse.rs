//! One token's products of a layer of LLaMA-2-7B by input in bf16, with kept inputs that are spread evenly.

use moray::DenseType;
use moray::input_sparse::cuda::{Weight, linear};
use moray::input_sparse::{self as host};

use crate::counter::{Counter, Launch, with_bytes};

/// N and K of qkv, o, gate with up, and down.
const SHAPES: [(usize, usize); 4] = [(12288, 4096), (4096, 4096), (22016, 4096), (4096, 11008)];

/// Percent of the inputs.
const KEPT: [usize; 2] = [70, 50];

pub fn count(counter: &mut Counter) {
    for kept in KEPT {
        let products = SHAPES.map(|(n, k)| product(counter, n, k, kept));
        let bytes = products.iter().map(|(_, bytes)| bytes).sum();
        let launches = products.into_iter().flat_map(|(launches, _)| launches).collect();
        counter.row(&format!("input_sparse/bf16/llama-2-7b/kept-{kept}/m1"), None, bytes, launches);
    }
}

/// The launch of a product, and the bytes that it has to move: the kept rows, inputs and results.
fn product(counter: &mut Counter, n: usize, k: usize, kept: usize) -> (Vec<Launch>, usize) {
    let device = &counter.device;
    let weight = Weight::upload(device, &host::Weight::zeros(n, k, DenseType::Bf16).unwrap()).unwrap();
    let x: Vec<f32> = (0..k).map(|i| f32::from(u8::from((i + 1) * kept / 100 > i * kept / 100))).collect();
    let rows = x.iter().filter(|x| **x > 0.5).count();
    let (x, mut y) = (device.upload(&x).unwrap(), device.zeros::<f32>(n).unwrap());
    let launches = counter.launches(|device| {
        linear(device, &weight, &x.as_view(), 0.5, None, None, &mut y.as_view_mut()).unwrap();
    });
    let bytes = 2 * rows * n + 4 * (k + n);
    (with_bytes(launches, &[("input_sparse", bytes, 0)]), bytes)
}
