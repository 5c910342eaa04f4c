//! One token's products of a layer of LLaMA-2-7B by input, in bf16 and in 4 bits, with kept inputs that are spread evenly.

use half::f16;
use moray::DenseType;
use moray::input_sparse::cuda::{Weight, Workspace, linear};
use moray::input_sparse::{self as host};
use moray::w4a8::{Format, Offset, QuantizedWeight, Scales};

use crate::counter::{Counter, Launch, with_bytes};

/// N and K of qkv, o, gate with up, and down.
const SHAPES: [(usize, usize); 4] = [(12288, 4096), (4096, 4096), (22016, 4096), (4096, 11008)];

/// Percent of the inputs.
const KEPT: [usize; 2] = [70, 50];

const GROUP: usize = 128;

fn bf16(n: usize, k: usize) -> host::Weight {
    host::Weight::zeros(n, k, DenseType::Bf16).unwrap()
}

fn four_bit(n: usize, k: usize) -> host::Weight {
    let scales = Scales::per_group(vec![f16::ONE; n * k / GROUP], None);
    let format = Format::per_group(GROUP, Offset::None);
    host::Weight::from_quantized(&QuantizedWeight::new(n, k, format, vec![0; n * k], scales).unwrap()).unwrap()
}

/// A kind of weights: how they are made, the bytes of a kept input's row, and those of a matrix's scales.
type Kind = (&'static str, fn(usize, usize) -> host::Weight, fn(usize) -> usize, fn(usize, usize) -> usize);

const KINDS: [Kind; 2] =
    [("bf16", bf16, |n| 2 * n, |_, _| 0), ("q4-g128", four_bit, |n| n / 2, |n, k| 2 * n * k / GROUP)];

pub fn count(counter: &mut Counter) {
    for (name, make, row_bytes, scale_bytes) in KINDS {
        let mut rows = KEPT.map(|kept| (kept, 0, Vec::new()));
        for (n, k) in SHAPES {
            let weight = Weight::upload(&counter.device, &make(n, k)).unwrap();
            for (kept, bytes, launches) in &mut rows {
                let (inputs, of) = product(counter, &weight, *kept);
                // the kept rows, inputs and results
                let once = inputs * row_bytes(n) + scale_bytes(n, k) + 4 * (k + n);
                *bytes += once;
                launches.extend(with_bytes(of, &[("input_sparse", once, 0)]));
            }
        }
        for (kept, bytes, launches) in rows {
            counter.row(&format!("input_sparse/{name}/llama-2-7b/kept-{kept}/m1"), None, bytes, launches);
        }
    }
}

/// How many inputs a product keeps, and its launches.
fn product(counter: &mut Counter, weight: &Weight, kept: usize) -> (usize, Vec<Launch>) {
    let (device, n, k) = (&counter.device, weight.n(), weight.k());
    let x: Vec<f32> = (0..k).map(|i| f32::from(u8::from((i + 1) * kept / 100 > i * kept / 100))).collect();
    let inputs = x.iter().filter(|x| **x > 0.5).count();
    let (x, mut y) = (device.upload(&x).unwrap(), device.zeros::<f32>(n).unwrap());
    let mut room = Workspace::with_capacity(device, 1, n, k).unwrap();
    let launches = counter.launches(|device| {
        linear(device, weight, &x.as_view(), 0.5, None, None, &mut y.as_view_mut(), &mut room).unwrap();
    });
    (inputs, launches)
}
