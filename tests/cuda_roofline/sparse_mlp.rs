//! One token's sparse MLP in the shape of Llama-3-8B, with neurons that are spread evenly.

use half::f16;
use moray::sparse_mlp::cuda::{NeuronList, Selection, Weights, Workspace, forward};
use moray::sparse_mlp::{self as host, Activation, IndexList, Shape, Weights as HostWeights, bytes_read};
use moray::w4a8::{Format, Offset, QuantizedWeight, Scales};

use crate::counter::{Counter, with_bytes};

const SHAPE: Shape = Shape { d_model: 4096, d_ff: 14336, activation: Activation::Silu };

/// Percent of the neurons.
const KEPT: [usize; 3] = [50, 25, 10];

const GROUP: usize = 64;

fn dense() -> HostWeights {
    let zeros = vec![f16::ZERO; SHAPE.d_model * SHAPE.d_ff];
    HostWeights::new(SHAPE, &zeros, &zeros, &zeros).unwrap()
}

fn four_bit() -> HostWeights {
    let Shape { d_model, d_ff, .. } = SHAPE;
    let matrix = |n: usize, k: usize| {
        let scales = Scales::per_group(vec![f16::ONE; n * k / GROUP], None);
        QuantizedWeight::new(n, k, Format::per_group(GROUP, Offset::None), vec![0; n * k], scales).unwrap()
    };
    let (wide, down) = (matrix(d_ff, d_model), matrix(d_model, d_ff));
    HostWeights::from_quantized(SHAPE, &wide, &wide, &down).unwrap()
}

pub fn count(counter: &mut Counter) {
    let multiprocessors = counter.device.multiprocessors();
    for (name, host) in [("f16", dense()), ("q4-g64", four_bit())] {
        let weights = Weights::upload(&counter.device, &host).unwrap();
        for kept in KEPT {
            let list: Vec<u32> =
                (0..SHAPE.d_ff).filter(|i| (i + 1) * kept / 100 > i * kept / 100).map(|i| i as u32).collect();
            let (launches, bytes) = {
                let device = &counter.device;
                let on_host = IndexList::new(&list, SHAPE.d_ff).unwrap();
                let mut on_device = NeuronList::new(device, SHAPE.d_ff).unwrap();
                on_device.set(device, on_host).unwrap();
                let x = device.zeros::<f32>(SHAPE.d_model).unwrap();
                let mut y = device.zeros::<f32>(SHAPE.d_model).unwrap();
                let mut workspace = Workspace::new(device, &weights, 1).unwrap();
                let selection = Selection::List(&on_device);
                let launches = counter.launches(|device| {
                    forward(device, &weights, &x, 1, &selection, None, &mut y, &mut workspace).unwrap();
                });
                (launches, bytes_read(&host, &host::Selection::List(on_host), &list))
            };
            // gate and up are two of three matrices
            let of = [("sparse_mlp_gate_up", bytes * 2 / 3, 0), ("sparse_mlp_down", bytes / 3, 0)];
            let id = format!("sparse_mlp/{name}/llama-3-8b/kept-{kept}/m1");
            counter.row(&id, Some(multiprocessors), bytes, with_bytes(launches, &of));
        }
    }
}
